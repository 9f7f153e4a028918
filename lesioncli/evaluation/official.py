"""Official figures: the JSON documents of the challenges' scorer, and the values that they rank by.

The model is isic-challenge-scoring 5.8.0: same names, same rules, same digits. It evaluates masks and scores
separately. Its `overall` is always the thresholded Jaccard for masks; ISIC-2017 ranked by the plain Jaccard, so the
value that a challenge ranks by is in `ranking`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.cases import CaseResult
from lesioncli.evaluation.labelled_scores import LabelledScores
from lesioncli.evaluation.metrics.scores import balanced_accuracy, class_metrics
from lesioncli.evaluation.protocols import Protocol, missing_classes, unknown_classes
from lesioncli.evaluation.statistics.bootstrap import bootstrap_metrics
from lesioncli.evaluation.statistics.resampling import Interval, Resampling, bootstrap_weights, percentile_interval

OFFICIAL_MASK_METRICS = ("accuracy", "sensitivity", "specificity", "jaccard", "threshold_jaccard", "dice")
OFFICIAL_SCORE_METRICS = ("accuracy", "sensitivity", "specificity", "dice", "ppv", "npv", "auc", "auc_sens_80", "ap")

Floats = NDArray[np.float64]
Document = Mapping[str, Any]


class RankedFigure(NamedTuple):
    """A figure that a protocol ranks by: its path in the document, and its value."""

    path: str
    value: float


@dataclass(frozen=True)
class OfficialFigures:
    """What the official scorer reports.

    `mask_document` and `score_document` are its JSON documents, empty where the protocol needs every image and not
    every image could be evaluated; that of scores also where a label is unknown. `ranking` maps "masks" and "scores" to
    the figure that the protocol ranks by, and `intervals` maps them to 95 % intervals by path in the document.
    """

    mask_document: Document = field(default_factory=dict)
    score_document: Document = field(default_factory=dict)
    ranking: Mapping[str, RankedFigure] = field(default_factory=dict)
    intervals: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)

    def joined(self) -> dict[str, Any]:
        """Return one document: the masks' figures at the top, the scores' figures there and under `classification`.

        `overall`, `validation` and `macro_average`, which both documents have, are those of the masks where there are
        masks.
        """
        scores = self.score_document
        return {**scores, **self.mask_document, **({"classification": dict(scores)} if scores else {})}


def official_figures(
    cases: Sequence[CaseResult],
    labelled: LabelledScores,
    rules: Protocol,
    mean_intervals: Mapping[str, Interval],
    resampled: Sequence[Mapping[str, Floats]],
    resampling: Resampling,
) -> OfficialFigures:
    """Compute the official figures of masks and scores.

    `mean_intervals` are the intervals of the mask metrics. `resampled` is what bootstrap_metrics() returns for the
    same scores and `resampling`, every image with weight 1.
    """
    weighted = labelled if rules.weighted else labelled.with_equal_weights()
    evaluated = [case.metrics for case in cases if not case.problem]
    masks = mask_document(evaluated) if len(evaluated) == len(cases) or not rules.complete else {}
    is_incomplete = not labelled.is_complete or (labelled.problems and rules.complete)
    scores = {} if is_incomplete else score_document(weighted, rules)
    intervals: dict[str, dict[str, Interval]] = {}
    if masks:
        intervals["masks"] = mask_intervals(mean_intervals)
    if scores:
        intervals["scores"] = score_intervals(weighted, rules, resampled, resampling)
    return OfficialFigures(masks, scores, ranking(rules, masks, scores), intervals)


def mask_document(cases: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return the scorer's document of masks from the metrics of each image; empty where there are no images."""
    if not cases:
        return {}
    means = {name: float(np.mean([case[name] for case in cases])) for name in OFFICIAL_MASK_METRICS}
    overall = means["threshold_jaccard"]
    return {"overall": overall, "validation": overall, "macro_average": means}


def score_document(labelled: LabelledScores, protocol: Protocol) -> dict[str, Any]:
    """Return the scorer's document of scores; empty where there are no images. An undefined figure is nan."""
    if not labelled.labels.size:
        return {}
    score, validation = (_weighted_document(labelled, weights) for weights in labelled.weights.T)
    part = _ranked_part(protocol)
    return {
        "overall": float(score[part][protocol.score_metric]),
        "validation": float(validation[part][protocol.score_metric]),
        **score,
    }


def _weighted_document(labelled: LabelledScores, weights: Floats) -> dict[str, Any]:
    """Return the parts of the document with these weights (N,)."""
    by_class = {name: class_metrics(*columns, weights) for name, columns in labelled.by_class().items()}
    per_category = {
        metric: {name: metrics[metric] for name, metrics in by_class.items()} for metric in OFFICIAL_SCORE_METRICS
    }
    averages = {metric: sum(values.values()) / len(by_class) for metric, values in per_category.items()}
    balanced = float(balanced_accuracy(labelled.labels > 0, labelled.scores, weights))
    return {
        "per_category": per_category,
        "macro_average": averages,
        "aggregate": {"balanced_accuracy": balanced},
    }


def _ranked_part(protocol: Protocol) -> str:
    """Return the part of the document that holds the metric by which scores are ranked."""
    return "aggregate" if protocol.score_metric == "balanced_accuracy" else "macro_average"


def mask_intervals(means: Mapping[str, Interval]) -> dict[str, Interval]:
    """Return the intervals of mask_document() by path, from those of the mean metrics."""
    overall = {name: means["threshold_jaccard"] for name in ("overall", "validation") if means}
    return {**overall, **{f"macro_average.{name}": means[name] for name in OFFICIAL_MASK_METRICS if means}}


def score_intervals(
    labelled: LabelledScores,
    protocol: Protocol,
    resampled: Sequence[Mapping[str, Floats]],
    resampling: Resampling,
) -> dict[str, Interval]:
    """Return the intervals of score_document() by path, without those of undefined figures.

    `resampled` is what bootstrap_metrics() returns for the same `resampling`, every image with weight 1.
    """
    if not labelled.labels.size:
        return {}
    score_weights, validation_weights = labelled.weights.T
    score = _resampled_document(labelled, score_weights, resampled, resampling)
    validation = score
    if (score_weights != validation_weights).any():
        validation = _resampled_document(labelled, validation_weights, resampled, resampling)
    ranked = f"{_ranked_part(protocol)}.{protocol.score_metric}"
    by_path = {"overall": score[ranked], "validation": validation[ranked], **score}
    intervals = {path: percentile_interval(values) for path, values in by_path.items()}
    return {path: interval for path, interval in intervals.items() if not math.isnan(interval[0])}


def _resampled_document(
    labelled: LabelledScores,
    weights: Floats,
    resampled: Sequence[Mapping[str, Floats]],
    resampling: Resampling,
) -> dict[str, Floats]:
    """Return the figures (R,) of _weighted_document() by path; `resampled` is used where all weights (N,) are 1."""
    if (weights != 1).any():
        resampled = bootstrap_metrics(labelled.labels, labelled.scores, weights, resampling)
    by_class = dict(zip(labelled.classes, resampled, strict=True))
    balanced = [
        balanced_accuracy(labelled.labels > 0, labelled.scores, counts * weights)
        for counts in bootstrap_weights(len(labelled.labels), resampling)
    ]
    return {
        **{
            f"per_category.{metric}.{name}": by_class[name][metric]
            for metric in OFFICIAL_SCORE_METRICS
            for name in by_class
        },
        **{
            f"macro_average.{metric}": np.mean([metrics[metric] for metrics in by_class.values()], 0)
            for metric in OFFICIAL_SCORE_METRICS
        },
        "aggregate.balanced_accuracy": np.concatenate(balanced),
    }


def ranking(protocol: Protocol, masks: Document, scores: Document) -> dict[str, RankedFigure]:
    """Return the path and value that a protocol ranks masks and scores by.

    Scores are ranked only where their classes are exactly the protocol's: a mean over other classes would be another
    figure.
    """
    ranked: dict[str, RankedFigure] = {}
    if masks:
        value = masks["macro_average"][protocol.mask_metric]
        ranked["masks"] = RankedFigure(f"macro_average.{protocol.mask_metric}", value)
    classes = scores["per_category"]["auc"] if scores else ()
    if scores and not (missing_classes(protocol, classes) or unknown_classes(protocol, classes)):
        part = _ranked_part(protocol)
        ranked["scores"] = RankedFigure(f"{part}.{protocol.score_metric}", scores[part][protocol.score_metric])
    return ranked
