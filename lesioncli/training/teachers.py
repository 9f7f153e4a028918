"""Distillation: the mean prediction of trained networks is mixed into the targets."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesioncli.models.network import Network
from lesioncli.shipped import find_model
from lesioncli.spec import ModelSpec
from lesioncli.training.checkpoint import load_checkpoint


class Teachers(nn.Module):
    """Frozen networks; each gets the images at the size that it was trained at."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        loaded = [load_checkpoint(path) for path in paths]
        self.networks = nn.ModuleList(network for network, _ in loaded)
        self.specs = [spec for _, spec in loaded]
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """RGB in [0, 1] (N, 3, H, W) -> lesion probability (N, 1, H, W), probabilities (N, 2).

        The classes are melanoma and seborrheic keratosis. Masks are averaged as logits, classes as probabilities.
        """
        predictions = [
            _predict(cast(Network, network), spec, images)
            for network, spec in zip(self.networks, self.specs, strict=True)
        ]
        logits, classes = (torch.stack(parts).mean(0) for parts in zip(*predictions, strict=True))
        return logits.sigmoid(), classes

    def mix_into(self, share: float, images: Tensor, masks: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix predictions into masks (N, 1, H, W) and labels (N, 2) by `share`.

        They replace an unknown mask (nan); unknown labels stay unknown.
        """
        probability, classes = self(images)
        probability = probability.to(masks.dtype)
        mixed_masks = torch.where(masks.isnan(), probability, torch.lerp(masks, probability, share))
        return mixed_masks, torch.lerp(labels, classes.to(labels.dtype), share)


def teacher_path(name: str) -> Path:
    """The checkpoint of a recipe's teacher, the name of a shipped model or a path; InputError if there is none."""
    return find_model(name, "[train] teachers")


def _predict(network: Network, spec: ModelSpec, images: Tensor) -> tuple[Tensor, Tensor]:
    """Lesion logits (N, 1, H, W) and probabilities (N, 2) of one teacher."""
    size_hw = (spec.height, spec.width)
    resized = functional.interpolate(images, size=size_hw, mode="bilinear", antialias=True, align_corners=False)
    output = network(resized.contiguous(memory_format=torch.channels_last))
    upsampled = functional.interpolate(
        output.mask_logits.float(), size=images.shape[2:], mode="bilinear", align_corners=False
    )
    return upsampled, network.class_probabilities(output.class_logits.float())[:, :2]
