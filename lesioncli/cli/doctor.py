"""The command `doctor`."""

import dataclasses

import typer

from lesioncli.cli.arguments import JsonOption
from lesioncli.cli.console import escape_markup, print_json, print_line, stdout
from lesioncli.errors import ExitCode
from lesioncli.files import ENGINES


def doctor(json_output: JsonOption = False) -> None:
    """Show what is installed, and commands that fix problems.

    Also shows which engine `segment` would use, and why.

    Exit code 4: not even the CPU engine can run.
    """
    from rich.table import Table

    from lesioncli.doctor import examine

    findings = examine(ENGINES)
    if json_output:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        table = Table("subject", "state", box=None)
        for finding in findings:
            table.add_row(finding.subject, escape_markup(finding.state))
        stdout.print(table)
        for finding in findings:
            if finding.fix:
                print_line(f"{'optional' if finding.optional else 'to fix'} {finding.subject}: {finding.fix}")
    if any(finding.needed and finding.fix for finding in findings):
        raise typer.Exit(ExitCode.ENGINE)
