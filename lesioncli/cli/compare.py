"""The command `compare`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesioncli.cli.arguments import (
    ClusterOption,
    JsonOption,
    LabelsOption,
    MetadataOption,
    ProtocolOption,
    ReadWorkersOption,
    SeedOption,
    TableFormatOption,
)
from lesioncli.cli.console import list_first, print_json, progress_bars
from lesioncli.cli.tables import BREAK, add_row, make_table, print_table, shorten
from lesioncli.errors import ExitCode
from lesioncli.options import EvaluationOptions, ProtocolName, TableFormat

if TYPE_CHECKING:
    from lesioncli.evaluation.runs import ComparedRuns, RunComparison
    from lesioncli.evaluation.statistics.comparison import Difference
    from lesioncli.evaluation.statistics.groups import Estimate

AMONG_ANNOTATORS = "annotators among each other"


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="MASKS...", help="Output folders of `segment`; the first is the reference.")
    ],
    ground_truths: Annotated[
        list[Path],
        typer.Option(
            "--gt", metavar="PATH", help="Ground truth, as for `evaluate`. Repeatable: one folder per annotator."
        ),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Metric in the tables. Repeatable.",
            show_default="that of the protocol, dice and the AUC",
        ),
    ] = None,
    protocol: ProtocolOption = ProtocolName.PLAIN,
    labels: LabelsOption = None,
    cluster: ClusterOption = "",
    metadata: MetadataOption = None,
    table_format: TableFormatOption = TableFormat.TEXT,
    workers: ReadWorkersOption = 0,
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Compare several runs, or annotators, in one table.

    Prints the mean of each metric over the images that all runs have, with its 95 % interval, and the differences to
    the first run. With several --gt, also the agreement of each run with each annotator, and of the annotators with
    each other. Exit code 5: some images could not be evaluated in every run.
    """
    from lesioncli.evaluation.document import runs_document
    from lesioncli.evaluation.runs import compare_runs, list_metrics, read_ground_truths
    from lesioncli.process import keep_freed_memory, quiet_decoders

    options = EvaluationOptions(protocol, labels, cluster=cluster, metadata=metadata, workers=workers, seed=seed)
    keep_freed_memory()
    quiet_decoders()
    truths = read_ground_truths(ground_truths, options)
    _refuse_unknown(metric or (), list_metrics(truths.values()))
    with progress_bars(bars=not json_output) as progress:
        result = compare_runs(truths, runs, options, lambda done, total: progress.count("evaluate", done, total))
    metrics = _choose_metrics(result, metric or ())
    if json_output:
        print_json(runs_document(result))
    else:
        _print_tables(result, metrics, table_format)
    for compared in result.by_ground_truth:
        list_first(f"not evaluated in every run against {compared.ground_truth}", compared.left_out)
    if result.incomplete:
        raise typer.Exit(ExitCode.SOME_FAILED)


def _refuse_unknown(chosen: Sequence[str], known: Sequence[str]) -> None:
    """Raise BadParameter for a metric that is not known."""
    for name in chosen:
        if name not in known:
            raise typer.BadParameter(f"{name} is not one of {', '.join(known)}", param_hint="--metric")


def _choose_metrics(result: "RunComparison", chosen: Sequence[str]) -> list[str]:
    """Return the metrics of the tables. Raises BadParameter for one that no run has."""
    from lesioncli.evaluation.metrics.pixels import PIXEL_METRICS

    known = list(dict.fromkeys(name for run in result.by_ground_truth[0].runs for name in run.estimates))
    _refuse_unknown(chosen, known)  # a class may turn out to have no scores
    if chosen:
        return list(dict.fromkeys(chosen))
    aucs = [name for name in known if name not in PIXEL_METRICS]  # the mean of several classes comes last
    return [name for name in dict.fromkeys((result.metric, "dice", *aucs[-1:])) if name in known]


def _title(metric: str) -> str:
    from lesioncli.evaluation.metrics.pixels import PIXEL_METRICS

    words = metric.removeprefix("auc_").replace("_", " ")
    return words if metric in PIXEL_METRICS else f"AUC {words}"


def _print_tables(result: "RunComparison", metrics: Sequence[str], table_format: TableFormat) -> None:
    for compared in result.by_ground_truth:
        _print_runs(compared, metrics, table_format)
    if result.agreements:
        _print_agreements(result, table_format)


def _print_runs(compared: "ComparedRuns", chosen: Sequence[str], table_format: TableFormat) -> None:
    """Print the means of all runs, then the differences to the first."""
    metrics = [name for name in chosen if any(name in run.estimates for run in compared.runs)]
    titles = list(map(_title, metrics))
    names = shorten([run.name for run in compared.runs])
    table = make_table("run", "images", *titles, title=f"ground truth {compared.ground_truth}")
    for name, run in zip(names, compared.runs, strict=True):
        images = max((estimate.images for estimate in run.estimates.values()), default=0)
        add_row(table, name, images, *(_format_estimate(run.estimates.get(metric)) for metric in metrics))
    print_table(table, table_format)
    if len(compared.runs) > 1:
        table = make_table(f"minus {names[0]}", *titles)
        for name, run in list(zip(names, compared.runs, strict=True))[1:]:
            add_row(table, name, *(_format_difference(run.differences.get(metric)) for metric in metrics))
        print_table(table, table_format)


def _print_agreements(result: "RunComparison", table_format: TableFormat) -> None:
    """Print a row per run and annotator, a column per annotator, and the mean of each row."""
    cells = {(agreement.name, agreement.annotator): agreement.estimate for agreement in result.agreements}
    annotators = [compared.ground_truth for compared in result.by_ground_truth]
    rows = [name for name in dict.fromkeys(name for name, _ in cells) if name not in annotators] + annotators
    short = dict(zip([*rows, *annotators], shorten([*rows, *annotators]), strict=False))
    table = make_table(f"{result.metric} against", *(short[name] for name in annotators), "mean")
    for row in rows:
        estimates = [cells.get((row, annotator)) for annotator in annotators]
        add_row(table, short[row], *map(_format_estimate, estimates), _format_mean(estimates))
    among = [cells.get((row, annotator)) for row in annotators for annotator in annotators]
    add_row(table, AMONG_ANNOTATORS, *[""] * len(annotators), _format_mean(among))
    print_table(table, table_format)


def _format_estimate(estimate: "Estimate | None") -> str:
    if estimate is None:
        return ""
    interval = "" if math.isnan(estimate.low) else f"{BREAK}({estimate.low:.3f} to {estimate.high:.3f})"
    return f"{estimate.value:.4f}{interval}"


def _format_difference(difference: "Difference | None") -> str:
    if difference is None:
        return ""
    interval = f"({difference.low:+.3f} to {difference.high:+.3f})"
    return BREAK.join([f"{difference.difference:+.4f}", interval, f"p {difference.p_value:.4f}"])


def _format_mean(estimates: "Sequence[Estimate | None]") -> str:
    values = [estimate.value for estimate in estimates if estimate]
    return f"{sum(values) / len(values):.4f}" if values else ""
