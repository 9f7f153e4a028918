"""Running plans: real pycuda and the real runtime code over a CUDA driver and a TensorRT that need no GPU.

Whatever the delays of the streams, the output files must be those of the CPU engine, byte for byte; however a run ends,
nothing may be left allocated. tests/cuda_standin/README.md says what the stand-ins check and what they cannot show.
"""

import csv
import ctypes
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import numpy as np
import pytest
from cuda_standin import SUPPORTED, Driver, installed
from helpers import command
from helpers.calibration_data import CALIBRATION, write_calibrated
from helpers.graphs import MakeEngine
from helpers.pictures import SIDE, UInt8, draw, save, save_many
from helpers.planted_bugs import DEVICE, LANE, RACES, RUNTIME, Bug
from helpers.shipped import shipped_onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if not SUPPORTED:
    pytest.skip("the CUDA stand-in is for Linux on x86-64", allow_module_level=True)
from cuda_standin import vendor as vendor_module
from cuda_standin.vendor import Context, Vendor

from lesioncli import source
from lesioncli.backends import base, parity, watchdog
from lesioncli.backends.build import build
from lesioncli.backends.manifest import Manifest, read_engine
from lesioncli.backends.parity import find_unverified_gpus
from lesioncli.backends.registry import BACKENDS, choose_backend, open_compiler, open_engine
from lesioncli.backends.tensorrt import driver as driver_module
from lesioncli.backends.tensorrt import vendors
from lesioncli.engines import verify_on_gpus
from lesioncli.errors import EngineError, ExitCode, install_command
from lesioncli.files import sha256_of
from lesioncli.images.find import ImageFile, ImageListing, find_images
from lesioncli.inference.outcome import Outcome
from lesioncli.inference.run import segment_images
from lesioncli.inference.tta import PROCEDURES
from lesioncli.options import TTA, Backend, BuildOptions, Precision, SegmentOptions
from lesioncli.progress import Reporter
from lesioncli.source import Source
from lesioncli.training.recipe import EngineSettings

Files = dict[str, bytes]  # content by name
OUT_OF_MEMORY, ILLEGAL_ADDRESS, LAUNCH_FAILED = 2, 700, 719  # codes of the CUDA driver
IMAGES = [draw(seed, 50, 70) for seed in range(3)]
GPU = "Stand-in GPU 0 (sm86)"


class Notes(Reporter):
    """Keeps the notes of a call."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


class Card:
    """A GPU that does not exist: the driver, and both vendor libraries on it."""

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
        assert self.driver.stack_depth() == 0


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    with installed() as driver:
        made = Card(driver, monkeypatch)
        yield made
        made.assert_clean()


def build_plan(onnx: Path, folder: Path, batch: int, dynamic: bool = False) -> Path:
    """Build an engine that TensorRT compiles on this card; return the path of its manifest."""
    options = BuildOptions(backend=Backend.TENSORRT, precision=Precision.FP32, batch=batch, dynamic=dynamic)
    return build(onnx, folder, IMAGES, options, compiler=open_compiler(options)).path  # without a timing cache


def build_ahead(onnx: Path, folder: Path, dynamic: bool = False) -> Path:
    """Build an engine ahead of time, which has never run on a GPU; return the path of its manifest."""
    options = BuildOptions(Backend.TENSORRT_RTX, Precision.FP32, batch=2, targets=("sm86",), dynamic=dynamic)
    return build(onnx, folder, IMAGES, options).path


def read_outputs(out: Path) -> Files:
    """Return the files of an output folder, except run.json, which holds times, and hidden files."""
    return {
        path.name: path.read_bytes()
        for path in sorted(out.iterdir())
        if path.name != "run.json" and not path.name.startswith(".")
    }


def segment_with(manifest: Path, images: list[ImageFile], out: Path, **options: Any) -> Files:
    asked = SegmentOptions(**options)
    with open_engine(manifest, 2 * (asked.workers or 2), PROCEDURES[asked.tta].layout) as engine:
        segment_images(ImageListing(images), engine, out, asked)
    return read_outputs(out)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImageFile]:
    """Images of many sizes and all orientations."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(23):
        height, width = 20 + 37 * number % 90, 20 + 53 * number % 120
        save(folder / f"{number:03d}.jpg", draw(number, height, width), orientation=1 + number % 8)
    return find_images([folder])


@pytest.fixture(scope="module")
def expected(tiny_manifest: MakeEngine, images: list[ImageFile], tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The output files of the CPU engine."""
    files = segment_with(tiny_manifest(1), images, tmp_path_factory.mktemp("cpu"))
    assert len(files) == 25  # masks, scores.csv, checksums.csv
    return files


def test_a_run_writes_what_the_cpu_engine_writes(
    card: Card, tiny_onnx: Path, images: list[ImageFile], expected: Files, tmp_path: Path
) -> None:
    plan = build_plan(tiny_onnx, tmp_path / "engines", 4)
    card.driver.set_delays(seed=1)
    assert segment_with(plan, images, tmp_path / "gpu") == expected
    assert card.driver.pageable_copies() == 0, "a slot or an output is not in pinned memory"


def test_a_calibration_gives_the_same_on_every_backend(
    card: Card, tiny_onnx: Path, tiny_manifest: MakeEngine, images: list[ImageFile], expected: Files, tmp_path: Path
) -> None:
    shutil.copytree(tiny_manifest(1).parent, tmp_path / "cpu")
    plan = write_calibrated(build_plan(tiny_onnx, tmp_path / "gpu", 4), CALIBRATION, "calibrated")
    cpu = write_calibrated(tmp_path / "cpu" / tiny_manifest(1).name, CALIBRATION, "calibrated")
    found = segment_with(plan, images, tmp_path / "masks")
    assert found == segment_with(cpu, images, tmp_path / "cpu-masks")
    changed = {name for name in expected if expected[name] != found[name]}
    assert changed == {"scores.csv"}


@pytest.mark.slow
def test_a_shipped_model_writes_what_the_cpu_engine_writes(
    card: Card, parity_images: list[UInt8], engine_manifest: Path, images: list[ImageFile], tmp_path: Path
) -> None:
    options = BuildOptions(backend=Backend.TENSORRT, precision=Precision.FP32, batch=3)
    plan = build(shipped_onnx(), tmp_path, parity_images, options, compiler=open_compiler(options)).path
    assert segment_with(plan, images[:7], tmp_path / "gpu") == segment_with(
        engine_manifest, images[:7], tmp_path / "cpu"
    )


def assert_equal_for_any_size(
    card: Card, onnx: Path, images: list[ImageFile], expected: Files, work: Path, sizes: "Sizes"
) -> None:
    plan = build_plan(onnx, work / "engines", sizes.batch, sizes.dynamic)
    card.driver.set_delays(sizes.seed)
    from lesioncli.backends.tensorrt import runtime  # needs pycuda

    with patch.object(runtime, "DEPTH", sizes.depth):
        files = segment_with(plan, images[: sizes.count], work / "gpu", workers=sizes.workers)
    masks = {image.local_path.with_suffix(".png").name for image in images[: sizes.count]}
    assert {name: content for name, content in files.items() if name in masks} == {
        name: expected[name] for name in masks
    }
    assert files["scores.csv"] == b"".join(expected["scores.csv"].splitlines(keepends=True)[: sizes.count + 1])
    card.assert_clean()


@dataclass(frozen=True)
class Sizes:
    """The sizes of a run: batch, images, threads, slots at the same time; and the seed of the delays."""

    dynamic: bool
    batch: int
    count: int
    workers: int
    depth: int
    seed: int


@pytest.mark.parametrize(
    "sizes", [Sizes(False, 4, 23, 5, 3, 1), Sizes(True, 7, 17, 1, 1, 2), Sizes(True, 1, 5, 3, 5, 3)]
)
def test_sizes_and_delays_do_not_change_the_files(
    card: Card, tiny_onnx: Path, images: list[ImageFile], expected: Files, tmp_path: Path, sizes: Sizes
) -> None:
    assert_equal_for_any_size(card, tiny_onnx, images, expected, tmp_path, sizes)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.builds(
        Sizes,
        dynamic=st.booleans(),
        batch=st.integers(1, 7),
        count=st.integers(1, 23),
        workers=st.integers(1, 5),
        depth=st.integers(1, 5),
        seed=st.integers(0, 2**32),
    )
)
def test_many_sizes_and_delays_do_not_change_the_files(
    card: Card, tiny_onnx: Path, images: list[ImageFile], expected: Files, tmp_path: Path, sizes: Sizes
) -> None:
    work = Path(tempfile.mkdtemp(dir=tmp_path))
    assert_equal_for_any_size(card, tiny_onnx, images, expected, work, sizes)


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
    """An engine for batches of 3, compiled on this card."""
    return build_plan(tiny_onnx, tmp_path / "engines", 3)


def assert_failed_call_is_survived(
    card: Card, plan: Path, images: list[ImageFile], expected: Files, out: Path, call: str, nth: int
) -> None:
    """Rows and masks that exist are right, everything is freed, and a second run completes the folder."""
    card.driver.fail(call, nth, ILLEGAL_ADDRESS)
    with suppress(EngineError):
        segment_with(plan, images[:13], out)
    files = read_outputs(out) if out.is_dir() else {}
    assert {name: expected[name] for name in files if name.endswith(".png")}.items() <= files.items()
    rows, complete = (
        list(csv.reader(table.decode().splitlines()))
        for table in (files.get("scores.csv", b""), expected["scores.csv"])
    )
    for row, right in zip(rows, complete, strict=False):
        failed = row[5] == "failed" and row[6].startswith(f"network: tiny.tensorrt on {GPU}: ")
        assert row == right or (failed and row[0] == right[0])
    assert card.driver.live() == {}
    card.driver.reset()
    assert segment_with(plan, images, out) == expected


@pytest.mark.parametrize(("call", "nth"), [("cuMemAlloc", 2), ("cuMemcpyHtoDAsync", 3), ("kernel", 3), ("copy out", 6)])
def test_a_failed_call_is_survived(
    card: Card, plan: Path, images: list[ImageFile], expected: Files, tmp_path: Path, call: str, nth: int
) -> None:
    card.driver.set_delays(1, 0.0001)
    assert_failed_call_is_survived(card, plan, images, expected, tmp_path / "out", call, nth)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=st.sampled_from(CALLS), nth=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_any_failed_call_is_survived(
    card: Card, plan: Path, images: list[ImageFile], expected: Files, tmp_path: Path, call: str, nth: int, seed: int
) -> None:
    card.driver.set_delays(seed, 0.0001)
    out = Path(tempfile.mkdtemp(dir=tmp_path))
    assert_failed_call_is_survived(card, plan, images, expected, out, call, nth)


LEAKS = {  # every run shows them
    "has slots in pageable memory": Bug(f"{RUNTIME}.PlanEngine._open", ", self._device.pinned)", ")"),
    "has outputs in pageable memory": Bug(
        f"{LANE}.__init__", "device.pinned(output.shape, output.dtype)", "np.zeros(output.shape, output.dtype)"
    ),
    "keeps memory of the device": Bug(f"{DEVICE}.allocate", "self.on_close(memory.free)", "leaked.append(memory)"),
    "keeps pinned memory": Bug(f"{DEVICE}.pinned", "self.on_close(array.base.free)", "leaked.append(array)"),
    "keeps its events": Bug(f"{LANE}.__init__", "device.on_close(self._drop_events)", "leaked.append(self)"),
    "leaves its context on the stack": Bug(
        f"{DEVICE}.__init__",
        "cleanup.callback(_leave, context)",
        "cleanup.callback(context.detach), cleanup.callback(context.pop)",
    ),
    "keeps its contexts": Bug(f"{RUNTIME}._Plan.release", "self._contexts.clear()", "leaked.append(self._contexts)"),
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
    """An engine for batches of 1: the images fill its cycles three times, so that a race has many chances to show."""
    return build_plan(tiny_onnx, tmp_path / "engines", 1)


@pytest.mark.parametrize(
    "condition",
    [*CONDITIONS[:2], *(pytest.param(condition, marks=pytest.mark.slow) for condition in CONDITIONS[2:])],
)
def test_correct_code_shows_no_bug(
    card: Card,
    plan_of_one: Path,
    images: list[ImageFile],
    expected: Files,
    tmp_path: Path,
    condition: Callable[[Driver], None],
) -> None:
    condition(card.driver)
    assert segment_with(plan_of_one, images, tmp_path / "out") == expected
    assert not card.driver.pageable_copies()


@pytest.mark.parametrize("bug", [*(pytest.param(bug, marks=pytest.mark.slow) for bug in RACES), *LEAKS])
def test_a_planted_bug_shows(
    card: Card,
    plan_of_one: Path,
    images: list[ImageFile],
    expected: Files,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bug: str,
) -> None:
    """A race need not show under every condition, but it must under one of them."""
    leaked: list[Any] = []
    {**RACES, **LEAKS}[bug].plant(monkeypatch, leaked)
    shown = []
    for number, condition in enumerate(CONDITIONS):
        card.driver.reset()
        condition(card.driver)
        with suppress(Exception):
            shown.append(segment_with(plan_of_one, images, tmp_path / f"out{number}") != expected)
        shown += [bool(card.driver.violations()), bool(card.driver.live()), bool(card.driver.pageable_copies())]
        leaked.clear()
        if any(shown):
            break
    card.driver.reset()
    card.tensorrt.failures.clear()
    assert any(shown)


# The context


def test_a_closed_device_leaves_the_context_of_the_thread_as_it_was(card: Card) -> None:
    from lesioncli.backends.tensorrt import cuda  # needs pycuda

    for _ in range(40):  # the stack of the stand-in holds 32
        cuda.Device(0).close()
        assert card.driver.stack_depth() == 0
    library, other, current = card.driver.library, ctypes.c_uint64(), ctypes.c_uint64()
    assert library.cuDevicePrimaryCtxRetain(ctypes.byref(other), 0) == 0
    assert library.cuCtxSetCurrent(other) == 0  # as torch does
    cuda.Device(0).close()
    assert library.cuCtxGetCurrent(ctypes.byref(current)) == 0
    assert (card.driver.stack_depth(), current.value) == (1, other.value)
    assert library.cuCtxPopCurrent_v2(None) == 0
    assert library.cuDevicePrimaryCtxRelease_v2(0) == 0


def test_a_device_that_does_not_open_leaves_no_context(card: Card) -> None:
    from lesioncli.backends.tensorrt import cuda  # needs pycuda

    card.driver.fail("cuStreamCreate", 1, LAUNCH_FAILED)
    with pytest.raises(EngineError, match="GPU 0 cannot be opened"):
        cuda.Device(0)
    card.assert_clean()


@pytest.mark.parametrize("traced", [False, True])
def test_streams_are_independent_and_waiting_uses_no_core(card: Card, plan: Path, traced: bool) -> None:
    with open_engine(plan, traced=traced):
        assert card.driver.live()["streams"] == 3
        assert card.driver.live()["events"] >= 9
        assert (card.driver.blocking_streams(), card.driver.spinning_events()) == (0, 0)


# Memory


def test_the_message_on_short_memory_names_a_batch_that_fits(
    card: Card, tiny_onnx: Path, images: list[ImageFile], tmp_path: Path
) -> None:
    big = build_plan(tiny_onnx, tmp_path / "engines", 64)
    card.tensorrt.scratch_bytes = 64 << 16  # of a context for a full batch
    card.driver.limit_memory(8 << 20)
    with pytest.raises(EngineError, match=r"8 MiB .*; run lesioncli .*tensorrt --batch \d+") as caught:
        segment_with(big, images, tmp_path / "out")
    assert card.driver.live() == {}
    batch = int(str(caught.value).rpartition(" ")[2])
    assert 20 < batch < 64
    card.tensorrt.scratch_bytes = batch << 16
    small = build_plan(tiny_onnx, tmp_path / "engines", batch)
    assert len(segment_with(small, images, tmp_path / "out")) == 25


def test_memory_that_is_short_for_one_image_is_told(
    card: Card, plan: Path, images: list[ImageFile], tmp_path: Path
) -> None:
    card.driver.limit_memory(1 << 12)
    with pytest.raises(EngineError, match="--backend openvino"):
        segment_with(plan, images, tmp_path / "out")


def test_short_pinned_memory_is_told_from_short_gpu_memory(
    card: Card, plan: Path, images: list[ImageFile], tmp_path: Path
) -> None:
    card.driver.fail("cuMemHostAlloc", 3, OUT_OF_MEMORY)
    with pytest.raises(EngineError, match="--workers"):
        segment_with(plan, images, tmp_path / "out")


# Views


@pytest.mark.parametrize(
    ("batch", "dynamic", "kernels"), [(3, False, 18), (4, True, 9), (8, True, 5), (16, False, 3), (18, False, 3)]
)
def test_views_run_in_a_plan(
    card: Card,
    tiny_onnx: Path,
    tiny_manifest: MakeEngine,
    images: list[ImageFile],
    tmp_path: Path,
    batch: int,
    dynamic: bool,
    kernels: int,
) -> None:
    """Nine images of four views: a batch has the views of as many images as fit, or a part of those of one."""
    expected = segment_with(tiny_manifest(1), images[:9], tmp_path / "cpu", tta=TTA.FLIPS)
    plan = build_plan(tiny_onnx, tmp_path / "engines", batch, dynamic)
    card.driver.reset()
    assert segment_with(plan, images[:9], tmp_path / "gpu", tta=TTA.FLIPS) == expected
    assert [operation.kind for operation in card.driver.trace()].count("kernel") == kernels


def test_sizes_that_a_plan_was_not_compiled_for_are_refused(
    card: Card, tiny_onnx: Path, images: list[ImageFile], tmp_path: Path
) -> None:
    plan = build_plan(tiny_onnx, tmp_path / "engines", 32)
    with pytest.raises(EngineError, match=r"32 images of 32x32.*--tta"):
        segment_with(plan, images, tmp_path / "out", tta=TTA.FULL)


@pytest.mark.parametrize(("dynamic", "shape"), [(False, (3, SIDE, SIDE, 3)), (True, (-1, SIDE, SIDE, 3))])
def test_a_plan_has_fixed_shapes_except_for_the_rows_of_a_dynamic_one(
    card: Card, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dynamic: bool, shape: tuple[int, ...]
) -> None:
    """The graph has free sides, for which TensorRT for RTX would compile again during a run."""
    plan = build_plan(tiny_onnx, tmp_path / "engines", 3, dynamic)
    shapes: list[tuple[int, ...]] = []
    create = vendor_module.Engine.create_execution_context

    def record(engine: vendor_module.Engine, *settings: Any) -> Context | None:
        shapes.append(engine.get_tensor_shape("image"))
        return create(engine, *settings)

    monkeypatch.setattr(vendor_module.Engine, "create_execution_context", record)
    with open_engine(plan):
        assert shapes == [shape] * 3


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
@pytest.mark.parametrize("dynamic", [False, True])
def test_tensorrt_for_rtx_compiles_a_dynamic_plan_before_it_runs(
    card: Card, tiny_onnx: Path, tmp_path: Path, dynamic: bool
) -> None:
    """By default it would use general kernels first, and the parity check would run others than a long run."""
    eager = card.rtx.DynamicShapesKernelSpecializationStrategy.EAGER
    expected = [{"dynamic_shapes_kernel_specialization_strategy": eager} if dynamic else {}] * 3
    with open_engine(build_ahead(tiny_onnx, tmp_path / "engines", dynamic)):
        assert card.rtx.context_settings == expected
    with open_engine(build_plan(tiny_onnx, tmp_path / "plan", 2, dynamic)):
        assert card.tensorrt.context_settings[-3:] == [{}] * 3


# Plans that contradict their manifest


def test_a_tensor_that_contradicts_the_manifest_is_named(
    card: Card, plan: Path, images: list[ImageFile], tmp_path: Path
) -> None:
    values = json.loads(plan.read_text())
    for change, named in (
        ({"spec": {**values["spec"], "height": 64}}, r"'image' is UINT8 .*, not UINT8 \(3, 64, 32, 3\)"),
        ({"spec": {**values["spec"], "classes": ["a", "b"]}}, r"'scores' is FLOAT .*, not FLOAT \(3, 2\)"),
        ({"batch": 2}, r"'image' is UINT8 .*, not UINT8 \(2, 32, 32, 3\)"),
    ):
        plan.write_text(json.dumps({**values, **change}))
        with pytest.raises(EngineError, match=named):
            segment_with(plan, images, tmp_path / "out")


def test_a_plan_for_another_model_of_gpu_is_refused(
    card: Card, plan: Path, images: list[ImageFile], tmp_path: Path
) -> None:
    values = json.loads(plan.read_text())
    plan.write_text(json.dumps({**values, "device": "NVIDIA A10 (sm86)"}))
    with pytest.raises(EngineError, match=r"NVIDIA A10 \(sm86\).*Stand-in GPU 0 .*MODEL --backend tensorrt$"):
        segment_with(plan, images, tmp_path / "out")


def test_a_plan_that_the_library_cannot_load_is_named(
    card: Card, plan: Path, images: list[ImageFile], tmp_path: Path
) -> None:
    file = plan.with_suffix(".plan")
    file.write_bytes(file.read_bytes()[:40])
    values = json.loads(plan.read_text())
    plan.write_text(json.dumps({**values, "files": {file.name: sha256_of(file)}}))
    with pytest.raises(EngineError, match=r"tiny\.tensorrt\.plan: .*run lesioncli build-engine"):
        segment_with(plan, images, tmp_path / "out")


# The command line


call = partial(command.call, columns=300)


@pytest.fixture
def here(tmp_path: Path, images: list[ImageFile], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(images[0].local_path.parent, tmp_path / "images")
    return tmp_path


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_auto_uses_a_gpu_from_build_to_masks(card: Card, here: Path, tiny_onnx: Path, expected: Files) -> None:
    built = call("build-engine", tiny_onnx, "--batch", "4", "--precision", "fp32", "--images", "images")
    assert built.exit_code == 0, built.stderr
    assert "tensorrt" in built.stderr
    assert GPU in built.stderr
    assert "tiny.tensorrt.json" in built.stdout
    assert "1.0000" in built.stdout
    done = call("segment", "images", "--out", "masks")
    assert done.exit_code == 0, done.stderr
    assert read_outputs(here / "masks") == expected
    about = json.loads((here / "masks" / "run.json").read_text())
    assert (about["backend"], about["device"]) == ("tensorrt 10.16.1.11", GPU)
    assert json.loads(call("engines", "--json").stdout)[0]["runs_here"]


@pytest.fixture
def tiny_shipped(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny graph takes the place of the shipped model, in fp32."""
    settings = EngineSettings(precision=Precision.FP32)
    monkeypatch.setattr(source, "resolve", lambda model, work: Source(tiny_onnx, None, settings))


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
@pytest.mark.usefixtures("tiny_shipped")
@pytest.mark.parametrize(("words", "batch"), [((), 16), (("--batch", "4"), 4)])
def test_an_engine_that_segment_builds_for_a_gpu_has_large_batches(
    card: Card, here: Path, expected: Files, words: tuple[str, ...], batch: int
) -> None:
    done = call("segment", "images", "--out", "masks", *words)
    assert done.exit_code == 0, done.stderr
    assert ("batches of 16, the default for a GPU" in done.stderr) == (not words)
    assert json.loads((here / "engines" / "tiny.tensorrt.json").read_text())["batch"] == batch
    assert read_outputs(here / "masks") == expected


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
@pytest.mark.usefixtures("tiny_shipped")
@pytest.mark.parametrize("words", [("segment", "images", "--out", "masks"), ("build-engine",)])
def test_auto_leaves_a_library_that_does_not_support_the_gpu_and_says_so(
    card: Card, here: Path, words: tuple[str, ...]
) -> None:
    card.tensorrt.targets = ("sm80",)
    done = call(*words)
    assert done.exit_code == 0, done.stderr
    assert "SM 86 is not supported" in done.stderr
    assert [path.name for path in (here / "engines").glob("*.json")] == ["tiny.tensorrt-rtx.json"]
    refused = call(*words, "--backend", "tensorrt")
    assert refused.exit_code == 4
    assert "SM 86 is not supported" in refused.stderr
    assert "--backend openvino" in refused.stderr


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
@pytest.mark.usefixtures("tiny_shipped")
def test_auto_takes_the_cpu_only_without_options_that_a_gpu_needs(card: Card, here: Path) -> None:
    card.tensorrt.targets = ("sm80",)
    with patch.dict(BACKENDS):  # monkeypatch.delitem would put the entry back at the end of the table
        del BACKENDS[Backend.TENSORRT_RTX]
        refused = call("build-engine", "--workspace", "64")
        done = call("build-engine", "--out", "second")
    assert refused.exit_code == 4
    assert "SM 86 is not supported" in refused.stderr
    assert not list(here.glob("engines/*.json"))
    assert done.exit_code == 0, done.stderr
    assert "SM 86 is not supported" in done.stderr
    assert [path.name for path in (here / "second").glob("*.json")] == ["tiny.openvino.json"]


def test_auto_takes_the_cpu_for_a_gpu_that_is_too_old_for_both_libraries(card: Card) -> None:
    card.driver.set_device(capability=(7, 0))
    chosen = choose_backend(Backend.AUTO)
    assert chosen.value is Backend.OPENVINO
    assert "TensorRT does not support Stand-in GPU 0 (sm70)" in chosen.reason
    card.driver.set_device(capability=(7, 5))
    assert choose_backend(Backend.AUTO).value is Backend.TENSORRT
    card.driver.set_device(capability=(12, 0))
    assert choose_backend(Backend.AUTO).value is Backend.TENSORRT


def test_a_gpu_without_its_libraries_is_named_and_not_used(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vendors, "find_spec", lambda name: None)
    chosen = choose_backend(Backend.AUTO)
    assert chosen.value is Backend.OPENVINO
    assert GPU in chosen.reason
    assert chosen.reason.endswith(install_command("tensorrt"))


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_a_driver_that_is_too_old_is_told_with_the_way_out(
    card: Card, plan: Path, here: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version of CUDA that the library needs is not known here, so the library itself refuses."""
    monkeypatch.setattr(vendors, "find_cuda_major", lambda vendor: None)
    ahead = build_ahead(tiny_onnx, here / "ahead")
    card.driver.set_cuda_version(12, 9)
    options = ("--images", "images", "--precision", "fp32", "--backend")
    for words in (
        ("build-engine", tiny_onnx, *options, "tensorrt"),
        ("segment", "images", "--out", "masks", "--engine", plan),
        ("segment", "images", "--out", "masks", "--engine", ahead, "--backend", "tensorrt-rtx"),
        ("build-engine", tiny_onnx, *options, "tensorrt-rtx", "--target", "sm86"),
    ):
        refused = call(*words)
        assert refused.exit_code == 4, refused.stderr
        assert "CUDA 12.9" in refused.stderr
        assert "error: 35" in refused.stderr
        assert "--backend openvino" in refused.stderr
        assert not (here / "masks").exists()


def test_a_driver_that_is_known_to_be_too_old_is_told_before_a_library_is_used(
    card: Card, plan: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vendors, "find_cuda_major", lambda vendor: 13)
    assert choose_backend(Backend.AUTO).value is Backend.TENSORRT
    card.driver.set_cuda_version(12, 9)
    chosen = choose_backend(Backend.AUTO)
    assert chosen.value is Backend.OPENVINO
    assert "CUDA 12.9" in chosen.reason
    monkeypatch.setattr(Vendor, "check_driver", None)
    for words in (
        ("build-engine", "--backend", "tensorrt"),
        ("segment", "images", "--out", "masks", "--engine", plan),
    ):
        refused = call(*words)
        assert refused.exit_code == 4, refused.stderr
        assert "CUDA 12.9" in refused.stderr
        assert "CUDA 13" in refused.stderr
    assert not (here / "masks").exists()


def test_a_lost_device_keeps_finished_rows_and_a_second_run_continues(
    card: Card, plan: Path, here: Path, expected: Files
) -> None:
    card.driver.fail("kernel", 5, LAUNCH_FAILED)
    words = ("segment", "images", "--out", "masks", "--engine", plan)
    lost = call(*words)
    assert lost.exit_code == 4
    assert GPU in lost.stderr
    rows = (here / "masks" / "scores.csv").read_text().splitlines()[1:]
    done = [row for row in rows if ",ok," in row]
    marked = [row for row in rows if ",failed," in row]
    assert len(done) in (6, 9, 12), "of four computed batches of 3, the last may not be copied out yet"
    assert len(marked) in (3, 6, 9), "the batches that were in the engine"
    assert rows == done + marked
    assert all(f"network: tiny.tensorrt on {GPU}: " in row for row in marked)
    assert json.loads((here / "masks" / "run.json").read_text())["status"] == "interrupted"
    assert card.driver.live() == {}
    card.driver.reset()
    again = call(*words)
    assert again.exit_code == 0, again.stderr
    assert read_outputs(here / "masks") == expected


def test_a_batch_that_cannot_start_on_a_lost_device_has_the_first_error(
    card: Card, plan: Path, images: list[ImageFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pycuda.driver  # needs the stand-in

    execute = Context.execute_async_v3

    def after_the_loss(context: Context, stream: int) -> bool:
        with suppress(pycuda.driver.Error):
            pycuda.driver.Context.synchronize()
        return execute(context, stream)

    monkeypatch.setattr(Context, "execute_async_v3", after_the_loss)
    card.driver.fail("copy in", 1, ILLEGAL_ADDRESS)
    with pytest.raises(EngineError, match="illegal memory access"):
        segment_with(plan, images, tmp_path / "masks")


def test_an_interrupt_frees_everything(
    card: Card, plan: Path, images: list[ImageFile], tmp_path: Path, expected: Files
) -> None:
    def interrupt(outcome: Outcome) -> None:
        if outcome.image == images[7]:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        open_engine(plan, 4, PROCEDURES[TTA.NONE].layout) as engine,
    ):
        segment_images(ImageListing(images), engine, tmp_path / "out", SegmentOptions(), on_outcome=interrupt)
    card.assert_clean()
    assert segment_with(plan, images, tmp_path / "out") == expected


# The first run on a GPU of an engine that was compiled ahead of time


def test_the_first_run_verifies_an_engine_and_the_next_does_not(
    card: Card, here: Path, tiny_onnx: Path, expected: Files
) -> None:
    engine = build_ahead(tiny_onnx, here / "engines")
    words = ("segment", "images", "--out", "masks", "--engine", engine, "--backend", "tensorrt-rtx")
    first = call(*words)
    assert first.exit_code == 0, first.stderr
    assert f"first run on {GPU}" in first.stderr
    assert read_outputs(here / "masks") == expected
    about = json.loads((here / "masks" / "run.json").read_text())
    assert (about["backend"], about["device"]) == ("tensorrt-rtx 1.7.0.5", GPU)
    assert json.loads(engine.read_text())["verified"][GPU]["images"] == 8
    second = call(*words, "--overwrite")
    assert second.exit_code == 0
    assert "first run" not in second.stderr


@pytest.mark.parametrize(("devices", "models"), [(None, [0]), ((), [0, 1]), ((2,), [0]), ((1, 2), [0, 1])])
def test_an_engine_is_verified_on_each_model_of_gpu_that_a_run_uses(
    card: Card, here: Path, tiny_onnx: Path, devices: tuple[int, ...] | None, models: list[int]
) -> None:
    """Of three GPUs, the third is of the same model as the first."""
    path = build_ahead(tiny_onnx, here / "engines")
    card.driver.set_device(devices=3, models=2)
    notes = Notes()
    verify_on_gpus(read_engine(path), [], notes, devices)
    names = [f"Stand-in GPU {model} (sm86)" for model in models]
    assert sorted(" ".join(note.split()[3:7]) for note in notes.texts) == [f"{name}:" for name in names]
    engine = read_engine(path)
    assert sorted(engine.manifest.verified) == names
    assert find_unverified_gpus(engine, devices) == {}
    card.assert_clean()


def test_an_engine_that_disagrees_on_this_gpu_is_refused(card: Card, here: Path, tiny_onnx: Path) -> None:
    engine = build_ahead(tiny_onnx, here / "engines")

    def distort(outputs: dict[str, Any]) -> None:
        outputs["mask"][:] = 255 - outputs["mask"]

    card.rtx.distort = distort
    words = ("segment", "images", "--out", "masks", "--engine", engine, "--backend", "tensorrt-rtx")
    refused = call(*words)
    assert refused.exit_code == 4
    assert GPU in refused.stderr
    assert "--no-verify" in refused.stderr
    assert not (here / "masks").exists()
    assert json.loads(engine.read_text())["verified"] == {}
    assert call(*words, "--no-verify").exit_code == 0


def test_a_manifest_that_cannot_be_updated_does_not_stop_the_run(
    card: Card, here: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build_ahead(tiny_onnx, here / "engines")

    def refuse(path: Path, manifest: Manifest) -> NoReturn:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(parity, "write_manifest", refuse)
    done = call("segment", "images", "--out", "masks", "--engine", engine, "--backend", "tensorrt-rtx")
    assert done.exit_code == 0, done.stderr
    assert "Read-only file system" in done.stderr


# Overlap


@pytest.mark.slow
def test_the_device_is_busy_for_a_thousand_images(card: Card, tiny_onnx: Path, tmp_path: Path) -> None:
    """With fixed costs, and images so small that decoding and writing keep up."""
    images = save_many(tmp_path / "images", 1000)
    plan = build_plan(tiny_onnx, tmp_path / "engines", 8)
    card.driver.reset()
    # Without overlap, the run takes 1.75 times as long.
    card.driver.set_costs(8 * IMAGE_BYTES / 0.03, 8 * IMAGE_BYTES / 3 / 0.03, 0.08)
    segment_with(plan, images, tmp_path / "out")
    kernels = [operation for operation in card.driver.trace() if operation.kind == "kernel"]
    assert len(kernels) == 125
    busy = sum(kernel.end_ns - kernel.start_ns for kernel in kernels) / (kernels[-1].end_ns - kernels[0].start_ns)
    assert busy >= 0.95


def test_times_are_exact_after_hours(card: Card) -> None:
    """Times between events are float32 milliseconds: ten hours are exact to 4 ms only."""
    from lesioncli.backends.tensorrt import cuda  # needs pycuda

    device = cuda.Device(0, traced=True)
    images = device.pinned((1, 4, 4, 3), np.uint8)
    lane = cuda.Lane(device, images.nbytes, {"mask": cuda.ArraySpec((1, 4, 4), np.dtype(np.uint8))})
    errors_s, begins = [], []
    for number in range(8):
        if number == 2:
            card.driver.advance_clock(10 * 3600)
        lane.start(images, lambda stream: None)
        lane.finish()
        spans = lane.spans()
        ends = (lane._copied, lane._computed, lane._done)
        exact = [begin.time_till(end) / 1000 for begin, end in zip(lane._begun, ends, strict=True)]
        pairs = zip(spans, exact, strict=True)
        errors_s.append(max(abs(span.end - span.start - seconds) for span, seconds in pairs))
        begins.append(spans[0].start)
    del lane, ends
    device.close()
    assert max(errors_s[:2] + errors_s[4:]) < 1e-6
    assert sorted(begins) == begins
    assert begins[2] - begins[1] == pytest.approx(10 * 3600, abs=1)
    assert begins[-1] - begins[2] < 1


def test_a_refused_output_leaves_no_memory_behind(card: Card, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "FORMULA_STARTS", ("agreement",))
    with pytest.raises(EngineError, match="formula"):
        open_engine(plan)
    assert card.driver.live() == {}


def test_a_gpu_that_hangs_is_noticed_while_it_is_waited_for(
    card: Card, plan: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pycuda lets other threads run while it waits for an event, or the watchdog would not."""
    reasons: list[tuple[int, bytes]] = []
    monkeypatch.setattr(watchdog, "exit_at_once", lambda *given: reasons.append(given))
    card.driver.set_costs(kernel_seconds=1.5)
    done = call("segment", "images/000.jpg", "--out", "masks", "--engine", plan, "--engine-timeout", "0.2")
    assert done.exit_code == 0, done.stderr
    assert {code for code, _ in reasons} == {ExitCode.ENGINE}
    assert any(f"engine tiny on {GPU}".encode() in reason for _, reason in reasons)


def test_a_gpu_that_hangs_at_its_verification_is_noticed(
    card: Card, tiny_onnx: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons: list[tuple[int, bytes]] = []
    monkeypatch.setattr(watchdog, "exit_at_once", lambda *given: reasons.append(given))
    plan = build_ahead(tiny_onnx, here / "engines")
    card.driver.set_costs(kernel_seconds=1.5)
    done = call("segment", "images/000.jpg", "--out", "masks", "--engine", plan, "--engine-timeout", "1")
    assert done.exit_code == 0, done.stderr
    assert any(f"first run of {plan} on {GPU}".encode() in reason for _, reason in reasons)


def test_a_trace_shows_copies_during_computation(card: Card, plan: Path, here: Path) -> None:
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
        assert all(a[1] <= b[0] + 1 for a, b in pairwise(sorted(spans))), "spans of one track do not overlap"
    compute = sorted(tracks["compute"])
    overlapped = [copy for copy in tracks["copy in"] if any(a < copy[1] and copy[0] < b for a, b in compute)]
    assert len(overlapped) >= 5
