"""Files that tell other programs about a run while it lasts: a log of JSON lines and a Prometheus text file.

Neither holds a path: images have their names in scores.csv. A file that cannot be written any more does not end a run.
"""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lesioncli import __version__
from lesioncli.backends.base import EngineFacts
from lesioncli.counts import ImageCounts
from lesioncli.errors import InputError
from lesioncli.files import atomic_write
from lesioncli.inference.outcome import Outcome, image_name
from lesioncli.inference.record import RunStatus
from lesioncli.options import SegmentOptions, Status
from lesioncli.progress import Reporter, Ticker

HEARTBEAT_S = 30.0
METRICS_INTERVAL_S = 15.0
ERROR = "error"  # state of a run that an exception ended; the other states are those of run.json


@contextmanager
def observed(
    images: int, options: SegmentOptions, engine: EngineFacts, reporter: Reporter
) -> Iterator[Callable[[Outcome], None]]:
    """Yield what takes the outcome of each image of a run: it counts, and tells the reporter and the files.

    Raises InputError if a file cannot be written at its start. One that cannot be written later has a note.
    """
    counts = ImageCounts(images)
    shard = str(options.shard) if options.shard else None
    facts = {"shard": shard, "version": __version__, "engine": engine.spec.name, "device": engine.device}
    observers = [reporter]
    with ExitStack() as stack:
        if options.log:
            observers.append(stack.enter_context(_Log(options.log, "--log", counts, facts, reporter.note)))
        if options.metrics:
            observers.append(stack.enter_context(_Metrics(options.metrics, "--metrics", counts, facts, reporter.note)))
        reporter.start_images(counts)

        def observe(outcome: Outcome) -> None:
            counts.add(outcome.status)
            for observer in observers:
                observer.image(outcome, counts)

        yield observe


class _File(Reporter, ABC):
    """Writes to a file at the start, at intervals and at the end of a run, as a context manager."""

    interval_s: float

    def __init__(
        self, path: Path, flag: str, counts: ImageCounts, facts: dict[str, str | None], note: Callable[[str], None]
    ) -> None:
        self._path, self._flag, self._counts, self._facts, self._note = path, flag, counts, facts, note
        self._has_failed = False
        self._ticker = Ticker(lambda: self._try(lambda: self._update(RunStatus.RUNNING)))

    def __enter__(self) -> Self:
        try:
            self._start()
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"{self._path}: cannot be written ({reason}); choose another path with {self._flag}"
            ) from error
        self._ticker.start(self.interval_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ticker.stop()
        if kind and issubclass(kind, Exception):
            self._try(lambda: self._update(ERROR, kind.__name__))
        else:
            state = RunStatus.INTERRUPTED if kind or self._counts.left else RunStatus.FINISHED
            self._try(lambda: self._update(state))

    def _try(self, write: Callable[[], None]) -> None:
        """Write; note the first time that this fails."""
        try:
            write()
        except OSError as error:
            if not self._has_failed:
                self._note(f"{self._path}: cannot be written ({error.strerror or error}); the run goes on")
            self._has_failed = True

    @abstractmethod
    def _start(self) -> None:
        """Write for the first time. Raises OSError."""

    @abstractmethod
    def _update(self, state: str, error: str = "") -> None:
        """Write where the run stands; the last state is not `running`. Raises OSError."""


class _Log(_File):
    """Appends events to a file, each in one call, so that processes of one machine can share it."""

    interval_s = HEARTBEAT_S

    def image(self, outcome: Outcome, counts: ImageCounts) -> None:
        if outcome.status == Status.FAILED:
            values = {"image": image_name(outcome.image), "stage": outcome.stage, "reason": outcome.reason}
            self._try(lambda: self._append("failed", values))

    def _start(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._append("start", {**self._facts, "images": self._counts.images})

    def _update(self, state: str, error: str = "") -> None:
        counts, left = self._counts, self._counts.seconds_left
        values = {name: getattr(counts, name) for name in ("images", "ok", "failed", "skipped", "left")}
        values["images_per_second"] = round(counts.images_per_second, 2)
        if state == RunStatus.RUNNING:
            self._append("heartbeat", {**values, "seconds_left": None if left is None else round(left)})
        else:
            self._append("end", {"state": state, "error": error or None, **values, "seconds": round(counts.seconds, 3)})

    def _append(self, event: str, values: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, "shard": self._facts["shard"], **values}) + "\n"
        with self._path.open("ab", buffering=0) as file:
            file.write(line.encode())


class _Metrics(_File):
    """Writes the figures of a run for the textfile collector of node_exporter."""

    interval_s = METRICS_INTERVAL_S

    def _start(self) -> None:
        self._update(RunStatus.RUNNING)

    def _update(self, state: str, error: str = "") -> None:
        with atomic_write(self._path) as temporary:
            temporary.write_text("".join(self._lines(state)), encoding="utf-8")

    def _lines(self, state: str) -> Iterator[str]:
        """Yield the Prometheus text format; the label `run`, the name of the file, tells runs of a machine apart."""
        counts, seconds_left = self._counts, self._counts.seconds_left
        labels = {"run": self._path.stem, "shard": self._facts["shard"] or ""}

        def gauge(name: str, meaning: str, *samples: tuple[dict[str, str], float]) -> Iterator[str]:
            yield f"# HELP lesioncli_{name} {meaning}\n# TYPE lesioncli_{name} gauge\n"
            for further, value in samples:
                # JSON strings have the escapes of the format, if nothing but \ and " and line breaks needs one.
                pairs = ",".join(
                    f"{key}={json.dumps(text, ensure_ascii=False)}" for key, text in {**labels, **further}.items()
                )
                yield f"lesioncli_{name}{{{pairs}}} {value}\n"

        facts = {key: self._facts[key] or "" for key in ("version", "engine", "device")}
        statuses = [({"status": name}, getattr(counts, name)) for name in ("ok", "failed", "skipped", "left")]
        yield from gauge("info", "What runs.", (facts, 1))
        yield from gauge("state", "1 for running, finished, interrupted or error.", ({"state": state}, 1))
        yield from gauge("images", "Images of the run by status.", *statuses)
        yield from gauge(
            "images_per_second", "Images per second, without skipped ones.", ({}, counts.images_per_second)
        )
        if seconds_left is not None:
            yield from gauge("left_seconds", "Estimated time to the end.", ({}, seconds_left))
        yield from gauge("updated_timestamp_seconds", "When these figures were written.", ({}, time.time()))
