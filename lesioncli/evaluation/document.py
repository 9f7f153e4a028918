"""The JSON document of an evaluation."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from lesioncli.evaluation.reliability import ConfidenceEvaluation, ReliabilityBin
from lesioncli.evaluation.result import ConfusionMatrix, Evaluation
from lesioncli.evaluation.runs import RunComparison
from lesioncli.evaluation.statistics.comparison import Comparison
from lesioncli.evaluation.statistics.groups import Estimate, GroupResult
from lesioncli.evaluation.statistics.resampling import CONFIDENCE_LEVEL, count_bootstrap_samples


def evaluation_document(evaluation: Evaluation) -> Mapping[str, Any]:
    """Return the JSON document: the official scorer's figures at the top, everything else under `lesioncli`."""
    masks, scores, official = evaluation.masks, evaluation.scores, evaluation.official
    lesioncli = {
        "protocol": evaluation.protocol,
        "ranking": {part: {"figure": name, "value": value} for part, (name, value) in official.ranking.items()},
        "truths": len(masks.cases),
        "scored": len(masks.evaluated),
        "means": masks.means,
        "auc": scores.auc,
        "auc_mean": scores.auc_mean,
        "auc_count": scores.labelled.count,
        "auc_counts": scores.labelled.counts,
        "per_class": scores.per_class,
        "confusion": {name: counts._asdict() for name, counts in scores.confusion.items()},
        "confusion_matrix": _matrix_document(scores.matrix) if scores.matrix else None,
        "intervals": {**masks.intervals, **scores.intervals},
        "interval_method": _interval_method(evaluation),
        "confidence": _confidence_document(masks.confidence) if masks.confidence.images else None,
        "thresholds": dataclasses.asdict(masks.thresholds) if masks.thresholds else None,
        "reliability": {name: _bin_documents(table) for name, table in scores.reliability.items()},
        "per_class_intervals": scores.per_class_intervals,
        "official_intervals": official.intervals,
        "groups": [_group_document(group) for group in evaluation.groups],
        "comparison": _comparison_document(evaluation.comparison) if evaluation.comparison else None,
        "problems": evaluation.problems,
        "extra": masks.extra,
        "extra_scores": scores.labelled.extra,
        "notes": evaluation.all_notes,
    }
    return cast(Mapping[str, Any], _nan_to_null({**official.joined(), "lesioncli": lesioncli}))


def runs_document(comparison: RunComparison) -> Mapping[str, Any]:
    """Return the JSON document of a comparison of runs and annotators."""
    return cast(Mapping[str, Any], _nan_to_null(dataclasses.asdict(comparison)))


def _confidence_document(confidence: ConfidenceEvaluation) -> Mapping[str, Any]:
    return {
        "images": confidence.images,
        "missing": confidence.missing,
        "means": confidence.means,
        "metrics": confidence.metrics,
        "intervals": confidence.intervals,
        "reliability": _bin_documents(confidence.reliability),
    }


def _bin_documents(table: Sequence[ReliabilityBin]) -> Sequence[Mapping[str, Any]]:
    return [dataclasses.asdict(row) for row in table]


def _matrix_document(matrix: ConfusionMatrix) -> Mapping[str, Sequence[Any]]:
    return {"classes": matrix.classes, "counts": matrix.counts}


def _interval_method(evaluation: Evaluation) -> Mapping[str, Any]:
    images = {"masks": len(evaluation.masks.evaluated), "scores": evaluation.scores.labelled.count}
    plan = evaluation.plan
    return {
        "method": f"percentile bootstrap over {'clusters of images' if plan.column else 'images'}",
        "cluster": plan.column or None,
        "level": CONFIDENCE_LEVEL,
        "resamples": {part: count_bootstrap_samples(count) for part, count in images.items()},
        "seed": plan.seed,
    }


def _group_document(group: GroupResult) -> Mapping[str, Any]:
    return {
        "column": group.column,
        "group": group.group,
        "images": group.images,
        "figures": {name: _estimate_document(estimate) for name, estimate in group.estimates.items()},
        "differences": {name: _estimate_document(difference) for name, difference in group.differences.items()},
        "behind": group.behind,
    }


def _estimate_document(estimate: Estimate) -> Mapping[str, Any]:
    interval = None if math.isnan(estimate.low) else (estimate.low, estimate.high)
    return {"value": estimate.value, "interval": interval, "images": estimate.images}


def _comparison_document(comparison: Comparison) -> Mapping[str, Any]:
    differences = {
        name: {
            "ours": difference.ours,
            "other": difference.other,
            "difference": difference.difference,
            "p": difference.p_value,
            "images": difference.images,
            "interval": (difference.low, difference.high),
        }
        for name, difference in comparison.differences.items()
    }
    return {
        "other": comparison.other,
        "differences": differences,
        "only_ours": comparison.only_ours,
        "only_other": comparison.only_other,
    }


def _nan_to_null(content: Any) -> Any:
    """Replace nan by None: JSON has no nan."""
    if isinstance(content, Mapping):
        return {key: _nan_to_null(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_nan_to_null(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
