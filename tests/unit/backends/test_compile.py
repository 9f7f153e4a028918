"""Plans for NVIDIA GPUs: TensorRT for RTX compiles here without a GPU; nothing runs what it compiles.

TensorRT needs a GPU to compile, so only its refusals are tested.
"""

import fcntl
import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
import pytest
from helpers.engines import list_names
from helpers.graphs import (
    FREE_CONSTANTS,
    FREE_NODES,
    FREE_OUTPUTS,
    FREE_SIDE,
    FREE_SPEC,
    GREY,
    HAS_RTX_WHEELS,
    NO_RTX_WHEELS,
    TINY_CONSTANTS,
    TINY_NODES,
    write_graph,
    write_precise_graph,
)
from helpers.pictures import SIDE, UInt8, draw
from helpers.plans import assert_only_products_are_half, assert_plan_is_true, for_targets
from helpers.shipped import shipped_onnx
from onnx import helper

from lesioncli.backends import openvino
from lesioncli.backends.base import Outputs
from lesioncli.backends.build import BuiltEngine, build
from lesioncli.backends.interface import OnProgress, ignore_progress
from lesioncli.backends.manifest import read_manifest
from lesioncli.backends.reference import Reference
from lesioncli.backends.registry import choose_backend, find_engine, list_engines, open_engine
from lesioncli.backends.tensorrt import compile as tensorrt
from lesioncli.backends.tensorrt import half, vendors
from lesioncli.backends.tensorrt.compile import PlanCompiler, open_compiler
from lesioncli.backends.tensorrt.driver import Gpu, GpuListing
from lesioncli.backends.tensorrt.vendors import RTX, TENSORRT
from lesioncli.errors import EngineError, MissingPackageError, install_command
from lesioncli.files import sha256_of
from lesioncli.options import Backend, BuildOptions, Precision

if not HAS_RTX_WHEELS:
    pytest.skip(NO_RTX_WHEELS, allow_module_level=True)
trt = importlib.import_module("tensorrt_rtx")

IMAGES = [draw(seed, 50, 70) for seed in range(3)]
L4 = Gpu("NVIDIA L4", "sm89")


def rtx_compiler(options: BuildOptions, on_progress: OnProgress = ignore_progress) -> PlanCompiler:
    return open_compiler(RTX, options, None, on_progress)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path) -> BuiltEngine:
    folder = tmp_path_factory.mktemp("tiny-rtx")
    return build(tiny_onnx, folder, IMAGES, for_targets("sm86", "sm89", batch=2))


def test_the_tiny_graph(tiny: BuiltEngine) -> None:
    assert_plan_is_true(tiny, "fp32", "fp32", ("sm86", "sm89"))
    assert tiny.path.name == "tiny.tensorrt-rtx.json"
    assert tiny.manifest.batch == 2


@pytest.fixture(scope="module")
def half_cascade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("half") / "half.onnx"
    half.write_half(shipped_onnx("mbdcnn-lite"), path)
    return path


def test_the_operations_of_a_cascade_are_parsed_in_both_precisions(half_cascade: Path) -> None:
    for path, precision in ((shipped_onnx("mbdcnn-lite"), Precision.FP32), (half_cascade, Precision.FP16)):
        _, network = parsed(path)
        tensorrt.check_types(network, precision)


def test_sums_and_probabilities_of_a_cascade_stay_fp32(half_cascade: Path) -> None:
    assert_only_products_are_half(half_cascade, {"Sigmoid", "Softmax", "ReduceMean", "ReduceSum", "ReduceMax"})


def test_a_graph_that_fp16_cannot_compute_is_refused_or_compiled_in_fp32(tmp_path: Path) -> None:
    graph = write_precise_graph(tmp_path / "precise.onnx", 1000)  # 1000.2 and 999.8 are both 1000
    with pytest.raises(EngineError, match="fp16, scores"):
        build(graph, tmp_path / "fp16", GREY, for_targets("sm86", precision=Precision.FP16))
    assert not (tmp_path / "fp16").exists()
    built = build(graph, tmp_path / "auto", GREY, for_targets("sm86", precision=None))
    assert_plan_is_true(built, "auto", "fp32", ("sm86",))
    assert built.reason.startswith("fp16")


def test_a_graph_that_disagrees_with_its_reference_is_not_compiled(tiny_onnx: Path, tmp_path: Path) -> None:
    def zeros(images: Sequence[UInt8]) -> Outputs:
        return Outputs(np.zeros((len(images), SIDE, SIDE), np.uint8), np.zeros((len(images), 3), np.float32))

    with pytest.raises(EngineError, match=r"tiny: .*fp32"):
        build(tiny_onnx, tmp_path, IMAGES, for_targets("sm86"), reference=Reference("zeros", zeros))
    assert list_names(tmp_path) == []


def test_a_graph_that_stayed_fp32_is_not_an_fp16_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half, "write_half", shutil.copy)
    graph = write_precise_graph(tmp_path / "precise.onnx", 1)
    compiler = rtx_compiler(for_targets("sm86"))
    monkeypatch.setattr(
        PlanCompiler,
        "open_for_parity",
        lambda self, onnx, manifest, images, work: openvino.open_graph(onnx, manifest, work),
    )
    with pytest.raises(EngineError, match=r"fp16: .*FLOAT"):
        build(graph, tmp_path / "out", GREY, for_targets("sm86", precision=Precision.FP16), compiler=compiler)
    assert not (tmp_path / "out").exists()


def test_an_operation_that_the_parser_cannot_read_is_named(tmp_path: Path) -> None:
    nodes = {
        "pixels": TINY_NODES["pixels"],
        # By no bit: with others, OpenVINO and ONNX Runtime differ in numbers that leave uint8.
        "shifted": helper.make_node("BitShift", ["image", "zeros"], ["shifted"], direction="LEFT"),
        "mask": helper.make_node("Gather", ["shifted", "first"], ["mask"], axis=3),
        **{name: TINY_NODES[name] for name in ("sums", "light", "scores", "brightness", "agreement")},
    }
    graph = write_graph(tmp_path / "odd.onnx", nodes, constants={**TINY_CONSTANTS, "zeros": np.zeros(1, np.uint8)})
    with pytest.raises(EngineError, match=r"tiny: .*BitShift"):
        build(graph, tmp_path / "engines", IMAGES, for_targets("sm86"))


def parsed(onnx_path: Path) -> tuple[Any, Any]:
    log = vendors.make_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, log).parse_from_file(str(onnx_path))
    return builder, network


def test_options_reach_the_compiler(tiny_onnx: Path, tiny: BuiltEngine) -> None:
    compiler = rtx_compiler(for_targets("sm89", "sm75", workspace_mib=64, optimization_level=1))
    config = compiler._configure(*parsed(tiny_onnx), tiny.manifest)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 64 << 20
    assert config.builder_optimization_level == 1
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert [config.get_compute_capability(index).name for index in range(2)] == ["SM89", "SM75"]
    assert (config.num_compute_capabilities, config.num_optimization_profiles) == (2, 1)


@pytest.mark.parametrize(("dynamic", "smallest"), [(False, 4), (True, 1)])
def test_a_profile_accepts_full_batches_unless_dynamic(
    tiny_onnx: Path, tiny: BuiltEngine, dynamic: bool, smallest: int
) -> None:
    manifest = msgspec.structs.replace(tiny.manifest, batch=4)
    profile = rtx_compiler(for_targets(dynamic=dynamic))._make_profile(*parsed(tiny_onnx), manifest)
    expected = [(rows, SIDE, SIDE, 3) for rows in (smallest, 4, 4)]
    assert [tuple(shape) for shape in profile.get_shape("image")] == expected


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_network_has_no_free_side_except_the_rows_of_a_dynamic_plan(
    tiny: BuiltEngine, tmp_path: Path, dynamic: bool
) -> None:
    graph = write_graph(tmp_path / "free.onnx", FREE_NODES, FREE_OUTPUTS, FREE_CONSTANTS, FREE_SPEC, ("n", "h", "w"))
    manifest = msgspec.structs.replace(tiny.manifest, spec=FREE_SPEC)
    builder, network = parsed(graph)
    assert tuple(network.get_input(0).shape) == (-1, -1, -1, 3)
    compiler = rtx_compiler(for_targets("sm86", dynamic=dynamic))
    compiler._fix_shapes(network, manifest)
    rows = -1 if dynamic else 2
    assert tuple(network.get_input(0).shape) == (rows, FREE_SIDE, FREE_SIDE, 3)
    outputs = {network.get_output(index).name: network.get_output(index) for index in range(network.num_outputs)}
    assert tuple(outputs["mask"].shape) == (rows, FREE_SIDE, FREE_SIDE)
    assert builder.build_serialized_network(network, compiler._configure(builder, network, manifest)) is not None


def test_a_dynamic_plan_has_it_in_its_manifest_and_reports_progress(tiny_onnx: Path, tmp_path: Path) -> None:
    reported: list[tuple[str, int, int]] = []
    options = for_targets("sm86", dynamic=True, batch=4)
    compiler = rtx_compiler(options, lambda *step: reported.append(step))
    built = build(tiny_onnx, tmp_path, IMAGES, options, compiler=compiler)
    assert read_manifest(built.path).dynamic
    (listed,) = list_engines(tmp_path)
    assert "1 to 4" in listed.description
    phases = {phase for phase, _, _ in reported}
    assert "Building engine" in phases
    assert all(0 <= step <= steps for _, step, steps in reported)
    assert all(any(step == steps for name, step, steps in reported if name == phase) for phase in phases)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("when", [0, 1, 20])
def test_an_interrupt_ends_the_build_and_leaves_nothing(
    tiny_onnx: Path, tmp_path: Path, stop: type[BaseException], when: int
) -> None:
    reported: list[tuple[str, int, int]] = []

    def interrupt(*step: Any) -> None:
        reported.append(step)
        if len(reported) > when:
            raise stop

    options = for_targets("sm86")
    with pytest.raises(stop):
        build(tiny_onnx, tmp_path, IMAGES, options, compiler=rtx_compiler(options, interrupt))
    assert list_names(tmp_path) == []


def test_the_default_targets_are_those_with_both_precisions() -> None:
    assert rtx_compiler(for_targets()).targets == ("sm86", "sm89", "sm120")


def test_an_unknown_target_is_an_error() -> None:
    with pytest.raises(EngineError, match=r"--target sm90.*--backend tensorrt "):
        rtx_compiler(for_targets("sm86", "sm90"))


def test_a_precision_of_another_backend_is_an_error(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"--precision bf16.*fp16, fp32"):
        build(tiny_onnx, tmp_path / "engines", IMAGES, for_targets(precision=Precision.BF16))


@pytest.fixture
def no_vendor(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import of a vendor's library fails the test."""

    def explode(name: str) -> NoReturn:
        raise AssertionError(f"{name} was imported")

    monkeypatch.setattr(importlib, "import_module", explode)


@pytest.mark.usefixtures("no_vendor")
def test_tensorrt_is_not_imported_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "find_gpus", lambda: GpuListing(problem="no NVIDIA driver found"))
    with pytest.raises(EngineError, match=r"no NVIDIA driver found; run .* --backend tensorrt-rtx"):
        open_compiler(TENSORRT, BuildOptions())


def test_tensorrt_compiles_for_the_gpu_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "find_gpus", lambda: GpuListing((L4,)))
    monkeypatch.setattr(importlib, "import_module", lambda name: trt)
    opened = open_compiler(TENSORRT, BuildOptions())
    assert (opened.backend, opened.targets, opened.device) == (Backend.TENSORRT, ("sm89",), "NVIDIA L4 (sm89)")
    with pytest.raises(EngineError, match=r"--target: .*--backend tensorrt-rtx"):
        open_compiler(TENSORRT, BuildOptions(targets=("sm89",)))


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
@pytest.mark.parametrize("before", [None, b"no timings", b"damaged", b"refused"])
def test_time_measurements_are_kept_under_a_lock(
    tiny: BuiltEngine, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None
) -> None:
    """TensorRT for RTX stands in: its timing caches are empty, but read and written like those of TensorRT.

    TensorRT makes no cache from a damaged file, or refuses the cache.
    """
    path = tmp_path / f".tensorrt-{trt.__version__}-sm89.timings"
    locks: list[bool] = []

    def is_locked(*progress: object) -> None:
        with path.with_suffix(".lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locks.append(False)
            except BlockingIOError:
                locks.append(True)

    create, accept = trt.IBuilderConfig.create_timing_cache, trt.IBuilderConfig.set_timing_cache

    def create_timing_cache(config: Any, content: bytes) -> Any:
        if content == b"damaged":
            raise TypeError("create_timing_cache(): incompatible return value")
        return content if content == b"refused" else create(config, content)

    def set_timing_cache(config: Any, cache: Any, ignore_mismatch: bool) -> bool:
        return False if cache == b"refused" else bool(accept(config, cache, ignore_mismatch))

    monkeypatch.setattr(trt.IBuilderConfig, "create_timing_cache", create_timing_cache)
    monkeypatch.setattr(trt.IBuilderConfig, "set_timing_cache", set_timing_cache)
    if before is not None:
        path.write_bytes(before)
    compiler = PlanCompiler(TENSORRT, trt, BuildOptions(), ("sm89",), str(L4), timings=tmp_path, on_progress=is_locked)
    plan = compiler._build(tiny_onnx, tiny.manifest)
    assert plan[:4] == b"vtrt"
    assert set(locks) == {True}
    assert path.read_bytes()[:4] == b"ptrt"
    is_locked()
    assert not locks[-1]
    assert list_names(tmp_path) == sorted([path.name, path.with_suffix(".lock").name])


def test_tensorrt_for_rtx_keeps_no_time_measurements(tiny: BuiltEngine, tiny_onnx: Path, tmp_path: Path) -> None:
    open_compiler(RTX, for_targets("sm89"), tmp_path)._build(tiny_onnx, tiny.manifest)
    assert list_names(tmp_path) == []


@pytest.mark.parametrize("vendor", [TENSORRT, RTX])
def test_a_library_that_is_missing_names_its_extra(vendor: vendors.Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in vendor.modules:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=re.escape(install_command(vendor.extra))):
        vendors.load(vendor)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("import tensorrt_libs", "tensorrt_libs"),
        ("raise ImportError('libnvinfer.so.10: cannot open shared object file')", r"libnvinfer\.so\.10"),
        ("raise FileNotFoundError('Could not find: libnvinfer.so.10')", r"libnvinfer\.so\.10"),
    ],
)
def test_a_library_that_is_not_complete_is_to_be_installed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, named: str
) -> None:
    (tmp_path / "tensorrt.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(EngineError, match=f"TensorRT .*{named}.*run .*{re.escape(install_command('tensorrt'))}"):
        vendors.load(TENSORRT)


def test_the_cuda_version_of_a_library_is_that_of_its_wheels() -> None:
    assert vendors.find_cuda_major(RTX) == 13
    absent = vendors.Vendor(Backend.TENSORRT, "none", ("none_such",), "none", b"", None)
    assert vendors.find_cuda_major(absent) is None


# Loading: everything is checked before a library is imported, and a broken file imports none.


def rewrite(folder: Path, **fields: Any) -> None:
    """Change a manifest and correct the hash of its plan."""
    path = folder / "tiny.tensorrt-rtx.json"
    values = json.loads(path.read_text())
    plan = folder / "tiny.tensorrt-rtx.plan"
    path.write_text(json.dumps({**values, "files": {plan.name: sha256_of(plan)}, **fields}))


def overwrite(start: int, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        plan = folder / "tiny.tensorrt-rtx.plan"
        data = bytearray(plan.read_bytes())
        data[start : start + len(content)] = content
        plan.write_bytes(data)
        rewrite(folder)

    return change


def cut_short(folder: Path) -> None:
    (folder / "tiny.tensorrt-rtx.plan").write_bytes(b"vtrt")
    rewrite(folder)


def flip(folder: Path) -> None:
    plan = folder / "tiny.tensorrt-rtx.plan"
    data = plan.read_bytes()
    plan.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


AGAIN = "run lesioncli build-engine MODEL --backend tensorrt-rtx"
TAMPERINGS: dict[str, tuple[Callable[[Path], None], str]] = {  # case -> (change, what the message names)
    "a bit": (flip, "sha256.*run lesioncli build-engine --backend tensorrt-rtx"),
    "gone": (lambda folder: (folder / "tiny.tensorrt-rtx.plan").unlink(), "plan .*run .* tensorrt-rtx"),
    "magic": (overwrite(0, b"ftrt"), f"plan of TensorRT; .*TensorRT for RTX; {AGAIN}"),
    "no magic": (overwrite(0, b"\x7fELF"), f"not a plan; .*TensorRT for RTX; {AGAIN}"),
    "version": (overwrite(24, b"\x01\x06\x00\x05"), rf"TensorRT for RTX 1\.6\.0\.5, .*; {AGAIN}"),
    "truncated": (cut_short, f"tiny.tensorrt-rtx.plan is .*; {AGAIN}"),
    "precision": (lambda folder: rewrite(folder, precision="bf16"), "fp16, fp32"),
    "no files": (lambda folder: rewrite(folder, files={}), r"one \.plan"),
}


@pytest.fixture
def copied(tiny: BuiltEngine, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.path.parent, tmp_path / "engines"))


@pytest.mark.usefixtures("no_vendor")
@pytest.mark.parametrize("case", TAMPERINGS)
def test_a_tampered_plan_is_refused_before_a_library_sees_it(copied: Path, case: str) -> None:
    tamper, named = TAMPERINGS[case]
    tamper(copied)
    with pytest.raises(EngineError, match=named):
        open_engine(copied / "tiny.tensorrt-rtx.json")


@pytest.mark.parametrize(
    ("gpus", "version", "named"),
    [
        ((), "", r"sm86, sm89, .*: no driver; run .* MODEL --backend openvino"),
        ((Gpu("RTX 5090", "sm120"),), "", r"sm86, sm89, .* RTX 5090 \(sm120\); .*rtx --target sm120"),
        ((Gpu("H100", "sm90"),), "", r"sm86, sm89, .* H100 \(sm90\); run .* --backend tensorrt$"),
        ((L4,), "1.8.0.1", r"TensorRT for RTX 1\.7\.[\d.]+, .*1\.8\.0\.1; run .*tensorrt-rtx$"),
    ],
)
def test_why_an_engine_does_not_run_here(
    tiny: BuiltEngine, monkeypatch: pytest.MonkeyPatch, gpus: tuple[Gpu, ...], version: str, named: str
) -> None:
    monkeypatch.setattr(vendors, "find_gpus", lambda: GpuListing(gpus, "" if gpus else "no driver"))
    if version:
        monkeypatch.setattr(trt, "__version__", version)
    with pytest.raises(EngineError, match=named):
        open_engine(tiny.path)


def test_auto_does_not_choose_it_without_a_gpu_and_a_name_tells_why(copied: Path) -> None:
    assert choose_backend(Backend.AUTO).value is Backend.OPENVINO
    assert find_engine(None, Backend.OPENVINO, copied).value is None
    found = find_engine("tiny", Backend.TENSORRT_RTX, copied).value
    assert found is not None
    assert found.path == copied / "tiny.tensorrt-rtx.json"
    with pytest.raises(EngineError, match=r"'tiny'.*tiny\.tensorrt-rtx\.json: .*sm86"):
        find_engine("tiny", Backend.OPENVINO, copied)


def test_plans_are_listed_with_their_problem(copied: Path) -> None:
    (plan,) = list_engines(copied)
    assert "sm86, sm89" in plan.problem
    assert plan.description.startswith(f"tensorrt-rtx {trt.__version__} for sm86, sm89, fp32, batch 2, ")
