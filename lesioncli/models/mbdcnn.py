"""MB-DCNN, the mutual bootstrapping cascade of paper A (Xie et al. 2020, arXiv 1903.03313), in two sizes.

coarse-SN draws a coarse mask; mask-CN classifies the picture with it, and where it looked becomes a map; enhanced-SN
draws the mask again with that map. `encoder = "xception"` is the paper's own three networks, an EfficientNet-lite name
the same order of work on networks that two CPU cores can train and run.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesioncli.models.deeplab import DeepLab
from lesioncli.models.encoders import EfficientNetLite, signed, smoothed
from lesioncli.models.region import cut_out, put_back, region_of
from lesioncli.models.xception import AlignedXception65, Xception41

CLASSES = ("melanoma", "seborrheic_keratosis", "nevus")
# What mask-CN reads: the picture; with the coarse mask as a fourth channel (the paper); the lesion cut out by the mask;
# the picture, its maps averaged over the lesion as well as over all of it.
READS = ("rgb", "mask", "crop", "pool")


class CascadeOutput(NamedTuple):
    """Lesion logits (N, 1, H, W) of the mask and of the two it comes from, class logits (N, 3) by CLASSES, and the
    activation map (N, 1, h, w) on the grid of mask-CN's maps.
    """

    mask_logits: Tensor
    coarse_logits: Tensor
    enhanced_logits: Tensor
    class_logits: Tensor
    activation: Tensor


class MaskCN(nn.Module):
    """Classifier whose last linear layer also says where it looked.

    Input by `reads`: see READS. The encoder's maps are averaged over the picture and, with `dropout`, weighed by one
    linear layer, whose weights also make the activation map.
    """

    def __init__(self, encoder: nn.Module, channels: int, output_stride: int, reads: str, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.output_stride = output_stride
        self.reads = reads
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels * (2 if reads == "pool" else 1), len(CLASSES))

    def forward(self, images: Tensor, coarse_logits: Tensor) -> tuple[Tensor, Tensor]:
        """RGB in [0, 1] (N, 3, H, W), lesion logits (N, 1, H, W) -> class logits (N, 3), activation (N, 1, h, w)."""
        if self.reads == "crop":
            region = region_of(coarse_logits.sigmoid())
            maps = self.encoder(cut_out(images, region))
        elif self.reads == "mask":
            maps = self.encoder(torch.cat([images, (coarse_logits > 0).to(images.dtype)], 1))
        else:
            maps = self.encoder(images)
        if self.reads == "pool":
            weight = functional.avg_pool2d(coarse_logits.detach().float().sigmoid(), self.output_stride)
            weight = (weight + 1e-3) / (weight.mean((2, 3), keepdim=True) + 1e-3)  # without a lesion, the whole picture
            maps = torch.cat([maps, maps * weight.to(maps.dtype)], 1)
        class_logits = self.classifier(self.dropout(maps.mean((2, 3))))
        activation = activation_map(maps, self.classifier.weight, class_logits)
        if self.reads == "crop":
            activation = put_back(activation, region)
        return class_logits, activation


def activation_map(maps: Tensor, weight: Tensor, class_logits: Tensor) -> Tensor:
    """Class activation map of the predicted class, (N, C, h, w), (K, C), (N, K) -> (N, 1, h, w); no gradient.

    Divided by its largest value, as the authors' code does: not clipped, so that negative values go on, and no bias.
    Where nothing is positive there is nothing to divide by: the map is zero (their code gives inf or nan).
    """
    predicted = functional.one_hot(class_logits.argmax(1), weight.shape[0]).to(weight.dtype)
    weights_of_class = (predicted @ weight).detach().float()
    activation = (maps.detach().float() * weights_of_class[:, :, None, None]).sum(1, keepdim=True)
    top = activation.amax((2, 3), keepdim=True)
    return torch.where(top > 1e-6, activation / top.clamp(min=1e-6), torch.zeros_like(activation))


class MBDCNN(nn.Module):
    """The three networks and the way data take through them.

    `reads` is what mask-CN reads, one of READS; `uses_map` False leaves enhanced-SN's map at zero, which is the
    ablation that tells what the map is worth. The mask is enhanced-SN's, as in the paper, or with `fuse` the mean of
    its logits and coarse-SN's: two networks for the price that is paid anyway.
    """

    def __init__(
        self,
        encoder: str = "xception",
        reads: str = "mask",
        width: int = 256,
        rates: tuple[int, ...] = (6, 12, 18),
        dropout: float = 0.0,
        drop_path: float = 0.0,
        uses_map: bool = True,
        fuse: bool = False,
    ) -> None:
        super().__init__()
        if reads not in READS:
            raise ValueError(f"reads {reads!r} is none of {', '.join(READS)}")
        separable = encoder != "xception"

        def segmenter(takes_map: bool) -> DeepLab:
            trunk = SegmentationEncoder(encoder, drop_path) if separable else AlignedXception65()
            return DeepLab(
                trunk,
                trunk.low_channels,
                trunk.deep_channels,
                width=width,
                rates=tuple(rates),
                separable=separable,
                takes_map=takes_map,
            )

        channels_in = 4 if reads == "mask" else 3
        classifier = (
            ClassificationEncoder(encoder, channels_in, drop_path) if separable else Xception41(channels_in=channels_in)
        )
        self.coarse_sn = segmenter(takes_map=False)
        self.mask_cn = MaskCN(classifier, classifier.channels, 32 if separable else 16, reads, dropout)
        self.enhanced_sn = segmenter(takes_map=True)
        self.uses_map = uses_map
        self.fuse = fuse

    @staticmethod
    def class_probabilities(class_logits: Tensor) -> Tensor:
        """Class logits (N, 3) -> probabilities (N, 3) by CLASSES, which sum to 1."""
        return class_logits.softmax(1)

    def forward(self, images: Tensor) -> CascadeOutput:
        """RGB in [0, 1], (N, 3, H, W)."""
        coarse = self.coarse_sn(images)
        class_logits, activation = self.mask_cn(images, coarse)
        enhanced = self.enhance(images, activation)
        mask = (coarse + enhanced) / 2 if self.fuse else enhanced
        return CascadeOutput(mask, coarse, enhanced, class_logits, activation)

    def enhance(self, images: Tensor, activation: Tensor) -> Tensor:
        """Lesion logits (N, 1, H, W) of enhanced-SN; the map is brought to its ASPP's grid."""
        grid = (images.shape[2] // 16, images.shape[3] // 16)
        on_grid = functional.interpolate(activation, size=grid, mode="bilinear", align_corners=False)
        return cast(Tensor, self.enhanced_sn(images, (on_grid if self.uses_map else on_grid * 0).to(images.dtype)))


class SegmentationEncoder(nn.Module):
    """EfficientNet-lite without its 1280-channel head: a map at output stride 4, and those of 16 and 32 joined at 16.

    Dilating the last stages to output stride 16 instead, as DeepLab does, took 1.3 times as long. The picture is
    smoothed by 3x3 pixels first: that is where reduction kernels differ, and outlines lose nothing by it.
    """

    def __init__(self, name: str, drop_path: float) -> None:
        super().__init__()
        self.body = EfficientNetLite(name, drop_path, head=False)
        _, self.low_channels, _, middle, last = self.body.channels
        self.deep_channels = middle + last

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """RGB in [0, 1], (N, 3, H, W) -> (N, low_channels, H/4, W/4), (N, deep_channels, H/16, W/16)."""
        _, low, _, middle, last = self.body(signed(smoothed(images)))
        return low, torch.cat([middle, functional.interpolate(last, scale_factor=2.0, mode="bilinear")], 1)


class ClassificationEncoder(nn.Module):
    """EfficientNet-lite at its own output stride 32, for pictures of 3 or, with a mask, 4 channels."""

    def __init__(self, name: str, channels_in: int, drop_path: float) -> None:
        super().__init__()
        self.body = EfficientNetLite(name, drop_path, channels_in=channels_in)
        self.channels = self.body.channels[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Channels in [0, 1], (N, C, H, W) -> (N, channels, H/32, W/32)."""
        return cast(Tensor, self.body(signed(images))[-1])
