"""Print an evaluation: tables and notes, or one JSON document."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from lesioncli.cli.console import escape_markup, list_first, print_line, say, stdout
from lesioncli.options import ProtocolName

if TYPE_CHECKING:
    from rich.table import Table

    from lesioncli.evaluation.metrics.pixels import Counts
    from lesioncli.evaluation.result import ConfusionMatrix, Evaluation, ScoreEvaluation
    from lesioncli.evaluation.statistics.comparison import Comparison
    from lesioncli.evaluation.statistics.groups import Estimate, GroupResult

MAX_CLASSES_WITH_INTERVALS = 2  # more classes with intervals are wider than 80 columns
MAX_WITHOUT_SCORES = 3  # a table of labels often has many more images than were segmented
COUNT_NAMES = ("true_positive", "false_positive", "false_negative", "true_negative")


def print_evaluation(evaluation: "Evaluation") -> None:
    """Print tables of means, groups and differences; for a challenge also its classes and the ranked metrics."""
    _print_means(evaluation)
    for column in dict.fromkeys(group.column for group in evaluation.groups):
        _print_groups(evaluation, column)
    if evaluation.comparison:
        _print_comparison(evaluation.comparison, evaluation)
    if evaluation.protocol == ProtocolName.PLAIN:
        if evaluation.scores.per_class:
            print_line("more metrics per class: --protocol isic2017, or --json")
        return
    if evaluation.scores.per_class:
        _print_classes(evaluation.scores)
    if evaluation.scores.matrix:
        _print_confusion_matrix(evaluation.scores.matrix)
    for part, (name, value) in evaluation.official.ranking.items():
        print_line(f"{evaluation.protocol} ranks {part} by {name}: {_format(value)}")


def _print_means(evaluation: "Evaluation") -> None:
    """Print the mean of each mask metric and the AUC of each class, with intervals, or that there are none."""
    masks, scores = evaluation.masks, evaluation.scores
    if not masks.means and not scores.labelled.count:
        print_line(f"0 of {len(masks.cases) or len(scores.labelled.problems)} images evaluated")
        return
    table = _table("metric", "value", "95 % interval", "images")
    for name, value in masks.means.items():
        images = sum(not math.isnan(case.metrics[name]) for case in masks.evaluated)
        _add_row(table, name, _format(value), _format_interval(masks.intervals.get(name)), images)
    for name, value in _aucs(scores).items():
        interval = _format_interval(scores.intervals.get(name))
        _add_row(table, _metric_title(name, evaluation), _format(value), interval, scores.labelled.count)
    stdout.print(table)


def _aucs(scores: "ScoreEvaluation") -> dict[str, float]:
    """Return the AUC of each class, and their mean if there are several classes."""
    from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN

    return {**scores.auc, **({AUC_MEAN: scores.auc_mean} if len(scores.auc) > 1 else {})}


def _print_groups(evaluation: "Evaluation", column: str) -> None:
    """Print the ranked mask metric and the mean AUC of each group of a column, then the groups that are behind."""
    from lesioncli.evaluation.protocols import PROTOCOLS

    metrics = [PROTOCOLS[evaluation.protocol].mask_metric] if evaluation.masks.means else []
    metrics += list(_aucs(evaluation.scores))[-1:]
    titles = [_metric_title(name, evaluation) for name in metrics]
    table = _table(column, "images", *titles)
    groups = [group for group in evaluation.groups if group.column == column]
    for group in groups:
        estimates = (_format_estimate(group.estimates.get(name)) for name in metrics)
        _add_row(table, group.group, group.images, *estimates)
    stdout.print(table)
    for group in groups:
        for name in group.behind:
            difference = _format_estimate(group.differences[name])
            line = f"{column} {group.group}: {_metric_title(name, evaluation)} {difference}"
            stdout.print(f"[red]clearly worse than the other images:[/] {escape_markup(line)}", soft_wrap=True)


def _print_comparison(comparison: "Comparison", evaluation: "Evaluation") -> None:
    table = _table("metric", "ours", "other", "ours - other", "95 % interval", "p")
    for name, difference in comparison.differences.items():
        _add_row(
            table,
            _metric_title(name, evaluation),
            f"{difference.ours:.3f}",
            f"{difference.other:.3f}",
            f"{difference.difference:+.4f}",
            _format_interval((difference.low, difference.high)),
            f"{difference.p_value:.4f}",
        )
    stdout.print(table)


def _print_classes(scores: "ScoreEvaluation") -> None:
    """Print every metric of each class, then the counts of its confusion matrix."""
    table = _table("metric", *(name.replace("_", " ") for name in scores.per_class))
    with_intervals = len(scores.per_class) <= MAX_CLASSES_WITH_INTERVALS
    for metric in next(iter(scores.per_class.values())):
        row = []
        for name, values in scores.per_class.items():
            interval = scores.per_class_intervals.get(name, {}).get(metric) if with_intervals else None
            row.append(_format_with_interval(values[metric], interval))
        _add_row(table, metric, *row)
    for count_name in COUNT_NAMES:
        counts = (f"{getattr(counts, count_name):.0f}" for counts in scores.confusion.values())
        _add_row(table, count_name.replace("_", " "), *counts)
    stdout.print(table)


def _print_confusion_matrix(matrix: "ConfusionMatrix") -> None:
    """Print a row per labelled class and a column per class of the highest score; a column of ties if there are any."""
    has_ties = any(row[-1] for row in matrix.counts)
    names = [name.replace("_", " ") for name in matrix.classes]
    table = _table("label / highest score", *names, *(["tie"] if has_ties else []))
    for name, row in zip(names, matrix.counts, strict=True):
        _add_row(table, name, *(row if has_ties else row[:-1]))
    stdout.print(table)


def _table(first: str, *columns: str) -> "Table":
    """Return a table with a column of names and right-aligned columns of numbers."""
    from rich.table import Table

    table = Table(*map(escape_markup, (first, *columns)))
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _add_row(table: "Table", *cells: object) -> None:
    table.add_row(*map(escape_markup, cells))


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
    list_first("note", _notes(evaluation))
    if evaluation.comparison:
        list_first("not compared, missing in the other", evaluation.comparison.only_ours)
        list_first("not compared, only in the other", evaluation.comparison.only_other)
    if evaluation.incomplete and PROTOCOLS[evaluation.protocol].complete:
        say(
            f"{evaluation.protocol}: no official figures of {' and '.join(evaluation.incomplete)}, because not every"
            " image could be evaluated; the official scorer needs all of them"
        )


def _print_problems(evaluation: "Evaluation") -> None:
    """Print what was not evaluated; labelled images without a row of scores last, since they may be very many."""
    from lesioncli.evaluation.labelled_scores import NO_ROW

    problems = _problems(evaluation)
    without_row = [problem for problem in problems if problem.endswith(f": {NO_ROW}")]
    list_first("not evaluated", [problem for problem in problems if not problem.endswith(f": {NO_ROW}")])
    advice = "if they were not segmented, give a CSV of the other labels with --labels; --json lists all"
    list_first("not evaluated", without_row, advice, MAX_WITHOUT_SCORES)


def _problems(evaluation: "Evaluation") -> list[str]:
    masks = (f"{case.name}: {case.problem}" for case in evaluation.masks.cases if case.problem)
    return [*masks, *evaluation.scores.labelled.problems]


def _notes(evaluation: "Evaluation") -> list[str]:
    return [*evaluation.notes, *(f"{case.name}: {case.note}" for case in evaluation.masks.cases if case.note)]


def evaluation_document(evaluation: "Evaluation") -> Mapping[str, Any]:
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
        "per_class": scores.per_class,
        "confusion": {name: _counts_document(counts) for name, counts in scores.confusion.items()},
        "confusion_matrix": _matrix_document(scores.matrix) if scores.matrix else None,
        "intervals": {**masks.intervals, **scores.intervals},
        "interval_method": _interval_method(evaluation),
        "per_class_intervals": scores.per_class_intervals,
        "official_intervals": official.intervals,
        "groups": [_group_document(group) for group in evaluation.groups],
        "comparison": _comparison_document(evaluation.comparison) if evaluation.comparison else None,
        "problems": _problems(evaluation),
        "extra": masks.extra,
        "extra_scores": scores.labelled.extra,
        "notes": _notes(evaluation),
    }
    return cast(Mapping[str, Any], _nan_to_null({**official.joined(), "lesioncli": lesioncli}))


def _counts_document(counts: "Counts") -> Mapping[str, float]:
    return {name: getattr(counts, name) for name in COUNT_NAMES}


def _matrix_document(matrix: "ConfusionMatrix") -> Mapping[str, Sequence[Any]]:
    return {"classes": matrix.classes, "counts": matrix.counts}


def _interval_method(evaluation: "Evaluation") -> Mapping[str, Any]:
    from lesioncli.evaluation.statistics.resampling import CONFIDENCE_LEVEL, count_bootstrap_samples

    images = {"masks": len(evaluation.masks.evaluated), "scores": evaluation.scores.labelled.count}
    plan = evaluation.plan
    return {
        "method": f"percentile bootstrap over {'clusters of images' if plan.column else 'images'}",
        "cluster": plan.column or None,
        "level": CONFIDENCE_LEVEL,
        "resamples": {part: count_bootstrap_samples(count) for part, count in images.items()},
        "seed": plan.seed,
    }


def _group_document(group: "GroupResult") -> Mapping[str, Any]:
    return {
        "column": group.column,
        "group": group.group,
        "images": group.images,
        "figures": {name: _estimate_document(estimate) for name, estimate in group.estimates.items()},
        "differences": {name: _estimate_document(difference) for name, difference in group.differences.items()},
        "behind": group.behind,
    }


def _estimate_document(estimate: "Estimate") -> Mapping[str, Any]:
    interval = None if math.isnan(estimate.low) else (estimate.low, estimate.high)
    return {"value": estimate.value, "interval": interval, "images": estimate.images}


def _comparison_document(comparison: "Comparison") -> Mapping[str, Any]:
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
