"""Count once, then every metric is a pure function of the counts.

Definitions are those of the ISIC challenges: one value per image, then the plain mean over images. Where a ratio is
0/0 the rule stands beside it.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MASK_THRESHOLD = 128  # a mask pixel above this is lesion, as in the official scorer: 128 is background, 129 is lesion

MINIMUM_JACCARD = 0.65  # ISIC-2018 Task 1: below the least agreement among three experts a mask counts nothing


class Counts(NamedTuple):
    """Pixels of one prediction against one truth, or weighted images of one class's scores against its labels."""

    true_positive: float
    false_positive: float
    false_negative: float
    true_negative: float


def count_pixels(truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> Counts:
    """Counts of two masks of one shape (H, W); ValueError where the shapes differ."""
    if truth.shape != prediction.shape:
        raise ValueError(f"truth is {truth.shape}, prediction {prediction.shape}")
    both = int(np.count_nonzero(truth & prediction))
    in_truth, predicted = int(np.count_nonzero(truth)), int(np.count_nonzero(prediction))
    return Counts(both, predicted - both, in_truth - both, truth.size - in_truth - predicted + both)


def jaccard(counts: Counts) -> float:
    """Intersection over union; two empty masks agree fully."""
    union = counts.true_positive + counts.false_positive + counts.false_negative
    return counts.true_positive / union if union else 1.0


def threshold_jaccard(counts: Counts) -> float:
    """The Jaccard index from .65 on, else 0."""
    value = jaccard(counts)
    return value if value >= MINIMUM_JACCARD else 0.0


def dice(counts: Counts) -> float:
    """Twice the intersection over the sum of the areas; two empty masks agree fully."""
    areas = 2 * counts.true_positive + counts.false_positive + counts.false_negative
    return 2 * counts.true_positive / areas if areas else 1.0


def accuracy(counts: Counts) -> float:
    """Share of pixels that are right; nan where there are none."""
    total = sum(counts)
    return (counts.true_positive + counts.true_negative) / total if total else math.nan


def sensitivity(counts: Counts) -> float:
    """Share of the lesion that was found; 1 where there is no lesion to find."""
    lesion = counts.true_positive + counts.false_negative
    return counts.true_positive / lesion if lesion else 1.0


def specificity(counts: Counts) -> float:
    """Share of the background left alone; 1 where there is no background."""
    background = counts.true_negative + counts.false_positive
    return counts.true_negative / background if background else 1.0


def ppv(counts: Counts) -> float:
    """Share of what was called positive that is; 1 where nothing was called so."""
    called = counts.true_positive + counts.false_positive
    return counts.true_positive / called if called else 1.0


def npv(counts: Counts) -> float:
    """Share of what was called negative that is; 1 where nothing was called so."""
    called = counts.true_negative + counts.false_negative
    return counts.true_negative / called if called else 1.0


PIXEL_METRICS = {
    "jaccard": jaccard,
    "dice": dice,
    "accuracy": accuracy,
    "sensitivity": sensitivity,
    "specificity": specificity,
    "threshold_jaccard": threshold_jaccard,
}
