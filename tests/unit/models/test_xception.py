"""The Xceptions of MB-DCNN, against the published sizes and against forward passes written again from raw weights."""

from collections.abc import Mapping

import pytest
import torch
from helpers.networks import lively
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from lesioncli.models.mbdcnn import MBDCNN
from lesioncli.models.xception import AlignedXception65, Xception41

pytestmark = pytest.mark.usefixtures("one_thread")

Weights = Mapping[str, Tensor]


@pytest.fixture(scope="module")
def mbdcnn() -> MBDCNN:
    """The paper's three networks without memory: shapes and counts only."""
    with torch.device("meta"):
        return MBDCNN("xception").eval()


@pytest.fixture(scope="module")
def aligned() -> AlignedXception65:
    with torch.device("meta"):
        network = AlignedXception65()
    return lively(network.to_empty(device="cpu"), variance=(1, 3), gain=(0.3, 1.0))


@pytest.fixture(scope="module")
def xception41() -> Xception41:
    with torch.device("meta"):
        network = Xception41()
    return lively(network.to_empty(device="cpu"), variance=(1, 3), gain=(0.3, 1.0))


@pytest.fixture(scope="module")
def weightless(mbdcnn: MBDCNN) -> tuple[AlignedXception65, Xception41]:
    """The trunks that are in it."""
    trunks = [each for each in mbdcnn.modules() if isinstance(each, AlignedXception65 | Xception41)]
    aligned, xception41, again = trunks
    assert isinstance(aligned, AlignedXception65)
    assert isinstance(again, AlignedXception65)
    assert isinstance(xception41, Xception41)
    return aligned, xception41


def parameters(network: nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


# Counted in the public code of MB-DCNN: millions of parameters, and 10^9 multiply-adds at 224 pixels.


def test_the_three_networks_have_the_papers_parameters(mbdcnn: MBDCNN) -> None:
    counts = [parameters(each) for each in (mbdcnn.coarse_sn, mbdcnn.mask_cn, mbdcnn.enhanced_sn)]
    assert counts == [54_708_674, 20_813_387, 54_775_234]
    assert [f"{count / 1e6:.3f}" for count in (*counts, sum(counts))] == ["54.709", "20.813", "54.775", "130.297"]


def test_the_trunks_have_the_papers_parameters_without_heads() -> None:
    with torch.device("meta"):
        assert parameters(AlignedXception65()) == 37_867_312
        assert parameters(Xception41()) == 20_813_387 - (2048 * 3 + 3)
        assert parameters(Xception41(channels_in=3)) == parameters(Xception41()) - 32 * 9


def test_the_three_networks_take_the_papers_multiply_adds(mbdcnn: MBDCNN) -> None:
    images, mask, activation = (
        torch.zeros(1, n, side, side, device="meta") for n, side in ((3, 224), (1, 224), (1, 14))
    )
    counted = []
    for network, inputs in (
        (mbdcnn.coarse_sn, (images,)),
        (mbdcnn.mask_cn, (images, mask)),
        (mbdcnn.enhanced_sn, (images, activation)),
    ):
        with FlopCounterMode(display=False) as counter:
            network(*inputs)
        counted.append(f"{counter.get_total_flops() / 2e9:.2f}")
    assert counted == ["15.84", "5.36", "15.85"]


def shapes_on_the_way(network: nn.Module, names: tuple[str, ...], *inputs: Tensor) -> dict[str, tuple[int, ...]]:
    """Channels, height and width of what the named modules give; of a tuple, of its first."""
    seen: dict[str, tuple[int, ...]] = {}

    def note(name: str, output: Tensor | tuple[Tensor, ...]) -> None:
        first = output if isinstance(output, Tensor) else output[0]
        seen[name] = tuple(first.shape[1:])

    hooks = [
        network.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name in names
    ]
    network(*inputs)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("side", [224, 256, 288, 320, 384, 448, 512])
def test_every_map_has_the_papers_size(
    mbdcnn: MBDCNN, weightless: tuple[AlignedXception65, Xception41], side: int
) -> None:
    aligned, xception41 = weightless
    quarter, sixteenth = side // 4, side // 16
    images = torch.zeros(1, 3, side, side, device="meta")
    low, deep = aligned(images)
    assert low.shape == (1, aligned.low_channels, quarter, quarter) == (1, 256, quarter, quarter)
    assert deep.shape == (1, aligned.deep_channels, sixteenth, sixteenth) == (1, 2048, sixteenth, sixteenth)
    maps = xception41(torch.zeros(1, 4, side, side, device="meta"))
    assert maps.shape == (1, xception41.channels, sixteenth, sixteenth) == (1, 2048, sixteenth, sixteenth)
    assert shapes_on_the_way(mbdcnn.coarse_sn, ("aspp", "logits", ""), images) == {
        "aspp": (256, sixteenth, sixteenth),
        "logits": (2, quarter, quarter),
        "": (1, side, side),
    }


# Channels and side at 224 pixels.
ALIGNED_STAGES = {
    "conv1": (32, 112),
    "conv2": (64, 112),
    "block1": (128, 56),
    "block2": (256, 28),
    "block3": (728, 14),
    **{f"block{number}": (728, 14) for number in range(4, 20)},
    "block20": (1024, 14),
    "conv3": (1536, 14),
    "conv4": (1536, 14),
    "conv5": (2048, 14),
}
XCEPTION41_STAGES = {
    "conv1": (32, 111),
    "conv2": (64, 109),
    "block1": (128, 55),
    "block2": (256, 28),
    "block3": (728, 14),
    **{f"block{number}": (728, 14) for number in range(4, 12)},
    "residual": (1024, 14),
    "sepconv1": (728, 14),
    "sepconv2": (1024, 14),
    "sepconv3": (1536, 14),
    "sepconv4": (2048, 14),
}


def test_every_stage_of_the_aligned_xception_has_its_size(weightless: tuple[AlignedXception65, Xception41]) -> None:
    images = torch.zeros(1, 3, 224, 224, device="meta")
    found = shapes_on_the_way(weightless[0], tuple(ALIGNED_STAGES), images)
    assert found == {name: (channels, side, side) for name, (channels, side) in ALIGNED_STAGES.items()}


def test_every_stage_of_xception41_has_its_size(weightless: tuple[AlignedXception65, Xception41]) -> None:
    images = torch.zeros(1, 4, 224, 224, device="meta")
    found = shapes_on_the_way(weightless[1], tuple(XCEPTION41_STAGES), images)
    assert found == {name: (channels, side, side) for name, (channels, side) in XCEPTION41_STAGES.items()}


# The forward passes once more, with functional calls on the raw weights. As in the paper's code, ReLUs work in place
# and skips are taken where that code takes them; that these then carry relu(x) follows, and is not written down here.


class ByHand:
    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
        kernel = self.weights[f"{name}.weight"]
        return functional.conv2d(x, kernel, None, stride, padding, dilation, x.shape[1] // kernel.shape[1])

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, var, gain, bias = (
            self.weights[f"{name}.{each}"][:, None, None] for each in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * gain + bias


def aligned_by_hand(images: Tensor, weights: Weights, in_place: bool = True) -> tuple[Tensor, Tensor]:
    hand = ByHand(weights)

    def separable(x: Tensor, name: str, stride: int = 1) -> Tensor:
        x = hand.norm(hand.conv(x, f"{name}.depthwise", stride, 1), f"{name}.bn1")
        return hand.norm(hand.conv(x, f"{name}.pointwise"), f"{name}.bn2")

    x = hand.norm(hand.conv(images, "conv1", 2, 1), "bn1").relu()
    x = hand.norm(hand.conv(x, "conv2", 1, 1), "bn2").relu()
    seconds = {}
    for number in range(1, 21):
        name, stride = f"block{number}", 2 if number < 4 else 1
        has_conv = f"{name}.skip.weight" in weights
        skip = hand.norm(hand.conv(x, f"{name}.skip", stride), f"{name}.skipbn") if has_conv else x
        y = x.relu() if has_conv or not in_place else x.relu_()
        y = separable(y, f"{name}.sepconv1").relu_()
        seconds[number] = separable(y, f"{name}.sepconv2")
        x = separable(seconds[number].relu(), f"{name}.sepconv3", stride) + skip
    for name in ("conv3", "conv4", "conv5"):
        x = hand.norm(hand.conv(x, f"{name}.depthwise", 1, 1), f"{name}.bn1").relu()
        x = hand.norm(hand.conv(x, f"{name}.pointwise"), f"{name}.bn2").relu()
    return seconds[2], x


def xception41_by_hand(images: Tensor, weights: Weights, in_place: bool = True) -> Tensor:
    hand = ByHand(weights)

    def separable(x: Tensor, name: str, dilation: int = 1) -> Tensor:
        return hand.conv(hand.conv(x, f"{name}.conv1", 1, dilation, dilation), f"{name}.pointwise")

    x = hand.norm(hand.conv(images, "conv1", 2), "bn1").relu()
    x = hand.norm(hand.conv(x, "conv2"), "bn2").relu()
    for number in range(1, 12):
        name, y = f"block{number}", x
        convs = {1: (0, 3), 2: (1, 4), 3: (1, 4)}.get(number, (1, 4, 7))
        for index in convs:
            if index:
                y = y.relu_() if in_place else y.relu()
            y = hand.norm(separable(y, f"{name}.rep.{index}"), f"{name}.rep.{index + 1}")
        if number < 4:
            x = hand.norm(hand.conv(x, f"{name}.skip", 2), f"{name}.skipbn")
            y = functional.max_pool2d(y, 3, 2, 1)
        x = y + x
    skip = hand.norm(hand.conv(x, "residual.0"), "residual.1")
    y = hand.norm(separable(x.relu(), "sepconv1.1"), "sepconv1.2")
    y = hand.norm(separable(y.relu(), "sepconv2.1"), "sepconv2.2") + skip
    y = hand.norm(separable(y, "sepconv3.0", 2), "sepconv3.1").relu()
    return hand.norm(separable(y, "sepconv4.0", 2), "sepconv4.1").relu()


def noise(*shape: int) -> Tensor:
    return torch.empty(*shape).uniform_(0, 1, generator=torch.Generator().manual_seed(1))


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference, in standard deviations of b; shapes must agree and b must say something."""
    assert a.shape == b.shape
    assert b.isfinite().all()
    assert b.std() > 0
    return float((a - b).abs().max() / b.std())


@torch.inference_mode()
def test_the_aligned_xception_computes_what_the_papers_code_does(aligned: AlignedXception65) -> None:
    images, weights = noise(2, 3, 64, 96), aligned.state_dict()
    low, deep = aligned(images)
    low_by_hand, deep_by_hand = aligned_by_hand(images, weights)
    assert distance(low, low_by_hand) < 1e-4
    assert distance(deep, deep_by_hand) < 1e-4
    assert low.min() < 0  # normed, not rectified
    assert distance(deep, aligned_by_hand(images, weights, in_place=False)[1]) > 0.1  # with x in the skips


@torch.inference_mode()
def test_xception41_computes_what_the_papers_code_does(xception41: Xception41) -> None:
    images, weights = noise(2, 4, 64, 96), xception41.state_dict()
    maps = xception41(images)
    assert distance(maps, xception41_by_hand(images, weights)) < 1e-4
    assert maps.min() == 0
    assert distance(maps, xception41_by_hand(images, weights, in_place=False)) > 0.1


@pytest.mark.parametrize(("kind", "channels"), [(AlignedXception65, 3), (Xception41, 4)])
def test_nothing_is_changed_in_place(kind: type[nn.Module], channels: int) -> None:
    """The authors' skips come from in-place ReLUs; here the input stays unchanged."""
    with torch.device("meta"):
        network = kind()
    assert not [name for name, each in network.named_modules() if getattr(each, "inplace", False)]
