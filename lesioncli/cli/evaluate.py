"""The command `evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from lesioncli.cli.arguments import (
    MASKS,
    ByOption,
    ClusterOption,
    GroundTruthOption,
    JsonOption,
    LabelsOption,
    MasksArgument,
    MetadataOption,
    ProtocolOption,
    ReadWorkersOption,
    SeedOption,
    TableFormatOption,
)
from lesioncli.cli.console import print_json, print_line, progress_bars
from lesioncli.errors import ExitCode
from lesioncli.options import EvaluationOptions, ProtocolName, TableFormat


def evaluate(
    ground_truth: GroundTruthOption,
    masks: MasksArgument = MASKS,
    predictions: Annotated[Path | None, typer.Option("--pred", hidden=True, help="Old spelling of MASKS.")] = None,
    protocol: ProtocolOption = ProtocolName.PLAIN,
    labels: LabelsOption = None,
    scores: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV of class scores.", show_default="scores.csv in MASKS")
    ] = None,
    distances: Annotated[
        bool, typer.Option("--distances", help="Also measure distances between outlines, areas and centres.")
    ] = False,
    compare: Annotated[
        Path | None,
        typer.Option(
            help="Second folder of masks, or CSV of scores, of the same images: differences with p-values.",
            metavar="OTHER",
        ),
    ] = None,
    by: ByOption = None,
    cluster: ClusterOption = "",
    metadata: MetadataOption = None,
    score_threshold: Annotated[
        float,
        typer.Option(
            min=0, max=1, metavar="P", help="Scores above it count as positive; official figures have their own."
        ),
    ] = 0.5,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv", metavar="FILE", help="CSV file for the metrics per image.", show_default="evaluation.csv in MASKS"
        ),
    ] = None,
    table_format: TableFormatOption = TableFormat.TEXT,
    workers: ReadWorkersOption = 0,
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> None:
    """Compare masks and class scores with the ground truth.

    Prints the mean of each metric with its 95 % interval, and writes the metrics per image to a CSV file. In
    threshold_jaccard, an image with a Jaccard below .65 counts as 0. Exit code 5: some images could not be evaluated.
    """
    from lesioncli import api
    from lesioncli.cli.show_evaluation import print_evaluation, print_evaluation_notes
    from lesioncli.evaluation.csv_files import refuse_foreign_files, write_csv_files
    from lesioncli.evaluation.document import evaluation_document
    from lesioncli.process import keep_freed_memory

    if predictions and masks not in (MASKS, predictions):
        raise typer.BadParameter(f"also given as MASKS, {masks}; name one folder", param_hint="--pred")
    masks = predictions or masks
    path = csv or masks / "evaluation.csv"
    refuse_foreign_files(path, comparing=compare is not None)
    options = EvaluationOptions(
        protocol, labels, scores, distances, compare, tuple(by or ()), cluster, metadata, score_threshold, workers, seed
    )
    keep_freed_memory()
    with progress_bars(bars=not json_output) as progress:
        evaluation = api.evaluate(ground_truth, masks, options, progress=progress)
    if json_output:
        print_json(evaluation_document(evaluation))
    else:
        print_evaluation(evaluation, table_format)
    print_evaluation_notes(evaluation)
    for written in write_csv_files(evaluation, path):  # last: a full disk does not cost the figures
        if not json_output and table_format == TableFormat.TEXT:
            print_line(f"metrics per image: {written}")
    if evaluation.failed:
        raise typer.Exit(ExitCode.SOME_FAILED)
