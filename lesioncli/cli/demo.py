"""The command `demo`."""

from pathlib import Path
from typing import Annotated

import typer

from lesioncli.cli.console import print_line, progress_bars


def demo(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder for images/ and labels/: a new one, or one without images.")
    ],
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Number of images.")] = 12,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Random seed of the first image; the next has the next seed.")
    ] = 0,
    size: Annotated[tuple[int, int], typer.Option(min=64, metavar="W H", help="Width and height in pixels.")] = (
        640,
        480,
    ),
) -> None:
    """Draw images with masks and labels, to try lesioncli.

    The images look like dermoscopy and show that the program works. They say nothing about the accuracy of a model.
    """
    from lesioncli.demo.folder import write_demo

    width, height = size
    with progress_bars() as progress:
        write_demo(folder, count, seed, height, width, lambda done, total: progress.count("draw", done, total))
    print_line(f"{count} drawn images in {folder / 'images'}, their masks and labels in {folder / 'labels'}")
