"""Encoders: from an image to feature maps at output strides 2, 4, 8, 16 and 32.

They need torch alone. timm and torchvision are not used: their compiled parts need the exact torch build they were made
for. Module names are those of published weights, so that these load by name: timm's for EfficientNet-lite,
torchvision's for GoogLeNet. To add an encoder, write a class with `channels` and add a line to ENCODERS.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

# EfficientNet-B0 (Tan & Le 2019, table 1): kernel, stride, expansion, channels, repeats per stage.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
# Width and depth multipliers. Stem and head keep their width; the first and last stage keep their repeats
# (tensorflow/tpu, efficientnet/lite).
LITE_VARIANTS = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
_TF_BN_EPS = 1e-3


def smoothed(images: Tensor) -> Tensor:
    """Average (N, C, H, W) over 3x3 pixels; at the border over those inside the image."""
    return functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)


def signed(images: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1]. Adds -1: OpenVINO rewrites a subtraction, and the rewritten one loses its mark for fp32."""
    return images * 2 + -1


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: an odd pixel of padding goes to the bottom and right.

    If the stride divides height and width, the padding depends on kernel, stride and dilation alone, so a graph that
    was exported at one size is right at others.
    """

    def forward(self, x: Tensor) -> Tensor:
        (top, bottom), (left, right) = (self._padding(x.shape[axis + 2], axis) for axis in (0, 1))
        padding = (top, left)
        if (top, left) != (bottom, right):  # the convolution itself pads evenly only
            x, padding = functional.pad(x, (left, right, top, bottom)), (0, 0)
        if self._is_slow_in_half(x):
            with torch.autocast("cpu", enabled=False):
                y = functional.conv2d(
                    x.float(), self.weight, self.bias, self.stride, padding, self.dilation, self.groups
                )
            return y.to(x.dtype)
        return functional.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def _is_slow_in_half(self, x: Tensor) -> bool:
        """Whether the gradient should be computed in fp32.

        On a CPU, torch's bf16 gradient of a depthwise convolution takes 2 to 15 times as long as in fp32, except for
        3x3 at stride 1. It took three quarters of the training time.
        """
        is_fast = self.groups == 1 or (self.kernel_size, self.stride) == ((3, 3), (1, 1))
        return not is_fast and x.device.type == "cpu" and self.training and torch.is_autocast_enabled("cpu")

    def _padding(self, size: int, axis: int) -> tuple[int, int]:
        stride, reach = self.stride[axis], self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
        total = max(reach - (size % stride or stride), 0)
        return total // 2, total - total // 2


class SeparableBlock(nn.Module):
    """Depthwise then pointwise convolution: the first stage of EfficientNet, expansion 1."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = SameConv2d(channels_in, channels_in, kernel, stride, groups=channels_in, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_in, eps=_TF_BN_EPS)
        self.conv_pw = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out, eps=_TF_BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.bn2(self.conv_pw(functional.relu6(self.bn1(self.conv_dw(x))))))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; an identity skip if shapes allow, its branch dropped at random in training."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int, drop_path: float
    ) -> None:
        super().__init__()
        inner = channels_in * expansion
        self.conv_pw = nn.Conv2d(channels_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner, eps=_TF_BN_EPS)
        self.conv_dw = SameConv2d(inner, inner, kernel, stride, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner, eps=_TF_BN_EPS)
        self.conv_pwl = nn.Conv2d(inner, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out, eps=_TF_BN_EPS)
        self.has_skip = stride == 1 and channels_in == channels_out
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self.bn1(self.conv_pw(x)))
        y = functional.relu6(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        if not self.has_skip:
            return cast(Tensor, y)
        if self.training and self.drop_path:
            keep = y.new_empty(y.shape[0], 1, 1, 1).bernoulli_(1 - self.drop_path)
            y = y * keep / (1 - self.drop_path)
        return cast(Tensor, x + y)


class EfficientNetLite(nn.Module):
    """EfficientNet-lite 0, 1 or 2: ReLU6, no squeeze-and-excite. Input in [-1, 1].

    `channels` are those of the feature maps at output strides 2, 4, 8, 16 and 32. Without the `head` of 1280 channels,
    the deepest map is the output of the last stage, which has no activation.
    """

    def __init__(
        self,
        name: str = "efficientnet_lite0",
        drop_path: float = 0.0,
        *,
        channels_in: int = 3,
        head: bool = True,
    ) -> None:
        super().__init__()
        self.name = name
        width, depth = LITE_VARIANTS[name]
        repeats = [
            n if index in (0, len(_STAGES) - 1) else math.ceil(n * depth) for index, (*_, n) in enumerate(_STAGES)
        ]
        widths = [_round_channels(channels * width) for _, _, _, channels, _ in _STAGES]
        self.conv_stem = SameConv2d(channels_in, 32, 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(32, eps=_TF_BN_EPS)
        stages, channels_in, made, total = [], 32, 0, sum(repeats)
        for (kernel, stride, expansion, _, _), channels, count in zip(_STAGES, widths, repeats, strict=True):
            stage = nn.Sequential()
            for unit in range(count):
                step = stride if unit == 0 else 1
                stage.append(
                    SeparableBlock(channels_in, channels, kernel, step)
                    if expansion == 1
                    else InvertedResidual(channels_in, channels, kernel, step, expansion, drop_path * made / total)
                )
                channels_in, made = channels, made + 1
            stages.append(stage)
        self.blocks = nn.Sequential(*stages)
        self.head = head
        if head:
            self.conv_head = nn.Conv2d(channels_in, 1280, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(1280, eps=_TF_BN_EPS)
        self.channels = (widths[0], widths[1], widths[2], widths[4], 1280 if head else channels_in)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in [-1, 1] -> five feature maps at output strides 2 to 32."""
        x = functional.relu6(self.bn1(self.conv_stem(x)))
        features = []
        for index, stage in enumerate(self.blocks):
            x = stage(x)
            if index in (0, 1, 2, 4):
                features.append(x)
        return [*features, functional.relu6(self.bn2(self.conv_head(x))) if self.head else x]


def _round_channels(channels: float, divisor: int = 8) -> int:
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


class ConvBnRelu(nn.Module):
    """torchvision's BasicConv2d: convolution, batch norm (eps .001), ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four parallel branches (Szegedy et al. 2015, figure 2b); as in torchvision, the "5x5" convolution is a 3x3."""

    def __init__(self, channels_in: int, c1: int, c3_in: int, c3: int, c5_in: int, c5: int, pool: int) -> None:
        super().__init__()
        self.branch1 = ConvBnRelu(channels_in, c1, 1)
        self.branch2 = nn.Sequential(ConvBnRelu(channels_in, c3_in, 1), ConvBnRelu(c3_in, c3, 3, padding=1))
        self.branch3 = nn.Sequential(ConvBnRelu(channels_in, c5_in, 1), ConvBnRelu(c5_in, c5, 3, padding=1))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), ConvBnRelu(channels_in, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Module):
    """GoogLeNet up to inception 5b, with torchvision's module names. Input in [-1, 1].

    Feature maps have 64 channels at output stride 2, 192 at 4, 480 at 8 (3b), 832 at 16 (4e) and 1024 at 32 (5b).
    """

    channels = (64, 192, 480, 832, 1024)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvBnRelu(3, 64, 7, 2, 3)
        self.conv2 = ConvBnRelu(64, 64, 1)
        self.conv3 = ConvBnRelu(64, 192, 3, padding=1)
        self.inception3a = Inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = Inception(256, 128, 128, 192, 32, 96, 64)
        self.inception4a = Inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = Inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = Inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = Inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = Inception(528, 256, 160, 320, 32, 128, 128)
        self.inception5a = Inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = Inception(832, 384, 192, 384, 48, 128, 128)
        # As in torchvision: no padding, and an incomplete last window; its weights expect that.
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.last_pool = nn.MaxPool2d(2, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in [-1, 1] -> five feature maps at output strides 2 to 32."""
        s2 = self.conv1(x)
        s4 = self.conv3(self.conv2(self.pool(s2)))
        s8 = self.inception3b(self.inception3a(self.pool(s4)))
        x = self.inception4a(self.pool(s8))
        s16 = self.inception4e(self.inception4d(self.inception4c(self.inception4b(x))))
        s32 = self.inception5b(self.inception5a(self.last_pool(s16)))
        return [s2, s4, s8, s16, s32]


def _make_googlenet(drop_path: float) -> GoogLeNet:
    if drop_path:
        raise ValueError("encoder 'googlenet' has no residual paths to drop; remove drop_path")
    return GoogLeNet()


# Name -> constructor, which takes the probability of dropped paths.
ENCODERS: dict[str, Callable[[float], Any]] = {
    **{name: partial(EfficientNetLite, name) for name in LITE_VARIANTS},
    "googlenet": _make_googlenet,
}


def make_encoder(name: str, drop_path: float = 0.0) -> Any:
    """The encoder of that name, a module with `channels`; ValueError lists those that exist."""
    if name not in ENCODERS:
        raise ValueError(f"encoder {name!r} is not one of {', '.join(ENCODERS)}")
    return ENCODERS[name](drop_path)
