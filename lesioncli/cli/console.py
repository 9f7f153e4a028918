"""The two consoles: results on stdout, everything else on stderr."""

import errno
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO, cast

from rich.console import Console

if TYPE_CHECKING:
    from lesioncli.progress import ProgressBars
    from lesioncli.signals import StopRequest


class _Stdout:
    """The stdout of the moment; it has a name in the OSErrors of writing."""

    def write(self, text: str) -> int:
        with naming_stdout():
            return sys.stdout.write(text)

    def flush(self) -> None:
        with naming_stdout():
            sys.stdout.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)


class _Stderr:
    """The stderr of the moment; text that cannot be written, as on a full disk, is lost: it must not end a run."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def _stream(self) -> TextIO:
        return cast(TextIO, getattr(sys.stderr, "rich_proxied_file", sys.stderr))  # a progress bar replaces sys.stderr


@contextmanager
def naming_stdout() -> Iterator[None]:
    """Name stdout in the OSErrors of code that writes to it."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:  # a reader such as `head` has closed the pipe
            raise
        raise OSError(error.errno, error.strerror, "standard output") from error


@dataclass
class _Verbosity:
    is_quiet: bool = False


VERBOSITY = _Verbosity()  # of the command that runs
stdout = Console(file=cast(TextIO, _Stdout()), highlight=False)
stderr = Console(file=cast(TextIO, _Stderr()), highlight=False)

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
    stdout.file.write(json.dumps(content, indent=1, default=str) + "\n")


def flush_output() -> None:
    """Write what stdout and stderr still hold. Raises OSError if stdout cannot be written."""
    stderr.file.flush()
    stdout.file.flush()


def drop_output() -> None:
    """Drop what stdout and stderr still hold: Python would try to write it at its end, and print a traceback."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def progress_bars(bars: bool = True, names_images: bool = False, stop: "StopRequest | None" = None) -> "ProgressBars":
    """Return what shows the progress of a command on stderr: with --quiet, failed images only."""
    from lesioncli.progress import ProgressBars

    return ProgressBars(stderr, bars, stop, names_images=names_images, is_quiet=VERBOSITY.is_quiet)


def say(text: str) -> None:
    """Print one line about a choice or about progress, unless --quiet is given."""
    if VERBOSITY.is_quiet:
        return
    stderr.print(escape_markup(text), style="dim", soft_wrap=True)


def list_first(
    title: str, lines: Sequence[str], where_all: str = "--json lists all", max_listed: int = MAX_LISTED
) -> None:
    """Print the first problems, each after `title`, and the number of the others; `where_all` tells where they are."""
    for line in lines[:max_listed]:
        stderr.print(f"[red]{title}:[/] {escape_markup(line)}", soft_wrap=True)
    if len(lines) > max_listed:
        stderr.print(f"... and {len(lines) - max_listed} more; {where_all}", soft_wrap=True)
