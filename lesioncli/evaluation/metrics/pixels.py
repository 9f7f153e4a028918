"""Pixel metrics of a mask: count once, then each metric is a pure function of the four counts.

Definitions are those of the ISIC challenges: one value per image, averaged over images. Where a ratio is 0/0, its value
stands beside the `if`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MASK_THRESHOLD = 128  # a pixel above this is lesion, as in the official scorer: 128 is background, 129 is lesion

AREA_LOG_RATIO = "area_log_ratio"

# ISIC-2018 Task 1: a Jaccard index below this, the smallest agreement of three experts, scores 0.
MINIMUM_JACCARD = 0.65


class Counts(NamedTuple):
    """Confusion counts: pixels of a mask, or weighted images of a class."""

    true_positive: float
    false_positive: float
    false_negative: float
    true_negative: float


def count_pixels(truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> Counts:
    """Count the pixels of two masks (H, W); ValueError if their shapes differ."""
    if truth.shape != prediction.shape:
        raise ValueError(f"ground truth is {truth.shape}, prediction is {prediction.shape}")
    both = int(np.count_nonzero(truth & prediction))
    in_truth, predicted = int(np.count_nonzero(truth)), int(np.count_nonzero(prediction))
    return Counts(both, predicted - both, in_truth - both, truth.size - in_truth - predicted + both)


def jaccard(counts: Counts) -> float:
    """Return intersection over union; 1 if both masks are empty."""
    union = counts.true_positive + counts.false_positive + counts.false_negative
    return counts.true_positive / union if union else 1.0


def threshold_jaccard(counts: Counts) -> float:
    """Return the Jaccard index if it is at least MINIMUM_JACCARD, else 0."""
    value = jaccard(counts)
    return value if value >= MINIMUM_JACCARD else 0.0


def dice(counts: Counts) -> float:
    """Return twice the intersection over the sum of both areas; 1 if both masks are empty."""
    areas = 2 * counts.true_positive + counts.false_positive + counts.false_negative
    return 2 * counts.true_positive / areas if areas else 1.0


def accuracy(counts: Counts) -> float:
    """Return the fraction that is classified correctly; nan if there is nothing to classify."""
    total = sum(counts)
    return (counts.true_positive + counts.true_negative) / total if total else math.nan


def sensitivity(counts: Counts) -> float:
    """Return the fraction of positives that is predicted positive; 1 if there are no positives."""
    positives = counts.true_positive + counts.false_negative
    return counts.true_positive / positives if positives else 1.0


def specificity(counts: Counts) -> float:
    """Return the fraction of negatives that is predicted negative; 1 if there are no negatives."""
    negatives = counts.true_negative + counts.false_positive
    return counts.true_negative / negatives if negatives else 1.0


def ppv(counts: Counts) -> float:
    """Return the positive predictive value, the fraction of predicted positives that is right; 1 if there are none."""
    predicted = counts.true_positive + counts.false_positive
    return counts.true_positive / predicted if predicted else 1.0


def npv(counts: Counts) -> float:
    """Return the negative predictive value, the fraction of predicted negatives that is right; 1 if there are none."""
    predicted = counts.true_negative + counts.false_negative
    return counts.true_negative / predicted if predicted else 1.0


def area_log_ratio(counts: Counts) -> float:
    """Return the natural logarithm of predicted over ground-truth area; nan if one of the masks is empty."""
    predicted, area = counts.true_positive + counts.false_positive, counts.true_positive + counts.false_negative
    return math.log(predicted / area) if predicted and area else math.nan


CountMetric = Callable[[Counts], float]

# Metrics of a mask by name, in the order of evaluation.csv. To add one, write its function and add a line here.
PIXEL_METRICS: dict[str, CountMetric] = {
    "jaccard": jaccard,
    "dice": dice,
    "accuracy": accuracy,
    "sensitivity": sensitivity,
    "specificity": specificity,
    "threshold_jaccard": threshold_jaccard,
    AREA_LOG_RATIO: area_log_ratio,
}
