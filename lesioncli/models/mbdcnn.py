"""MB-DCNN, the mutual bootstrapping cascade of Xie et al. (2020, arXiv 1903.03313), in two sizes.

coarse-SN predicts a coarse mask. mask-CN classifies the image with that mask; its class activation map goes to
enhanced-SN, which predicts the mask again. `encoder = "xception"` makes the paper's three networks; the name of an
EfficientNet-lite makes smaller ones that two CPU cores can train and run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesioncli.models.deeplab import DeepLab
from lesioncli.models.encoders import LITE_VARIANTS, EfficientNetLite, signed, smoothed
from lesioncli.models.network import Network, NetworkType, Stage, StageOutput, Target
from lesioncli.models.region import cut_out, put_back, region_of
from lesioncli.models.xception import AlignedXception65, Xception41
from lesioncli.spec import CLASSES

# Input of mask-CN: the image; the image with the coarse mask as fourth channel (the paper); a crop around the coarse
# mask; the image, with feature maps averaged over the lesion and over the whole image.
READS = ("rgb", "mask", "crop", "pool")


class CascadeOutput(NamedTuple):
    """Lesion logits (N, 1, H, W) of the result, coarse-SN and enhanced-SN; class logits (N, 3) in the order of CLASSES;
    activation map (N, 1, h, w) on the grid of mask-CN's feature maps.
    """

    mask_logits: Tensor
    coarse_logits: Tensor
    enhanced_logits: Tensor
    class_logits: Tensor
    activation: Tensor


class MaskCN(nn.Module):
    """Classifier that also returns a class activation map.

    `reads` is one of READS. The encoder's feature maps are averaged over the image; a linear layer after dropout gives
    the class logits, and its weights give the activation map.
    """

    def __init__(self, encoder: Any, output_stride: int, reads: str, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.output_stride = output_stride
        self.reads = reads
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(encoder.channels * (2 if reads == "pool" else 1), len(CLASSES))

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
            weight = (weight + 1e-3) / (weight.mean((2, 3), keepdim=True) + 1e-3)  # no lesion: the whole image
            maps = torch.cat([maps, maps * weight.to(maps.dtype)], 1)
        class_logits = self.classifier(self.dropout(maps.mean((2, 3))))
        activation = activation_map(maps, self.classifier.weight, class_logits)
        if self.reads == "crop":
            activation = put_back(activation, region)
        return class_logits, activation


def activation_map(maps: Tensor, weight: Tensor, class_logits: Tensor) -> Tensor:
    """Class activation map of the predicted class, (N, C, h, w), (K, C), (N, K) -> (N, 1, h, w), without gradient.

    As in the authors' code it is divided by its largest value, negative values are kept and there is no bias. If no
    value is positive, the map is zero (the authors' code gives inf or nan).
    """
    predicted = functional.one_hot(class_logits.argmax(1), weight.shape[0]).to(weight.dtype)
    weights_of_class = (predicted @ weight).detach().float()
    activation = (maps.detach().float() * weights_of_class[:, :, None, None]).sum(1, keepdim=True)
    top = activation.amax((2, 3), keepdim=True)
    return torch.where(top > 1e-6, activation / top.clamp(min=1e-6), torch.zeros_like(activation))


@dataclass(frozen=True)
class CascadeEncoders:
    """The encoders of one size of the cascade, and `separable`: whether ASPP and decoder use separable convolutions.

    `segmentation` takes the probability of dropped paths; `classification` the number of input channels and the same.
    """

    segmentation: Callable[[float], Any]
    classification: Callable[[int, float], Any]
    classification_stride: int
    separable: bool


def _lite_encoders(name: str) -> CascadeEncoders:
    return CascadeEncoders(partial(SegmentationEncoder, name), partial(ClassificationEncoder, name), 32, True)


def find_encoders(name: str) -> CascadeEncoders:
    """The encoders of that name; ValueError lists those that exist."""
    if name not in ENCODERS:
        raise ValueError(f"encoder {name!r} is not one of {', '.join(ENCODERS)}")
    return ENCODERS[name]


class MBDCNN(Network):
    """The three networks and the data flow between them.

    `reads` is the input of mask-CN, one of READS. `uses_map=False` sets the activation map to zero, an ablation. The
    mask is that of enhanced-SN, as in the paper; `fuse` takes the mean of its logits and those of coarse-SN instead.
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
            raise ValueError(f"reads {reads!r} is not one of {', '.join(READS)}")
        encoders = find_encoders(encoder)

        def make_segmenter(takes_map: bool) -> DeepLab:
            return DeepLab(
                encoders.segmentation(drop_path),
                width=width,
                rates=tuple(rates),
                separable=encoders.separable,
                takes_map=takes_map,
            )

        classifier = encoders.classification(4 if reads == "mask" else 3, drop_path)
        self.coarse_sn = make_segmenter(takes_map=False)
        self.mask_cn = MaskCN(classifier, encoders.classification_stride, reads, dropout)
        self.enhanced_sn = make_segmenter(takes_map=True)
        self.uses_map = uses_map
        self.fuse = fuse

    @staticmethod
    def class_probabilities(class_logits: Tensor) -> Tensor:
        """Class logits (N, 3) -> probabilities (N, 3) in the order of CLASSES, which sum to 1."""
        return class_logits.softmax(1)

    def forward(self, images: Tensor) -> CascadeOutput:
        """RGB in [0, 1], (N, 3, H, W)."""
        coarse = self.coarse_sn(images)
        class_logits, activation = self.mask_cn(images, coarse)
        enhanced = self.enhance(images, activation)
        mask = (coarse + enhanced) / 2 if self.fuse else enhanced
        return CascadeOutput(mask, coarse, enhanced, class_logits, activation)

    def enhance(self, images: Tensor, activation: Tensor) -> Tensor:
        """Lesion logits (N, 1, H, W) of enhanced-SN; the activation map is resampled to the grid of its ASPP."""
        grid = (images.shape[2] // 16, images.shape[3] // 16)
        on_grid = functional.interpolate(activation, size=grid, mode="bilinear", align_corners=False)
        return cast(Tensor, self.enhanced_sn(images, (on_grid if self.uses_map else on_grid * 0).to(images.dtype)))


class SegmentationEncoder(nn.Module):
    """EfficientNet-lite without its head: feature maps at output stride 4, and those of 16 and 32 joined at 16.

    Dilating the last stages to output stride 16, as DeepLab does, took 1.3 times as long. The input is averaged over
    3x3 pixels: resampling kernels differ most in the finest details, and outlines lose nothing by it.
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
    """EfficientNet-lite at output stride 32, for 3 input channels, or 4 with a mask."""

    def __init__(self, name: str, channels_in: int, drop_path: float) -> None:
        super().__init__()
        self.body = EfficientNetLite(name, drop_path, channels_in=channels_in)
        self.channels = self.body.channels[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Channels in [0, 1], (N, C, H, W) -> (N, channels, H/32, W/32)."""
        return cast(Tensor, self.body(signed(images))[-1])


def mask_agreement(first: Tensor, second: Tensor) -> Tensor:
    """Jaccard (N,) of the masks of two maps of logits (N, 1, H, W); two empty masks agree fully."""
    a, b = (first > 0).float(), (second > 0).float()
    both = (a * b).sum((1, 2, 3))
    either = (a + b).sum((1, 2, 3)) - both
    return (both + (either == 0)) / either.clamp(min=1)


def _run_coarse(network: MBDCNN, images: Tensor) -> StageOutput:
    return StageOutput(network.coarse_sn(images), None)


def _run_classes(network: MBDCNN, images: Tensor) -> StageOutput:
    with torch.no_grad():
        coarse = network.coarse_sn(images)
    return StageOutput(None, network.mask_cn(images, coarse)[0])


def _run_enhanced(network: MBDCNN, images: Tensor) -> StageOutput:
    with torch.no_grad():
        coarse = network.coarse_sn(images)
        _, activation = network.mask_cn(images, coarse)
    return StageOutput(network.enhance(images, activation), None)


# To add an encoder, add a line here.
ENCODERS: dict[str, CascadeEncoders] = {
    "xception": CascadeEncoders(lambda _: AlignedXception65(), lambda channels, _: Xception41(channels), 16, False),
    **{name: _lite_encoders(name) for name in LITE_VARIANTS},
}
NETWORK = NetworkType(
    MBDCNN,
    (
        Stage("coarse-sn", "coarse_sn", _run_coarse, targets=(Target.MASKS,)),
        Stage("mask-cn", "mask_cn", _run_classes, targets=(Target.LABELS,)),
        Stage(
            "enhanced-sn",
            "enhanced_sn",
            _run_enhanced,
            starts_from="coarse_sn",
            new_layers=("map_merge.",),
            targets=(Target.MASKS,),
        ),
    ),
    columns={"agreement": lambda output: mask_agreement(output.coarse_logits, output.enhanced_logits)},
)
