"""Plans for NVIDIA GPUs: TensorRT for RTX really compiles here, without a GPU; nothing runs what it compiles.

TensorRT itself needs a GPU to compile, so that of it are tested the refusals alone.
"""

import dataclasses
import fcntl
import importlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
import torch
from helpers.graphs import HAS_RTX_WHEELS, NO_RTX_WHEELS, TINY_CONSTANTS, TINY_NODES, write_graph, write_touchy_graph
from helpers.networks import awake
from helpers.pictures import SIDE, UInt8, draw
from helpers.shipped import shipped_onnx
from onnx import helper

from lesioncli.backends.base import Manifest
from lesioncli.backends.build import Answers, Built, build
from lesioncli.backends.registry import choose_backend, find_engine, list_engines, open_engine
from lesioncli.backends.tensorrt import compile as tensorrt
from lesioncli.backends.tensorrt import half, vendors
from lesioncli.backends.tensorrt.compile import PlanCompiler, Settings, open_compiler
from lesioncli.backends.tensorrt.driver import Gpu
from lesioncli.backends.tensorrt.vendors import RTX, TENSORRT
from lesioncli.errors import EngineError, MissingPackageError
from lesioncli.files import sha256_of
from lesioncli.shipped import shipped_models
from lesioncli.spec import ModelSpec
from lesioncli.training.checkpoint import make_network, save_checkpoint
from lesioncli.training.export import export_checkpoint, export_onnx
from lesioncli.training.recipe import find_recipe, load_recipe

if not HAS_RTX_WHEELS:
    pytest.skip(NO_RTX_WHEELS, allow_module_level=True)
trt = importlib.import_module("tensorrt_rtx")

PICTURES = [draw(seed, 50, 70) for seed in range(3)]
VERSION = tuple(int(each) for each in str(trt.__version__).split("."))
L4 = Gpu("NVIDIA L4", "sm89")


def compiler(*targets: str, **settings: Any) -> PlanCompiler:
    return open_compiler(RTX, Settings(targets, **settings))


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path) -> Built:
    folder = tmp_path_factory.mktemp("tiny-rtx")
    return build(tiny_onnx, folder, PICTURES, compiler=compiler("sm86", "sm89"), precision="fp32", batch=2)


@pytest.fixture(scope="module")
def shipped_fp16(tmp_path_factory: pytest.TempPathFactory, parity_images: list[UInt8]) -> Built:
    return build(shipped_onnx(), tmp_path_factory.mktemp("fp16"), parity_images, compiler=compiler("sm86"))


@pytest.fixture(scope="module")
def shipped_exact(tmp_path_factory: pytest.TempPathFactory, parity_images: list[UInt8]) -> Built:
    folder = tmp_path_factory.mktemp("exact")
    return build(shipped_onnx(), folder, parity_images, compiler=compiler("sm86", "sm89"), precision="fp32")


def assert_true(built: Built, asked: str, precision: str, targets: Sequence[str]) -> None:
    """The manifest says what is there."""
    manifest, folder = built.manifest, built.path.parent
    graph, plan = sorted(manifest.files)
    assert Manifest.read(built.path) == manifest
    assert names(folder) == [built.path.name, graph, plan]
    assert manifest.files[plan] == sha256_of(folder / plan)
    assert manifest.files[graph] == sha256_of(folder / graph) == manifest.source_sha256
    assert (manifest.backend, manifest.backend_version) == ("tensorrt-rtx", trt.__version__)
    assert (manifest.precision_asked, manifest.precision) == (asked, precision)
    assert (manifest.targets, manifest.gated, manifest.dynamic) == (tuple(targets), "graph", False)
    header = (folder / plan).read_bytes()[:28]
    assert (header[:4], tuple(header[24:])) == (b"vtrt", VERSION)


def test_the_tiny_graph(tiny: Built) -> None:
    assert_true(tiny, "fp32", "fp32", ("sm86", "sm89"))
    assert tiny.path.name == "tiny.tensorrt-rtx.json"
    assert tiny.manifest.batch == 2


def test_the_shipped_model_in_fp16_is_gated_as_it_rounds(shipped_fp16: Built) -> None:
    assert_true(shipped_fp16, "auto", "fp16", ("sm86",))
    parity = shipped_fp16.manifest.parity
    assert parity["images"] == 4
    assert 0.99 <= parity["mask_jaccard"] < 1  # not exact: it was rounded
    assert 0 < parity["score_difference"] <= 0.02
    assert shipped_fp16.manifest.source_sha256 == sha256_of(shipped_onnx())


def test_the_shipped_model_in_fp32_is_gated_exactly(shipped_exact: Built) -> None:
    assert_true(shipped_exact, "fp32", "fp32", ("sm86", "sm89"))
    assert shipped_exact.manifest.parity["mask_jaccard"] == 1
    assert shipped_exact.manifest.parity["score_difference"] == 0


@pytest.mark.parametrize("model", shipped_models())
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_every_model_that_ships_compiles_for_several_gpus(
    model: str, tmp_path: Path, parity_images: list[UInt8], precision: str
) -> None:
    targets = ("sm80", "sm89", "sm120")
    built = build(shipped_onnx(model), tmp_path, parity_images, compiler=compiler(*targets), precision=precision, batch=4)
    assert_true(built, precision, precision, targets)
    assert (built.manifest.parity["score_difference"] > 0) == (precision == "fp16")


def test_an_fp16_plan_weighs_about_half(shipped_fp16: Built, shipped_exact: Built) -> None:
    sizes = [built.path.with_suffix(".plan").stat().st_size for built in (shipped_fp16, shipped_exact)]
    assert sizes[0] < 0.6 * sizes[1]
    assert sizes[1] > shipped_onnx().stat().st_size


def test_turing_takes_fp16_alone_and_says_so(tmp_path: Path, parity_images: list[UInt8]) -> None:
    turing = compiler("sm75")
    with pytest.raises(
        EngineError, match=r"no linear layers in fp32; use --precision fp16, or leave sm75 out"
    ) as caught:
        build(shipped_onnx(), tmp_path, parity_images, compiler=turing, precision="fp32")
    assert "FP32 GEMM" in str(caught.value)
    assert names(tmp_path) == []
    assert_true(build(shipped_onnx(), tmp_path, parity_images, compiler=turing), "auto", "fp16", ("sm75",))


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """(graph, torch's answers) of a small cascade with random weights, whose maps do not die out in the depth."""
    folder = tmp_path_factory.mktemp("cascade")
    options = {"encoder": "efficientnet_lite0", "reads": "crop", "width": 16, "rates": (1, 2, 3)}
    torch.manual_seed(0)
    spec = ModelSpec("cascade", "mbdcnn", 64, 64, options)
    save_checkpoint(folder / "net.safetensors", awake(make_network(spec)), spec)
    return folder / "cascade.onnx", export_checkpoint(folder / "net.safetensors", folder / "cascade.onnx")


@pytest.mark.parametrize(("precision", "targets"), [("fp16", ("sm75", "sm120")), ("fp32", ("sm80",))])
def test_a_cascade_compiles_and_agrees_with_torch(
    cascade: tuple[Path, Any], tmp_path: Path, precision: str, targets: tuple[str, ...]
) -> None:
    """All that region.py and the activation map are made of is read, in both precisions."""
    built = build(
        cascade[0], tmp_path, PICTURES, compiler=compiler(*targets), precision=precision, batch=3, reference=cascade[1]
    )
    assert_true(built, precision, precision, targets)
    assert {"ArgMax", "Range", "Where", "MatMul"} <= {node.op_type for node in onnx.load(cascade[0]).graph.node}


@pytest.fixture(scope="module")
def papers_own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of the recipe `mbdcnn`, 130 million parameters, with random weights."""
    folder = tmp_path_factory.mktemp("mbdcnn")
    spec = load_recipe(find_recipe("mbdcnn")).model
    torch.manual_seed(0)
    export_onnx(awake(make_network(spec)), spec, folder / "mbdcnn.onnx")
    return folder / "mbdcnn.onnx"


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_the_papers_own_networks_compile_at_full_size(papers_own: Path, tmp_path: Path, precision: str) -> None:
    targets = ("sm86", "sm89")
    built = build(papers_own, tmp_path, PICTURES[:1], compiler=compiler(*targets), precision=precision)
    assert_true(built, precision, precision, targets)
    megabytes = built.path.with_suffix(".plan").stat().st_size / 1e6
    assert 130 * (2 if precision == "fp16" else 4) < megabytes < 140 * (2 if precision == "fp16" else 4)


def test_in_half_moments_sums_and_probabilities_of_a_cascade_stay_fp32(
    cascade: tuple[Path, Any], tmp_path: Path
) -> None:
    half.write_half(cascade[0], tmp_path / "half.onnx")
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "half.onnx"), strict_mode=True)
    types = {each.name: each.type.tensor_type.elem_type for each in [*model.graph.value_info, *model.graph.output]}
    made = {(node.op_type, types[node.output[0]]) for node in model.graph.node}
    exact = {"Sigmoid", "Softmax", "Pow", "Sqrt", "ReduceMean", "ReduceSum", "ReduceMax"}
    assert {name for name, _ in made} >= exact
    assert {kind for name, kind in made if name in exact} == {onnx.TensorProto.FLOAT}
    assert {kind for name, kind in made if name in {"Conv", "Gemm", "MatMul"}} == {onnx.TensorProto.FLOAT16}


GREY = [np.full((SIDE, SIDE, 3), value, np.uint8) for value in (128, 200, 255)]


def test_what_fp16_would_lose_is_refused_or_compiled_in_fp32(tmp_path: Path) -> None:
    graph = write_touchy_graph(tmp_path / "touchy.onnx", 1000)  # 1000.2 and 999.8 are both 1000
    with pytest.raises(EngineError, match="no engine written: in fp16, scores are off by"):
        build(graph, tmp_path / "fp16", GREY, compiler=compiler("sm86"), precision="fp16")
    assert names(tmp_path / "fp16") == []
    built = build(graph, tmp_path / "auto", GREY, compiler=compiler("sm86"))
    assert_true(built, "auto", "fp32", ("sm86",))
    assert built.reason.startswith("fp16 was tried and scores are off by")


def test_a_graph_that_disagrees_with_its_reference_is_not_compiled(tiny_onnx: Path, tmp_path: Path) -> None:
    def reference(pictures: Sequence[UInt8]) -> Answers:
        return np.zeros((len(pictures), SIDE, SIDE), np.uint8), np.zeros((len(pictures), 3), np.float32)

    with pytest.raises(EngineError, match="tiny: no engine written: in fp32"):
        build(tiny_onnx, tmp_path, PICTURES, compiler=compiler("sm86"), precision="fp32", reference=reference)
    assert names(tmp_path) == []


def test_a_graph_that_stayed_fp32_is_no_fp16_engine(
    tmp_path: Path, parity_images: list[UInt8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half, "write_half", shutil.copy)
    with pytest.raises(EngineError, match="asked for fp16, got convolutions and products in FLOAT"):
        build(shipped_onnx(), tmp_path, parity_images, compiler=compiler("sm86"), precision="fp16")
    assert names(tmp_path) == []


def test_what_the_parser_cannot_read_is_named(tmp_path: Path) -> None:
    nodes = {
        "pixels": TINY_NODES["pixels"],
        "doubled": helper.make_node("BitShift", ["image", "ones"], ["doubled"], direction="LEFT"),
        "mask": helper.make_node("Gather", ["doubled", "first"], ["mask"], axis=3),
        **{name: TINY_NODES[name] for name in ("sums", "light", "scores", "brightness", "agreement")},
    }
    graph = write_graph(tmp_path / "odd.onnx", nodes, constants={**TINY_CONSTANTS, "ones": np.ones(1, np.uint8)})
    with pytest.raises(EngineError, match=r"tiny: TensorRT for RTX cannot read it: BitShift"):
        build(graph, tmp_path / "engines", PICTURES, compiler=compiler("sm86"), precision="fp32")


def parsed(onnx_path: Path) -> tuple[Any, Any]:
    log = vendors.make_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, log).parse_from_file(str(onnx_path))
    return builder, network


def test_settings_reach_the_compiler(tiny_onnx: Path, tiny: Built) -> None:
    asked = compiler("sm89", "sm75", workspace_mib=64, optimization_level=1)
    config = asked._configure(*parsed(tiny_onnx), tiny.manifest)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 64 << 20
    assert config.builder_optimization_level == 1
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert [config.get_compute_capability(index).name for index in range(2)] == ["SM89", "SM75"]
    assert (config.num_compute_capabilities, config.num_optimization_profiles) == (2, 1)


@pytest.mark.parametrize(("dynamic", "least"), [(False, 4), (True, 1)])
def test_a_profile_takes_whole_batches_unless_dynamic(tiny_onnx: Path, tiny: Built, dynamic: bool, least: int) -> None:
    manifest = dataclasses.replace(tiny.manifest, batch=4)
    profile = compiler(dynamic=dynamic)._profile(*parsed(tiny_onnx), manifest)
    expected = [(rows, SIDE, SIDE, 3) for rows in (least, 4, 4)]
    assert [tuple(each) for each in profile.get_shape("image")] == expected


def test_a_dynamic_plan_says_so(tiny_onnx: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    asked = compiler("sm86", dynamic=True, on_progress=lambda *step: told.append(step))
    built = build(tiny_onnx, tmp_path, PICTURES, compiler=asked, precision="fp32", batch=4)
    assert Manifest.read(built.path).dynamic
    (listed,) = list_engines(tmp_path)
    assert "fp32, batch 1 to 4," in listed.description
    phases = {phase for phase, _, _ in told}
    assert "Building engine" in phases
    assert all(0 <= step <= steps for _, step, steps in told)
    assert all(any(step == steps for name, step, steps in told if name == phase) for phase in phases)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("when", [0, 1, 20])
def test_an_interrupt_ends_the_build_and_leaves_nothing(
    tiny_onnx: Path, tmp_path: Path, stop: type[BaseException], when: int
) -> None:
    told: list[tuple[str, int, int]] = []

    def interrupt(*step: Any) -> None:
        told.append(step)
        if len(told) > when:
            raise stop

    with pytest.raises(stop):
        build(tiny_onnx, tmp_path, PICTURES, compiler=compiler("sm86", on_progress=interrupt), precision="fp32")
    assert names(tmp_path) == []


def test_without_targets_it_compiles_for_all_that_take_both_precisions() -> None:
    assert compiler().targets == ("sm80", "sm86", "sm89", "sm120")


def test_a_target_that_it_does_not_have_is_an_error() -> None:
    with pytest.raises(EngineError, match=r"not for sm90; --backend tensorrt does"):
        compiler("sm86", "sm90")


def test_a_precision_that_it_does_not_have_is_an_error(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="has no precision 'bf16' here, only fp16, fp32"):
        build(tiny_onnx, tmp_path / "engines", PICTURES, compiler=compiler(), precision="bf16")


@pytest.fixture
def no_vendor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever imports a vendor's library fails the test."""

    def explode(name: str) -> NoReturn:
        raise AssertionError(f"{name} was imported")

    monkeypatch.setattr(importlib, "import_module", explode)


@pytest.mark.usefixtures("no_vendor")
def test_tensorrt_without_a_driver_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "find_gpus", lambda: ((), "no NVIDIA driver found"))
    with pytest.raises(
        EngineError, match=r"no NVIDIA driver found; run: lesioncli build-engine --backend tensorrt-rtx"
    ):
        open_compiler(TENSORRT, Settings())


def test_tensorrt_compiles_for_the_gpu_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "find_gpus", lambda: ([L4], ""))
    monkeypatch.setattr(importlib, "import_module", lambda name: trt)
    opened = open_compiler(TENSORRT, Settings())
    assert (opened.name, opened.targets, opened.device) == ("tensorrt", ("sm89",), "NVIDIA L4 (sm89)")
    with pytest.raises(EngineError, match="--target goes with --backend tensorrt-rtx"):
        open_compiler(TENSORRT, Settings(("sm89",)))


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
@pytest.mark.parametrize("before", [None, b"no timings"])
def test_timings_are_kept_under_a_lock(tiny: Built, tiny_onnx: Path, tmp_path: Path, before: bytes | None) -> None:
    """The other library stands in: its timing caches are empty, but read and written as TensorRT's."""
    path = tmp_path / f".tensorrt-{trt.__version__}-sm89.timings"
    locks: list[bool] = []

    def is_locked(*progress: object) -> None:
        with path.with_suffix(".lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locks.append(False)
            except BlockingIOError:
                locks.append(True)

    if before is not None:
        path.write_bytes(before)
    settings = Settings(timings=tmp_path, on_progress=is_locked)
    plan = PlanCompiler(TENSORRT, trt, settings, ("sm89",), str(L4))._build(tiny_onnx, tiny.manifest)
    assert plan[:4] == b"vtrt"
    assert set(locks) == {True}
    assert path.read_bytes()[:4] == b"ptrt"
    is_locked()
    assert not locks[-1]
    assert names(tmp_path) == sorted([path.name, path.with_suffix(".lock").name])


def test_tensorrt_for_rtx_keeps_no_timings(tiny: Built, tiny_onnx: Path, tmp_path: Path) -> None:
    compiler("sm89", timings=tmp_path)._build(tiny_onnx, tiny.manifest)
    assert names(tmp_path) == []


@pytest.mark.parametrize("vendor", [TENSORRT, RTX])
def test_a_library_that_is_missing_names_its_extra(vendor: vendors.Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in vendor.modules:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=rf"pip install '/path/to/lesioncli\[{vendor.extra}\]'"):
        vendors.load(vendor)


# Loading: everything is checked before a vendor's library is imported, and none is for a broken file.


def rewrite(folder: Path, **fields: Any) -> None:
    """Change a manifest as somebody would who also mends its hash."""
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


AGAIN = "run: lesioncli build-engine MODEL --backend tensorrt-rtx"
TAMPERINGS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a bit": (flip, r"does not match its manifest's sha256.*run: lesioncli build-engine --backend tensorrt-rtx"),
    "gone": (lambda folder: (folder / "tiny.tensorrt-rtx.plan").unlink(), "plan is missing; run: .* tensorrt-rtx"),
    "magic": (overwrite(0, b"ftrt"), f"is a plan of TensorRT, not one of TensorRT for RTX; {AGAIN}"),
    "no magic": (overwrite(0, b"\x7fELF"), f"is no plan, not one of TensorRT for RTX; {AGAIN}"),
    "version": (overwrite(24, b"\x01\x06\x00\x05"), rf"was built by TensorRT for RTX 1\.6\.0\.5, not by .*; {AGAIN}"),
    "cut short": (cut_short, f"plan is cut short; {AGAIN}"),
    "precision": (lambda folder: rewrite(folder, precision="bf16"), "does not name one .plan and a precision"),
    "no files": (lambda folder: rewrite(folder, files={}), "does not name one .plan and a precision"),
}


@pytest.fixture
def copied(tiny: Built, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.path.parent, tmp_path / "engines"))


@pytest.mark.usefixtures("no_vendor")
@pytest.mark.parametrize("what", TAMPERINGS)
def test_a_tampered_plan_is_refused_before_a_library_sees_it(copied: Path, what: str) -> None:
    tamper, message = TAMPERINGS[what]
    tamper(copied)
    with pytest.raises(EngineError, match=message):
        open_engine(copied / "tiny.tensorrt-rtx.json")


@pytest.mark.parametrize(
    ("gpus", "version", "message"),
    [
        ((), "", r"it is for sm86, sm89, and no GPU is here: no driver; run: .* MODEL --backend openvino"),
        ((Gpu("RTX 5090", "sm120"),), "", r"it is for sm86, sm89, here is RTX 5090 \(sm120\); .*rtx --target sm120"),
        ((Gpu("H100", "sm90"),), "", r"it is for sm86, sm89, here is H100 \(sm90\); run: .* --backend tensorrt$"),
        ((L4,), "1.8.0.1", r"it was built by TensorRT for RTX 1\.7\.[\d.]+, here is 1\.8\.0\.1; run: .*tensorrt-rtx$"),
    ],
)
def test_why_an_engine_does_not_run_here(
    tiny: Built, monkeypatch: pytest.MonkeyPatch, gpus: Sequence[Gpu], version: str, message: str
) -> None:
    monkeypatch.setattr(vendors, "find_gpus", lambda: (gpus, "" if gpus else "no driver"))
    if version:
        monkeypatch.setattr(trt, "__version__", version)
    with pytest.raises(EngineError, match=message):
        open_engine(tiny.path)


def test_auto_does_not_choose_it_and_a_name_says_why(copied: Path) -> None:
    assert choose_backend("auto")[0] == "openvino"
    assert find_engine(None, "openvino", copied)[0] is None
    assert find_engine("tiny", "tensorrt-rtx", copied)[0] == copied / "tiny.tensorrt-rtx.json"
    with pytest.raises(
        EngineError, match=r"no openvino engine 'tiny' in .*, and tiny\.tensorrt-rtx\.json: it is for sm86"
    ):
        find_engine("tiny", "openvino", copied)


def test_engines_are_listed_with_what_is_the_matter(copied: Path, engine_manifest: Path) -> None:
    shutil.copytree(engine_manifest.parent, copied, dirs_exist_ok=True)
    (copied / "zebra.json").write_text("{}")
    cpu, plan, zebra = list_engines(copied)
    assert (cpu.path, cpu.problem) == (copied / engine_manifest.name, "")
    assert cpu.description.startswith("openvino ")
    assert plan.problem.startswith("it is for sm86, sm89, and no GPU is here")
    assert plan.description.startswith(f"tensorrt-rtx {trt.__version__} for sm86, sm89, fp32, batch 2, ")
    assert (zebra.manifest, zebra.description) == (None, "not readable")
    assert "not a readable manifest" in zebra.problem
