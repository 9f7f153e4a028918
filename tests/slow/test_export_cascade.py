"""The cascade as one graph: outputs compared between torch, numpy and OpenVINO."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import openvino
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from torch import nn

from lesioncli.demo.draw import draw_case
from lesioncli.images.geometry import UInt8
from lesioncli.models.mbdcnn import MBDCNN, mask_agreement
from lesioncli.spec import ModelSpec
from lesioncli.training.checkpoint import make_network, save_checkpoint
from lesioncli.training.export import export_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

SIDE = 64


class Exported(NamedTuple):
    network: MBDCNN
    path: Path
    answers: Any


class Answers(NamedTuple):
    mask: UInt8
    scores: NDArray[np.float64]
    agreement: NDArray[np.float64]


def draw(count: int, height: int = SIDE, width: int = SIDE) -> UInt8:
    return np.stack([draw_case(seed, height, width).image for seed in range(count)])


def draw_clear(network: MBDCNN, count: int, height: int = SIDE, width: int = SIDE) -> UInt8:
    """Drawn images whose coarse logits are not close to 0, where another order of sums could change the mask."""
    clear: list[UInt8] = []
    for seed in range(400):
        picture = draw_case(seed, height, width).image
        with torch.inference_mode():
            logits = network.coarse_sn(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255)
        if logits.abs().min() > 0.006:
            clear.append(picture)
        if len(clear) == count:
            return np.stack(clear)
    raise AssertionError(f"only {len(clear)} of 400 pictures are clear")


def decided(network: MBDCNN) -> MBDCNN:
    """Set norms by these images and stretch the last layers, so that masks, scores and regions differ per image."""
    images = torch.from_numpy(draw(6)).permute(0, 3, 1, 2) / 255
    for each in network.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.momentum = 1.0
    with torch.no_grad():
        network.train()(images)
        network.eval()
        for part, seen in (
            ("coarse_sn", "coarse_logits"),
            ("mask_cn", "class_logits"),
            ("enhanced_sn", "enhanced_logits"),
        ):
            layer = f"{part}.{'classifier' if part == 'mask_cn' else 'logits'}"
            logits = getattr(network(images), seen)
            gain = 3 / logits.std()
            network.get_parameter(f"{layer}.weight").mul_(gain)
            bias = network.get_parameter(f"{layer}.bias").mul_(gain)
            bias.sub_(logits.mean(0) * gain if part == "mask_cn" else torch.tensor([-0.5, 0.5]) * logits.mean() * gain)
    return network


@pytest.fixture(scope="module", params=["mask", "crop", "fused"])  # "rgb" is a part of all
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    reads, fuse = ("pool", True) if request.param == "fused" else (request.param, False)
    options = {"encoder": "efficientnet_lite0", "width": 16, "rates": [1, 2, 3], "reads": reads, "fuse": fuse}
    spec = ModelSpec("cascade", "mbdcnn", SIDE, SIDE, options)
    torch.manual_seed(2)
    network = make_network(spec)
    assert isinstance(network, MBDCNN)
    folder = tmp_path_factory.mktemp("cascade")
    save_checkpoint(folder / "net.safetensors", decided(network), spec)
    return Exported(network, folder / "net.onnx", export_checkpoint(folder / "net.safetensors", folder / "net.onnx"))


@torch.inference_mode()
def by_hand(network: MBDCNN, pictures: UInt8) -> Answers:
    """Sigmoid, softmax and counts in numpy, around nothing but the networks."""
    out = network(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255)
    probability = 1 / (1 + np.exp(-out.mask_logits[:, 0].double().numpy()))
    powers = np.exp(out.class_logits.double().numpy())
    coarse, enhanced = (each[:, 0].numpy() > 0 for each in (out.coarse_logits, out.enhanced_logits))
    both, either = (coarse & enhanced).sum((1, 2)), (coarse | enhanced).sum((1, 2))
    return Answers(
        np.rint(probability * 255).astype(np.uint8),
        powers / powers.sum(1, keepdims=True),
        np.where(either, both / np.maximum(either, 1), 1.0),
    )


def assert_agree(found: Any, expected: Answers) -> None:
    """Sums in another order may round a byte, or turn a pixel of the enhanced mask; no more than that."""
    mask, scores, agrees = found
    assert mask.dtype == np.uint8
    assert scores.dtype == agrees.dtype == np.float32
    apart = np.abs(mask.astype(int) - expected.mask)
    assert apart.max() <= 2
    assert (apart > 0).mean() < 0.1
    np.testing.assert_allclose(scores, expected.scores, atol=1e-3)
    np.testing.assert_allclose(agrees, expected.agreement, atol=2e-3)


def test_the_answers_to_compare_differ_by_picture(exported: Exported) -> None:
    answers = by_hand(exported.network, draw(6))
    assert answers.mask.min() < 20
    assert answers.mask.max() > 235
    assert np.ptp(answers.scores, axis=0).max() > 0.3
    assert np.ptp(answers.agreement) > 0.02


def test_it_gives_three_outputs_and_bytes_meet_nothing_but_casts(exported: Exported) -> None:
    graph = onnx.load(exported.path).graph
    assert [each.name for each in graph.output] == ["mask", "scores", "agreement"]
    assert {node.op_type for node in graph.node if "image" in node.input} == {"Cast"}
    assert [node.op_type for node in graph.node if "mask" in node.output] == ["Cast"]
    assert {node.domain for node in graph.node} == {""}


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 64, 64), (2, 96, 96), (1, 64, 96)])
def test_openvino_answers_as_torch_for_any_batch_and_size(exported: Exported, shape: tuple[int, int, int]) -> None:
    core = openvino.Core()
    graph = core.read_model(exported.path)
    graph.reshape(openvino.PartialShape([*shape, 3]))
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    pictures = draw_clear(exported.network, *shape)
    found = core.compile_model(graph, "CPU", options)(pictures)
    assert_agree([found["mask"], found["scores"], found["agreement"]], by_hand(exported.network, pictures))


def test_onnx_reference_answers_as_torch(exported: Exported) -> None:
    pictures = draw_clear(exported.network, 1)
    found = ReferenceEvaluator(str(exported.path)).run(None, {"image": pictures})
    assert_agree(found, by_hand(exported.network, pictures))


def test_the_gate_is_given_torch_s_own_answers(exported: Exported) -> None:
    """But for the last bit of a pixel, which the graph multiplies by 1/255 and this test divides by 255."""
    outputs = exported.answers(list(draw(2)))
    expected = by_hand(exported.network, draw(2))
    assert np.abs(outputs.probability.astype(int) - expected.mask).max() <= 1
    np.testing.assert_allclose(outputs.scores, expected.scores, atol=1e-4)


def test_agreement_by_hand() -> None:
    """One of three pixels shared; equal masks; two empty masks; one empty mask."""
    first = torch.tensor([[1.0, 1.0, -1.0, -1.0], [2.0, 2.0, -1.0, -1.0], [-1.0] * 4, [-1.0] * 4])
    second = torch.tensor([[-1.0, 3.0, 2.0, -1.0], [1.0, 1.0, -3.0, -3.0], [-2.0] * 4, [-1.0, 1.0, -1.0, -1.0]])
    found = mask_agreement(first.view(4, 1, 2, 2), second.view(4, 1, 2, 2))
    assert found.tolist() == pytest.approx([1 / 3, 1, 1, 0])
