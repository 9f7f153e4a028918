"""Plans run, from files to files: real pycuda and the real backend over stand-ins for driver and runtime (standin/).

What comes out must be what the CPU engine writes, byte for byte, however the streams are delayed; nothing may be left
behind, however a run ends.
"""

import csv
import inspect
import json
import platform
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import pytest
from cuda_standin import SUPPORTED, Driver, installed
from helpers.graphs import MakeEngine
from helpers.pictures import SIDE, UInt8, draw, save, save_many
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

if not SUPPORTED:
    pytest.skip("the stand-in for the driver is for Linux on x86-64", allow_module_level=True)
from cuda_standin.vendor import Context, Vendor
from helpers.shipped import shipped_onnx

from lesioncli.backends import registry as choose
from lesioncli.backends.base import Manifest
from lesioncli.backends.build import build
from lesioncli.backends.registry import open_engine
from lesioncli.backends.tensorrt import compile as tensorrt
from lesioncli.backends.tensorrt import driver as driver_module
from lesioncli.backends.tensorrt import vendors
from lesioncli.cli.app import app
from lesioncli.errors import EngineError, install_command
from lesioncli.files import sha256_of
from lesioncli.images.find import ImageFile, ImageListing, find_images
from lesioncli.inference import pipeline
from lesioncli.inference.outcome import Outcome
from lesioncli.inference.run import segment_images
from lesioncli.inference.tta import PROCEDURES
from lesioncli.options import SegmentOptions

Files = dict[str, bytes]  # by name
OUT_OF_MEMORY, ILLEGAL_ADDRESS, LAUNCH_FAILED = 2, 700, 719
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
    compiler = tensorrt.open_compiler(vendors.TENSORRT, tensorrt.Settings(**settings))
    return build(onnx, folder, PICTURES, compiler=compiler, precision="fp32", batch=batch).path


def build_ahead(onnx: Path, folder: Path) -> Path:
    """An engine that was compiled elsewhere and never ran on a GPU."""
    compiler = tensorrt.open_compiler(vendors.RTX, tensorrt.Settings(("sm86",)))
    return build(onnx, folder, PICTURES, compiler=compiler, precision="fp32", batch=2).path


def left_by(out: Path) -> dict[str, bytes]:
    """What a run left, by name, but for run.json, which holds times."""
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.name != "run.json"}


def segmented(manifest: Path, images: list[ImageFile], out: Path, **options: Any) -> dict[str, bytes]:
    asked = SegmentOptions(**options)
    with open_engine(manifest, 2 * (asked.workers or 2), PROCEDURES[asked.tta].layout) as engine:
        segment_images(ImageListing(images), engine, out, asked)
    return left_by(out)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImageFile]:
    """Pictures of all sizes, upright and not."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(23):
        height, width = 20 + 37 * number % 90, 20 + 53 * number % 120
        save(folder / f"{number:03d}.jpg", draw(number, height, width), orientation=1 + number % 8)
    return find_images([folder])


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


def test_a_shipped_model_leaves_what_the_cpu_engine_leaves(
    card: Card, parity_images: list[UInt8], engine_manifest: Path, images: list[ImageFile], tmp_path: Path
) -> None:
    compiler = tensorrt.open_compiler(vendors.TENSORRT, tensorrt.Settings())
    plan = build(shipped_onnx(), tmp_path, parity_images, compiler=compiler, precision="fp32", batch=3).path
    found = segmented(plan, images[:7], tmp_path / "gpu")
    assert found == segmented(engine_manifest, images[:7], tmp_path / "cpu")


@pytest.mark.parametrize("dynamic", [False, True])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    from lesioncli.backends.tensorrt import runtime as plans  # needs pycuda

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


@pytest.fixture
def plan(card: Card, tiny_onnx: Path, tmp_path: Path) -> Path:
    """An engine for batches of 3, compiled for this card."""
    return build_plan(tiny_onnx, tmp_path / "engines", 3)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=st.sampled_from(CALLS), nth=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_whatever_call_fails(
    card: Card, plan: Path, images: list[ImageFile], expected: Files, tmp_path: Path, call: str, nth: int, seed: int
) -> None:
    """Rows and masks that are there are right, everything is freed, and a re-run completes what is missing."""
    out = Path(tempfile.mkdtemp(dir=tmp_path))
    card.driver.set_delays(seed, 0.0001)
    card.driver.fail(call, nth, ILLEGAL_ADDRESS)
    with suppress(EngineError):
        segmented(plan, images[:13], out)
    left = left_by(out)
    assert {name: expected[name] for name in left if name.endswith(".png")}.items() <= left.items()
    rows, whole = (list(csv.reader(files.get("scores.csv", b"").decode().splitlines())) for files in (left, expected))
    for row, right in zip(rows, whole, strict=False):
        failed = row[5] == "failed" and row[6].startswith("network: tiny.tensorrt on Stand-in GPU 0 (sm86): ")
        assert row == right or (failed and row[0] == right[0])
    assert card.driver.live() == {}
    card.driver.reset()
    assert segmented(plan, images, out) == expected


def mutate(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, old: str, new: str) -> None:
    """Plant a bug: a method with one piece of its source replaced by another."""
    source = textwrap.dedent(inspect.getsource(getattr(owner, name)))
    assert source.count(old) == 1
    made: dict[str, Any] = {}
    exec(source.replace(old, new), vars(sys.modules[owner.__module__]), made)  # noqa: S102 - this project's own source
    monkeypatch.setattr(owner, name, made[name])


BUGS = {
    "computes before the images are in": ("Lane", "start", "device.compute.wait_for_event(self._copied)", "pass"),
    "copies out before it has computed": ("Lane", "start", "device.copy_out.wait_for_event(self._computed)", "pass"),
    "reads before it is out": ("Lane", "finish", "self._done.synchronize()", "pass"),
    "takes a lane that is in use": ("PlanEngine", "_start", "self._started % DEPTH", "0"),
    "fills a slot that is in use": ("_Run", "_decode_ahead", "1 + self._engine.ahead", "2 + len(self._engine.slots)"),
    "has slots in pageable memory": ("PlanEngine", "_open", ", self._device.pinned)", ")"),
    "has outputs in pageable memory": ("Lane", "__init__", "device.pinned(shape, dtype)", "np.zeros(shape, dtype)"),
    "keeps memory of the device": ("Device", "allocate", "self.on_close(memory.free)", "leaked.append(memory)"),
    "keeps pinned memory": ("Device", "pinned", "self.on_close(array.base.free)", "leaked.append(array)"),
    "keeps its events": ("Lane", "__init__", "device.on_close(self._drop_events)", "leaked.append(self)"),
    "keeps its contexts": ("_Plan", "release", "self._contexts.clear()", "leaked.append(self._contexts)"),
    "frees an input before its use": ("Lane", "start", "device.compute.wait_for_event(", "self.input.free(); ("),
}


IMAGE_BYTES = SIDE * SIDE * 3
CONDITIONS: list[Callable[[Driver], None]] = [
    lambda driver: driver.set_costs(in_rate=IMAGE_BYTES / 0.002),
    lambda driver: driver.set_costs(kernel_seconds=0.005),
    lambda driver: driver.set_costs(out_rate=IMAGE_BYTES / 0.002),
    *(partial(Driver.set_delays, seed=seed, seconds=0.001) for seed in range(5)),
]


@pytest.fixture
def plan_of_one(card: Card, tiny_onnx: Path, tmp_path: Path) -> Path:
    """An engine for batches of 1: the pictures go round its ring of slots three times, so that a race has many chances
    to show. In batches of 3 they go round it once, and a single batch of the second round could."""
    return build_plan(tiny_onnx, tmp_path / "engines", 1)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_no_condition_shows_a_bug_that_is_not_there(
    card: Card,
    plan_of_one: Path,
    images: list[ImageFile],
    expected: Files,
    tmp_path: Path,
    condition: Callable[[Driver], None],
) -> None:
    condition(card.driver)
    assert segmented(plan_of_one, images, tmp_path / "out") == expected
    assert not card.driver.pageable_copies()


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_shows(
    card: Card,
    plan_of_one: Path,
    images: list[ImageFile],
    expected: Files,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bug: str,
) -> None:
    """Not under all conditions, since some are races, but under one of a few."""
    from lesioncli.backends.tensorrt import cuda  # needs pycuda
    from lesioncli.backends.tensorrt import runtime as plans

    owner, name, old, new = BUGS[bug]
    leaked: list[Any] = []
    for module in (cuda, plans, pipeline):
        monkeypatch.setattr(module, "leaked", leaked, raising=False)
        if hasattr(module, owner):
            mutate(monkeypatch, getattr(module, owner), name, old, new)
            break
    shown = []
    for number, condition in enumerate(CONDITIONS):
        card.driver.reset()
        condition(card.driver)
        with suppress(Exception):
            shown.append(segmented(plan_of_one, images, tmp_path / f"out{number}") != expected)
        shown += [bool(card.driver.violations()), bool(card.driver.live()), bool(card.driver.pageable_copies())]
        leaked.clear()
        if any(shown):
            break
    card.driver.reset()
    card.tensorrt.failures.clear()
    assert any(shown)


# Memory


def test_memory_that_is_short_names_the_batch_that_fits(
    card: Card, tiny_onnx: Path, images: list[ImageFile], tmp_path: Path
) -> None:
    big = build_plan(tiny_onnx, tmp_path / "engines", 64)
    card.tensorrt.scratch_bytes = 64 << 16  # of a context, for a batch
    card.driver.limit_memory(8 << 20)
    with pytest.raises(
        EngineError, match=r"batches of 64 need \d+ MiB, 8 MiB are free; run: .*tensorrt --batch \d+"
    ) as met:
        segmented(big, images, tmp_path / "out")
    assert card.driver.live() == {}
    batch = int(str(met.value).rpartition(" ")[2])
    assert 20 < batch < 64
    card.tensorrt.scratch_bytes = batch << 16
    small = build_plan(tiny_onnx, tmp_path / "engines", batch)
    assert len(segmented(small, images, tmp_path / "out")) == 24


def test_memory_that_is_short_for_one_image_says_so(
    card: Card, plan: Path, images: list[ImageFile], tmp_path: Path
) -> None:
    card.driver.limit_memory(1 << 12)
    with pytest.raises(EngineError, match="not even one image fits: free the GPU, or run with --backend openvino"):
        segmented(plan, images, tmp_path / "out")


def test_pinned_memory_that_is_short_is_the_host_s(
    card: Card, plan: Path, images: list[ImageFile], tmp_path: Path
) -> None:
    card.driver.fail("cuMemHostAlloc", 3, OUT_OF_MEMORY)
    with pytest.raises(EngineError, match="so it is the host's memory that is short: lower --workers"):
        segmented(plan, images, tmp_path / "out")


# Views


def test_views_go_through_a_plan(
    card: Card, tiny_onnx: Path, tiny_manifest: MakeEngine, images: list[ImageFile], tmp_path: Path
) -> None:
    """Four views are fewer rows than a batch of eight, and more than one of three."""
    expected = segmented(tiny_manifest(1), images, tmp_path / "cpu", tta="flips")
    for batch in (3, 8):
        for dynamic in (False, True):
            plan = build_plan(tiny_onnx, tmp_path / f"{batch}{dynamic}", batch, dynamic=dynamic)
            assert segmented(plan, images, tmp_path / f"gpu{batch}{dynamic}", tta="flips") == expected


def test_sizes_that_a_plan_was_not_compiled_for_are_refused(
    card: Card, tiny_onnx: Path, images: list[ImageFile], tmp_path: Path
) -> None:
    plan = build_plan(tiny_onnx, tmp_path / "engines", 32)
    with pytest.raises(EngineError, match=r"takes up to 32 pictures of 32x32, not .*; --tta full runs with --backend"):
        segmented(plan, images, tmp_path / "out", tta="full")


# What the plan itself says


def test_a_plan_that_is_not_what_its_manifest_says(
    card: Card, plan: Path, images: list[ImageFile], tmp_path: Path
) -> None:
    values = json.loads(plan.read_text())
    for change, message in (
        ({"spec": {**values["spec"], "height": 64}}, r"finds 'image' to be UINT8 .*, not UINT8 \(3, 64, 32, 3\)"),
        ({"spec": {**values["spec"], "classes": ["a", "b"]}}, r"finds 'scores' to be FLOAT .*, not FLOAT \(3, 2\)"),
        ({"batch": 2}, r"takes no batch of 2"),
    ):
        plan.write_text(json.dumps({**values, **change}))
        with pytest.raises(EngineError, match=message):
            segmented(plan, images, tmp_path / "out")


def test_a_plan_of_another_model_of_gpu(card: Card, plan: Path, images: list[ImageFile], tmp_path: Path) -> None:
    values = json.loads(plan.read_text())
    plan.write_text(json.dumps({**values, "device": "NVIDIA A10 (sm86)"}))
    said = r"it is for NVIDIA A10 \(sm86\), here is Stand-in GPU 0 \(sm86\); run: .* MODEL --backend tensorrt$"
    with pytest.raises(EngineError, match=said):
        segmented(plan, images, tmp_path / "out")


def test_a_plan_that_the_runtime_does_not_take(card: Card, plan: Path, images: list[ImageFile], tmp_path: Path) -> None:
    file = plan.with_suffix(".plan")
    file.write_bytes(file.read_bytes()[:40])
    values = json.loads(plan.read_text())
    plan.write_text(json.dumps({**values, "files": {file.name: sha256_of(file)}}))
    with pytest.raises(
        EngineError, match=r"does not load it \(the plan cannot be deserialised\); run: lesioncli build"
    ):
        segmented(plan, images, tmp_path / "out")


# The command line


def call(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "300", "TERM": "dumb", "NO_COLOR": "1"}).invoke(app, [str(word) for word in words])


@pytest.fixture
def here(tmp_path: Path, images: list[ImageFile], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(images[0].path.parent, tmp_path / "images")
    return tmp_path


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_with_a_gpu_auto_takes_it_from_build_to_masks(card: Card, here: Path, tiny_onnx: Path, expected: Files) -> None:
    built = call("build-engine", tiny_onnx, "--batch", "4", "--precision", "fp32")
    assert built.exit_code == 0, built.stderr
    assert "backend tensorrt: Stand-in GPU 0 (sm86), and TensorRT is installed" in built.stderr
    assert "tiny.tensorrt.json: agrees with the graph on 32 pictures: mask Jaccard 1.0000" in built.stdout
    done = call("segment", "images", "--out", "masks")
    assert done.exit_code == 0, done.stderr
    assert left_by(here / "masks") == expected
    about = json.loads((here / "masks" / "run.json").read_text())
    assert (about["backend"], about["device"]) == ("tensorrt 10.16.1.11", "Stand-in GPU 0 (sm86)")
    assert json.loads(call("engines", "--json").stdout)[0]["runs_here"]


def test_a_gpu_without_its_libraries_is_named_and_left_alone(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    backend, why = choose.choose_backend("auto")
    assert backend == "openvino"
    assert why.endswith(f"to use Stand-in GPU 0 (sm86), run {install_command('tensorrt')}")


def test_a_lost_device_keeps_what_is_done_and_a_rerun_goes_on(
    card: Card, plan: Path, here: Path, expected: Files
) -> None:
    card.driver.fail("kernel", 5, LAUNCH_FAILED)
    words = ("segment", "images", "--out", "masks", "--engine", plan)
    lost = call(*words)
    assert lost.exit_code == 4
    assert "rows that are finished are kept, and the same command goes on from there" in lost.stderr
    rows = (here / "masks" / "scores.csv").read_text().splitlines()[1:]
    done = [row for row in rows if ",ok," in row]
    marked = [row for row in rows if ",failed," in row]
    assert len(done) in (6, 9, 12), "of four batches of 3 that were computed, the last may not be out yet"
    assert len(marked) in (3, 6, 9), "the batches that were on their way"
    assert rows == done + marked
    assert all("network: tiny.tensorrt on Stand-in GPU 0 (sm86): " in row for row in marked)
    assert json.loads((here / "masks" / "run.json").read_text())["status"] == "interrupted"
    assert card.driver.live() == {}
    card.driver.reset()
    again = call(*words)
    assert again.exit_code == 0, again.stderr
    assert left_by(here / "masks") == expected


def test_a_batch_that_does_not_start_on_a_lost_device_names_what_lost_it(
    card: Card, plan: Path, images: list[ImageFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pycuda.driver  # which needs the stand-in to be there

    execute = Context.execute_async_v3

    def after_the_loss(context: Context, stream: int) -> bool:
        with suppress(pycuda.driver.Error):
            pycuda.driver.Context.synchronize()
        return execute(context, stream)

    monkeypatch.setattr(Context, "execute_async_v3", after_the_loss)
    card.driver.fail("copy in", 1, ILLEGAL_ADDRESS)
    with pytest.raises(EngineError, match=r"illegal memory access.*rows that are finished are kept"):
        segmented(plan, images, tmp_path / "masks")


def test_an_interrupt_frees_everything(
    card: Card, plan: Path, images: list[ImageFile], tmp_path: Path, expected: Files
) -> None:
    def interrupt(outcome: Outcome) -> None:
        if outcome.image == images[7]:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        open_engine(plan, 4, PROCEDURES["none"].layout) as engine,
    ):
        segment_images(ImageListing(images), engine, tmp_path / "out", SegmentOptions(), on_outcome=interrupt)
    card.assert_clean()
    assert segmented(plan, images, tmp_path / "out") == expected


# First run on a GPU of what was compiled elsewhere


def test_the_first_run_gates_an_engine_and_the_next_trusts_it(
    card: Card, here: Path, tiny_onnx: Path, expected: Files
) -> None:
    engine = build_ahead(tiny_onnx, here / "engines")
    words = ("segment", "images", "--out", "masks", "--engine", engine, "--backend", "tensorrt-rtx")
    first = call(*words)
    assert first.exit_code == 0, first.stderr
    assert "first run on Stand-in GPU 0 (sm86): the engine agrees with its graph on 8 of these pictures" in first.stderr
    assert left_by(here / "masks") == expected
    about = json.loads((here / "masks" / "run.json").read_text())
    assert (about["backend"], about["device"]) == ("tensorrt-rtx 1.7.0.5", "Stand-in GPU 0 (sm86)")
    verified = json.loads(engine.read_text())["verified"]
    assert verified["Stand-in GPU 0 (sm86)"]["images"] == 8
    second = call(*words, "--overwrite")
    assert second.exit_code == 0
    assert "first run" not in second.stderr


def test_an_engine_that_disagrees_on_this_gpu_is_not_trusted(card: Card, here: Path, tiny_onnx: Path) -> None:
    engine = build_ahead(tiny_onnx, here / "engines")

    def distort(outputs: dict[str, Any]) -> None:
        outputs["mask"][:] = 255 - outputs["mask"]

    card.rtx.distort = distort
    words = ("segment", "images", "--out", "masks", "--engine", engine, "--backend", "tensorrt-rtx")
    refused = call(*words)
    assert refused.exit_code == 4
    assert "not to be trusted on Stand-in GPU 0 (sm86): masks agree with the graph at 0." in refused.stderr
    assert "see --no-verify" in refused.stderr
    assert not (here / "masks").exists()
    assert json.loads(engine.read_text())["verified"] == {}
    assert call(*words, "--no-verify").exit_code == 0


def test_a_folder_of_engines_that_cannot_be_written_is_no_reason_to_stop(
    card: Card, here: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build_ahead(tiny_onnx, here / "engines")

    def refuse(self: Manifest, path: Path) -> NoReturn:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Manifest, "write", refuse)
    done = call("segment", "images", "--out", "masks", "--engine", engine, "--backend", "tensorrt-rtx")
    assert done.exit_code == 0, done.stderr
    assert "the manifest cannot be written (Read-only file system), so the next run asks again" in done.stderr


# Overlap


def test_the_device_is_busy_for_a_thousand_images(card: Card, tiny_onnx: Path, tmp_path: Path) -> None:
    """With costs that are fixed, and pictures small enough for decoding and writing to keep up."""
    images = save_many(tmp_path / "images", 1000)
    plan = build_plan(tiny_onnx, tmp_path / "engines", 8)
    card.driver.reset()
    card.driver.set_costs(8 * IMAGE_BYTES / 0.03, 8 * IMAGE_BYTES / 3 / 0.03, 0.08)  # alone 1.75 times as long
    segmented(plan, images, tmp_path / "out")
    kernels = [ran for ran in card.driver.trace() if ran.kind == "kernel"]
    assert len(kernels) == 125
    busy = sum(ran.end_ns - ran.start_ns for ran in kernels) / (kernels[-1].end_ns - kernels[0].start_ns)
    assert busy >= 0.95


def test_a_trace_shows_copies_beside_computing(card: Card, plan: Path, here: Path) -> None:
    card.driver.set_costs(in_rate=3 * IMAGE_BYTES / 0.004, out_rate=IMAGE_BYTES / 0.004, kernel_seconds=0.008)
    done = call("segment", "images", "--out", "masks", "--engine", plan, "--trace", "trace.json")
    assert done.exit_code == 0, done.stderr
    events = json.loads((here / "trace.json").read_text())
    names = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    bars = [event for event in events if event["ph"] == "X"]
    assert {"copy in", "compute", "copy out", "thread 0"} <= set(names.values())
    tracks: dict[str, list[tuple[float, float]]] = {}
    for bar in bars:
        tracks.setdefault(names[bar["tid"]], []).append((bar["ts"], bar["ts"] + bar["dur"]))
    assert [len(tracks[track]) for track in ("copy in", "compute", "copy out")] == [8, 8, 8]
    for spans in tracks.values():
        assert all(a[1] <= b[0] + 1 for a, b in pairwise(sorted(spans))), "one thing at a time on a track"
    compute = sorted(tracks["compute"])
    overlapped = [copy for copy in tracks["copy in"] if any(a < copy[1] and copy[0] < b for a, b in compute)]
    assert len(overlapped) >= 5
