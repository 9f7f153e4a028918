"""Count once, then every metric is a pure function of the counts.

Definitions are those of the ISIC challenges: one value per image, then the plain mean over images. Where a ratio is
0/0 the rule stands beside it. AUC is the area under the ROC curve with ties counted half (Mann-Whitney).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 128  # a mask pixel above this is lesion, as in the official scorer: 128 is background, 129 is lesion


class Counts(NamedTuple):
    """Pixels of one prediction against one truth."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int


def count(truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> Counts:
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


def dice(counts: Counts) -> float:
    """Twice the intersection over the sum of the areas; two empty masks agree fully."""
    areas = 2 * counts.true_positive + counts.false_positive + counts.false_negative
    return 2 * counts.true_positive / areas if areas else 1.0


def accuracy(counts: Counts) -> float:
    """Share of pixels that are right."""
    return (counts.true_positive + counts.true_negative) / sum(counts)


def sensitivity(counts: Counts) -> float:
    """Share of the lesion that was found; 1 where there is no lesion to find."""
    lesion = counts.true_positive + counts.false_negative
    return counts.true_positive / lesion if lesion else 1.0


def specificity(counts: Counts) -> float:
    """Share of the background left alone; 1 where there is no background."""
    background = counts.true_negative + counts.false_positive
    return counts.true_negative / background if background else 1.0


PIXEL_METRICS = {
    "jaccard": jaccard,
    "dice": dice,
    "accuracy": accuracy,
    "sensitivity": sensitivity,
    "specificity": specificity,
}


def auc(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Area under the ROC curve of scores (N,) for labels (N,); nan where only one label occurs."""
    positives = int(np.count_nonzero(labels))
    negatives = labels.size - positives
    if not positives or not negatives:
        return float("nan")
    _, inverse, group = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(group) - (group - 1) / 2
    rank_sum = float(mean_rank[inverse][labels].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)
