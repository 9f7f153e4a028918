"""One class's scores against its labels: weighted counts at every threshold, and each metric a pure function of them.

Names and rules are those of the ISIC challenges' scorer. In every function labels (N,) are bool, scores (N,) from 0 to
1 and weights (N,) or (R, N) say how much each image counts, in R resamples; a metric is nan where its question has no
answer. With weights (R, N) what is (T,) here is (R, T), and what is a number is (R,).
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.metrics.pixels import Counts, accuracy, dice, npv, ppv, sensitivity, specificity

Labels = NDArray[np.bool_]
Floats = NDArray[np.float64]

SCORE_THRESHOLD = 0.5  # a score of exactly .5 is negative
CALIBRATION_BINS = 15  # Guo et al. 2017 (arXiv 1706.04599), section 4
SLACK = 1e-12  # one of ten weights of 0.1 is a little more than a tenth of their sum in floating point
TINY = np.finfo(np.float64).tiny  # in place of a divisor of 0 where the dividend is 0 too

COUNT_METRICS = {
    "accuracy": accuracy,
    "sensitivity": sensitivity,
    "specificity": specificity,
    "dice": dice,
    "ppv": ppv,
    "npv": npv,
}


def count_scores(labels: Labels, scores: Floats, weights: Floats, above: float = SCORE_THRESHOLD) -> Counts:
    """Weights (N,) of the images that are called positive, or not, against their labels."""
    return Counts(*(float(weights[kind].sum()) for kind in _kinds(labels, scores, above)))


def _kinds(labels: Labels, scores: Floats, above: float) -> tuple[Labels, ...]:
    called = scores > above
    return labels & called, ~labels & called, labels & ~called, ~labels & ~called


class RocCurve(NamedTuple):
    """Rates (T,) when everything from each distinct score down to it is called positive, beginning with nothing."""

    false_positive_rate: Floats
    sensitivity: Floats
    precision: Floats  # of what is called positive; that of the first point, where nothing is, has no meaning


def roc_curve(labels: Labels, scores: Floats, weights: Floats) -> RocCurve | None:
    """The ROC curve; None where only one label has weight, or a score is nan."""
    order = np.argsort(-scores, kind="stable")
    order = order[(np.atleast_2d(weights)[:, order] > 0).any(axis=0)]
    ranked = scores[order]
    if np.isnan(ranked).any() or not ranked.size:
        return None
    last_of_ties = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), ranked.size - 1)
    weights = weights[..., order]
    positives = _running_sum(weights * labels[order], last_of_ties)
    negatives = _running_sum(weights * ~labels[order], last_of_ties)
    all_positives, all_negatives = positives[..., -1:], negatives[..., -1:]
    answered = (all_positives > 0) & (all_negatives > 0)
    if not answered.any():
        return None
    return RocCurve(
        negatives / np.where(answered, all_negatives, math.nan),
        positives / np.where(answered, all_positives, math.nan),
        positives / np.maximum(positives + negatives, TINY),
    )


def _running_sum(values: Floats, at: NDArray[np.intp]) -> Floats:
    sums = np.cumsum(values, axis=-1)[..., at]
    return np.concatenate([np.zeros_like(sums[..., :1]), sums], axis=-1)


def area_under_curve(curve: RocCurve) -> Floats:
    """Area under the ROC curve; ties count half."""
    x, y = curve.false_positive_rate, curve.sensitivity
    return np.asarray((np.diff(x) * (y[..., 1:] + y[..., :-1])).sum(axis=-1) / 2)


def average_precision(curve: RocCurve) -> Floats:
    """Precision at each threshold, weighted by the sensitivity gained there (no interpolation)."""
    return np.asarray((np.diff(curve.sensitivity) * curve.precision[..., 1:]).sum(axis=-1))


def auc_above_sensitivity(least: float, curve: RocCurve) -> Floats:
    """Area under that part of the ROC curve, down to the axis, where the sensitivity is at least `least`."""
    x, y = curve.false_positive_rate, curve.sensitivity
    share_below = np.clip((least - y[..., :-1]) / np.maximum(np.diff(y), TINY), 0, 1)
    widths = np.diff(x) * (1 - share_below)
    heights = y[..., 1:] + np.maximum(y[..., :-1], least)
    return np.asarray(np.where(y[..., 1:] < least, 0, widths * heights).sum(axis=-1) / 2)


def sensitivity_at_specificity(least: float, curve: RocCurve) -> Floats:
    """The best sensitivity of a threshold whose specificity is at least `least`; no point between two is made up."""
    too_low = 1 - curve.false_positive_rate < least - SLACK
    return np.asarray(np.where(too_low, 0, curve.sensitivity).max(axis=-1))


def specificity_at_sensitivity(least: float, curve: RocCurve) -> Floats:
    """The best specificity of a threshold whose sensitivity is at least `least`: ISIC-2017 gave it at .82, .89, .95."""
    too_low = curve.sensitivity < least - SLACK
    return np.asarray(1 - np.where(too_low, 1, curve.false_positive_rate).min(axis=-1))


CURVE_METRICS: Mapping[str, Callable[[RocCurve], Floats]] = {
    "auc": area_under_curve,
    "auc_sens_80": partial(auc_above_sensitivity, 0.80),
    "ap": average_precision,
    **{f"sens_at_spec_{percent}": partial(sensitivity_at_specificity, percent / 100) for percent in (80, 90, 95)},
    **{f"spec_at_sens_{percent}": partial(specificity_at_sensitivity, percent / 100) for percent in (82, 89, 95)},
}


def brier(labels: Labels, scores: Floats, weights: Floats) -> Floats:
    """Mean squared distance of score and label (Brier 1950)."""
    total = weights.sum(axis=-1)
    return np.asarray(weights @ np.square(scores - labels) / np.where(total > 0, total, math.nan))


class Bins(NamedTuple):
    """Weight, mean score and share of positives (B,) of the images whose score is in each bin; 0 where none is."""

    weights: Floats
    scores: Floats
    positives: Floats


def calibration_bins(labels: Labels, scores: Floats, weights: Floats) -> Bins:
    """Images by score, in CALIBRATION_BINS bins of equal width."""
    number = np.minimum((scores * CALIBRATION_BINS).astype(np.intp), CALIBRATION_BINS - 1)
    in_bin = (number[:, None] == np.arange(CALIBRATION_BINS)).astype(np.float64)
    totals, scored, positive = (weights @ (in_bin * each[:, None]) for each in (np.ones_like(scores), scores, labels))
    filled = np.maximum(totals, TINY)
    return Bins(totals, scored / filled, positive / filled)


def calibration_error(labels: Labels, scores: Floats, weights: Floats) -> Floats:
    """Expected calibration error: how far mean score and share of positives are apart, over bins of equal width."""
    bins = calibration_bins(labels, scores, weights)
    total = bins.weights.sum(axis=-1)
    gaps = (bins.weights * np.abs(bins.scores - bins.positives)).sum(axis=-1)
    return np.asarray(gaps / np.where(total > 0, total, math.nan))


def class_metrics(labels: Labels, scores: Floats, weights: Floats, above: float = SCORE_THRESHOLD) -> dict[str, float]:
    """Every metric of one class by its name; weights are (N,)."""
    return {name: float(value[0]) for name, value in resampled_metrics(labels, scores, weights[None], above).items()}


def resampled_metrics(
    labels: Labels, scores: Floats, weights: Floats, above: float = SCORE_THRESHOLD
) -> dict[str, Floats]:
    """Every metric (R,) of one class by its name; weights are (R, N). Called positive is a score above `above`."""
    kinds = np.stack(_kinds(labels, scores, above), axis=-1).astype(np.float64)
    counts = [Counts(*row) for row in (weights @ kinds).tolist()]
    curve = roc_curve(labels, scores, weights)
    unanswered = np.full(len(weights), math.nan)
    return {
        **{name: np.array([metric(each) for each in counts]) for name, metric in COUNT_METRICS.items()},
        **{name: metric(curve) if curve else unanswered for name, metric in CURVE_METRICS.items()},
        "brier": brier(labels, scores, weights),
        "calibration_error": calibration_error(labels, scores, weights),
    }


def balanced_accuracy(labels: Labels, scores: Floats, weights: Floats) -> Floats:
    """Mean over the classes of the share found, by the highest score, in labels and scores (N, K); ISIC-2018 Task 3.

    A row whose highest value is there twice has no class: not found where it is a score, left out where it is a label
    (so are images that belong to none of the classes). A class without images does not count.
    """
    truth, called = _only_highest(labels.astype(np.float64)), _only_highest(scores)
    in_class = (truth[:, None] == np.arange(labels.shape[1])).astype(np.float64)
    totals, found = weights @ in_class, weights @ (in_class * (called == truth)[:, None])
    classes = (totals > 0).sum(axis=-1)
    return np.asarray((found / np.maximum(totals, TINY)).sum(axis=-1) / np.where(classes > 0, classes, math.nan))


def confusion_matrix(labels: Labels, scores: Floats) -> NDArray[np.int64]:
    """How many images (K, K + 1) of each class have their highest score in each, the last column where it is a tie.

    Of labels and scores (N, K), every image in one class.
    """
    classes = labels.shape[1]
    called = _only_highest(scores)
    cells = labels.argmax(axis=1) * (classes + 1) + np.where(called < 0, classes, called)
    return np.bincount(cells, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def _only_highest(values: Floats) -> NDArray[np.intp]:
    """Column (N,) of the highest of values (N, K); -1 where it is not the only one."""
    if not values.size:
        return np.zeros(len(values), np.intp)
    alone = (values == values.max(axis=1, keepdims=True)).sum(axis=1) == 1
    return np.where(alone, values.argmax(axis=1), -1)
