"""DeepLabv3+ (Chen et al. 2018) as coarse-SN and enhanced-SN of MB-DCNN use it: ASPP, decoder, two logits."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvUnit(nn.Sequential):
    """Convolution, batch norm, ReLU; `separable`: a depthwise convolution with norm and ReLU, then a 1x1."""

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
    """Atrous spatial pyramid pooling: a 1x1, dilated 3x3 branches and the image's mean, merged by a 1x1."""

    def __init__(self, channels_in: int, width: int, rates: tuple[int, ...], separable: bool) -> None:
        super().__init__()
        self.point = ConvUnit(channels_in, width)
        self.dilated = nn.ModuleList(ConvUnit(channels_in, width, 3, rate, separable) for rate in rates)
        self.image = ConvUnit(channels_in, width)
        self.merge = ConvUnit((len(rates) + 2) * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, h, w) -> (N, width, h, w)."""
        mean = self.image(x.mean((2, 3), keepdim=True)).expand(-1, -1, x.shape[2], x.shape[3])
        return cast(Tensor, self.merge(torch.cat([self.point(x), *(branch(x) for branch in self.dilated), mean], 1)))


class DeepLab(nn.Module):
    """Encoder at output stride 16, ASPP, decoder at output stride 4, two logits: background and lesion.

    The encoder returns feature maps at output stride 4 and 16, with `low_channels` and `deep_channels` channels.
    `takes_map` makes it enhanced-SN: a map with one channel on the grid of the ASPP is concatenated after its dropout
    and merged by a 1x1 convolution, the only layer that coarse-SN lacks.
    """

    def __init__(
        self,
        encoder: Any,
        *,
        width: int = 256,
        low_width: int = 48,
        rates: tuple[int, ...] = (6, 12, 18),
        separable: bool = False,
        takes_map: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.aspp = Aspp(encoder.deep_channels, width, rates, separable)
        self.aspp_dropout = nn.Dropout(0.5)
        self.map_merge = ConvUnit(width + 1, width) if takes_map else None
        self.low = ConvUnit(encoder.low_channels, low_width)
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

        Upsampling is linear, so the difference of the two logits is upsampled instead of both. Raises ValueError if a
        map is given to a network without `takes_map`, or none to one with it.
        """
        low, deep = self.encoder(images)
        x = self.aspp_dropout(self.aspp(deep))
        if self.map_merge is not None and activation is not None:
            x = self.map_merge(torch.cat([x, activation], 1))
        elif self.map_merge is not None or activation is not None:
            raise ValueError("an activation map is given if and only if the network takes one")
        x = self.decoder(torch.cat([_upsample(x), self.low(low)], 1))
        return _upsample_channel(lesion_logits(self.logits(x)))


def lesion_logits(logits: Tensor) -> Tensor:
    """Two channels of logits (N, 2, H, W) -> (N, 1, H, W), whose sigmoid is the lesion channel of the softmax."""
    return logits[:, 1:] - logits[:, :1]


def _upsample(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=4.0, mode="bilinear", align_corners=True)


def _upsample_channel(x: Tensor) -> Tensor:
    """_upsample() of one channel, (N, 1, h, w) -> (N, 1, 4h, 4w), as matrix products: 8 times as fast on CPUs."""
    rows, columns = (_bilinear(size, x) for size in x.shape[2:])
    return rows @ x @ columns.T


def _bilinear(size: int, like: Tensor) -> Tensor:
    """Matrix (4 * size, size) of bilinear upsampling by 4 with aligned corners."""
    pixels = torch.arange(size, device=like.device, dtype=like.dtype)
    positions = torch.arange(4 * size, device=like.device, dtype=like.dtype) * ((size - 1) / (4 * size - 1))
    return (1 - (positions[:, None] - pixels).abs()).clamp(min=0)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
