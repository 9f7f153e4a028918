"""The command `export`."""

import math
from pathlib import Path
from typing import Annotated

import typer

from lesioncli.cli.arguments import MASKS, JsonOption, MasksArgument, SourcesOption
from lesioncli.cli.console import list_first, print_json, print_line, progress_bars, say
from lesioncli.errors import ExitCode
from lesioncli.options import ExportFormat


def export(
    export_format: Annotated[ExportFormat, typer.Option("--format", help="Format to write.")],
    masks: MasksArgument = MASKS,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="PATH",
            help="File to write (coco), or folder of one file per image or table.",
            show_default="named as the format",
        ),
    ] = None,
    images: SourcesOption = None,
    simplify: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="PX",
            help="Simplify outlines; each stays within this many pixels of the exact one.",
            show_default="0; for labelme 1/500 of the longer side, at least 1",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Write masks and scores in the format of another program.

    coco and coco-polygons: one JSON file, with masks as run-length encoding or as polygons. geojson: outlines for
    QuPath. labelme: outlines to correct by hand. parquet: the tables. tar: archives of the masks.
    Exit code 5: some images have no mask, or `segment` did not finish.
    """
    from lesioncli.export.registry import EXPORTERS
    from lesioncli.export.run import export_run
    from lesioncli.process import quiet_decoders

    if simplify is not None and not (EXPORTERS[export_format].has_outlines and math.isfinite(simplify)):
        names = ", ".join(name for name, exporter in EXPORTERS.items() if exporter.has_outlines)
        raise typer.BadParameter(f"is a number of pixels for {names}", param_hint="--simplify")
    quiet_decoders()
    with progress_bars(bars=not json_output) as progress:
        exported = export_run(
            masks,
            export_format,
            out,
            images=images or (),
            tolerance_px=simplify,
            overwrite=overwrite,
            on_progress=lambda done, total: progress.count("export", done, total),
        )
    unit = "tables" if export_format == ExportFormat.PARQUET else "images"
    if json_output:
        print_json({"out": exported.out, unit: exported.exported, "problems": exported.problems})
    else:
        print_line(f"{exported.out}: {exported.exported} {unit}")
    if exported.interruption:
        say(f"{masks}: {exported.interruption}; the same lesioncli segment command continues")
    list_first("missing", exported.problems)
    if exported.problems or exported.interruption:
        raise typer.Exit(ExitCode.SOME_FAILED)
