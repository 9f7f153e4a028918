"""The exported graph: its contract, and its outputs compared between torch, OpenVINO and the ONNX reference."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import openvino
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from lesioncli.demo.draw import draw_case
from lesioncli.images.geometry import UInt8
from lesioncli.spec import METADATA_KEY, ModelSpec
from lesioncli.training.checkpoint import load_checkpoint, make_network, save_checkpoint
from lesioncli.training.export import export_checkpoint
from lesioncli.training.graph import _mask_and_scores

pytestmark = pytest.mark.usefixtures("one_thread")

HEIGHT, WIDTH = 64, 96
OPTIONS: dict[str, dict[str, Any]] = {
    "multitask-lite": {
        "encoder": "tiny",
        "decoder_widths": [16, 8, 8],
        "separable": True,
        "lesion_pooling": True,
    },
    "multitask": {"encoder": "tiny", "decoder_widths": [16, 8, 8, 8]},
}
FLOAT, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8

Answers = tuple[UInt8, NDArray[np.float32]]


class Exported(NamedTuple):
    spec: ModelSpec
    network: nn.Module
    path: Path
    answers: Any  # what export_checkpoint() returned


@pytest.fixture(scope="module")
def pictures() -> UInt8:
    return np.stack([draw_case(seed, HEIGHT, WIDTH).image for seed in range(3)])


def decided(network: nn.Module, pictures: UInt8) -> nn.Module:
    """Stretch the last layers until probabilities span 0 to 1: at 1/2 all over, a wrong graph would agree too."""
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
    for each in network.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.momentum = 1.0  # statistics of one batch
    with torch.no_grad():
        network.train()(images)
        stretch(network, "decoder.logits", network.eval()(images)[0])
        for column, name in enumerate(("melanoma", "seborrheic_keratosis")):
            stretch(network, f"heads.{name}", network(images)[1][:, column])
    return network


def stretch(network: nn.Module, layer: str, logits: Tensor) -> None:
    """Change a last layer so that these logits have mean 0 and standard deviation 3."""
    gain = 3 / logits.std()
    network.get_parameter(f"{layer}.weight").mul_(gain)
    network.get_parameter(f"{layer}.bias").sub_(logits.mean()).mul_(gain)


@pytest.fixture(scope="module", params=OPTIONS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pictures: UInt8) -> Exported:
    spec = ModelSpec(request.param, "multitask", HEIGHT, WIDTH, OPTIONS[request.param])
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("export")
    save_checkpoint(folder / "net.safetensors", decided(make_network(spec), pictures), spec)
    answers = export_checkpoint(folder / "net.safetensors", folder / "net.onnx")
    return Exported(spec, load_checkpoint(folder / "net.safetensors")[0], folder / "net.onnx", answers)


@torch.inference_mode()
def by_hand(network: nn.Module, pictures: UInt8) -> Answers:
    """The contract's sums in numpy, around nothing but the network."""
    mask_logits, class_logits = network(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255)
    probability = 1 / (1 + np.exp(-mask_logits[:, 0].double().numpy()))
    melanoma, keratosis = 1 / (1 + np.exp(-class_logits.double().numpy().T))
    scores = np.stack([melanoma, keratosis, np.minimum(1 - melanoma, 1 - keratosis)], 1)
    return np.rint(probability * 255).astype(np.uint8), scores.astype(np.float32)


def assert_agree(found: Sequence[Any], expected: Answers) -> None:
    """A sum in another order may round a byte up or down; no more than that, and seldom."""
    masks, scores = found
    assert masks.dtype == np.uint8
    assert scores.dtype == np.float32
    assert masks.shape == expected[0].shape
    apart = np.abs(masks.astype(int) - expected[0])
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.01
    np.testing.assert_allclose(scores, expected[1], atol=1e-4)


def test_the_answers_to_compare_span_the_range(exported: Exported, pictures: UInt8) -> None:
    masks, scores = by_hand(exported.network, pictures)
    assert masks.min() < 20
    assert masks.max() > 235
    assert np.ptp(scores, axis=0).min() > 0.3


def test_it_takes_and_gives_what_the_contract_says(exported: Exported) -> None:
    graph = onnx.load(exported.path).graph

    def signature(value: Any) -> tuple[str, int, list[Any]]:
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [each.dim_value or each.dim_param for each in tensor.shape.dim]

    (image,), (mask, scores) = graph.input, graph.output
    batch, height, width = (each.dim_param for each in image.type.tensor_type.shape.dim[:3])
    assert all((batch, height, width))
    assert signature(image) == ("image", UINT8, [batch, height, width, 3])
    assert signature(mask) == ("mask", UINT8, [batch, height, width])
    assert signature(scores) == ("scores", FLOAT, [batch, 3])


def test_bytes_meet_nothing_but_casts(exported: Exported) -> None:
    """TensorRT takes uint8 as input of a Cast and as output of one, and nowhere else."""
    graph = onnx.load(exported.path).graph
    consumers = [node.op_type for node in graph.node if "image" in node.input]
    (producer,) = [node.op_type for node in graph.node if "mask" in node.output]
    assert set(consumers) == {"Cast"}
    assert producer == "Cast"
    to_bytes = [node.output[0] for node in graph.node if node.op_type == "Cast" and node.attribute[0].i == UINT8]
    assert to_bytes == ["mask"]
    assert {node.domain for node in graph.node} == {""}  # no operator that is not ONNX's own


def test_the_file_is_whole_and_carries_its_spec(exported: Exported) -> None:
    model = onnx.load(exported.path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    metadata = {each.key: each.value for each in model.metadata_props}
    assert ModelSpec.from_json(metadata[METADATA_KEY], exported.path) == exported.spec
    assert {each.name for each in exported.path.parent.iterdir()} == {"net.safetensors", "net.onnx"}


def test_torch_answers_by_the_contract(exported: Exported, pictures: UInt8) -> None:
    outputs = exported.answers(list(pictures))
    assert_agree((outputs.probability, outputs.scores), by_hand(exported.network, pictures))


def test_nevus_is_what_both_heads_deny(exported: Exported, pictures: UInt8) -> None:
    scores = exported.answers(list(pictures)).scores
    np.testing.assert_allclose(scores[:, 2], 1 - scores[:, :2].max(1), atol=1e-6)


def test_openvino_in_fp32_answers_as_torch_for_any_batch_and_size(exported: Exported) -> None:
    compiled = openvino.Core().compile_model(
        exported.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    )
    for shape in ((1, HEIGHT, WIDTH), (2, HEIGHT, WIDTH), (5, HEIGHT, WIDTH), (3, 128, 32), (1, 96, 160)):
        batch = np.stack([draw_case(seed, *shape[1:]).image for seed in range(shape[0])])
        found = compiled(batch)
        assert_agree([found["mask"], found["scores"]], by_hand(exported.network, batch))


def test_onnx_reference_answers_as_torch(exported: Exported, pictures: UInt8) -> None:
    found = ReferenceEvaluator(str(exported.path)).run(None, {"image": pictures[:1]})
    assert isinstance(found, list)
    assert_agree(found, by_hand(exported.network, pictures[:1]))


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_mask_of_nans_has_scores_of_nans_in_an_engine(exported: Exported, tmp_path: Path, precision: str) -> None:
    """Its uint8 values are 0, like those of an image without a lesion."""
    model = onnx.load(exported.path)
    (bias,) = [each for each in model.graph.initializer if each.name.endswith("decoder.logits.bias")]
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(1, np.nan, np.float32), bias.name))
    onnx.save(model, tmp_path / "nan.onnx")
    found = openvino.Core().compile_model(tmp_path / "nan.onnx", "CPU", {"INFERENCE_PRECISION_HINT": precision})(
        np.zeros((2, HEIGHT, WIDTH, 3), np.uint8)
    )
    assert np.isnan(found["scores"]).all()


def test_a_nan_in_one_mask_leaves_the_scores_of_others() -> None:
    lesion, scores = torch.full((3, 1, 4, 5), 0.25), torch.full((3, 2), 0.5)
    lesion[1, 0, 2, 3] = torch.nan
    pixels, answered = _mask_and_scores(lesion, scores)
    assert (pixels[[0, 2]] == 64).all()
    assert answered.isnan().all(1).tolist() == [False, True, False]
    assert (answered[[0, 2]] == 0.5).all()
