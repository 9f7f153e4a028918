"""The joint network of Yang et al. (2017, arXiv 1703.01025): a shared encoder, a mask and two binary classifiers.

The paper names GoogLeNet, U-Net and two binary heads. Loss weights, sizes and details of the decoder are not public;
they are this project's choices and stand in the recipes.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesioncli.models.encoders import make_encoder, signed, smoothed
from lesioncli.models.network import Network, NetworkType, Stage, StageOutput

HEADS = ("melanoma", "seborrheic_keratosis")


class MultitaskOutput(NamedTuple):
    """Lesion logits (N, 1, H, W) and class logits (N, 2) in the order of HEADS."""

    mask_logits: Tensor
    class_logits: Tensor


class ConvBlock(nn.Sequential):
    """Two 3x3 convolutions with batch norm and ReLU; `separable`: each is depthwise, then pointwise."""

    def __init__(self, channels_in: int, channels_out: int, separable: bool) -> None:
        layers: list[nn.Module] = []
        for channels in (channels_in, channels_out):
            if separable:
                layers += [nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)]
                layers += [nn.BatchNorm2d(channels), nn.Conv2d(channels, channels_out, 1, bias=False)]
            else:
                layers += [nn.Conv2d(channels, channels_out, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class UNetDecoder(nn.Module):
    """The expanding path of U-Net (Ronneberger et al. 2015), one level per width.

    Four levels reach output stride 2. Three levels stop at 4, which halves the cost of the whole network and loses
    nothing that annotators agree on.
    """

    def __init__(self, channels: tuple[int, ...], widths: tuple[int, ...], separable: bool) -> None:
        super().__init__()
        *skips, deepest = channels
        if not 1 <= len(widths) <= len(skips):
            raise ValueError(f"decoder_widths {widths} must be 1 to {len(skips)} widths, one per level")
        self.bridge = nn.Sequential(
            nn.Conv2d(deepest, widths[0], 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        widths_in = (widths[0], *widths[:-1])
        self.levels = nn.ModuleList(
            ConvBlock(width_in + skip, width, separable)
            for width_in, skip, width in zip(widths_in, skips[::-1], widths, strict=False)
        )
        self.logits = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Feature maps at strides 2 to 32 -> lesion logits (N, 1, H / s, W / s), s = 32 / 2 ** levels."""
        *skips, x = features
        x = self.bridge(x)
        for level, skip in zip(self.levels, skips[::-1], strict=False):
            x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = level(torch.cat([x, skip], 1))
        return cast(Tensor, self.logits(x))


def upsample(x: Tensor, factor: int) -> Tensor:
    """Bilinear upsampling of one channel, (N, 1, h, w) -> (N, 1, factor * h, factor * w), without aligned corners.

    Written as one convolution that makes each phase a channel, and a pixel shuffle: six times as fast in a CPU engine.
    """
    offset = (torch.arange(factor, device=x.device, dtype=x.dtype) + 0.5) / factor - 0.5  # from the nearest pixel
    weights = torch.stack([(-offset).clamp(min=0), 1 - offset.abs(), offset.clamp(min=0)], 1)  # (phase, neighbour)
    kernel = (weights[:, None, :, None] * weights[None, :, None, :]).reshape(factor * factor, 1, 3, 3)
    return functional.pixel_shuffle(
        functional.conv2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), kernel), factor
    )


class Multitask(Network):
    """Shared encoder, U-Net decoder and two sigmoid heads, for melanoma and for seborrheic keratosis.

    `lesion_pooling` adds a second average of the deepest feature map to the heads' input, weighted by the predicted
    mask. The mask is detached there, so that the classification loss does not change the outline. `smooth` averages
    the input over 3x3 pixels: resampling kernels differ most in the finest details.
    """

    def __init__(
        self,
        encoder: str,
        decoder_widths: tuple[int, ...] = (256, 128, 64, 32),
        separable: bool = False,
        lesion_pooling: bool = False,
        dropout: float = 0.4,
        drop_path: float = 0.0,
        smooth: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(encoder, drop_path)
        self.decoder = UNetDecoder(self.encoder.channels, tuple(decoder_widths), separable)
        self.output_stride = 2 ** (5 - len(decoder_widths))
        self.lesion_pooling = lesion_pooling
        self.smooth = smooth
        pooled = self.encoder.channels[-1] * (2 if lesion_pooling else 1)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict({name: nn.Linear(pooled, 1) for name in HEADS})

    def forward(self, images: Tensor) -> MultitaskOutput:
        """RGB in [0, 1], (N, 3, H, W)."""
        features = self.encoder(signed(smoothed(images) if self.smooth else images))
        mask_logits = upsample(self.decoder(features), self.output_stride)
        pooled = self.dropout(self._pool(features[-1], mask_logits))
        return MultitaskOutput(mask_logits, torch.cat([self.heads[name](pooled) for name in HEADS], 1))

    @staticmethod
    def class_probabilities(class_logits: Tensor) -> Tensor:
        """Class logits (N, 2) -> (N, 3): melanoma, seborrheic keratosis, nevus.

        The heads are independent and there is none for nevi; a nevus is what both heads deny.
        """
        two = class_logits.sigmoid()
        return torch.cat([two, 1 - two.amax(1, keepdim=True)], 1)

    def _pool(self, deepest: Tensor, mask_logits: Tensor) -> Tensor:
        whole = deepest.mean((2, 3))
        if not self.lesion_pooling:
            return whole
        weights = functional.avg_pool2d(mask_logits.detach().sigmoid(), 32)
        lesion = (deepest * weights).sum((2, 3)) / (weights.sum((2, 3)) + 1e-3)
        return torch.cat([whole, lesion.to(whole.dtype)], 1)


NETWORK = NetworkType(Multitask, (Stage("joint", "", lambda network, images: StageOutput(*network(images))),))
