"""Losses, computed in float32 whatever the network ran in."""

import torch
from torch import Tensor
from torch.nn import functional

from lesioncli.training.recipe import LossWeights


def soft_jaccard_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """1 - soft Jaccard, per image, then the mean; both (N, 1, H, W) in [0, 1]. Two empty masks give 0."""
    intersection = (probability * mask).sum((1, 2, 3))
    union = probability.sum((1, 2, 3)) + mask.sum((1, 2, 3)) - intersection
    return (1 - (intersection + 1) / (union + 1)).mean()


def joint_loss(mask_logits: Tensor, class_logits: Tensor, mask: Tensor, labels: Tensor, weights: LossWeights) -> Tensor:
    """Paper B's sum of a mask's and two answers' losses; its weights are not public, these are the recipe's.

    mask_logits, mask: (N, 1, H, W); class_logits, labels: (N, 2), nan where a label is unknown.
    """
    mask_logits, class_logits = mask_logits.float(), class_logits.float()
    outline = soft_jaccard_loss(mask_logits.sigmoid(), mask)
    pixels = functional.binary_cross_entropy_with_logits(mask_logits, _smooth(mask, weights.mask_smoothing))
    return (
        weights.jaccard * outline
        + weights.cross_entropy * pixels
        + weights.classes * _class_loss(class_logits, labels, weights.class_smoothing)
    )


def _class_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    known = ~torch.isnan(labels)
    target = _smooth(labels.nan_to_num(0.0), smoothing)
    loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1) * labels.shape[1]


def _smooth(target: Tensor, amount: float) -> Tensor:
    return target * (1 - 2 * amount) + amount
