"""The command `list`."""

from pathlib import Path
from typing import Annotated

import typer

from lesioncli.cli.arguments import ImagesArgument, JsonOption, RootOption
from lesioncli.cli.console import list_first, print_json, print_line, progress_bars
from lesioncli.errors import ExitCode


def list_images(
    images: ImagesArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.csv", help="CSV file to write.")],
    with_crc32: Annotated[
        bool, typer.Option("--hash", help="Also read each file, and write its CRC-32, as checksums.csv has it.")
    ] = False,
    root: RootOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write a list of images for `segment --from`.

    The list has the images, with the names, that `segment IMAGES` would segment.
    Exit code 5: some files or folders cannot be read.
    """
    from lesioncli import api

    if out.suffix.lower() != ".csv":
        raise typer.BadParameter(f"{out} does not end in .csv", param_hint="--out")
    with progress_bars(bars=not json_output) as progress:
        written = api.list_images(images, out, root=root, with_crc32=with_crc32, progress=progress)
    if json_output:
        print_json(
            {"out": out, "images": written.images, "bytes": written.total_bytes, "unreadable": written.unreadable}
        )
    else:
        print_line(f"{out}: {written.images} images, {written.total_bytes / 1e6:.1f} MB")
    list_first("cannot be read", written.unreadable)
    if written.unreadable:
        raise typer.Exit(ExitCode.SOME_FAILED)
