"""The command `report`."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesioncli.cli.arguments import (
    MASKS,
    ByOption,
    ClusterOption,
    DrawWorkersOption,
    LabelsOption,
    MasksArgument,
    MetadataOption,
    ProtocolOption,
    SeedOption,
    SourcesOption,
)
from lesioncli.cli.console import list_first, print_line, progress_bars, say
from lesioncli.errors import ExitCode
from lesioncli.files import printable
from lesioncli.options import EvaluationOptions, ProtocolName
from lesioncli.sharding import find_shards

if TYPE_CHECKING:
    from lesioncli.report.page import WrittenReport

HTML_SUFFIXES = (".html", ".htm")


def report(
    masks: MasksArgument = MASKS,
    images: SourcesOption = None,
    ground_truth: Annotated[
        Path | None, typer.Option("--gt", metavar="PATH", help="Ground truth, as for `evaluate`.", show_default="none")
    ] = None,
    labels: LabelsOption = None,
    protocol: ProtocolOption = ProtocolName.PLAIN,
    by: ByOption = None,
    cluster: ClusterOption = "",
    metadata: MetadataOption = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.html", help="HTML file to write.")] = Path("report.html"),
    gallery: Annotated[int, typer.Option(min=0, metavar="N", help="Maximum number of images in the gallery.")] = 3000,
    workers: DrawWorkersOption = 0,
    seed: SeedOption = 0,
) -> None:
    """Write an HTML report with metrics, plots and a gallery.

    The file needs no other files and no network. The gallery starts with the images that have the worst results.
    Exit code 5: some images failed or cannot be shown.
    """
    from lesioncli import api
    from lesioncli.process import quiet_decoders
    from lesioncli.report.options import ReportOptions
    from lesioncli.report.page import refuse_foreign_file, write_report
    from lesioncli.segmented import choose_image_sources, read_segmented_folder

    needs_truth = {"--labels": labels, "--by": by, "--cluster": cluster, "--metadata": metadata}
    for flag in (flag for flag, value in needs_truth.items() if value and not ground_truth):
        raise typer.BadParameter("needs --gt", param_hint=flag)
    if out.suffix.lower() not in HTML_SUFFIXES:
        raise typer.BadParameter(f"{out} does not end in .html", param_hint="--out")
    refuse_foreign_file(out)
    quiet_decoders()
    segmented = read_segmented_folder(masks)
    sources = choose_image_sources(segmented, images or [])
    source_names = ", ".join(map(str, sources.value)) or "none"
    with progress_bars() as progress:
        evaluation = None
        if ground_truth:
            options = EvaluationOptions(
                protocol,
                labels,
                by=tuple(by or ()),
                cluster=cluster,
                metadata=metadata,
                workers=workers,
                seed=seed,
            )
            evaluation = api.evaluate(ground_truth, masks, options, progress=progress)
        about = {
            "images": source_names,
            "ground truth": str(ground_truth or "none"),
            **({"labels": str(labels)} if labels else {}),
            **({"protocol": protocol} if ground_truth else {}),
            "command": shlex.join(["lesioncli", *sys.argv[1:]]),
        }
        printable_about = {name: printable(value) for name, value in about.items()}
        written = write_report(
            segmented,
            out,
            ReportOptions(sources.value, printable_about, gallery, workers),
            evaluation,
            on_progress=lambda done, total: progress.count("draw", done, total),
        )
    say(f"images: {source_names} ({sources.reason})")
    if written.interruption:
        advice = f"lesioncli merge {masks}" if find_shards(masks) else "the same lesioncli segment command continues"
        say(f"{masks}: {written.interruption}; {advice}")
    _print_written(written)
    if written.failed or (evaluation and evaluation.failed):
        raise typer.Exit(ExitCode.SOME_FAILED)


def _print_written(written: "WrittenReport") -> None:
    list_first("not shown", written.problems, "the report has the reason at each image")
    states = ", ".join(f"{number} {state}" for state, number in written.states.items() if number)
    is_complete = written.shown == sum(written.states.values())
    part = "" if is_complete else f"; the gallery shows the worst {written.shown}, --gallery sets the number"
    print_line(f"{written.path}: {states}{part} ({written.size_bytes / 1e6:.1f} MB)")
