"""Print an evaluation: its tables, problems and notes."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lesioncli.cli.console import escape_markup, list_first, print_line, say, stdout
from lesioncli.cli.tables import add_row, make_table, print_table, shorten
from lesioncli.options import ProtocolName, TableFormat

if TYPE_CHECKING:
    from rich.table import Table

    from lesioncli.evaluation.result import ConfusionMatrix, Evaluation, MaskEvaluation, ScoreEvaluation
    from lesioncli.evaluation.statistics.comparison import Comparison
    from lesioncli.evaluation.statistics.groups import Estimate

MAX_CLASSES_WITH_INTERVALS = 2  # more classes with intervals are wider than 80 columns
MAX_WITHOUT_SCORES = 3  # a table of labels often has many more images than were segmented


def print_evaluation(evaluation: "Evaluation", table_format: TableFormat = TableFormat.TEXT) -> None:
    """Print tables of means, groups and differences; for a challenge also its classes and the ranked metrics.

    To be pasted into a document, the tables alone are printed.
    """
    if table_format != TableFormat.TEXT:
        for table in _tables(evaluation):
            print_table(table, table_format)
        return
    _print_means(evaluation)
    for column in _group_columns(evaluation):
        stdout.print(_groups_table(evaluation, column))
        _print_groups_behind(evaluation, column)
    for table in _further_tables(evaluation):
        stdout.print(table)
    if evaluation.protocol == ProtocolName.PLAIN:
        if evaluation.scores.per_class:
            print_line("more metrics per class: --json, or, for images of ISIC, --protocol isic2017")
        return
    for part, (name, value) in evaluation.official.ranking.items():
        print_line(f"{evaluation.protocol} ranks {part} by {name}: {_format(value)}")


def _tables(evaluation: "Evaluation") -> "Iterator[Table]":
    if evaluation.masks.means or evaluation.scores.labelled.count:
        yield _means_table(evaluation)
    yield from (_groups_table(evaluation, column) for column in _group_columns(evaluation))
    yield from _further_tables(evaluation)


def _group_columns(evaluation: "Evaluation") -> list[str]:
    return list(dict.fromkeys(group.column for group in evaluation.groups))


def _further_tables(evaluation: "Evaluation") -> "Iterator[Table]":
    """Yield the table of differences; for a challenge also those of the classes."""
    if evaluation.comparison:
        yield _comparison_table(evaluation.comparison, evaluation)
    if evaluation.protocol != ProtocolName.PLAIN:
        if evaluation.scores.per_class:
            yield _classes_table(evaluation.scores)
        if evaluation.scores.matrix:
            yield _matrix_table(evaluation.scores.matrix)


def _print_means(evaluation: "Evaluation") -> None:
    """Print the mean of each mask metric and the AUC of each class, with intervals, or that there are none."""
    masks, scores = evaluation.masks, evaluation.scores
    if not masks.means and not scores.labelled.count:
        print_line(f"0 of {len(masks.cases) or len(scores.labelled.problems)} images evaluated")
        return
    stdout.print(_means_table(evaluation))
    if masks.means:
        _print_bias(masks)


def _means_table(evaluation: "Evaluation") -> "Table":
    masks, scores = evaluation.masks, evaluation.scores
    table = make_table("metric", "value", "95 % interval", "images")
    for name, value in masks.means.items():
        images = sum(not math.isnan(case.metrics[name]) for case in masks.evaluated)
        add_row(table, name, _format(value), _format_interval(masks.intervals.get(name)), images)
    for name, value in _aucs(scores).items():
        interval = _format_interval(scores.intervals.get(name))
        images = scores.labelled.counts.get(name, scores.labelled.count)
        add_row(table, _metric_title(name, evaluation), _format(value), interval, images)
    return table


def _print_bias(masks: "MaskEvaluation") -> None:
    """Print whether the masks are too large or too small, their confidence too high, and the threshold off."""
    from lesioncli.evaluation.metrics.pixels import AREA_LOG_RATIO

    if AREA_LOG_RATIO in masks.intervals:
        area, low, high = (
            f"{math.exp(value):.3f}" for value in (masks.means[AREA_LOG_RATIO], *masks.intervals[AREA_LOG_RATIO])
        )
        print_line(f"area of the masks over that of the ground truth, geometric mean: {area} ({low} to {high})")
    confidence, curve = masks.confidence, masks.thresholds
    if confidence.images:
        error = _format_with_interval(
            confidence.metrics["calibration_error"], confidence.intervals["calibration_error"]
        )
        print_line(
            f"confidence: mean {confidence.means['confidence']:.3f} at a mean Jaccard of"
            f" {confidence.means['jaccard']:.3f}; calibration error {error}"
        )
    if curve:
        low, high = (f"{value:.2f}" for value in curve.best_interval)
        print_line(f"Jaccard over thresholds: highest at {curve.best:.2f} ({low} to {high}), {max(curve.means):.4f}")
    else:
        print_line("Jaccard over thresholds: needs the probability maps of `segment --save-probabilities`")


def _aucs(scores: "ScoreEvaluation") -> dict[str, float]:
    """Return the AUC of each class, and their mean if there are several classes."""
    from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN

    return {**scores.auc, **({AUC_MEAN: scores.auc_mean} if len(scores.auc) > 1 else {})}


def _groups_table(evaluation: "Evaluation", column: str) -> "Table":
    """Return the ranked mask metric and the mean AUC of each group of a column."""
    from lesioncli.evaluation.protocols import PROTOCOLS

    metrics = [PROTOCOLS[evaluation.protocol].mask_metric] if evaluation.masks.means else []
    metrics += list(_aucs(evaluation.scores))[-1:]
    table = make_table(column, "images", *(_metric_title(name, evaluation) for name in metrics))
    for group in (group for group in evaluation.groups if group.column == column):
        estimates = (_format_estimate(group.estimates.get(name)) for name in metrics)
        add_row(table, group.group, group.images, *estimates)
    return table


def _print_groups_behind(evaluation: "Evaluation", column: str) -> None:
    for group in (group for group in evaluation.groups if group.column == column):
        for name in group.behind:
            difference = _format_estimate(group.differences[name])
            line = f"{column} {group.group}: {_metric_title(name, evaluation)} {difference}"
            stdout.print(f"[red]clearly worse than the other images:[/] {escape_markup(line)}", soft_wrap=True)


def _comparison_table(comparison: "Comparison", evaluation: "Evaluation") -> "Table":
    table = make_table("metric", *shorten([comparison.name, comparison.other]), "difference", "95 % interval", "p")
    for name, difference in comparison.differences.items():
        add_row(
            table,
            _metric_title(name, evaluation),
            f"{difference.ours:.3f}",
            f"{difference.other:.3f}",
            f"{difference.difference:+.4f}",
            _format_interval((difference.low, difference.high)),
            f"{difference.p_value:.4f}",
        )
    return table


def _classes_table(scores: "ScoreEvaluation") -> "Table":
    """Return every metric of each class, then the counts of its confusion matrix."""
    from lesioncli.evaluation.metrics.pixels import Counts

    table = make_table("metric", *(name.replace("_", " ") for name in scores.per_class))
    with_intervals = len(scores.per_class) <= MAX_CLASSES_WITH_INTERVALS
    for metric in next(iter(scores.per_class.values())):
        row = []
        for name, values in scores.per_class.items():
            interval = scores.per_class_intervals.get(name, {}).get(metric) if with_intervals else None
            row.append(_format_with_interval(values[metric], interval))
        add_row(table, metric, *row)
    for count_name in Counts._fields:
        counts = (f"{getattr(counts, count_name):.0f}" for counts in scores.confusion.values())
        add_row(table, count_name.replace("_", " "), *counts)
    return table


def _matrix_table(matrix: "ConfusionMatrix") -> "Table":
    """Return a row per labelled class and a column per class of the highest score; one of ties if there are any."""
    has_ties = any(row[-1] for row in matrix.counts)
    names = [name.replace("_", " ") for name in matrix.classes]
    table = make_table("label / highest score", *names, *(["tie"] if has_ties else []))
    for name, row in zip(names, matrix.counts, strict=True):
        add_row(table, name, *(row if has_ties else row[:-1]))
    return table


def _metric_title(name: str, evaluation: "Evaluation") -> str:
    """Return the printed name of a mask metric, of the AUC of a class or of the mean AUC."""
    from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN

    if name in evaluation.masks.means:
        return name
    return "AUC mean" if name == AUC_MEAN else f"AUC {name.replace('_', ' ')}"


def _format(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4f}"


def _format_interval(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval and not math.isnan(interval[0]) else ""


def _format_with_interval(value: float, interval: tuple[float, float] | None) -> str:
    formatted = _format_interval(interval)
    return f"{value:.3f} ({formatted})" if formatted else _format(value)


def _format_estimate(estimate: "Estimate | None") -> str:
    return _format_with_interval(estimate.value, (estimate.low, estimate.high)) if estimate else ""


def print_evaluation_notes(evaluation: "Evaluation") -> None:
    """Print to stderr what was not evaluated, what had no counterpart, and notes."""
    from lesioncli.evaluation.protocols import PROTOCOLS

    _print_problems(evaluation)
    list_first("prediction without ground truth", evaluation.masks.extra)
    list_first("scores without a label", evaluation.scores.labelled.extra)
    list_first("note", [*evaluation.notes, *_notes_on_masks(evaluation.masks)])
    if evaluation.comparison:
        list_first("not compared, missing in the other", evaluation.comparison.only_ours)
        list_first("not compared, only in the other", evaluation.comparison.only_other)
    if evaluation.incomplete and PROTOCOLS[evaluation.protocol].complete:
        say(
            f"{evaluation.protocol}: no official figures of {' and '.join(evaluation.incomplete)}, because not every"
            " image could be evaluated; the official scorer needs all of them"
        )


def _notes_on_masks(masks: "MaskEvaluation") -> list[str]:
    """The notes on single masks; one that many masks share, such as on how they are stored, is one line."""
    names: dict[str, list[str]] = {}
    for case in masks.cases:
        if case.note:
            names.setdefault(case.note, []).append(case.name)
    return [
        f"{cases[0]}: {note}" if len(cases) == 1 else f"{len(cases)} masks, the first of {cases[0]}: {note}"
        for note, cases in names.items()
    ]


def _print_problems(evaluation: "Evaluation") -> None:
    """Print what was not evaluated; labelled images without a row of scores last, since they may be very many."""
    from lesioncli.evaluation.labelled_scores import NO_ROW

    problems = evaluation.problems
    without_row = [problem for problem in problems if problem.endswith(f": {NO_ROW}")]
    list_first("not evaluated", [problem for problem in problems if not problem.endswith(f": {NO_ROW}")])
    advice = "if they were not segmented, give a CSV of the other labels with --labels; --json lists all"
    list_first("not evaluated", without_row, advice, MAX_WITHOUT_SCORES)
