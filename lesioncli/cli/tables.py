"""Print tables for a terminal, or in Markdown or LaTeX, ready to be pasted."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lesioncli.cli.console import escape_markup, print_line, stdout
from lesioncli.options import TableFormat

if TYPE_CHECKING:
    from rich.table import Table

BREAK = "\n"  # in a cell: a new line in a terminal, where tables are narrow, else a space
Rows = Sequence[Sequence[str]]  # of cells, the header first

_MARKDOWN_SPECIAL = re.compile(r"([\\|*_`\[\]])")
_LATEX_SPECIAL = re.compile(r"([&%$#_{}])")
_NEGATIVE = re.compile(r"(?<![\w.])-(?=\d)")


def make_table(first: str, *columns: str, title: str = "") -> "Table":
    """Return a table with a column of names and right-aligned columns of numbers."""
    from rich.table import Table

    table = Table(*map(escape_markup, (first, *columns)), title=escape_markup(title) or None, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def add_row(table: "Table", *cells: object) -> None:
    """Add a row of cells, printed as they are."""
    table.add_row(*map(escape_markup, cells))


def shorten(paths: Sequence[str]) -> list[str]:
    """Return as many of the last parts of paths as tell all of them apart."""
    parts = [Path(path).parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-count:]) for path in parts]
        if len(set(names)) == len(set(paths)):
            return names
    return list(paths)


def print_table(table: "Table", table_format: TableFormat = TableFormat.TEXT) -> None:
    """Print a table that make_table() made."""
    if table_format == TableFormat.TEXT:
        table.show_lines = any(BREAK in str(cell) for column in table.columns for cell in column.cells)
        stdout.print(table)
        return
    columns = [[_plain(column.header), *map(_plain, column.cells)] for column in table.columns]
    title = _plain(table.title) if table.title else ""
    print_line(RENDERERS[table_format](title, list(zip(*columns, strict=True))))


def _plain(cell: object) -> str:
    from rich.text import Text

    return Text.from_markup(str(cell)).plain.replace(BREAK, " ")


def render_markdown(title: str, rows: Rows) -> str:
    """Return a table of GitHub's Markdown, numbers to the right."""
    header, *body = [list(map(_escape_markdown, row)) for row in rows]
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = [f"| {' | '.join(row)} |" for row in (header, rule, *body)]
    return "\n".join([*([f"{title}\n"] if title else []), *lines, ""])


def _escape_markdown(cell: str) -> str:
    return _MARKDOWN_SPECIAL.sub(r"\\\1", cell.replace("&", "&amp;").replace("<", "&lt;"))


def render_latex(title: str, rows: Rows) -> str:
    """Return a tabular of LaTeX with the rules of the package booktabs; the title is a comment."""
    header, *body = (" & ".join(map(_escape_latex, row)) + r" \\" for row in rows)
    begin = rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}"
    lines = [begin, r"\toprule", header, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join([*([f"% {title}"] if title else []), *lines])


def _escape_latex(cell: str) -> str:
    escaped = _LATEX_SPECIAL.sub(r"\\\1", cell.replace("\\", "/")).replace("~", r"\textasciitilde{}")
    return _NEGATIVE.sub("$-$", escaped.replace("^", r"\textasciicircum{}"))


RENDERERS: dict[TableFormat, Callable[[str, Rows], str]] = {
    TableFormat.MARKDOWN: render_markdown,
    TableFormat.LATEX: render_latex,
}
