"""One class's scores against its labels: weighted counts at every threshold, and each metric a pure function of them.

Names and rules are those of the ISIC challenges' scorer. In every function labels (N,) are bool, scores (N,) from 0 to
1 and weights (N,) say how much each image counts; a metric is nan where its question has no answer.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.metrics import Counts, accuracy, dice, npv, ppv, sensitivity, specificity

Labels = NDArray[np.bool_]
Floats = NDArray[np.float64]

POSITIVE_ABOVE = 0.5  # a score of exactly .5 is negative
CALIBRATION_BINS = 15  # Guo et al. 2017 (arXiv 1706.04599), section 4
SLACK = 1e-12  # one of ten weights of 0.1 is a little more than a tenth of their sum in floating point

COUNT_METRICS = {
    "accuracy": accuracy,
    "sensitivity": sensitivity,
    "specificity": specificity,
    "dice": dice,
    "ppv": ppv,
    "npv": npv,
}


def count_scores(labels: Labels, scores: Floats, weights: Floats) -> Counts:
    """Weights of the images that are called positive, or not, against their labels."""
    called = scores > POSITIVE_ABOVE
    kinds = (labels & called, ~labels & called, labels & ~called, ~labels & ~called)
    return Counts(*(float(weights[kind].sum()) for kind in kinds))


class Roc(NamedTuple):
    """Rates (T,) when everything from each distinct score down to it is called positive, beginning with nothing."""

    false_positive_rate: Floats
    sensitivity: Floats
    precision: Floats  # of what is called positive; that of the first point, where nothing is, has no meaning


def roc(labels: Labels, scores: Floats, weights: Floats) -> Roc | None:
    """The ROC curve; None where only one label has weight, or a score is nan."""
    order = np.argsort(-scores, kind="stable")
    order = order[weights[order] > 0]
    ranked = scores[order]
    if np.isnan(ranked).any() or not ranked.size:
        return None
    last_of_ties = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), ranked.size - 1)
    positives = _running_sum(weights[order] * labels[order], last_of_ties)
    negatives = _running_sum(weights[order] * ~labels[order], last_of_ties)
    if not (positives[-1] and negatives[-1]):
        return None
    called = positives + negatives
    return Roc(negatives / negatives[-1], positives / positives[-1], positives / np.maximum(called, called[1]))


def _running_sum(values: Floats, at: NDArray[np.intp]) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values)[at]])


def auc(curve: Roc) -> float:
    """Area under the ROC curve; ties count half."""
    return _area(curve.false_positive_rate, curve.sensitivity)


def average_precision(curve: Roc) -> float:
    """Precision at each threshold, weighted by the sensitivity gained there (no interpolation)."""
    return float((np.diff(curve.sensitivity) * curve.precision[1:]).sum())


def auc_above_sensitivity(least: float, curve: Roc) -> float:
    """Area under that part of the ROC curve, down to the axis, where the sensitivity is at least `least`."""
    first = int(curve.sensitivity.searchsorted(least))
    around = slice(first - 1, first + 1)
    start = np.interp(least, curve.sensitivity[around], curve.false_positive_rate[around])
    rates = np.append(start, curve.false_positive_rate[first:])
    return _area(rates, np.append(least, curve.sensitivity[first:]))


def _area(x: Floats, y: Floats) -> float:
    return float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2)


def sensitivity_at_specificity(least: float, curve: Roc) -> float:
    """The best sensitivity of a threshold whose specificity is at least `least`; no point between two is made up."""
    return float(curve.sensitivity[1 - curve.false_positive_rate >= least - SLACK].max())


def specificity_at_sensitivity(least: float, curve: Roc) -> float:
    """The best specificity of a threshold whose sensitivity is at least `least`: ISIC-2017 gave it at .82, .89, .95."""
    return float(1 - curve.false_positive_rate[curve.sensitivity >= least - SLACK].min())


CURVE_METRICS: Mapping[str, Callable[[Roc], float]] = {
    "auc": auc,
    "auc_sens_80": partial(auc_above_sensitivity, 0.80),
    "ap": average_precision,
    **{f"sens_at_spec_{percent}": partial(sensitivity_at_specificity, percent / 100) for percent in (80, 90, 95)},
    **{f"spec_at_sens_{percent}": partial(specificity_at_sensitivity, percent / 100) for percent in (82, 89, 95)},
}


def brier(labels: Labels, scores: Floats, weights: Floats) -> float:
    """Mean squared distance of score and label (Brier 1950)."""
    return _mean(np.square(scores - labels), weights)


class Bins(NamedTuple):
    """Weight, mean score and share of positives (B,) of the images whose score is in each bin; 0 where none is."""

    weights: Floats
    scores: Floats
    positives: Floats


def calibration_bins(labels: Labels, scores: Floats, weights: Floats) -> Bins:
    """Images by score, in CALIBRATION_BINS bins of equal width."""
    bins = np.minimum((scores * CALIBRATION_BINS).astype(np.intp), CALIBRATION_BINS - 1)
    totals, scored, positive = (
        np.bincount(bins, weights * values, CALIBRATION_BINS).astype(np.float64)
        for values in (np.ones_like(scores), scores, labels)
    )
    filled = np.maximum(totals, np.finfo(float).tiny)
    return Bins(totals, scored / filled, positive / filled)


def calibration_error(labels: Labels, scores: Floats, weights: Floats) -> float:
    """Expected calibration error: how far mean score and share of positives are apart, over bins of equal width."""
    bins = calibration_bins(labels, scores, weights)
    total = bins.weights.sum()
    return float((bins.weights * np.abs(bins.scores - bins.positives)).sum() / total) if total else math.nan


def _mean(values: Floats, weights: Floats) -> float:
    total = weights.sum()
    return float((values * weights).sum() / total) if total else math.nan


def class_metrics(labels: Labels, scores: Floats, weights: Floats) -> dict[str, float]:
    """Every metric of one class by its name."""
    counts = count_scores(labels, scores, weights)
    curve = roc(labels, scores, weights)
    return {
        **{name: metric(counts) for name, metric in COUNT_METRICS.items()},
        **{name: metric(curve) if curve else math.nan for name, metric in CURVE_METRICS.items()},
        "brier": brier(labels, scores, weights),
        "calibration_error": calibration_error(labels, scores, weights),
    }


def balanced_accuracy(labels: Labels, scores: Floats, weights: Floats) -> float:
    """Mean over the classes of the share found, by the highest score, in labels and scores (N, K); ISIC-2018 Task 3.

    A row whose highest value is there twice has no class: not found where it is a score, left out where it is a label
    (so are images that belong to none of the classes). A class without images does not count.
    """
    truth, called = _only_highest(labels.astype(np.float64)), _only_highest(scores)
    in_class = [truth == column for column in range(labels.shape[1])]
    totals = np.array([weights[rows].sum() for rows in in_class])
    found = np.array([weights[rows & (called == truth)].sum() for rows in in_class])
    return float((found[totals > 0] / totals[totals > 0]).mean()) if (totals > 0).any() else math.nan


def _only_highest(values: Floats) -> NDArray[np.intp]:
    """Column (N,) of the highest of values (N, K); -1 where it is not the only one."""
    if not values.size:
        return np.zeros(len(values), np.intp)
    alone = (values == values.max(axis=1, keepdims=True)).sum(axis=1) == 1
    return np.where(alone, values.argmax(axis=1), -1)
