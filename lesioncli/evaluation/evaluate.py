"""Evaluate predicted masks and class scores against ground truth."""

import math
from dataclasses import replace
from itertools import chain
from pathlib import Path

from lesioncli.errors import InputError
from lesioncli.evaluation.cases import MaskMetrics, Progress
from lesioncli.evaluation.class_scores import evaluate_scores, resample_metrics
from lesioncli.evaluation.columns import group_images, plan_resampling, read_clusters, read_columns_by_image
from lesioncli.evaluation.notes import (
    notes_on_clusters,
    notes_on_confidence,
    notes_on_intervals,
    notes_on_missing_labels,
    notes_on_ratios,
    notes_on_scores,
    notes_on_shards,
    notes_on_thresholds,
)
from lesioncli.evaluation.official import official_figures
from lesioncli.evaluation.predictions import EvaluatedPredictions, evaluate_predictions
from lesioncli.evaluation.protocols import PROTOCOLS, require_data_set
from lesioncli.evaluation.reading.ground_truth import GroundTruth, read_ground_truth
from lesioncli.evaluation.reliability import evaluate_confidence
from lesioncli.evaluation.result import Evaluation, MaskEvaluation
from lesioncli.evaluation.statistics.bootstrap import bootstrap_means, column_means
from lesioncli.evaluation.statistics.comparison import Comparison, compare_predictions
from lesioncli.evaluation.statistics.groups import evaluate_groups
from lesioncli.evaluation.statistics.resampling import Interval, ResamplingPlan, percentile_interval
from lesioncli.evaluation.threshold_curve import evaluate_thresholds
from lesioncli.options import EvaluationOptions

_DEFAULT_OPTIONS = EvaluationOptions()


def evaluate(
    ground_truth: Path,
    predictions: Path,
    options: EvaluationOptions = _DEFAULT_OPTIONS,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Evaluate the masks and scores in folder `predictions`.

    `ground_truth` is whatever read_ground_truth() reads: a folder, a data set, a table of pairs or of labels.
    `on_progress` receives (done, total) after each mask. Raises InputError where a folder has no masks or two masks
    of one name, a table is invalid, a column does not exist, no image can be compared, or the ground truth is not of
    the data set that the protocol is for.
    """
    rules = PROTOCOLS[options.protocol]
    truth = read_ground_truth(ground_truth, options.labels)
    require_data_set(ground_truth, chain(truth.masks, truth.labels.ids), options.protocol)
    group_columns = read_columns_by_image(options.by, options.metadata, truth, rules)
    clusters = read_clusters(options.cluster, options.metadata, truth, rules)

    ours = evaluate_predictions(truth, predictions, options.scores, options, on_progress, with_pictures=True)
    plan = plan_resampling(options.cluster, clusters, options.seed)
    comparison = (
        _compare(ours, predictions, truth, options.compare, plan, options, on_progress) if options.compare else None
    )

    score_resampling = plan.for_images(ours.labelled.ids)
    masks = _evaluate_masks(ours, plan)
    resampled = resample_metrics(ours.labelled, score_resampling)
    scores = evaluate_scores(ours.labelled, resampled, score_resampling, options.score_threshold)
    tested = (rules.mask_metric, *ours.labelled.classes)
    groupings = group_images(group_columns, ours, rules)
    groups = [evaluate_groups(grouping, ours.masks, ours.labelled, tested, plan) for grouping in groupings]
    return Evaluation(
        protocol=options.protocol,
        masks=masks,
        scores=scores,
        official=official_figures(ours.cases, ours.labelled, rules, masks.intervals, resampled, score_resampling),
        groups=tuple(chain.from_iterable(groups)),
        comparison=comparison,
        notes=(
            *truth.notes,
            *group_columns.notes,
            *clusters.notes,
            *notes_on_shards(predictions),
            *notes_on_clusters(plan, ours),
            *notes_on_missing_labels(truth, ours, options.protocol),
            *notes_on_scores(truth.labels, ours.labelled, options.protocol),
            *notes_on_ratios(scores, options.protocol),
            *notes_on_confidence(masks.confidence),
            *notes_on_thresholds(masks.thresholds),
            *notes_on_intervals(plan, ours, comparison),
        ),
        plan=plan,
    )


def _compare(
    ours: EvaluatedPredictions,
    folder: Path,
    truth: GroundTruth,
    other: Path,
    plan: ResamplingPlan,
    options: EvaluationOptions,
    on_progress: Progress | None,
) -> Comparison:
    """Compare `ours`, those in `folder`, with the predictions `other`; only the scores where that is a table.

    Raises InputError where no image was evaluated in both.
    """
    truth = replace(truth, pairs=None)
    if other.is_file():
        if not truth.labels.ids:
            raise InputError(f"{other}: scores need labels to be compared; give them with --labels")
        truth, ours = replace(truth, masks={}), replace(ours, masks=MaskMetrics.from_cases(()))
    theirs = evaluate_predictions(truth, other, other if other.is_file() else None, options, on_progress)
    comparison = compare_predictions(ours, theirs, (str(folder), str(other)), plan)
    if not comparison.differences:
        raise InputError(f"{other}: no image was evaluated both here and in the other predictions")
    return comparison


def _evaluate_masks(predictions: EvaluatedPredictions, plan: ResamplingPlan) -> MaskEvaluation:
    """Compute the mean metrics of the evaluated masks, and their intervals."""
    masks, resampling = predictions.masks, plan.for_images(predictions.masks.images)
    if not masks.images:
        return MaskEvaluation(predictions.cases, predictions.extra)
    means = dict(zip(masks.names, column_means(masks.values).tolist(), strict=True))
    resampled = dict(zip(masks.names, bootstrap_means(masks.values, resampling).T, strict=True))
    intervals: dict[str, Interval] = {
        name: percentile_interval(resampled[name]) for name in means if not math.isnan(means[name])
    }
    jaccard = masks.values[:, masks.names.index("jaccard")]
    confidence = evaluate_confidence(jaccard, predictions.confidence, resampling)
    curve = evaluate_thresholds(predictions.cases, plan)
    return MaskEvaluation(predictions.cases, predictions.extra, means, intervals, confidence, curve)
