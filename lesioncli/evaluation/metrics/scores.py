"""Metrics of class scores, one class at a time.

Names and rules are those of the ISIC challenges' scorer. Shapes: labels (N,) are bool, scores (N,) from 0 to 1, and
weights (R, N) say how much each of N images counts in each of R bootstrap samples. T is the number of points of a ROC
curve. Weights may also be (N,): then there is no axis R in the result either. An undefined metric is nan.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from lesioncli.calibration import SCORE_FLOOR
from lesioncli.evaluation.metrics.pixels import (
    CountMetric,
    Counts,
    accuracy,
    dice,
    npv,
    ppv,
    sensitivity,
    specificity,
)

Labels = NDArray[np.bool_]
Floats = NDArray[np.float64]

SCORE_THRESHOLD = 0.5  # a score above this is positive; exactly 0.5 is negative
CALIBRATION_BINS = 15  # Guo et al. 2017 (arXiv 1706.04599), section 4
TOLERANCE = 1e-12  # ten weights of 0.1 sum to a little less than 1 in floating point
TINY = np.finfo(np.float64).tiny  # replaces a divisor of 0 where the dividend is 0, too


def select_known(labels: Labels | Floats, scores: Floats, weights: Floats) -> tuple[Labels, Floats, Floats]:
    """Return labels, scores and weights of the images whose label is known: 1 or 0, not nan."""
    known = ~np.isnan(labels)
    if known.all():
        return labels.astype(np.bool_), scores, weights
    return labels[known].astype(np.bool_), scores[known], weights[..., known]


# Counts at one threshold


def count_scores(labels: Labels, scores: Floats, weights: Floats, threshold: float = SCORE_THRESHOLD) -> Counts:
    """Sum the weights (N,) of true and false positives and negatives."""
    return Counts(*(float(weights[cell].sum()) for cell in _confusion_cells(labels, scores, threshold)))


def _confusion_cells(labels: Labels, scores: Floats, threshold: float) -> tuple[Labels, Labels, Labels, Labels]:
    predicted = scores > threshold
    return labels & predicted, ~labels & predicted, labels & ~predicted, ~labels & ~predicted


# ROC curve


@dataclass(frozen=True)
class RocCurve:
    """Weights (T,) of the images at or above each distinct score, from the highest down; the first point is empty."""

    true_positives: Floats
    false_positives: Floats

    @cached_property
    def sensitivity(self) -> Floats:
        """True positive rate (T,); nan in samples where only one label has weight."""
        return self.true_positives / self._total(self.true_positives)

    @cached_property
    def false_positive_rate(self) -> Floats:
        """1 - specificity (T,); nan in samples where only one label has weight."""
        return self.false_positives / self._total(self.false_positives)

    @cached_property
    def precision(self) -> Floats:
        """Fraction of positives at or above each score (T,); undefined at the first point."""
        return self.true_positives / np.maximum(self.true_positives + self.false_positives, TINY)

    def _total(self, running_sum: Floats) -> Floats:
        """Return the last value of a running sum, nan in samples where only one label has weight."""
        has_both = (self.true_positives[..., -1:] > 0) & (self.false_positives[..., -1:] > 0)
        return np.where(has_both, running_sum[..., -1:], math.nan)


def roc_curve(labels: Labels, scores: Floats, weights: Floats) -> RocCurve | None:
    """Return the ROC curve; None if only one label has weight in every sample, or a score with weight is nan."""
    order = np.argsort(-scores, kind="stable")
    order = order[(np.atleast_2d(weights)[:, order] > 0).any(axis=0)]
    ranked = scores[order]
    if np.isnan(ranked).any() or not ranked.size:
        return None
    last_of_ties = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), ranked.size - 1)
    weights = weights[..., order]
    positives = _running_sum(weights * labels[order], last_of_ties)
    negatives = _running_sum(weights * ~labels[order], last_of_ties)
    has_both = (positives[..., -1] > 0) & (negatives[..., -1] > 0)
    return RocCurve(positives, negatives) if has_both.any() else None


def _running_sum(values: Floats, at: NDArray[np.intp]) -> Floats:
    sums = np.cumsum(values, axis=-1)[..., at]
    return np.concatenate([np.zeros_like(sums[..., :1]), sums], axis=-1)


def roc_auc(labels: Labels | Floats, scores: Floats, weights: Floats | None = None) -> Floats:
    """Return the area under the ROC curve; ties count half (Mann-Whitney U). Images whose label is nan do not count.

    Every image has weight 1 by default. nan if only one label has weight, or a score with weight is nan.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    curve = roc_curve(*select_known(labels, scores, weights))
    return area_under_curve(curve) if curve else np.full(weights.shape[:-1], math.nan)


def area_under_curve(curve: RocCurve) -> Floats:
    """Return the area under a ROC curve by the trapezoidal rule; exact for integer weights below 2**26 in sum."""
    positives, negatives = curve.true_positives, curve.false_positives
    won = (np.diff(negatives) * (positives[..., 1:] + positives[..., :-1])).sum(axis=-1) / 2
    pairs = positives[..., -1] * negatives[..., -1]
    return np.asarray(won / np.where(pairs > 0, pairs, math.nan))


def average_precision(curve: RocCurve) -> Floats:
    """Return the mean precision over thresholds, weighted by the gain in sensitivity; no interpolation."""
    return np.asarray((np.diff(curve.sensitivity) * curve.precision[..., 1:]).sum(axis=-1))


def auc_above_sensitivity(minimum: float, curve: RocCurve) -> Floats:
    """Return the area under the part of the ROC curve whose sensitivity is at least `minimum`, down to the axis."""
    x, y = curve.false_positive_rate, curve.sensitivity
    fraction_below = np.clip((minimum - y[..., :-1]) / np.maximum(np.diff(y), TINY), 0, 1)
    widths = np.diff(x) * (1 - fraction_below)
    heights = y[..., 1:] + np.maximum(y[..., :-1], minimum)
    return np.asarray(np.where(y[..., 1:] < minimum, 0, widths * heights).sum(axis=-1) / 2)


def sensitivity_at_specificity(minimum: float, curve: RocCurve) -> Floats:
    """Return the best sensitivity of a threshold whose specificity is at least `minimum`; no interpolation."""
    is_too_low = 1 - curve.false_positive_rate < minimum - TOLERANCE
    return np.asarray(np.where(is_too_low, 0, curve.sensitivity).max(axis=-1))


def specificity_at_sensitivity(minimum: float, curve: RocCurve) -> Floats:
    """Return the best specificity of a threshold whose sensitivity is at least `minimum`.

    ISIC-2017 reported it for a sensitivity of 0.82, 0.89 and 0.95.
    """
    is_too_low = curve.sensitivity < minimum - TOLERANCE
    return np.asarray(1 - np.where(is_too_low, 1, curve.false_positive_rate).min(axis=-1))


# Scores as probabilities; instead of labels, all but log_loss() also take targets (N,) from 0 to 1


def brier(labels: Labels | Floats, scores: Floats, weights: Floats) -> Floats:
    """Return the mean squared difference of score and label (Brier 1950)."""
    total = weights.sum(axis=-1)
    return np.asarray(weights @ np.square(scores - labels) / np.where(total > 0, total, math.nan))


def log_loss(labels: Labels, scores: Floats, weights: Floats) -> Floats:
    """Return the mean negative log-likelihood of the labels; scores count as at least SCORE_FLOOR from 0 and 1."""
    clipped = np.clip(scores, SCORE_FLOOR, 1 - SCORE_FLOOR)
    losses = -np.where(labels, np.log(clipped), np.log1p(-clipped))
    total = weights.sum(axis=-1)
    return np.asarray(weights @ losses / np.where(total > 0, total, math.nan))


@dataclass(frozen=True)
class CalibrationBins:
    """Weight, mean score and fraction of positives (B,) of the images in each of B bins; 0 where a bin is empty."""

    weights: Floats
    scores: Floats
    positives: Floats

    @cached_property
    def error(self) -> Floats:
        """Return the expected calibration error: mean absolute difference of mean score and fraction of positives."""
        total = self.weights.sum(axis=-1)
        gaps = (self.weights * np.abs(self.scores - self.positives)).sum(axis=-1)
        return np.asarray(gaps / np.where(total > 0, total, math.nan))


def calibration_bins(labels: Labels | Floats, scores: Floats, weights: Floats) -> CalibrationBins:
    """Sort images by score into CALIBRATION_BINS bins of equal width."""
    numbers = np.clip((scores * CALIBRATION_BINS).astype(np.intp), 0, CALIBRATION_BINS - 1)
    order = np.argsort(numbers, kind="stable")
    filled, starts = np.unique(numbers[order], return_index=True)
    weights = weights[..., order]
    sums = np.zeros((3, *weights.shape[:-1], CALIBRATION_BINS))
    for row, values in enumerate((np.ones_like(scores), scores, labels)):
        sums[row][..., filled] = np.add.reduceat(weights * values[order], starts, axis=-1)
    totals, score_sums, positives = sums
    divisors = np.maximum(totals, TINY)
    return CalibrationBins(totals, score_sums / divisors, positives / divisors)


def calibration_error(labels: Labels | Floats, scores: Floats, weights: Floats) -> Floats:
    """Return the expected calibration error, in CALIBRATION_BINS bins."""
    return calibration_bins(labels, scores, weights).error


# Registry


@dataclass(frozen=True)
class ClassScores:
    """One class in R bootstrap samples: what every score metric is computed from."""

    labels: Labels  # (N,)
    scores: Floats  # (N,)
    weights: Floats  # (R, N)
    counts: Sequence[Counts]  # R
    curve: RocCurve | None


ScoreMetric = Callable[[ClassScores], Floats]  # returns (R,)


def _from_counts(metric: CountMetric) -> ScoreMetric:
    return lambda scored: np.array([metric(counts) for counts in scored.counts])


def _from_curve(metric: Callable[[RocCurve], Floats]) -> ScoreMetric:
    return lambda scored: metric(scored.curve) if scored.curve else np.full(len(scored.weights), math.nan)


def _from_scores(metric: Callable[[Labels, Floats, Floats], Floats]) -> ScoreMetric:
    return lambda scored: metric(scored.labels, scored.scores, scored.weights)


# Metrics of a class by name. To add one, write its function and add a line here.
SCORE_METRICS: dict[str, ScoreMetric] = {
    "accuracy": _from_counts(accuracy),
    "sensitivity": _from_counts(sensitivity),
    "specificity": _from_counts(specificity),
    "dice": _from_counts(dice),
    "ppv": _from_counts(ppv),
    "npv": _from_counts(npv),
    "auc": _from_curve(area_under_curve),
    "auc_sens_80": _from_curve(partial(auc_above_sensitivity, 0.80)),
    "ap": _from_curve(average_precision),
    "sens_at_spec_80": _from_curve(partial(sensitivity_at_specificity, 0.80)),
    "sens_at_spec_90": _from_curve(partial(sensitivity_at_specificity, 0.90)),
    "sens_at_spec_95": _from_curve(partial(sensitivity_at_specificity, 0.95)),
    "spec_at_sens_82": _from_curve(partial(specificity_at_sensitivity, 0.82)),
    "spec_at_sens_89": _from_curve(partial(specificity_at_sensitivity, 0.89)),
    "spec_at_sens_95": _from_curve(partial(specificity_at_sensitivity, 0.95)),
    "brier": _from_scores(brier),
    "log_loss": _from_scores(log_loss),
    "calibration_error": _from_scores(calibration_error),
}


def class_metrics(
    labels: Labels | Floats, scores: Floats, weights: Floats, threshold: float = SCORE_THRESHOLD
) -> dict[str, float]:
    """Return every metric of one class by name; weights are (N,)."""
    return {
        name: float(value[0]) for name, value in resampled_metrics(labels, scores, weights[None], threshold).items()
    }


def resampled_metrics(
    labels: Labels | Floats, scores: Floats, weights: Floats, threshold: float = SCORE_THRESHOLD
) -> dict[str, Floats]:
    """Return every metric (R,) of one class by name, over the images whose label is not nan.

    Weights are (R, N), a score above `threshold` is positive.
    """
    labels, scores, weights = select_known(labels, scores, weights)
    cells = np.stack(_confusion_cells(labels, scores, threshold), axis=-1).astype(np.float64)
    counts = [Counts(*row) for row in (weights @ cells).tolist()]
    scored = ClassScores(labels, scores, weights, counts, roc_curve(labels, scores, weights))
    return {name: metric(scored) for name, metric in SCORE_METRICS.items()}


# All classes together


def balanced_accuracy(labels: Labels, scores: Floats, weights: Floats) -> Floats:
    """Return the mean over K classes of the fraction of its images that get their highest score there.

    Labels and scores are (N, K). This is the ranking metric of ISIC-2018 Task 3. An image whose highest score is a tie
    is wrong; an image whose highest label is a tie, such as one without any class, is ignored. So is a class without
    images.
    """
    truth, predicted = _index_of_maximum(labels.astype(np.float64)), _index_of_maximum(scores)
    in_class = (truth[:, None] == np.arange(labels.shape[1])).astype(np.float64)
    totals, correct = weights @ in_class, weights @ (in_class * (predicted == truth)[:, None])
    classes = (totals > 0).sum(axis=-1)
    recall_sums = (correct / np.maximum(totals, TINY)).sum(axis=-1)
    return np.asarray(recall_sums / np.where(classes > 0, classes, math.nan))


def confusion_matrix(labels: Labels, scores: Floats) -> NDArray[np.int64]:
    """Count the images (K, K + 1) of each class (row) by the class of their highest score (column); last are ties.

    Labels and scores are (N, K), and every image belongs to one class.
    """
    classes = labels.shape[1]
    predicted = _index_of_maximum(scores)
    cells = labels.argmax(axis=1) * (classes + 1) + np.where(predicted < 0, classes, predicted)
    return np.bincount(cells, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def _index_of_maximum(values: Floats) -> NDArray[np.intp]:
    """Return the column (N,) of the maximum of values (N, K); -1 where it occurs twice."""
    if not values.size:
        return np.zeros(len(values), np.intp)
    is_unique = (values == values.max(axis=1, keepdims=True)).sum(axis=1) == 1
    return np.where(is_unique, values.argmax(axis=1), -1)
