"""Plans of full-size models: every shipped model, MB-DCNN of the recipe, and a cascade compared with torch."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from helpers.engines import list_names
from helpers.graphs import needs_rtx
from helpers.networks import awake
from helpers.pictures import UInt8, draw
from helpers.plans import assert_only_products_are_half, assert_plan_is_true, for_targets
from helpers.shipped import shipped_onnx

from lesioncli.backends.build import BuiltEngine, build
from lesioncli.backends.reference import Reference
from lesioncli.backends.tensorrt.half import write_half
from lesioncli.errors import EngineError
from lesioncli.files import sha256_of
from lesioncli.options import Precision
from lesioncli.spec import ModelSpec
from lesioncli.training.checkpoint import make_network, save_checkpoint
from lesioncli.training.export import export_checkpoint, export_onnx
from lesioncli.training.recipe import find_recipe, load_recipe

pytestmark = [pytest.mark.slow, needs_rtx]

MODELS = ("mbdcnn-lite", "multitask-lite")
IMAGES = [draw(seed, 50, 70) for seed in range(3)]
PRECISIONS = [Precision.FP16, Precision.FP32]


@pytest.fixture(scope="module")
def shipped_fp16(tmp_path_factory: pytest.TempPathFactory, parity_images: list[UInt8]) -> BuiltEngine:
    return build(shipped_onnx(), tmp_path_factory.mktemp("fp16"), parity_images, for_targets("sm86", precision=None))


@pytest.fixture(scope="module")
def shipped_exact(tmp_path_factory: pytest.TempPathFactory, parity_images: list[UInt8]) -> BuiltEngine:
    folder = tmp_path_factory.mktemp("exact")
    return build(shipped_onnx(), folder, parity_images, for_targets("sm86", "sm89"))


def test_the_shipped_model_in_fp16_is_checked_with_rounding(shipped_fp16: BuiltEngine) -> None:
    assert_plan_is_true(shipped_fp16, "auto", "fp16", ("sm86",))
    parity = shipped_fp16.manifest.parity
    assert parity is not None
    assert parity.images == 4
    assert 0.99 <= parity.mask_jaccard < 1  # not exact, because it was rounded
    assert 0 < parity.score_difference <= 0.02
    assert shipped_fp16.manifest.source_sha256 == sha256_of(shipped_onnx())


def test_the_shipped_model_in_fp32_is_exact(shipped_exact: BuiltEngine) -> None:
    assert_plan_is_true(shipped_exact, "fp32", "fp32", ("sm86", "sm89"))
    parity = shipped_exact.manifest.parity
    assert parity is not None
    assert (parity.mask_jaccard, parity.score_difference) == (1, 0)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_shipped_model_compiles_for_several_gpus(
    model: str, tmp_path: Path, parity_images: list[UInt8], precision: Precision
) -> None:
    targets = ("sm80", "sm89", "sm120")
    built = build(shipped_onnx(model), tmp_path, parity_images, for_targets(*targets, precision=precision, batch=4))
    assert_plan_is_true(built, precision, precision, targets)
    assert built.manifest.parity is not None
    assert (built.manifest.parity.score_difference > 0) == (precision is Precision.FP16)


def test_an_fp16_plan_has_about_half_the_size(shipped_fp16: BuiltEngine, shipped_exact: BuiltEngine) -> None:
    sizes = [built.path.with_suffix(".plan").stat().st_size for built in (shipped_fp16, shipped_exact)]
    assert sizes[0] < 0.6 * sizes[1]
    assert sizes[1] > shipped_onnx().stat().st_size


def test_turing_compiles_only_in_fp16(tmp_path: Path, parity_images: list[UInt8]) -> None:
    with pytest.raises(EngineError, match=r"--precision fp16.*FP32 GEMM"):
        build(shipped_onnx(), tmp_path, parity_images, for_targets("sm75"))
    assert list_names(tmp_path) == []
    built = build(shipped_onnx(), tmp_path, parity_images, for_targets("sm75", precision=None))
    assert_plan_is_true(built, "auto", "fp16", ("sm75",))


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """(graph, reference of torch) of a small cascade with random weights, whose feature maps do not vanish."""
    folder = tmp_path_factory.mktemp("cascade")
    options = {"encoder": "efficientnet_lite0", "reads": "crop", "width": 16, "rates": (1, 2, 3)}
    torch.manual_seed(0)
    spec = ModelSpec("cascade", "mbdcnn", 64, 64, options)
    save_checkpoint(folder / "net.safetensors", awake(make_network(spec)), spec)
    return folder / "cascade.onnx", export_checkpoint(folder / "net.safetensors", folder / "cascade.onnx")


@pytest.mark.parametrize(("precision", "targets"), [(Precision.FP16, ("sm75", "sm120")), (Precision.FP32, ("sm80",))])
def test_a_cascade_compiles_and_agrees_with_torch(
    cascade: tuple[Path, Any], tmp_path: Path, precision: Precision, targets: tuple[str, ...]
) -> None:
    """The parser reads every operation of region.py and the activation map, in both precisions."""
    graph, reference = cascade
    options = for_targets(*targets, precision=precision, batch=3)
    built = build(graph, tmp_path, IMAGES, options, reference=Reference("torch", reference))
    assert_plan_is_true(built, precision, precision, targets)
    assert {"ArgMax", "Range", "Where", "MatMul"} <= {node.op_type for node in onnx.load(graph).graph.node}


def test_moments_of_a_cascade_stay_fp32(cascade: tuple[Path, Any], tmp_path: Path) -> None:
    write_half(cascade[0], tmp_path / "half.onnx")
    exact = {"Sigmoid", "Softmax", "Pow", "Sqrt", "ReduceMean", "ReduceSum", "ReduceMax"}
    assert_only_products_are_half(tmp_path / "half.onnx", exact)


@pytest.fixture(scope="module")
def full_size_mbdcnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of the recipe `mbdcnn`: 130 million parameters, with random weights."""
    folder = tmp_path_factory.mktemp("mbdcnn")
    spec = load_recipe(find_recipe("mbdcnn")).model
    torch.manual_seed(0)
    export_onnx(awake(make_network(spec)), spec, folder / "mbdcnn.onnx")
    return folder / "mbdcnn.onnx"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_mbdcnn_compiles_at_full_size(full_size_mbdcnn: Path, tmp_path: Path, precision: Precision) -> None:
    targets = ("sm86", "sm89")
    built = build(full_size_mbdcnn, tmp_path, IMAGES[:1], for_targets(*targets, precision=precision))
    assert_plan_is_true(built, precision, precision, targets)
    megabytes = built.path.with_suffix(".plan").stat().st_size / 1e6
    assert 130 * (2 if precision is Precision.FP16 else 4) < megabytes < 140 * (2 if precision is Precision.FP16 else 4)
