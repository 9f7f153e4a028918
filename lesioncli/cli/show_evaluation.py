"""Print an evaluation: tables, notes and the JSON document."""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from lesioncli.cli.console import escape_markup, list_first, say, stdout

if TYPE_CHECKING:
    from rich.table import Table

    from lesioncli.evaluation.result import ConfusionMatrix, Evaluation
    from lesioncli.evaluation.statistics.comparison import Comparison
    from lesioncli.evaluation.statistics.groups import Estimate, GroupResult


def print_evaluation(evaluation: "Evaluation", protocol: str) -> None:
    """Means with their intervals; by a challenge's protocol also each class, and what it ranks by."""
    from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN

    table = _figures_table("metric", "value", "95 % interval", "images")
    judged = [case.metrics for case in evaluation.masks.cases if not case.problem]
    means = [
        (name, name, value, sum(not math.isnan(metrics[name]) for metrics in judged))
        for name, value in evaluation.masks.means.items()
    ]
    aucs = [(name, _auc_name(name), value, evaluation.scores.labelled.count) for name, value in evaluation.scores.auc.items()]
    if len(aucs) > 1:
        aucs.append((AUC_MEAN, _auc_name(AUC_MEAN), evaluation.scores.auc_mean, evaluation.scores.labelled.count))
    intervals = {**evaluation.masks.intervals, **evaluation.scores.intervals}
    for key, name, value, count in [*means, *aucs]:
        table.add_row(escape_markup(name), _figure(value), _interval(intervals.get(key)), str(count))
    stdout.print(table)
    _print_groups(evaluation, protocol)
    if evaluation.comparison:
        _print_comparison(evaluation.comparison, evaluation)
    if protocol == "plain":  # which nobody is ranked by
        if evaluation.scores.per_class:
            stdout.print("more of each class: --protocol isic2017, or --json", soft_wrap=True)
        return
    if evaluation.scores.per_class:
        _print_classes(evaluation)
    if evaluation.scores.matrix:
        _print_matrix(evaluation.scores.matrix)
    for what, (name, value) in evaluation.official.ranking.items():
        stdout.print(f"{protocol} ranks {what} by {name}: {_figure(value)}", soft_wrap=True)


def _figures_table(first: str, *columns: str) -> "Table":
    """A table of words and then figures."""
    from rich.table import Table

    table = Table(first, *columns)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _auc_name(key: str) -> str:
    from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN

    return "AUC mean" if key == AUC_MEAN else f"AUC {key.replace('_', ' ')}"


def _print_groups(evaluation: "Evaluation", protocol: str) -> None:
    """A table for each column: the masks' ranked metric and the mean AUC; then the groups that are clearly behind."""
    from lesioncli.evaluation.protocols import PROTOCOLS
    from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN

    shown = [PROTOCOLS[evaluation.protocol].mask_metric] if evaluation.masks.means else []
    shown += [AUC_MEAN] if len(evaluation.scores.auc) > 1 else evaluation.scores.auc
    for column in dict.fromkeys(group.column for group in evaluation.groups):
        groups = [group for group in evaluation.groups if group.column == column]
        headings = (_figure_name(name, evaluation) for name in shown)
        table = _figures_table(escape_markup(column), "images", *map(escape_markup, headings))
        for group in groups:
            table.add_row(escape_markup(group.group), str(group.images), *(_with_interval(group.estimates, key) for key in shown))
        stdout.print(table)
        for group in groups:
            for name in group.behind:
                difference = group.differences[name]
                figure = f"{difference.value:.3f} ({_interval((difference.low, difference.high))})"
                what = escape_markup(f"{column} {group.group}: {_figure_name(name, evaluation)} {figure}")
                stdout.print(f"[red]clearly behind the others:[/] {what}", soft_wrap=True)


def _figure_name(key: str, evaluation: "Evaluation") -> str:
    return key if key in evaluation.masks.means else _auc_name(key)


def _with_interval(figures: "Mapping[str, Estimate]", key: str) -> str:
    if key not in figures:
        return ""
    each = figures[key]
    if math.isnan(each.low):
        return _figure(each.value)
    return f"{each.value:.3f} ({_interval((each.low, each.high))})"


def _print_comparison(comparison: "Comparison", evaluation: "Evaluation") -> None:
    table = _figures_table("ours - other", "ours", "other", "difference", "95 % interval", "p")
    for name, each in comparison.differences.items():
        values = (f"{value:.3f}" for value in (each.ours, each.other))
        shown = (f"{each.difference:+.4f}", _interval((each.low, each.high)), f"{each.p_value:.4f}")
        table.add_row(escape_markup(_figure_name(name, evaluation)), *values, *shown)
    stdout.print(table)


def _print_classes(evaluation: "Evaluation") -> None:
    """Every metric of each class, with its interval where two of them fit into 80 columns; then the counts."""
    table = _figures_table("metric", *(escape_markup(name.replace("_", " ")) for name in evaluation.scores.per_class))
    for metric in next(iter(evaluation.scores.per_class.values())):
        row = []
        for name, values in evaluation.scores.per_class.items():
            interval = evaluation.scores.per_class_intervals.get(name, {}).get(metric)
            narrow = len(evaluation.scores.per_class) <= 2 and interval
            row.append(f"{values[metric]:.3f} ({_interval(interval)})" if narrow else _figure(values[metric]))
        table.add_row(metric, *row)
    for kind in ("true_positive", "false_positive", "false_negative", "true_negative"):
        counts = (f"{getattr(each, kind):.0f}" for each in evaluation.scores.confusion.values())
        table.add_row(kind.replace("_", " "), *counts)
    stdout.print(table)


def _print_matrix(matrix: "ConfusionMatrix") -> None:
    """Rows are the truth, columns the highest score; ties have a column where there are any."""
    tied = any(row[-1] for row in matrix.counts)
    names = [escape_markup(name.replace("_", " ")) for name in matrix.classes]
    table = _figures_table("truth, by highest score", *names, *(["tie"] if tied else []))
    for name, row in zip(names, matrix.counts, strict=True):
        table.add_row(name, *map(str, row if tied else row[:-1]))
    stdout.print(table)


def _interval(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval and not math.isnan(interval[0]) else ""


def _figure(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4f}"


def tell_evaluation(evaluation: "Evaluation", protocol: str) -> None:
    """Say what was not judged, what was too much, and what was odd."""
    from lesioncli.evaluation.protocols import PROTOCOLS

    list_first("not scored", _problems(evaluation))
    list_first("prediction without a truth", evaluation.masks.extra)
    list_first("scores without a label", evaluation.scores.labelled.extra)
    list_first("note", _notes(evaluation))
    if evaluation.comparison:
        list_first("not compared, the other lacks", evaluation.comparison.only_ours)
        list_first("not compared, only the other has", evaluation.comparison.only_other)
    if evaluation.incomplete and PROTOCOLS[evaluation.protocol].complete:
        what = f"no official figures of {' and '.join(evaluation.incomplete)} by {protocol}"
        say(f"{what}: not every image could be judged, and the official scorer takes all or none")


def _problems(evaluation: "Evaluation") -> list[str]:
    return [f"{case.name}: {case.problem}" for case in evaluation.masks.cases if case.problem] + [*evaluation.scores.labelled.problems]


def _notes(evaluation: "Evaluation") -> list[str]:
    return [*evaluation.notes, *(f"{case.name}: {case.note}" for case in evaluation.masks.cases if case.note)]


def evaluation_json(evaluation: "Evaluation", protocol: str) -> Mapping[str, Any]:
    """The official scorer's document, and all else under `lesioncli`."""
    scored = sum(not case.problem for case in evaluation.masks.cases)
    ours = {
        "protocol": protocol,
        "ranking": {key: {"figure": name, "value": value} for key, (name, value) in evaluation.official.ranking.items()},
        "truths": len(evaluation.masks.cases),
        "scored": scored,
        "means": evaluation.masks.means,
        "auc": evaluation.scores.auc,
        "auc_mean": evaluation.scores.auc_mean,
        "auc_count": evaluation.scores.labelled.count,
        "per_class": evaluation.scores.per_class,
        "confusion": {name: counts._asdict() for name, counts in evaluation.scores.confusion.items()},
        "confusion_matrix": dataclasses.asdict(evaluation.scores.matrix) if evaluation.scores.matrix else None,
        "intervals": {**evaluation.masks.intervals, **evaluation.scores.intervals},
        "interval_method": _interval_method(evaluation),
        "per_class_intervals": evaluation.scores.per_class_intervals,
        "official_intervals": evaluation.official.intervals,
        "groups": [_group_json(group) for group in evaluation.groups],
        "comparison": _comparison_json(evaluation.comparison) if evaluation.comparison else None,
        "problems": _problems(evaluation),
        "extra": evaluation.masks.extra,
        "extra_scores": evaluation.scores.labelled.extra,
        "notes": _notes(evaluation),
    }
    official = evaluation.official.joined()
    return cast(Mapping[str, Any], _without_nan({**official, "lesioncli": ours}))


def _interval_method(evaluation: "Evaluation") -> Mapping[str, Any]:
    from lesioncli.evaluation.statistics.resampling import CONFIDENCE_LEVEL, count_bootstrap_samples

    images = {"masks": sum(not case.problem for case in evaluation.masks.cases), "scores": evaluation.scores.labelled.count}
    plan = evaluation.plan
    return {
        "method": f"percentile bootstrap over {'clusters of images' if plan.column else 'images'}",
        "cluster": plan.column or None,
        "level": CONFIDENCE_LEVEL,
        "resamples": {what: count_bootstrap_samples(count) for what, count in images.items()},
        "seed": plan.seed,
    }


def _group_json(group: "GroupResult") -> Mapping[str, Any]:
    return {
        "column": group.column,
        "group": group.group,
        "images": group.images,
        "figures": {name: _figure_json(figure) for name, figure in group.estimates.items()},
        "differences": {name: _figure_json(figure) for name, figure in group.differences.items()},
        "behind": group.behind,
    }


def _figure_json(figure: "Estimate") -> Mapping[str, Any]:
    interval = None if math.isnan(figure.low) else (figure.low, figure.high)
    return {"value": figure.value, "interval": interval, "images": figure.images}


def _comparison_json(comparison: "Comparison") -> Mapping[str, Any]:
    differences = {
        name: {
            "ours": each.ours,
            "other": each.other,
            "difference": each.difference,
            "p": each.p_value,
            "images": each.images,
            "interval": (each.low, each.high),
        }
        for name, each in comparison.differences.items()
    }
    return {
        "other": comparison.other,
        "differences": differences,
        "only_ours": comparison.only_ours,
        "only_other": comparison.only_other,
    }


def _without_nan(content: Any) -> Any:
    """JSON has no nan: a figure that is undefined is null."""
    if isinstance(content, Mapping):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
