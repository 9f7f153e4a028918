"""Count once, then every metric is a pure function of the counts.

Definitions are those of the ISIC challenges: one value per image, then the plain mean over images. Where a ratio is
0/0 the rule stands beside it. AUC is the area under the ROC curve with ties counted half (Mann-Whitney).
Intervals are percentile bootstraps over images.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 128  # a mask pixel above this is lesion, as in the official scorer: 128 is background, 129 is lesion

RESAMPLES = 2000
MAX_DRAWS = 200_000_000  # in all resamples together: about 5 s a class
DRAWS_AT_ONCE = 1_000_000  # 8 MB an array, about six of them live at a time


THRESHOLD_JACCARD = 0.65  # ISIC-2018 Task 1: below the least agreement among three experts a mask counts nothing


class Counts(NamedTuple):
    """Pixels of one prediction against one truth, or weighted images of one class's scores against its labels."""

    true_positive: float
    false_positive: float
    false_negative: float
    true_negative: float


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


def threshold_jaccard(counts: Counts) -> float:
    """The Jaccard index from .65 on, else 0."""
    value = jaccard(counts)
    return value if value >= THRESHOLD_JACCARD else 0.0


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


def auc(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Area under the ROC curve of scores (N,) for labels (N,).

    nan where only one label occurs, and where a score is nan: sorting would quietly rank it above all others.
    """
    if not labels.size or np.isnan(scores).any():
        return float("nan")
    return float(_weighted_auc(_rank(labels, scores), np.ones((1, labels.size)))[0])


class _Ranking(NamedTuple):
    """Labels and scores (N,), sorted by score once for all the resamples that follow."""

    order: NDArray[np.intp]  # (N,) where each sorted row came from
    positives: NDArray[np.float64]  # (N,) sorted labels, 0 or 1
    tie_starts: NDArray[np.intp]  # (G,) where each run of equal scores begins


def _rank(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> _Ranking:
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]
    tie_starts = np.flatnonzero(np.concatenate([[True], ascending[1:] != ascending[:-1]]))
    return _Ranking(order, labels[order].astype(np.float64), tie_starts)


def _weighted_auc(ranking: _Ranking, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """AUC (R,) when rows count as often as each line of weights (R, N) says; nan where one label has no weight."""
    weights = weights[:, ranking.order]
    positives = np.add.reduceat(weights * ranking.positives, ranking.tie_starts, axis=1)
    negatives = np.add.reduceat(weights, ranking.tie_starts, axis=1) - positives
    below = np.cumsum(negatives, axis=1) - negatives / 2  # a tie counts half
    won = (positives * below).sum(axis=1)
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return np.where(pairs > 0, won / np.maximum(pairs, 1), np.nan)


def bootstrap_means(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Means (R, M) of R resamples of the N images in values (N, M); N > 0. A nan is left out of its column's mean."""
    known = ~np.isnan(values)
    filled, counted = np.where(known, values, 0), known.astype(np.float64)
    blocks = [_ratio(weights @ filled, weights @ counted) for weights in _resamples(len(values), seed)]
    return np.concatenate(blocks)


def means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean (M,) of each column of values (N, M); a nan is left out, and a column of nothing else has no mean."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=0), known.sum(axis=0))


def _ratio(sums: NDArray[np.float64], counts: NDArray[Any]) -> NDArray[np.float64]:
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def bootstrap_aucs(labels: NDArray[np.bool_], scores: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """AUCs (R, K) of R resamples of the N images in labels and scores (N, K); N > 0, no score is nan.

    All K columns see the same resamples, so their mean per resample is right. nan where a resample has one label only.
    """
    rankings = [_rank(*columns) for columns in zip(labels.T, scores.T, strict=True)]
    blocks = _resamples(len(labels), seed)
    return np.concatenate([np.stack([_weighted_auc(each, weights) for each in rankings], 1) for weights in blocks])


def percentile_interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of resampled values (R,); a nan is left out."""
    low, high = np.percentile(resampled[~np.isnan(resampled)], (2.5, 97.5))
    return float(low), float(high)


def _resamples(images: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Blocks (R, images): how often each image is drawn in each of R resamples; RESAMPLES rows in all.

    Above 100,000 images there are fewer, down to 200: the interval is then so narrow that its ends need no more.
    """
    rng = np.random.default_rng(seed)
    wanted = min(RESAMPLES, max(200, MAX_DRAWS // images))
    rows_at_once = max(1, DRAWS_AT_ONCE // images)
    for done in range(0, wanted, rows_at_once):
        rows = min(rows_at_once, wanted - done)
        drawn = rng.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
