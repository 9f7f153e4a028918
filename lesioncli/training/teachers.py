"""Distillation: trained networks whose mean answer is mixed into the truth that a student learns from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesioncli.errors import InputError
from lesioncli.files import PRETRAINED
from lesioncli.models.mbdcnn import MBDCNN
from lesioncli.spec import ModelSpec
from lesioncli.training.checkpoint import load_checkpoint


class Teachers(nn.Module):
    """Frozen networks, each shown the pictures at the size that it was trained at."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        loaded = [load_checkpoint(path) for path in paths]
        self.networks = nn.ModuleList(network for network, _ in loaded)
        self.specs = [spec for _, spec in loaded]
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """RGB in [0, 1] (N, 3, H, W) -> lesion probability (N, 1, H, W), probability (N, 2) of melanoma and keratosis.

        Means over the teachers: of logits for the mask, of probabilities for the classes.
        """
        answers = [_ask(network, spec, images) for network, spec in zip(self.networks, self.specs, strict=True)]
        logits, classes = (torch.stack(each).mean(0) for each in zip(*answers, strict=True))
        return logits.sigmoid(), classes

    def mix_into(self, share: float, images: Tensor, masks: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Masks (N, 1, H, W) and labels (N, 2) with `share` of the teachers' answer; unknown labels stay unknown."""
        probability, classes = self(images)
        return torch.lerp(masks, probability.to(masks.dtype), share), torch.lerp(
            labels, classes.to(labels.dtype), share
        )


def teacher_path(name: str) -> Path:
    """A recipe's teacher: a shipped model's name, or a path to a checkpoint; InputError where it is neither."""
    for path in (PRETRAINED / f"{name}.safetensors", Path(name)):
        if path.is_file():
            return path
    raise InputError(f"[train] teachers: {name!r} is neither a model that ships nor a checkpoint's path")


def _ask(network: nn.Module, spec: ModelSpec, images: Tensor) -> tuple[Tensor, Tensor]:
    """One teacher's lesion logits (N, 1, H, W), and probability (N, 2) of melanoma and seborrheic keratosis."""
    size = (spec.height, spec.width)
    reduced = functional.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
    answer = network(reduced.contiguous(memory_format=torch.channels_last))
    logits, class_logits = (answer.mask_logits, answer.class_logits) if isinstance(network, MBDCNN) else answer
    grown = functional.interpolate(logits.float(), size=images.shape[2:], mode="bilinear", align_corners=False)
    return grown, cast(Any, network).class_probabilities(class_logits.float())[:, :2]
