"""The command `check`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesioncli.cli.arguments import JsonOption
from lesioncli.cli.console import escape_markup, list_first, print_json, print_line, progress_bars, say, stdout
from lesioncli.cli.report import HTML_SUFFIXES
from lesioncli.errors import ExitCode
from lesioncli.files import printable

if TYPE_CHECKING:
    from lesioncli.checks.checks import Finding
    from lesioncli.checks.run import CheckResult

MAX_LISTED = 5  # findings of a check


def check(
    data: Annotated[
        list[Path],
        typer.Argument(metavar="DATA", help="Folders of images, or of images with masks and labels as for `train`."),
    ],
    validation: Annotated[
        list[Path] | None,
        typer.Option(
            "--val",
            metavar="DIR",
            help="Folder of validation data. Repeatable.",
            show_default="the validation split of ISIC-2017 in DATA, if there is one",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE.html", help="Also write a page with the images found.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, metavar="N", help="Threads that read images and masks; 0: one per core.")
    ] = 0,
    json_output: JsonOption = False,
) -> None:
    """Find faults in a data set before it is used.

    Finds duplicates and near duplicates, what training and validation data have in common, unreadable and tiny images,
    masks that are empty, inverted or of the wrong size, and tables of labels that do not match. Changes nothing.
    Exit code 5: something was found.
    """
    from lesioncli.checks.run import check_data, check_document
    from lesioncli.process import quiet_decoders

    if html:
        from lesioncli.report.page import refuse_foreign_file  # loads matplotlib

        if html.suffix.lower() not in HTML_SUFFIXES:
            raise typer.BadParameter(f"{html} does not end in .html", param_hint="--html")
        refuse_foreign_file(html)
    quiet_decoders()
    size_bytes = 0
    with progress_bars(bars=not json_output) as progress:
        result = check_data(data, validation or [], workers, lambda done, total: progress.count("read", done, total))
        if html:
            from lesioncli.report.check_page import write_check_page

            folders = [*data, *(validation or [])]
            size_bytes = write_check_page(
                result, html, folders, lambda done, total: progress.count("draw", done, total)
            )
    if json_output:
        print_json(check_document(result))
    else:
        _print_result(result)
    if html:
        say(f"{html}: {size_bytes / 1e6:.1f} MB")
    if result.count:
        raise typer.Exit(ExitCode.SOME_FAILED)


def _print_result(result: "CheckResult") -> None:
    from rich.table import Table

    from lesioncli.checks.data import Side
    from lesioncli.checks.run import describe_side

    for side in Side:
        if result.data.on(side):
            print_line(describe_side(result.data, side))
    for note in result.data.notes:
        say(note)
    table = Table("check", "found", box=None)
    for check, findings in result.findings.items():
        table.add_row(escape_markup(check.title), str(len(findings)))
    for check in result.not_run:
        table.add_row(escape_markup(check.title), "not run")
    stdout.print(table)
    for check, reason in result.not_run.items():
        say(f"{check.title}: not run: {reason}")
    for check, findings in result.findings.items():
        lines = [printable(_describe(finding)) for finding in findings]
        list_first(check.title, lines, "--json lists all, --html shows them", MAX_LISTED)


def _describe(finding: "Finding") -> str:
    files = " and ".join(map(str, finding.files))
    return f"{files}: {finding.detail}" if files else finding.detail
