"""Losses, computed in float32 whatever precision the network ran in."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from lesioncli.training.recipe import LossWeights

HARDEST = 30  # lesion and background pixels that the rank loss compares (K in MB-DCNN), at any resolution
MARGIN = 0.3
UNKNOWN_DIAGNOSIS = -1


def soft_jaccard_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """Mean over images of 1 - soft Jaccard; both (N, 1, H, W) in [0, 1]. Two empty masks give 0."""
    intersection = (probability * mask).sum((1, 2, 3))
    union = probability.sum((1, 2, 3)) + mask.sum((1, 2, 3)) - intersection
    return (1 - (intersection + 1) / (union + 1)).mean()


def dice_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """Dice loss of MB-DCNN: mean over images, and over lesion and background; both (N, 1, H, W) in [0, 1].

    As in the authors' code, only the denominator has an epsilon, so the lesion term of an empty mask is 1, not 0.
    """

    def channel_loss(p: Tensor, y: Tensor) -> Tensor:
        return 1 - 2 * (p * y).sum((1, 2, 3)) / (p.sum((1, 2, 3)) + y.sum((1, 2, 3)) + 1e-5)

    return (channel_loss(probability, mask).mean() + channel_loss(1 - probability, 1 - mask).mean()) / 2


def rank_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """Rank loss of MB-DCNN: the hardest lesion pixels should score MARGIN above the hardest background pixels.

    Mean over images and all HARDEST x HARDEST pairs; both (N, 1, H, W), with a threshold of 0.5 for the mask. If there
    are fewer lesion pixels, the missing ones count as certain: they cost only next to background above 0.7.
    """
    lesion = (mask >= 0.5).to(probability.dtype)
    count = min(HARDEST, lesion[0].numel())
    background = (probability * (1 - lesion)).flatten(1).topk(count).values
    inside = 1 - ((1 - probability) * lesion).flatten(1).topk(count).values
    return (background[:, :, None] - inside[:, None, :] + MARGIN).clamp(min=0).mean()


def total_loss(
    mask_logits: Tensor | None, class_logits: Tensor | None, mask: Tensor, labels: Tensor, weights: LossWeights
) -> Tensor:
    """Sum of the losses of a stage's outputs, of which one may be None. Masks and labels are nan where unknown.

    For a joint network it is the sum in Yang et al. of the losses of the mask and two classifiers.
    """
    parts = []
    if mask_logits is not None:
        parts.append(mask_loss(mask_logits, mask, weights))
    if class_logits is not None:
        parts.append(class_loss(class_logits, labels, weights))
    return torch.stack(parts).sum()


def mask_loss(logits: Tensor, mask: Tensor, weights: LossWeights) -> Tensor:
    """Weighted sum of the mask's loss terms; logits and mask (N, 1, H, W). Images whose mask is nan do not count."""
    known = ~mask.isnan().any(dim=(1, 2, 3))
    if not known.any():
        return logits.float().sum() * 0
    logits, mask = logits.float()[known], mask[known]
    probability = logits.sigmoid()
    terms: dict[str, Callable[[], Tensor]] = {
        "jaccard": lambda: soft_jaccard_loss(probability, mask),
        "dice": lambda: dice_loss(probability, mask),
        "rank": lambda: rank_loss(probability, mask),
        "cross_entropy": lambda: functional.binary_cross_entropy_with_logits(
            logits, _smooth(mask, weights.mask_smoothing)
        ),
    }
    used: dict[str, float] = {name: getattr(weights, name) for name in terms if getattr(weights, name)}
    return sum((weight * terms[name]() for name, weight in used.items()), logits.sum() * 0)


def class_loss(logits: Tensor, labels: Tensor, weights: LossWeights) -> Tensor:
    """Cross-entropy of class logits (N, K) for labels (N, 2): melanoma, seborrheic keratosis; nan where unknown.

    Labels may be probabilities. Two logits are independent binary classifiers (Yang et al.). Three logits are exclusive
    classes, melanoma, seborrheic keratosis and nevus (MB-DCNN); such a target is known only if both labels are.
    """
    logits = logits.float()
    if logits.shape[1] == labels.shape[1]:
        return weights.classes * _binary_loss(logits, labels, weights.class_smoothing)
    known = ~labels.isnan().any(1)
    two = labels.nan_to_num(0.0)
    target = torch.cat([two, (1 - two.sum(1, keepdim=True)).clamp(min=0)], 1)
    target = target / target.sum(1, keepdim=True)
    losses = functional.cross_entropy(logits, target, reduction="none", label_smoothing=weights.class_smoothing)
    return weights.classes * (losses * known).sum() / known.sum().clamp(min=1)


def auxiliary_loss(logits: Tensor, diagnoses: Tensor, weights: LossWeights) -> Tensor:
    """Cross-entropy of logits (N, D) of the auxiliary head; diagnoses (N,), UNKNOWN_DIAGNOSIS does not count."""
    known = (diagnoses != UNKNOWN_DIAGNOSIS).sum().clamp(min=1)
    total = functional.cross_entropy(logits.float(), diagnoses, ignore_index=UNKNOWN_DIAGNOSIS, reduction="sum")
    return weights.auxiliary * total / known


def _binary_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    known = ~torch.isnan(labels)
    target = _smooth(labels.nan_to_num(0.0), smoothing)
    loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1) * labels.shape[1]


def _smooth(target: Tensor, amount: float) -> Tensor:
    return target * (1 - 2 * amount) + amount
