"""What was done when, for chrome://tracing, ui.perfetto.dev and whatever else reads the Trace Event Format."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self, TextIO

from lesioncli.backends.base import Span
from lesioncli.errors import InputError
from lesioncli.files import atomic_write


class Trace:
    """A timeline that is written bar by bar, from any thread, and held nowhere: a run may be long."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}  # of the tracks
        self._zero = time.monotonic()

    @classmethod
    @contextmanager
    def writing(cls, path: Path) -> Iterator[Self]:
        """A trace that is in the file when the context ends without an error; InputError where it cannot be made."""
        with ExitStack() as opened:
            try:
                aside = opened.enter_context(atomic_write(path))
                file = opened.enter_context(aside.open("w", encoding="utf-8"))
            except OSError as error:
                raise InputError(f"{path}: cannot be written ({error.strerror}); name another with --trace") from error
            file.write("[")
            trace = cls(file)
            yield trace
            file.write("\n]\n")

    def add(self, name: str, span: Span) -> None:
        """A bar with a name, on its track."""
        with self._lock:
            bar = {"name": name, "ph": "X", "ts": self._microseconds(span.start)}
            self._write(self._number_of(span.track), {**bar, "dur": round(1e6 * (span.end - span.start), 1)})

    @contextmanager
    def timed(self, what: str, name: str) -> Iterator[None]:
        """A bar for what is done inside, on the track of this thread."""
        start = time.monotonic()
        yield
        thread = threading.current_thread().name.rpartition("_")[2]
        self.add(f"{what} {name}", Span(f"thread {thread}", start, time.monotonic()))

    def _number_of(self, track: str) -> int:
        if track not in self._numbers:
            self._numbers[track] = len(self._numbers)
            self._write(self._numbers[track], {"name": "thread_name", "ph": "M", "args": {"name": track}})
        return self._numbers[track]

    def _write(self, track: int, event: dict[str, Any]) -> None:
        separator = "\n" if event["ph"] == "M" and not track else ",\n"
        self._file.write(separator + json.dumps({"pid": 0, "tid": track, **event}))

    def _microseconds(self, seconds: float) -> float:
        return round(1e6 * (seconds - self._zero), 1)
