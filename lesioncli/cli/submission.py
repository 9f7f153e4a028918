"""The command `submission`."""

from pathlib import Path
from typing import Annotated

import typer

from lesioncli.cli.arguments import MASKS, JsonOption, MasksArgument
from lesioncli.cli.console import list_first, print_json, print_line, progress_bars
from lesioncli.errors import ExitCode
from lesioncli.options import Challenge


def submission(
    masks: MasksArgument = MASKS,
    challenge: Annotated[Challenge, typer.Option("--protocol", help="ISIC challenge.")] = Challenge.ISIC2017,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for segmentation.zip and classification.csv.")
    ] = Path("submission"),
    json_output: JsonOption = False,
) -> None:
    """Write the files that an ISIC challenge takes.

    segmentation.zip holds the masks, named by ISIC id; classification.csv holds the class scores.
    Exit code 5: some images have no mask or no scores.
    """
    from lesioncli.evaluation.submission import write_submission
    from lesioncli.process import quiet_decoders

    quiet_decoders()
    with progress_bars(bars=not json_output) as progress:
        written = write_submission(
            masks, out, challenge, lambda done, total: progress.count("write masks", done, total)
        )
    if json_output:
        files = {str(path): images for path, images in written.files.items()}
        print_json({"files": files, "problems": written.problems, "notes": written.notes})
    else:
        for path, images in written.files.items():
            print_line(f"{path}: {images} images")
    list_first("note", written.notes)
    list_first("missing", written.problems)
    if written.problems:
        raise typer.Exit(ExitCode.SOME_FAILED)
