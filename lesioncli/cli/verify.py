"""The command `verify`."""

from typing import TYPE_CHECKING, Annotated

import typer

from lesioncli.cli.arguments import MASKS, JsonOption, MasksArgument
from lesioncli.cli.console import list_first, print_json, print_line, progress_bars, say
from lesioncli.errors import ExitCode

if TYPE_CHECKING:
    from lesioncli.inference.verify import Verification


def verify(
    masks: MasksArgument = MASKS,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what is damaged; the next `segment` makes it anew.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Check that results and images are as `segment` left them.

    Every file is read again. What is missing, changed, truncated or foreign is named, and is exit code 5 unless it was
    repaired.
    """
    from lesioncli import api

    with progress_bars(bars=not json_output) as progress:
        verification = api.verify_results(masks, repair=repair, progress=progress)
    if json_output:
        print_json(verification.to_dict())
    else:
        _print(verification)
    if verification.remaining:
        raise typer.Exit(ExitCode.SOME_FAILED)


def _print(verification: "Verification") -> None:
    list_first("problem", [str(finding) for finding in verification.findings])
    for note in verification.notes:
        say(note)
    found = f"{len(verification.findings)} problems" if verification.findings else "no problems"
    repaired = f", {verification.repaired} repaired: run segment again" if verification.repaired else ""
    print_line(
        f"{verification.folder}: {verification.rows} rows, {verification.images} images and {verification.masks} masks"
        f" read; {found}{repaired}"
    )
