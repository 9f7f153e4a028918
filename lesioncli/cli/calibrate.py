"""The command `calibrate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesioncli.cli.arguments import (
    MASKS,
    BackendOption,
    ClusterOption,
    GroundTruthOption,
    JsonOption,
    LabelsOption,
    MasksArgument,
    MetadataOption,
    ReadWorkersOption,
    SeedOption,
)
from lesioncli.cli.console import escape_markup, list_first, print_json, print_line, progress_bars, say, stdout
from lesioncli.errors import ExitCode
from lesioncli.options import Backend, CalibrationOptions

if TYPE_CHECKING:
    from lesioncli.calibrator import CalibrationResult
    from lesioncli.evaluation.threshold_curve import ThresholdProposal


def calibrate(
    ground_truth: GroundTruthOption,
    masks: MasksArgument = MASKS,
    predictions: Annotated[Path | None, typer.Option("--pred", hidden=True, help="Same as MASKS.")] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Engine that made the masks: its name in engines/, or the path of its manifest (.json).",
            show_default="that of the default model, or the only one in engines/",
        ),
    ] = None,
    backend: BackendOption = Backend.AUTO,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the calibrated engine.", show_default="NAME-calibrated"),
    ] = None,
    labels: LabelsOption = None,
    cluster: ClusterOption = "",
    metadata: MetadataOption = None,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Also write the calibration to a file, for a model that is shipped."),
    ] = None,
    workers: ReadWorkersOption = 0,
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Fit scores and confidence of an engine to labelled images.

    Writes a calibrated engine beside it, with the same files. Its scores are probabilities, at the prevalence of these
    images, and its confidence is the expected Jaccard. Needs at least 100 images that the engine was not trained on.
    The figures come from five-fold cross-validation. Exit code 5: some images could not be used.
    """
    from lesioncli import api

    if predictions and masks not in (MASKS, predictions):
        raise typer.BadParameter(f"also given as MASKS, {masks}; name one folder", param_hint="--pred")
    options = CalibrationOptions(name, labels, cluster, metadata, export, workers, seed)
    with progress_bars(bars=not json_output) as progress:
        result = api.calibrate(
            ground_truth, predictions or masks, options, engine=engine, backend=backend, progress=progress
        )
    if json_output:
        print_json(result.to_dict())
    else:
        _print_result(result)
    list_first("not used", result.problems)
    list_first("note", result.notes)
    for output, reason in result.skipped.items():
        say(f"{output} was not calibrated: {reason}")
    if result.problems:
        raise typer.Exit(ExitCode.SOME_FAILED)


def _describe_threshold(proposal: "ThresholdProposal | None") -> str:
    if proposal is None:
        return "mask threshold: not compared, which needs 100 probability maps of `segment --save-probabilities`"
    low, high = (f"{value:.2f}" for value in proposal.best_interval)
    gain = f"{proposal.gain:+.4f} ({proposal.gain_interval[0]:+.4f} to {proposal.gain_interval[1]:+.4f})"
    found = f"highest Jaccard at {proposal.best:.2f} ({low} to {high}), by cross-validation {gain}"
    if not proposal.is_better:
        return f"mask threshold: {found}: not clearly better than {proposal.now:g}"
    advice = f"to use it, run segment --threshold {proposal.best:g} and calibrate again"
    return f"mask threshold: {found} over {proposal.now:g}; {advice}"


def _print_result(result: "CalibrationResult") -> None:
    from rich.table import Table

    table = Table("by cross-validation (images)", "before", "after", "difference", "95 % interval")
    for output, fit in result.outputs.items():
        table.add_row(escape_markup(f"{output.replace('_', ' ')} ({fit.images})"))
        for metric, change in fit.changes.items():
            low, high = change.interval
            numbers = f"{change.before:.4f}", f"{change.after:.4f}", f"{change.difference:+.4f}"
            table.add_row(f"  {metric.replace('_', ' ')}", *numbers, f"{low:+.4f} to {high:+.4f}")
        table.add_section()
    stdout.print(table)
    print_line(_describe_threshold(result.threshold))
    print_line(f"{result.path}: calibration {result.calibration.description}")
    print_line(f"to use it: lesioncli segment IMAGES --out DIR --engine {result.calibration.name}")
