"""Compare several runs, and several annotators, on the same images."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, permutations
from pathlib import Path

import numpy as np

from lesioncli.errors import InputError
from lesioncli.evaluation.cases import MaskMetrics, Progress
from lesioncli.evaluation.columns import plan_resampling, read_clusters
from lesioncli.evaluation.labelled_scores import LabelledScores
from lesioncli.evaluation.metrics.pixels import PIXEL_METRICS
from lesioncli.evaluation.metrics.scores import roc_auc
from lesioncli.evaluation.predictions import EvaluatedPredictions, evaluate_predictions
from lesioncli.evaluation.protocols import PROTOCOLS, require_data_set
from lesioncli.evaluation.reading.ground_truth import GroundTruth, read_ground_truth
from lesioncli.evaluation.reading.matching import match
from lesioncli.evaluation.reading.tables import NO_LABELS
from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN, bootstrap_aucs, bootstrap_means, column_means
from lesioncli.evaluation.statistics.comparison import Difference, compare_predictions
from lesioncli.evaluation.statistics.groups import Estimate
from lesioncli.evaluation.statistics.resampling import ResamplingPlan, percentile_interval
from lesioncli.options import EvaluationOptions


@dataclass(frozen=True)
class ComparedRun:
    """A run: its mask metrics, AUCs and AUC_MEAN, and its differences to the first run, none for that itself."""

    name: str
    estimates: Mapping[str, Estimate]
    differences: Mapping[str, Difference]


@dataclass(frozen=True)
class ComparedRuns:
    """All runs against one ground truth, over the images that were evaluated in every run.

    `left_out` names images that were evaluated in some runs only, or in none.
    """

    ground_truth: str
    runs: tuple[ComparedRun, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Agreement:
    """A metric of the masks of `name`, a run or an annotator, against those of an annotator, over their images."""

    name: str
    annotator: str
    estimate: Estimate


@dataclass(frozen=True)
class RunComparison:
    """Result of compare_runs(). `agreements` has runs and annotators against each annotator; none for only one.

    `metric` is that of the agreements, and the first of the tables.
    """

    metric: str
    by_ground_truth: tuple[ComparedRuns, ...]
    agreements: tuple[Agreement, ...] = ()

    @property
    def incomplete(self) -> bool:
        """Whether an image could not be evaluated in every run."""
        return any(compared.left_out for compared in self.by_ground_truth)


def read_ground_truths(paths: Sequence[Path], options: EvaluationOptions) -> dict[str, GroundTruth]:
    """Read the ground truth of each annotator, by its path; InputError where it is not of the protocol's data set."""
    truths = {str(path): read_ground_truth(path, options.labels) for path in paths}
    for name, truth in truths.items():
        require_data_set(Path(name), chain(truth.masks, truth.labels.ids), options.protocol)
    return truths


def list_metrics(ground_truths: Iterable[GroundTruth]) -> list[str]:
    """Return the metrics that a run may have with these ground truths."""
    names: dict[str, None] = {}
    for truth in ground_truths:
        classes = truth.labels.classes if truth.labels.ids else ()
        aucs = [*classes, AUC_MEAN] if len(classes) > 1 else classes
        names |= dict.fromkeys([*(PIXEL_METRICS if truth.masks else ()), *aucs])
    return list(names)


def compare_runs(
    ground_truths: Mapping[str, GroundTruth],
    runs: Sequence[Path],
    options: EvaluationOptions,
    on_progress: Progress | None = None,
) -> RunComparison:
    """Evaluate every run against every ground truth, such as the masks of several annotators, by name.

    Of the options, those of the protocol, labels, clusters, seed and workers count. Raises InputError where evaluate()
    does, or if no image was evaluated in all runs.
    """
    rules = PROTOCOLS[options.protocol]
    compared: list[ComparedRuns] = []
    agreements: list[Agreement] = []
    for name, truth in ground_truths.items():
        clusters = read_clusters(options.cluster, options.metadata, truth, rules)
        plan = plan_resampling(options.cluster, clusters, options.seed)
        evaluated = {str(run): evaluate_predictions(truth, run, None, options, on_progress) for run in runs}
        compared.append(_compare(name, evaluated, plan))
        if len(ground_truths) > 1:
            agreements += [
                Agreement(run, name, _estimate_masks(predictions.masks, plan)[rules.mask_metric])
                for run, predictions in evaluated.items()
                if predictions.masks.images
            ]
    agreements += _compare_annotators(ground_truths, rules.mask_metric, options, on_progress)
    return RunComparison(rules.mask_metric, tuple(compared), tuple(agreements))


def _compare(ground_truth: str, evaluated: Mapping[str, EvaluatedPredictions], plan: ResamplingPlan) -> ComparedRuns:
    masks = set.intersection(*(set(predictions.masks.images) for predictions in evaluated.values()))
    ids = set.intersection(*(set(predictions.labelled.ids) for predictions in evaluated.values()))
    if not masks and not ids:
        raise InputError(f"{ground_truth}: no image was evaluated in all of {', '.join(evaluated)}")
    common = {
        name: replace(
            predictions, masks=_select_masks(predictions.masks, masks), labelled=predictions.labelled.select(ids)
        )
        for name, predictions in evaluated.items()
    }
    first, *_ = common
    runs = tuple(
        ComparedRun(
            name,
            _estimate_masks(predictions.masks, plan) | _estimate_aucs(predictions.labelled, plan),
            compare_predictions(predictions, common[first], (name, first), plan).differences if name != first else {},
        )
        for name, predictions in common.items()
    )
    problems = {case.name for predictions in evaluated.values() for case in predictions.cases if case.problem}
    scored = {name for predictions in evaluated.values() for name in predictions.labelled.ids}
    return ComparedRuns(ground_truth, runs, tuple(sorted(problems | (scored - ids))))


def _select_masks(metrics: MaskMetrics, images: set[str]) -> MaskMetrics:
    rows = [row for row, image in enumerate(metrics.images) if image in images]
    return MaskMetrics(tuple(metrics.images[row] for row in rows), metrics.names, metrics.values[rows])


def _estimate_masks(metrics: MaskMetrics, plan: ResamplingPlan) -> dict[str, Estimate]:
    """Return the mean of each metric, where it has one, with its interval and number of images."""
    if not metrics.images:
        return {}
    samples = bootstrap_means(metrics.values, plan.for_images(metrics.images))
    counts = (~np.isnan(metrics.values)).sum(axis=0)
    return {
        name: Estimate(float(mean), *percentile_interval(sample), int(count))
        for name, mean, sample, count in zip(
            metrics.names, column_means(metrics.values), samples.T, counts, strict=True
        )
        if not math.isnan(mean)
    }


def _estimate_aucs(labelled: LabelledScores, plan: ResamplingPlan) -> dict[str, Estimate]:
    """Return the AUC of each class, and of several classes their mean, where they have one."""
    if not labelled.labels.size:
        return {}
    samples = bootstrap_aucs(labelled.labels, labelled.scores, plan.for_images(labelled.ids))
    aucs = {
        name: (float(roc_auc(*columns)), sample)
        for (name, columns), sample in zip(labelled.by_class().items(), samples.T, strict=True)
    }
    if len(aucs) > 1:
        aucs[AUC_MEAN] = sum(auc for auc, _ in aucs.values()) / len(aucs), samples.mean(axis=1)
    return {
        name: Estimate(auc, *percentile_interval(sample), labelled.counts.get(name, labelled.count))
        for name, (auc, sample) in aucs.items()
        if not math.isnan(auc)
    }


def _compare_annotators(
    truths: Mapping[str, GroundTruth], metric: str, options: EvaluationOptions, on_progress: Progress | None
) -> list[Agreement]:
    """Return the agreement of each annotator with each other one, over the images that both have annotated."""
    rules = PROTOCOLS[options.protocol]
    agreements: list[Agreement] = []
    for (name, truth), (other, masks) in permutations(truths.items(), 2):
        matches = match(truth.masks, masks.masks, rules)
        pairs = {image: masks.masks[found[0]] for image, found in matches.items() if len(found) == 1}
        if not pairs:
            raise InputError(f"{name} and {other}: have no image in common; the masks of annotators need equal names")
        both = GroundTruth({image: truth.masks[image] for image in pairs}, NO_LABELS, pairs)
        evaluated = evaluate_predictions(both, Path(other), None, options, on_progress)
        estimates = _estimate_masks(evaluated.masks, ResamplingPlan(options.seed))
        if metric in estimates:
            agreements.append(Agreement(other, name, estimates[metric]))
    return agreements
