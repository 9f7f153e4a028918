"""The two consoles: results on stdout, everything else on stderr."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)

MAX_LISTED = 20


def escape_markup(text: object) -> str:
    """Return text that rich prints as it is: brackets in a file name are not markup."""
    from rich.markup import escape

    return escape(str(text))


def print_line(text: object) -> None:
    """Print one result line as it is, never wrapped, so that paths and commands can be copied."""
    stdout.print(escape_markup(text), soft_wrap=True)


def print_json(content: Any) -> None:
    """Print a result as one JSON document."""
    sys.stdout.write(json.dumps(content, indent=1, default=str) + "\n")


def say(text: str) -> None:
    """Print one line about a choice or about progress."""
    stderr.print(escape_markup(text), style="dim", soft_wrap=True)


def list_first(
    title: str, lines: Sequence[str], where_all: str = "--json lists all", max_listed: int = MAX_LISTED
) -> None:
    """Print the first problems, each after `title`, and the number of the others; `where_all` tells where they are."""
    for line in lines[:max_listed]:
        stderr.print(f"[red]{title}:[/] {escape_markup(line)}", soft_wrap=True)
    if len(lines) > max_listed:
        stderr.print(f"... and {len(lines) - max_listed} more; {where_all}", soft_wrap=True)
