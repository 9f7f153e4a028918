"""Plans run, from files to files: real pycuda and the real backend over stand-ins for driver and runtime (standin/).

What comes out must be what the CPU engine writes, byte for byte, however the streams are delayed; nothing may be left
behind, however a run ends.
"""

import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from conftest import MakeEngine, draw, save_many
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if sys.platform != "linux" or platform.machine() != "x86_64":
    pytest.skip("the stand-in for the driver is for Linux on x86-64", allow_module_level=True)
from standin import Driver, installed
from standin.vendor import Vendor

from lesioncli.backends import driver as driver_module
from lesioncli.backends import tensorrt
from lesioncli.backends.build import build
from lesioncli.backends.choose import open_engine
from lesioncli.errors import EngineError
from lesioncli.inference.images import ImageFile
from lesioncli.inference.pipeline import Options
from lesioncli.inference.run import run
from lesioncli.inference.views import PROCEDURES

Files = dict[str, bytes]  # by name
ILLEGAL_ADDRESS = 700
PICTURES = [draw(seed, 50, 70) for seed in range(3)]


class Card:
    """A GPU that is none: the driver, and either vendor's library on it."""

    def __init__(self, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
        self.driver = driver
        self.tensorrt = Vendor(driver, b"ftrt", "10.16.1.11")
        self.rtx = Vendor(driver, b"vtrt", "1.7.0.5")
        monkeypatch.setitem(driver_module.DRIVERS, platform.system(), str(driver.path))
        monkeypatch.setitem(sys.modules, "tensorrt", self.tensorrt)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", self.rtx)

    def assert_clean(self) -> None:
        assert self.tensorrt.failures + self.rtx.failures == []
        assert self.driver.violations() == []
        assert self.driver.live() == {}


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    with installed() as driver:
        made = Card(driver, monkeypatch)
        yield made
        made.assert_clean()


def build_plan(onnx: Path, folder: Path, batch: int, **settings: Any) -> Path:
    """An engine that this card compiled for itself."""
    compiler = tensorrt.open_compiler(tensorrt.TENSORRT, tensorrt.Settings(**settings))
    return build(onnx, folder, PICTURES, compiler=compiler, precision="fp32", batch=batch).path


def build_ahead(onnx: Path, folder: Path) -> Path:
    """An engine that was compiled elsewhere and never ran on a GPU."""
    compiler = tensorrt.open_compiler(tensorrt.RTX, tensorrt.Settings(("sm86",)))
    return build(onnx, folder, PICTURES, compiler=compiler, precision="fp32", batch=2).path


def left_by(out: Path) -> dict[str, bytes]:
    """What a run left, by name, but for run.json, which holds times."""
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.name != "run.json"}


def segmented(manifest: Path, images: list[ImageFile], out: Path, **options: Any) -> dict[str, bytes]:
    asked = Options(**options)
    with open_engine(manifest, 2 * (asked.workers or 2), PROCEDURES[asked.tta].layout) as engine:
        run(images, engine, out, asked)
    return left_by(out)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImageFile]:
    return save_many(tmp_path_factory.mktemp("images"), 23)


@pytest.fixture(scope="module")
def expected(tiny_manifest: MakeEngine, images: list[ImageFile], tmp_path_factory: pytest.TempPathFactory) -> Files:
    """What the CPU engine leaves."""
    found = segmented(tiny_manifest(1), images, tmp_path_factory.mktemp("cpu"))
    assert len(found) == 24
    return found


def test_a_run_leaves_what_the_cpu_engine_leaves(
    card: Card, tiny_onnx: Path, images: list[ImageFile], expected: Files, tmp_path: Path
) -> None:
    plan = build_plan(tiny_onnx, tmp_path / "engines", 4)
    card.driver.set_delays(seed=1)
    assert segmented(plan, images, tmp_path / "gpu") == expected
    assert card.driver.pageable_copies() == 0, "a slot or an output is not in pinned memory"


@pytest.mark.parametrize("dynamic", [False, True])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 7),
    count=st.integers(1, 23),
    workers=st.integers(1, 5),
    depth=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_whatever_the_sizes_and_delays(
    card: Card,
    tiny_onnx: Path,
    images: list[ImageFile],
    expected: Files,
    tmp_path: Path,
    dynamic: bool,
    batch: int,
    count: int,
    workers: int,
    depth: int,
    seed: int,
) -> None:
    work = Path(tempfile.mkdtemp(dir=tmp_path))
    plan = build_plan(tiny_onnx, work / "engines", batch, dynamic=dynamic)
    card.driver.set_delays(seed)
    from lesioncli.backends import plans  # needs pycuda

    with patch.object(plans, "DEPTH", depth):
        found = segmented(plan, images[:count], work / "gpu", workers=workers)
    masks = {image.path.with_suffix(".png").name for image in images[:count]}
    assert {name: content for name, content in found.items() if name in masks} == {
        name: expected[name] for name in masks
    }
    assert found["scores.csv"] == b"".join(expected["scores.csv"].splitlines(keepends=True)[: count + 1])
    card.assert_clean()


CALLS = (
    "cuMemHostAlloc",
    "cuMemAlloc",
    "cuStreamCreate",
    "cuEventCreate",
    "cuMemcpyHtoDAsync",
    "cuMemcpyDtoHAsync",
    "cuEventRecord",
    "cuStreamWaitEvent",
    "cuEventSynchronize",
    "copy in",
    "copy out",
    "kernel",
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=st.sampled_from(CALLS), nth=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_whatever_call_fails(
    card: Card,
    tiny_onnx: Path,
    images: list[ImageFile],
    expected: Files,
    tmp_path: Path,
    call: str,
    nth: int,
    seed: int,
) -> None:
    """Rows and masks that are there are right, everything is freed, and a re-run completes what is missing."""
    work = Path(tempfile.mkdtemp(dir=tmp_path))
    plan = build_plan(tiny_onnx, work / "engines", 3)
    card.driver.set_delays(seed, 0.0001)
    card.driver.fail(call, nth, ILLEGAL_ADDRESS)
    try:
        segmented(plan, images, work / "gpu")
    except EngineError as error:
        assert "tiny.tensorrt" in str(error) or "GPU 0 cannot be opened" in str(error)  # noqa: PT017
    out = work / "gpu"
    for path in out.glob("*.png"):
        assert path.read_bytes() == expected[path.name]
    if (out / "scores.csv").exists():
        rows = (out / "scores.csv").read_bytes().splitlines()[1:]
        finished = [row for row in rows if b",ok," in row]
        assert set(finished) <= set(expected["scores.csv"].splitlines())
        assert all(b",failed," in row and b"tiny.tensorrt" in row for row in rows if row not in finished)
    assert card.driver.live() == {}
    card.driver.reset()
    assert segmented(plan, images, out) == expected
