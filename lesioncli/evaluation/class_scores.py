"""Evaluate class scores: AUC, every metric of each class, and confusion."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.labelled_scores import LabelledScores
from lesioncli.evaluation.metrics.scores import SCORE_THRESHOLD, class_metrics, confusion_matrix, count_scores
from lesioncli.evaluation.reliability import reliability_tables
from lesioncli.evaluation.result import ConfusionMatrix, ScoreEvaluation
from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN, bootstrap_metrics
from lesioncli.evaluation.statistics.resampling import Interval, Resampling, percentile_interval
from lesioncli.spec import CLASSES

Resampled = Sequence[Mapping[str, NDArray[np.float64]]]  # for each class every metric (R,)


def evaluate_scores(
    labelled: LabelledScores, resampled: Resampled, resampling: Resampling, threshold: float = SCORE_THRESHOLD
) -> ScoreEvaluation:
    """Evaluate class scores; a score above `threshold` is positive.

    `resampled` is what resample_metrics() returns for the same scores and `resampling`.
    """
    if not labelled.labels.size:  # 0/0 has a value by the rule of its metric, so there must be no metrics at all
        return ScoreEvaluation(labelled, dict.fromkeys(labelled.classes, math.nan))
    intervals = _auc_intervals(labelled.classes, resampled)
    if threshold != SCORE_THRESHOLD:
        resampled = resample_metrics(labelled, resampling, threshold)
    columns = {name: (*column, np.ones(column[0].size)) for name, column in labelled.by_class().items()}
    per_class = {name: class_metrics(*column, threshold) for name, column in columns.items()}
    auc = {name: metrics["auc"] for name, metrics in per_class.items()}
    return ScoreEvaluation(
        labelled=labelled,
        auc=auc,
        auc_mean=sum(auc.values()) / len(auc),
        intervals=intervals,
        per_class=per_class,
        per_class_intervals=_per_class_intervals(per_class, resampled),
        confusion={name: count_scores(*column, threshold) for name, column in columns.items()},
        matrix=_confusion_matrix(labelled),
        reliability=dict(zip(columns, reliability_tables(labelled.labels, labelled.scores, resampling), strict=True)),
    )


def resample_metrics(labelled: LabelledScores, resampling: Resampling, threshold: float = SCORE_THRESHOLD) -> Resampled:
    """Return for each class every metric (R,) in each bootstrap sample, every image with weight 1."""
    if not labelled.labels.size:
        return []
    return bootstrap_metrics(labelled.labels, labelled.scores, np.ones(labelled.count), resampling, threshold)


def _auc_intervals(classes: Sequence[str], resampled: Resampled) -> dict[str, Interval]:
    """Return the intervals of the AUCs and of their mean."""
    samples = np.stack([metrics["auc"] for metrics in resampled])  # (K, R)
    by_name = {**dict(zip(classes, samples, strict=True)), AUC_MEAN: samples.mean(axis=0)}
    return {name: percentile_interval(values) for name, values in by_name.items() if not np.isnan(values).all()}


def _per_class_intervals(
    per_class: Mapping[str, Mapping[str, float]], resampled: Resampled
) -> dict[str, dict[str, Interval]]:
    return {
        name: {metric: percentile_interval(samples[metric]) for metric in samples if not math.isnan(values[metric])}
        for (name, values), samples in zip(per_class.items(), resampled, strict=True)
    }


def _confusion_matrix(labelled: LabelledScores) -> ConfusionMatrix | None:
    """Return the confusion matrix of the images whose labels are all known.

    None unless each of them belongs to exactly one of several classes.
    """
    classes, labels, scores = labelled.classes, labelled.labels, labelled.scores
    if classes == CLASSES[:2] and not np.isnan(labelled.nevus).any():
        classes, scores = CLASSES, np.column_stack([scores, labelled.nevus])
        labels = np.column_stack([labels, labelled.nevus_labels])
    known = ~np.isnan(labels).any(axis=1)
    if len(classes) < 2 or not known.any() or (labels[known].sum(axis=1) != 1).any():
        return None
    counts = confusion_matrix(labels[known].astype(np.bool_), scores[known])
    return ConfusionMatrix(classes, tuple(map(tuple, counts.tolist())))
