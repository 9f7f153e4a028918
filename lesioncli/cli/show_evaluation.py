"""Print an evaluation: tables, notes and the JSON document."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from lesioncli.cli.render import list_some, out, plain, say

if TYPE_CHECKING:
    from rich.table import Table

    from lesioncli.evaluation.evaluate import Evaluation, Matrix
    from lesioncli.evaluation.statistics.comparison import Comparison
    from lesioncli.evaluation.statistics.groups import Figure, Group


def print_evaluation(evaluation: "Evaluation", protocol: str) -> None:
    """Means with their intervals; by a challenge's protocol also each class, and what it ranks by."""
    from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN

    table = _figures_table("metric", "value", "95 % interval", "images")
    judged = [case.metrics for case in evaluation.cases if not case.problem]
    means = [
        (name, name, value, sum(not math.isnan(metrics[name]) for metrics in judged))
        for name, value in evaluation.means.items()
    ]
    aucs = [(name, _auc_name(name), value, evaluation.auc_count) for name, value in evaluation.auc.items()]
    if len(aucs) > 1:
        aucs.append((AUC_MEAN, _auc_name(AUC_MEAN), evaluation.auc_mean, evaluation.auc_count))
    for key, name, value, count in [*means, *aucs]:
        table.add_row(plain(name), _figure(value), _interval(evaluation.intervals.get(key)), str(count))
    out.print(table)
    _print_groups(evaluation, protocol)
    if evaluation.comparison:
        _print_comparison(evaluation.comparison, evaluation)
    if protocol == "plain":  # which nobody is ranked by
        if evaluation.per_class:
            out.print("more of each class: --protocol isic2017, or --json", soft_wrap=True)
        return
    if evaluation.per_class:
        _print_classes(evaluation)
    if evaluation.matrix:
        _print_matrix(evaluation.matrix)
    for what, (name, value) in evaluation.ranking.items():
        out.print(f"{protocol} ranks {what} by {name}: {_figure(value)}", soft_wrap=True)


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

    shown = [PROTOCOLS[protocol].mask_metric] if evaluation.means else []
    shown += [AUC_MEAN] if len(evaluation.auc) > 1 else evaluation.auc
    for column in dict.fromkeys(group.column for group in evaluation.groups):
        groups = [group for group in evaluation.groups if group.column == column]
        headings = (_figure_name(name, evaluation) for name in shown)
        table = _figures_table(plain(column), "images", *map(plain, headings))
        for group in groups:
            table.add_row(plain(group.group), str(group.images), *(_with_interval(group.figures, key) for key in shown))
        out.print(table)
        for group in groups:
            for name in group.behind:
                difference = group.differences[name]
                figure = f"{difference.value:.3f} ({_interval((difference.low, difference.high))})"
                what = plain(f"{column} {group.group}: {_figure_name(name, evaluation)} {figure}")
                out.print(f"[red]clearly behind the others:[/] {what}", soft_wrap=True)


def _figure_name(key: str, evaluation: "Evaluation") -> str:
    return key if key in evaluation.means else _auc_name(key)


def _with_interval(figures: "Mapping[str, Figure]", key: str) -> str:
    if key not in figures:
        return ""
    value, low, high, _ = figures[key]
    return _figure(value) if math.isnan(low) else f"{value:.3f} ({_interval((low, high))})"


def _print_comparison(comparison: "Comparison", evaluation: "Evaluation") -> None:
    table = _figures_table("ours - other", "ours", "other", "difference", "95 % interval", "p")
    for name, each in comparison.differences.items():
        values = (f"{value:.3f}" for value in (each.ours, each.other))
        shown = (f"{each.difference:+.4f}", _interval((each.low, each.high)), f"{each.p:.4f}")
        table.add_row(plain(_figure_name(name, evaluation)), *values, *shown)
    out.print(table)


def _print_classes(evaluation: "Evaluation") -> None:
    """Every metric of each class, with its interval where two of them fit into 80 columns; then the counts."""
    table = _figures_table("metric", *(plain(name.replace("_", " ")) for name in evaluation.per_class))
    for metric in next(iter(evaluation.per_class.values())):
        row = []
        for name, values in evaluation.per_class.items():
            interval = evaluation.per_class_intervals.get(name, {}).get(metric)
            narrow = len(evaluation.per_class) <= 2 and interval
            row.append(f"{values[metric]:.3f} ({_interval(interval)})" if narrow else _figure(values[metric]))
        table.add_row(metric, *row)
    for kind in ("true_positive", "false_positive", "false_negative", "true_negative"):
        counts = (f"{getattr(each, kind):.0f}" for each in evaluation.confusion.values())
        table.add_row(kind.replace("_", " "), *counts)
    out.print(table)


def _print_matrix(matrix: "Matrix") -> None:
    """Rows are the truth, columns the highest score; ties have a column where there are any."""
    tied = any(row[-1] for row in matrix.counts)
    names = [plain(name.replace("_", " ")) for name in matrix.classes]
    table = _figures_table("truth, by highest score", *names, *(["tie"] if tied else []))
    for name, row in zip(names, matrix.counts, strict=True):
        table.add_row(name, *map(str, row if tied else row[:-1]))
    out.print(table)


def _interval(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval and not math.isnan(interval[0]) else ""


def _figure(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4f}"


def tell_evaluation(evaluation: "Evaluation", protocol: str) -> None:
    """Say what was not judged, what was too much, and what was odd."""
    from lesioncli.evaluation.protocols import PROTOCOLS

    list_some("not scored", _problems(evaluation))
    list_some("prediction without a truth", evaluation.extra)
    list_some("scores without a label", evaluation.extra_scores)
    list_some("note", _notes(evaluation))
    if evaluation.comparison:
        list_some("not compared, the other lacks", evaluation.comparison.only_ours)
        list_some("not compared, only the other has", evaluation.comparison.only_other)
    if evaluation.incomplete and PROTOCOLS[protocol].complete:
        what = f"no official figures of {' and '.join(evaluation.incomplete)} by {protocol}"
        say(f"{what}: not every image could be judged, and the official scorer takes all or none")


def _problems(evaluation: "Evaluation") -> list[str]:
    return [f"{case.name}: {case.problem}" for case in evaluation.cases if case.problem] + [*evaluation.score_problems]


def _notes(evaluation: "Evaluation") -> list[str]:
    return [*evaluation.notes, *(f"{case.name}: {case.note}" for case in evaluation.cases if case.note)]


def evaluation_json(evaluation: "Evaluation", protocol: str) -> Mapping[str, Any]:
    """The official scorer's document, and all else under `lesioncli`."""
    from lesioncli.evaluation.protocols import joined

    scored = sum(not case.problem for case in evaluation.cases)
    ours = {
        "protocol": protocol,
        "ranking": {key: {"figure": name, "value": value} for key, (name, value) in evaluation.ranking.items()},
        "truths": len(evaluation.cases),
        "scored": scored,
        "means": evaluation.means,
        "auc": evaluation.auc,
        "auc_mean": evaluation.auc_mean,
        "auc_count": evaluation.auc_count,
        "per_class": evaluation.per_class,
        "confusion": {name: counts._asdict() for name, counts in evaluation.confusion.items()},
        "confusion_matrix": evaluation.matrix._asdict() if evaluation.matrix else None,
        "intervals": evaluation.intervals,
        "interval_method": _interval_method(evaluation),
        "per_class_intervals": evaluation.per_class_intervals,
        "official_intervals": evaluation.official_intervals,
        "groups": [_group_json(group) for group in evaluation.groups],
        "comparison": _comparison_json(evaluation.comparison) if evaluation.comparison else None,
        "problems": _problems(evaluation),
        "extra": evaluation.extra,
        "extra_scores": evaluation.extra_scores,
        "notes": _notes(evaluation),
    }
    official = joined(evaluation.mask_document, evaluation.score_document)
    return cast(Mapping[str, Any], _without_nan({**official, "lesioncli": ours}))


def _interval_method(evaluation: "Evaluation") -> Mapping[str, Any]:
    from lesioncli.evaluation.statistics.bootstrap import LEVEL, count_resamples

    images = {"masks": sum(not case.problem for case in evaluation.cases), "scores": evaluation.auc_count}
    drawing = evaluation.drawing
    return {
        "method": f"percentile bootstrap over {'clusters of images' if drawing.column else 'images'}",
        "cluster": drawing.column or None,
        "level": LEVEL,
        "resamples": {what: count_resamples(count) for what, count in images.items()},
        "seed": drawing.seed,
    }


def _group_json(group: "Group") -> Mapping[str, Any]:
    return {
        "column": group.column,
        "group": group.group,
        "images": group.images,
        "figures": {name: _figure_json(figure) for name, figure in group.figures.items()},
        "differences": {name: _figure_json(figure) for name, figure in group.differences.items()},
        "behind": group.behind,
    }


def _figure_json(figure: "Figure") -> Mapping[str, Any]:
    interval = None if math.isnan(figure.low) else (figure.low, figure.high)
    return {"value": figure.value, "interval": interval, "images": figure.images}


def _comparison_json(comparison: "Comparison") -> Mapping[str, Any]:
    differences = {name: dict(each._asdict()) for name, each in comparison.differences.items()}
    for each in differences.values():
        each["interval"] = (each.pop("low"), each.pop("high"))
        del each["clusters"]  # decides a note, and is the number of images but with --cluster
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
