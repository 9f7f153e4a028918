"""DeepLabv3+ (Chen et al. 2018) as coarse-SN and enhanced-SN of paper A use it: pyramid, decoder, two logits.

The encoder is whatever yields a map at output stride 4 and one at 16; see models/xception.py and models/encoders.py.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvUnit(nn.Sequential):
    """Convolution, batch norm, ReLU. `separable` makes it a depthwise one with norm and ReLU of its own, then a 1x1."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int = 1, dilation: int = 1, separable: bool = False
    ) -> None:
        padding = dilation * (kernel // 2)
        layers: list[nn.Module] = []
        if separable and kernel > 1:
            layers += [
                nn.Conv2d(channels_in, channels_in, kernel, 1, padding, dilation, groups=channels_in, bias=False),
                nn.BatchNorm2d(channels_in),
                nn.ReLU(inplace=True),
            ]
            kernel, padding, dilation = 1, 0, 1
        layers += [
            nn.Conv2d(channels_in, channels_out, kernel, 1, padding, dilation),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        ]
        super().__init__(*layers)


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1 and three dilated 3x3 branches and the image's mean, then a 1x1."""

    def __init__(self, channels_in: int, width: int, rates: tuple[int, ...], separable: bool) -> None:
        super().__init__()
        self.point = ConvUnit(channels_in, width)
        self.dilated = nn.ModuleList(ConvUnit(channels_in, width, 3, rate, separable) for rate in rates)
        self.image = ConvUnit(channels_in, width)
        self.merge = ConvUnit((len(rates) + 2) * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, h, w) -> (N, width, h, w)."""
        mean = self.image(x.mean((2, 3), keepdim=True)).expand(-1, -1, x.shape[2], x.shape[3])
        return cast(Tensor, self.merge(torch.cat([self.point(x), *(each(x) for each in self.dilated), mean], 1)))


class DeepLab(nn.Module):
    """Encoder at output stride 16, ASPP, decoder at output stride 4, two logits: background and lesion.

    `takes_map` makes it enhanced-SN: a one-channel map on the ASPP's grid is concatenated after the ASPP's dropout and
    merged by a 1x1 convolution (paper A; the only layer that coarse-SN lacks).
    """

    def __init__(
        self,
        encoder: nn.Module,
        low_channels: int,
        deep_channels: int,
        *,
        width: int = 256,
        low_width: int = 48,
        rates: tuple[int, ...] = (6, 12, 18),
        separable: bool = False,
        takes_map: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.aspp = Aspp(deep_channels, width, rates, separable)
        self.aspp_dropout = nn.Dropout(0.5)
        self.map_merge = ConvUnit(width + 1, width) if takes_map else None
        self.low = ConvUnit(low_channels, low_width)
        self.decoder = nn.Sequential(
            ConvUnit(width + low_width, width, 3, separable=separable),
            nn.Dropout(0.5),
            ConvUnit(width, width, 3, separable=separable),
            nn.Dropout(0.1),
        )
        self.logits = nn.Conv2d(width, 2, 1)
        for module in (self.aspp, self.map_merge, self.low, self.decoder):
            if module is not None:
                module.apply(_initialise)

    def forward(self, images: Tensor, activation: Tensor | None = None) -> Tensor:
        """RGB in [0, 1] (N, 3, H, W), activation map (N, 1, H/16, W/16) -> lesion logits (N, 1, H, W).

        Their sigmoid is the softmax's lesion channel. Enlarging is linear, so one map is enlarged and not two.
        ValueError where a map is given to a network that takes none, or none to one that takes it.
        """
        low, deep = self.encoder(images)
        x = self.aspp_dropout(self.aspp(deep))
        if self.map_merge is not None and activation is not None:
            x = self.map_merge(torch.cat([x, activation], 1))
        elif self.map_merge is not None or activation is not None:
            raise ValueError("an activation map goes with takes_map, and with nothing else")
        x = self.decoder(torch.cat([_enlarge(x), self.low(low)], 1))
        return _enlarge_one(lesion_logits(self.logits(x)))


def lesion_logits(logits: Tensor) -> Tensor:
    """Two channels' logits (N, 2, H, W) -> (N, 1, H, W): its sigmoid is the softmax's lesion channel."""
    return logits[:, 1:] - logits[:, :1]


def _enlarge(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=4.0, mode="bilinear", align_corners=True)


def _enlarge_one(x: Tensor) -> Tensor:
    """_enlarge() of one channel, (N, 1, h, w) -> (N, 1, 4h, 4w), as products: on a CPU, an engine takes an eighth."""
    rows, columns = (_bilinear(size, x) for size in x.shape[2:])
    return rows @ x @ columns.T


def _bilinear(size: int, like: Tensor) -> Tensor:
    """(4 * size, size): how much of each of `size` pixels is in each of four times as many, the corners aligned."""
    pixels = torch.arange(size, device=like.device, dtype=like.dtype)
    places = torch.arange(4 * size, device=like.device, dtype=like.dtype) * ((size - 1) / (4 * size - 1))
    return (1 - (places[:, None] - pixels).abs()).clamp(min=0)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
