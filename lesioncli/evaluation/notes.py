"""Notes on an evaluation: ignored columns, figures that are undefined or not ranked, intervals that are too narrow."""

from pathlib import Path

import numpy as np

from lesioncli.evaluation.labelled_scores import LabelledScores
from lesioncli.evaluation.predictions import EvaluatedPredictions
from lesioncli.evaluation.protocols import PROTOCOLS, missing_classes, unknown_classes
from lesioncli.evaluation.reading.ground_truth import GroundTruth
from lesioncli.evaluation.reading.tables import LabelTable
from lesioncli.evaluation.reliability import ConfidenceEvaluation
from lesioncli.evaluation.result import ScoreEvaluation
from lesioncli.evaluation.statistics.comparison import Comparison
from lesioncli.evaluation.statistics.groups import MIN_IMAGES
from lesioncli.evaluation.statistics.resampling import ResamplingPlan
from lesioncli.evaluation.threshold_curve import ThresholdCurve
from lesioncli.inference.record import describe_shards
from lesioncli.options import ProtocolName

_HITS = {  # numerator of a ratio; a ratio that is 1 without any hit is 0/0
    "sensitivity": "true_positive",
    "specificity": "true_negative",
    "dice": "true_positive",
    "ppv": "true_positive",
    "npv": "true_negative",
}


def notes_on_missing_labels(
    ground_truth: GroundTruth, predictions: EvaluatedPredictions, protocol: ProtocolName
) -> tuple[str, ...]:
    """Return a note if there are class scores but no labels; in ISIC-2018, no image has both a mask and a label."""
    expected = ground_truth.expected_labels
    if ground_truth.labels.ids or not (predictions.has_scores and expected) or protocol == ProtocolName.ISIC2018:
        return ()
    return (f"no {expected}: class scores are not evaluated; give labels with --labels",)


def notes_on_shards(predictions: Path) -> tuple[str, ...]:
    """Return a note if an output folder has shards that are not merged."""
    found = describe_shards(predictions)
    return (f"{found}; run lesioncli merge {predictions} for the final results",) if found else ()


def notes_on_scores(labels: LabelTable, labelled: LabelledScores, protocol: ProtocolName) -> tuple[str, ...]:
    """Return notes on labels and scores; none where there are no scores."""
    if not labelled.classes:
        return ()
    return (
        *_ignored_columns(labels),
        *_unknown_labels(labels, labelled, protocol),
        *_not_ranked(labelled, protocol),
        *_single_label(labelled),
        *_zero_weights(labels, labelled, protocol),
    )


def notes_on_ratios(scores: ScoreEvaluation, protocol: ProtocolName) -> tuple[str, ...]:
    """Return a note on metrics that are 0/0; none if the protocol does not print the metrics of each class."""
    if protocol == ProtocolName.PLAIN:
        return ()
    undefined = {
        name: [metric for metric, hits in _HITS.items() if metrics[metric] == 1 and not getattr(counts, hits)]
        for (name, metrics), counts in zip(scores.per_class.items(), scores.confusion.values(), strict=True)
    }
    listed = ", ".join(f"{name} ({', '.join(metrics)})" for name, metrics in undefined.items() if metrics)
    return (f"0/0 counts as 1, as in the official scorer: {listed}",) if listed else ()


def notes_on_confidence(confidence: ConfidenceEvaluation) -> tuple[str, ...]:
    """Return a note if some masks have a confidence, and others have none."""
    if not (confidence.images and confidence.missing):
        return ()
    return (f"masks without a confidence from 0 to 1, left out of its calibration error: {confidence.missing}",)


def notes_on_thresholds(curve: ThresholdCurve | None) -> tuple[str, ...]:
    """Return a note if some masks have a probability map, and others have none."""
    if not (curve and curve.missing):
        return ()
    return (f"masks without a probability map, left out of the Jaccard over thresholds: {curve.missing}",)


def notes_on_clusters(plan: ResamplingPlan, predictions: EvaluatedPredictions) -> tuple[str, ...]:
    """Return a note on the number of clusters, if images are resampled by clusters."""
    if not plan.column:
        return ()
    tables = [{*predictions.masks.images}, {*predictions.labelled.ids}]
    clusters = max(len({plan.cluster_of[image] for image in images & plan.cluster_of.keys()}) for images in tables)
    unknown = max(len(images - plan.cluster_of.keys()) for images in tables)
    note = f"intervals: images of the same {plan.column} are resampled together, {clusters} clusters"
    return (f"{note}; images of unknown {plan.column}, resampled alone: {unknown}" if unknown else note,)


def notes_on_intervals(
    plan: ResamplingPlan, predictions: EvaluatedPredictions, comparison: Comparison | None
) -> tuple[str, ...]:
    """Return a note if an interval has fewer images, or clusters, than a percentile bootstrap needs."""
    masks, labelled = predictions.masks, predictions.labelled
    mask_resampling, score_resampling = plan.for_images(masks.images), plan.for_images(labelled.ids)
    counts = {
        "masks": [mask_resampling.count_clusters(np.flatnonzero(known)) for known in ~np.isnan(masks.values).T],
        "scores": [score_resampling.count_clusters(np.flatnonzero(known)) for known in ~np.isnan(labelled.labels).T],
        "differences": [difference.clusters for difference in comparison.differences.values()] if comparison else [],
    }
    smallest = {part: min(filter(None, sizes), default=MIN_IMAGES) for part, sizes in counts.items()}
    few = ", ".join(f"{part} ({size})" for part, size in smallest.items() if size < MIN_IMAGES)
    unit = f"clusters ({plan.column})" if plan.column else "images"
    return (f"intervals of fewer than {MIN_IMAGES} {unit} are too narrow: {few}",) if few else ()


def _ignored_columns(labels: LabelTable) -> tuple[str, ...]:
    ignored = ", ".join(labels.ignored_columns)
    return (f"{labels.path}: ignored columns, which are not classes: {ignored}",) if ignored else ()


def _unknown_labels(labels: LabelTable, labelled: LabelledScores, protocol: ProtocolName) -> tuple[str, ...]:
    """Return the number of unknown labels of each class; under a protocol that needs them, each is a problem."""
    if not labelled.unknown or PROTOCOLS[protocol].complete:
        return ()
    counts = ", ".join(f"{name} {count} images" for name, count in labelled.unknown.items())
    return (f"{labels.path}: unknown labels, left out of the figures of their class: {counts}",)


def _not_ranked(labelled: LabelledScores, protocol: ProtocolName) -> tuple[str, ...]:
    """Return why the protocol does not rank these scores: it has other classes."""
    rules = PROTOCOLS[protocol]
    missing = ", ".join(missing_classes(rules, labelled.classes))
    unknown = ", ".join(unknown_classes(rules, labelled.classes))
    reasons = [f"the labels have no {missing}"] if missing else []
    reasons += [f"{protocol} has no {unknown}"] if unknown else []
    return (f"scores are not ranked by {protocol}: {', and '.join(reasons)}",) if reasons else ()


def _single_label(labelled: LabelledScores) -> tuple[str, ...]:
    """Return the classes whose AUC is undefined."""
    return tuple(
        f"{name}: all {len(labels)} labels are {int(labels[0])}, so its AUC and average precision are undefined"
        for name, (labels, _) in labelled.by_class().items()
        if labels.size and labels.all() == labels.any()
    )


def _zero_weights(labels: LabelTable, labelled: LabelledScores, protocol: ProtocolName) -> tuple[str, ...]:
    """Return the images that official figures exclude, by their weight in the labels or in the official scorer."""
    if not (PROTOCOLS[protocol].weighted and labelled.ids):
        return ()
    excluded = [name for name, (score_weight, _) in labels.weights.items() if not score_weight]
    return (f"weight 0, excluded from official figures of scores: {', '.join(excluded)}",) if excluded else ()
