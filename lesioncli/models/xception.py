"""The two Xception encoders of MB-DCNN (Xie et al. 2020), as the authors' public code computes them.

Module names are those of published weights: the authors' and YudeWang's for the aligned Xception-65, and Cadene's and
timm's `legacy_xception` for Xception-41. Its exit flow is the authors' own, with this project's names.

In both, some skips carry relu(x) where the Xception of Chollet (2017) carries x: the authors' code applies an in-place
ReLU at the start of a block and takes the skip after it. The VOC weights that coarse-SN starts from were trained that
way, and so were the networks with the paper's metrics.
"""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional


class NormedSeparableConv(nn.Module):
    """Depthwise 3x3, norm, pointwise 1x1, norm: the separable convolution of the aligned Xception.

    With `rectify_last`, a ReLU follows each norm, as in the exit flow; else one ReLU comes first.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, rectify_last: bool = False) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels_in, channels_in, 3, stride, 1, groups=channels_in, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.pointwise = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.rectify_last = rectify_last

    def forward(self, x: Tensor) -> Tensor:
        if self.rectify_last:
            x = functional.relu(self.bn1(self.depthwise(x)))
            return functional.relu(self.bn2(self.pointwise(x)))
        x = self.bn1(self.depthwise(functional.relu(x)))
        return cast(Tensor, self.bn2(self.pointwise(x)))


class AlignedBlock(nn.Module):
    """Three separable convolutions, the third with the stride, and a skip: a 1x1 convolution of x, or relu(x)."""

    def __init__(self, channels_in: int, inner: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.has_conv_skip = stride != 1 or channels_in != channels_out
        if self.has_conv_skip:
            self.skip = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.skipbn = nn.BatchNorm2d(channels_out)
        self.sepconv1 = NormedSeparableConv(channels_in, inner)
        self.sepconv2 = NormedSeparableConv(inner, channels_out)
        self.sepconv3 = NormedSeparableConv(channels_out, channels_out, stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the block's output, and that of its second convolution after the norm and before the ReLU."""
        skip = self.skipbn(self.skip(x)) if self.has_conv_skip else functional.relu(x)
        second = self.sepconv2(self.sepconv1(x))
        return self.sepconv3(second) + skip, second


class AlignedXception65(nn.Module):
    """Modified aligned Xception-65 at output stride 16 (Chen et al. 2018, figure 4), without dilation.

    Encoder of coarse-SN and enhanced-SN. Height and width must be multiples of 16.
    """

    low_channels = 256
    deep_channels = 2048

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.block1 = AlignedBlock(64, 128, 128, 2)
        self.block2 = AlignedBlock(128, 256, 256, 2)
        self.block3 = AlignedBlock(256, 728, 728, 2)
        for number in range(4, 20):
            self.add_module(f"block{number}", AlignedBlock(728, 728, 728, 1))
        self.block20 = AlignedBlock(728, 728, 1024, 1)
        self.conv3 = NormedSeparableConv(1024, 1536, rectify_last=True)
        self.conv4 = NormedSeparableConv(1536, 1536, rectify_last=True)
        self.conv5 = NormedSeparableConv(1536, 2048, rectify_last=True)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """RGB in [0, 1], (N, 3, H, W) -> low (N, 256, H/4, W/4), deep (N, 2048, H/16, W/16)."""
        x = functional.relu(self.bn1(self.conv1(images)))
        x = functional.relu(self.bn2(self.conv2(x)))
        x, _ = self.block1(x)
        x, low = self.block2(x)
        for number in range(3, 21):
            x, _ = self.get_submodule(f"block{number}")(x)
        return low, self.conv5(self.conv4(self.conv3(x)))


class SeparableConv(nn.Sequential):
    """Depthwise 3x3, then pointwise 1x1: the separable convolution of Xception."""

    def __init__(self, channels_in: int, channels_out: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, 1, dilation, dilation, channels_in, bias=False)
        self.pointwise = nn.Conv2d(channels_in, channels_out, 1, bias=False)


class Block(nn.Module):
    """`repeats` times ReLU, separable convolution, norm; a stride of 2 adds a max pool and makes the skip a 1x1.

    The ReLU comes before the skip. The input of the `first` block is rectified already, and its layers are numbered
    without that ReLU.
    """

    def __init__(self, channels_in: int, channels_out: int, repeats: int, stride: int, first: bool = False) -> None:
        super().__init__()
        self.stride = stride
        if stride != 1:
            self.skip = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.skipbn = nn.BatchNorm2d(channels_out)
        # forward() applies the first ReLU, also for the skip; the Identity keeps the numbers in the weights' names.
        layers: list[nn.Module] = [] if first else [nn.Identity()]
        for unit in range(repeats):
            layers += [nn.ReLU()] if unit else []
            layers += [SeparableConv(channels_out if unit else channels_in, channels_out), nn.BatchNorm2d(channels_out)]
        self.rep = nn.Sequential(*layers, *([nn.MaxPool2d(3, stride, 1)] if stride != 1 else []))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(x)
        skip = self.skipbn(self.skip(x)) if self.stride != 1 else x
        return cast(Tensor, self.rep(x) + skip)


class Xception41(nn.Module):
    """Xception-41 (Chollet 2017) with the exit flow of MB-DCNN: dilated instead of pooled, at output stride 16.

    Encoder of mask-CN, for RGB and a mask. Height and width must be multiples of 16.

    The skips of blocks 2 to 11 carry relu(x), as in the authors' code. The ImageNet weights were trained with x. The
    paper's metrics were reached with relu(x), and fine-tuning starts from a new exit flow in any case.
    """

    channels = 2048

    def __init__(self, channels_in: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, 32, 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.block1 = Block(64, 128, 2, 2, first=True)
        self.block2 = Block(128, 256, 2, 2)
        self.block3 = Block(256, 728, 2, 2)
        for number in range(4, 12):
            self.add_module(f"block{number}", Block(728, 728, 3, 1))
        self.residual = nn.Sequential(nn.Conv2d(728, 1024, 1, bias=False), nn.BatchNorm2d(1024))
        self.sepconv1 = nn.Sequential(nn.ReLU(), SeparableConv(728, 728), nn.BatchNorm2d(728))
        self.sepconv2 = nn.Sequential(nn.ReLU(), SeparableConv(728, 1024), nn.BatchNorm2d(1024))
        self.sepconv3 = nn.Sequential(SeparableConv(1024, 1536, dilation=2), nn.BatchNorm2d(1536), nn.ReLU())
        self.sepconv4 = nn.Sequential(SeparableConv(1536, 2048, dilation=2), nn.BatchNorm2d(2048), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Channels in [0, 1], (N, channels_in, H, W) -> feature maps (N, 2048, H/16, W/16), never negative."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(x)))
        for number in range(1, 12):
            x = self.get_submodule(f"block{number}")(x)
        x = self.sepconv2(self.sepconv1(x)) + self.residual(x)
        return cast(Tensor, self.sepconv4(self.sepconv3(x)))
