"""Tables of the report: titles, values and intervals, ready for the page. All metrics are those of `evaluate`."""

import math
from dataclasses import dataclass

import numpy as np

from lesioncli.evaluation.protocols import PROTOCOLS
from lesioncli.evaluation.reliability import ReliabilityBin
from lesioncli.evaluation.result import ConfusionMatrix, Evaluation, ScoreEvaluation
from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN
from lesioncli.evaluation.statistics.groups import Estimate, GroupResult
from lesioncli.evaluation.statistics.resampling import Interval
from lesioncli.report.data import ReportData
from lesioncli.report.titles import auc_title, title
from lesioncli.segmented import AREA, CONFIDENCE

PERCENTILES = (5, 25, 50, 75, 95)
HEADLINE_METRICS = ("jaccard", "threshold_jaccard", "dice")


@dataclass(frozen=True)
class MetricValue:
    """A metric, its 95 % interval and the number of images behind it. `key` is its name in evaluate's JSON."""

    key: str
    title: str
    value: float
    interval: Interval | None
    images: int


def mask_metrics(evaluation: Evaluation) -> list[MetricValue]:
    """Return the mean mask metrics over the evaluated images."""
    masks = evaluation.masks
    return [
        MetricValue(
            key,
            title(key),
            value,
            masks.intervals.get(key),
            images=sum(not math.isnan(case.metrics[key]) for case in masks.evaluated),
        )
        for key, value in masks.means.items()
    ]


def auc_metrics(scores: ScoreEvaluation) -> list[MetricValue]:
    """Return the AUC of each class, then their mean if there are several classes."""
    values = {**scores.auc, **({AUC_MEAN: scores.auc_mean} if len(scores.auc) > 1 else {})}
    return [
        MetricValue(key, auc_title(key), value, scores.intervals.get(key), _labelled_images(scores, key))
        for key, value in values.items()
    ]


def headline_metrics(data: ReportData) -> list[MetricValue]:
    """Return the few metrics at the top; without ground truth, medians of columns of scores.csv."""
    if data.evaluation:
        metrics = [metric for metric in mask_metrics(data.evaluation) if metric.key in HEADLINE_METRICS]
        metrics.sort(key=lambda metric: HEADLINE_METRICS.index(metric.key))
        aucs = auc_metrics(data.evaluation.scores)
        return [*metrics, *(aucs[-1:] if len(aucs) > 1 else aucs)]
    medians = [(column, data.known(column)) for column in (CONFIDENCE, AREA)]
    return [
        MetricValue(column, f"{title(column)}, median", float(np.median(values)), None, values.size)
        for column, values in medians
        if values.size
    ]


@dataclass(frozen=True)
class ClassTable:
    """A row per metric and a column per class."""

    classes: tuple[str, ...]
    rows: tuple[tuple[MetricValue, ...], ...]
    images: int


def class_table(scores: ScoreEvaluation) -> ClassTable:
    """Return every metric of every class, the AUC first."""
    classes = tuple(scores.per_class)
    keys = sorted(next(iter(scores.per_class.values()), {}), key=lambda key: key != "auc")
    rows = tuple(tuple(_class_metric(scores, name, key) for name in classes) for key in keys)
    return ClassTable(tuple(_class_heading(scores, name) for name in classes), rows, scores.labelled.count)


def _class_heading(scores: ScoreEvaluation, name: str) -> str:
    """Return the title of a class, with its number of images if some labels are unknown."""
    return title(name) if scores.labelled.is_complete else f"{title(name)} ({scores.labelled.counts[name]} images)"


def _class_metric(scores: ScoreEvaluation, name: str, key: str) -> MetricValue:
    interval = scores.per_class_intervals.get(name, {}).get(key)
    return MetricValue(key, title(key), scores.per_class[name][key], interval, _labelled_images(scores, name))


def _labelled_images(scores: ScoreEvaluation, name: str) -> int:
    """Return the number of images behind a figure of a class, or behind the mean of the classes."""
    return scores.labelled.counts.get(name, scores.labelled.count)


@dataclass(frozen=True)
class GroupRow:
    """One group: a value for each column of its table, and the metrics in which it is behind, as text."""

    group: str
    images: int
    metrics: tuple[MetricValue, ...]
    behind: str


@dataclass(frozen=True)
class GroupTable:
    """The groups of one column of the metadata."""

    column: str
    headings: tuple[str, ...]
    rows: tuple[GroupRow, ...]


def group_tables(evaluation: Evaluation) -> list[GroupTable]:
    """Return one table per requested column: the ranked mask metric and the AUCs of each group."""
    mask_metric = PROTOCOLS[evaluation.protocol].mask_metric
    titles = {mask_metric: title(mask_metric)} if evaluation.masks.means else {}
    titles |= {metric.key: metric.title for metric in auc_metrics(evaluation.scores)}
    by_column: dict[str, list[GroupResult]] = {}
    for group in evaluation.groups:
        by_column.setdefault(group.column, []).append(group)
    return [
        GroupTable(title(column), tuple(titles.values()), tuple(_group_row(group, titles) for group in groups))
        for column, groups in by_column.items()
    ]


def _group_row(group: GroupResult, titles: dict[str, str]) -> GroupRow:
    estimates = {key: group.estimates.get(key, Estimate(math.nan)) for key in titles}
    metrics = tuple(
        MetricValue(
            key,
            titles[key],
            estimate.value,
            None if math.isnan(estimate.low) else (estimate.low, estimate.high),
            estimate.images,
        )
        for key, estimate in estimates.items()
    )
    behind = (f"{titles.get(key, title(key))} {_signed(group.differences[key])}" for key in group.behind)
    return GroupRow(group.group, group.images, metrics, "; ".join(behind))


def _signed(difference: Estimate) -> str:
    return f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"


@dataclass(frozen=True)
class MatrixTable:
    """Number of images per class of the labels (row) and class of the highest score (column), the last one ties."""

    classes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int, ...]], ...]


def matrix_table(matrix: ConfusionMatrix | None) -> MatrixTable | None:
    """Return the confusion matrix with titles."""
    if matrix is None:
        return None
    classes = tuple(map(title, matrix.classes))
    return MatrixTable(classes, tuple(zip(classes, matrix.counts, strict=True)))


@dataclass(frozen=True)
class ReliabilityTable:
    """Bins of a score or of the confidence, and what was observed there."""

    heading: str
    value: str
    observed: str
    rows: tuple[ReliabilityBin, ...]


def confidence_table(evaluation: Evaluation) -> list[ReliabilityTable]:
    """Return the reliability of the confidence; none if there are no confidences."""
    rows = evaluation.masks.confidence.reliability
    return [ReliabilityTable("confidence", "mean confidence", "mean Jaccard", rows)] if rows else []


def score_tables(scores: ScoreEvaluation) -> list[ReliabilityTable]:
    """Return the reliability of the scores of each class."""
    return [
        ReliabilityTable(f"score of {title(name)}", "mean score", "fraction of positives", rows)
        for name, rows in scores.reliability.items()
    ]


@dataclass(frozen=True)
class ColumnRow:
    """Percentiles of a column of scores.csv over all images."""

    title: str
    percentiles: tuple[float, ...]
    images: int


def column_table(data: ReportData) -> list[ColumnRow]:
    """Return the distribution of each column of scores.csv that has a number."""
    known = [(column, data.known(column)) for column in data.segmented.columns]
    return [
        ColumnRow(title(column), tuple(np.percentile(values, PERCENTILES).tolist()), values.size)
        for column, values in known
        if values.size
    ]
