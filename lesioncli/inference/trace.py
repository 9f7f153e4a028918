"""The timeline of a run in the Trace Event Format, for ui.perfetto.dev and chrome://tracing."""

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
    """A timeline that any thread may add events to. Events are written at once and not kept: a run may be long."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._track_ids: dict[str, int] = {}
        self._start = time.monotonic()

    @classmethod
    @contextmanager
    def writing(cls, path: Path) -> Iterator[Self]:
        """Yield a trace; the file exists when the context ends without an error.

        Raises InputError if it cannot be written.
        """
        with ExitStack() as stack:
            try:  # around the opening only: an OSError of the run has another cause
                file = stack.enter_context(stack.enter_context(atomic_write(path)).open("w", encoding="utf-8"))
            except OSError as error:
                raise InputError(
                    f"{path}: cannot be written ({error.strerror}); choose another path with --trace"
                ) from error
            file.write("[")
            trace = cls(file)
            yield trace
            file.write("\n]\n")

    def add(self, name: str, span: Span) -> None:
        """Add an event with a name to the track of its span."""
        with self._lock:
            event = {"name": name, "ph": "X", "ts": self._microseconds(span.start)}
            self._write(self._track_id(span.track), {**event, "dur": round(1e6 * (span.end - span.start), 1)})

    @contextmanager
    def timed(self, stage: str, name: str) -> Iterator[None]:
        """Add an event for the code inside the context, to the track of this thread."""
        start = time.monotonic()
        yield
        thread = threading.current_thread().name.rpartition("_")[2]
        self.add(f"{stage} {name}", Span(f"thread {thread}", start, time.monotonic()))

    def _track_id(self, track: str) -> int:
        if track not in self._track_ids:
            self._track_ids[track] = len(self._track_ids)
            self._write(self._track_ids[track], {"name": "thread_name", "ph": "M", "args": {"name": track}})
        return self._track_ids[track]

    def _write(self, track_id: int, event: dict[str, Any]) -> None:
        separator = "\n" if event["ph"] == "M" and not track_id else ",\n"
        self._file.write(separator + json.dumps({"pid": 0, "tid": track_id, **event}))

    def _microseconds(self, seconds: float) -> float:
        return round(1e6 * (seconds - self._start), 1)
