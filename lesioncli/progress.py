"""Progress of long calls: what they report, and what shows it: bars in a terminal or a notebook, else lines.

Every long call of the Python API takes `progress`: False shows nothing, True shows bars and notes on stderr, a function
is called with (done, total), and a Reporter receives everything.
"""

import importlib.util
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lesioncli.counts import ImageCounts
from lesioncli.options import Status
from lesioncli.signals import StopRequest

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from lesioncli.inference.outcome import Outcome

MAX_NAMED_FAILURES = 20
LINE_INTERVAL_S = 30.0


class Reporter:
    """Receives the progress of one call, as a context manager. This class shows nothing.

    stop: what ends a run of segment_folder() early, after the images that are in work.
    """

    stop: StopRequest | None = None

    def note(self, text: str) -> None:
        """Receive one line about a choice, such as the engine and the reason for it."""

    def count(self, title: str, done: int, total: int) -> None:
        """Receive that `done` of `total` items are finished."""

    def build(self, phase: str, step: int, steps: int) -> None:
        """Receive a step of a compiler; called from any thread."""

    def train(self, where: str, done: int, total: int, detail: str) -> None:
        """Receive that `done` of `total` steps of an epoch are finished; `where` names it, `detail` has figures."""

    def start_images(self, counts: ImageCounts) -> None:
        """Receive the number of images before the first of them is finished."""

    def image(self, outcome: "Outcome", counts: ImageCounts) -> None:
        """Receive the outcome of one image, and the counts with it."""
        self.count("segment", counts.done, counts.images)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the display."""


ReportTo = bool | Callable[[int, int], None] | Reporter


def reporting(progress: ReportTo) -> AbstractContextManager[Reporter]:
    """Return the reporter for an argument `progress`; one that the caller passed stays open."""
    if isinstance(progress, Reporter):
        return nullcontext(progress)
    if callable(progress):
        return _Callback(progress)
    if not progress:
        return Reporter()
    from rich.console import Console

    return ProgressBars(Console(stderr=True, highlight=False))


class _Callback(Reporter):
    """Calls a function with (done, total)."""

    def __init__(self, function: Callable[[int, int], None]) -> None:
        self._function = function

    def count(self, title: str, done: int, total: int) -> None:
        self._function(done, total)


class ProgressBars(Reporter):
    """Shows notes, the first failed images, and one progress bar at a time.

    `bars` False, or a console that is neither a terminal nor a notebook with ipywidgets, gives a line every
    LINE_INTERVAL_S seconds in place of the bars. `names_images`: name every image with its status. `is_quiet`: show
    failed images only.
    """

    def __init__(
        self,
        console: "Console",
        bars: bool = True,
        stop: StopRequest | None = None,
        *,
        names_images: bool = False,
        is_quiet: bool = False,
    ) -> None:
        self.stop = stop
        self._console = console
        self._bars = bars and not is_quiet and (console.is_terminal or console.is_jupyter)
        self._names_images, self._is_quiet = names_images, is_quiet
        self._bar: Progress | None = None
        self._title = ""
        self._lines = _Lines(self.note)
        self._failures = 0

    def note(self, text: str) -> None:
        from rich.markup import escape

        if not self._is_quiet:
            self._console.print(escape(text), style="dim", soft_wrap=True)

    def count(self, title: str, done: int, total: int) -> None:
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._show(title, columns, True, description=title, completed=done, total=total)
        self._lines.update(title, done, total)

    def build(self, phase: str, step: int, steps: int) -> None:
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._show("build", columns, True, description=phase, completed=step, total=max(steps, 1))
        self._lines.update(f"build: {phase}")

    def train(self, where: str, done: int, total: int, detail: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        self._show(where, columns, True, description=where, completed=done, total=total, rate=detail)
        self._lines.update(where, done, total, unit="steps", detail=detail, has_speed=False)

    def start_images(self, counts: ImageCounts) -> None:
        self._failures = 0
        self._show_images(counts)

    def image(self, outcome: "Outcome", counts: ImageCounts) -> None:
        self._show_images(counts)
        if outcome.status == Status.FAILED:
            self._name_failure(outcome)
        elif self._names_images:
            self.note(": ".join(filter(None, (outcome.status, str(outcome.image.path), outcome.note))))

    def _show_images(self, counts: ImageCounts) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        times = (TimeElapsedColumn(), TimeRemainingColumn())
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), *times)
        rate = f"{counts.images_per_second:.0f} images/s" if counts.ok + counts.failed else ""
        self._show("segment", columns, False, completed=counts.done, total=counts.images, rate=rate)
        self._lines.describe(lambda: describe_counts(counts))

    def _name_failure(self, outcome: "Outcome") -> None:
        from rich.markup import escape

        self._failures += 1
        if self._failures <= MAX_NAMED_FAILURES or self._names_images:
            failure = escape(f"{outcome.image.path}: {outcome.stage}: {outcome.reason}")
            self._console.print(f"[red]failed:[/] {failure}", soft_wrap=True)

    def _show(self, title: str, columns: Any, transient: bool, **fields: Any) -> None:
        """Update the bar of this title; open it, in place of another one, if it is not shown."""
        from rich.progress import Progress

        if self._bars and self._console.is_jupyter and importlib.util.find_spec("ipywidgets") is None:
            self.note("progress bars in a notebook need ipywidgets; run pip install ipywidgets")
            self._bars = False
        if not self._bars:
            if not self._is_quiet:
                self._lines.start()
            return
        if self._bar is None or self._title != title:
            self._stop()
            self._title = title
            self._bar = Progress(*columns, console=self._console, transient=transient)
            self._bar.add_task("", total=None, rate="")
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], **fields)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = None

    def close(self) -> None:
        self._stop()
        self._lines.stop()
        if self._failures > MAX_NAMED_FAILURES and not self._names_images:
            rest = self._failures - MAX_NAMED_FAILURES
            self._console.print(f"... and {rest} more failed; scores.csv names all of them")
        self._failures = 0


class Ticker:
    """Calls a function at intervals, in a thread of its own."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, interval_s: float) -> None:
        """Call the function from now on, unless it is called already."""
        if self._thread is None:
            self._ended.clear()
            self._thread = threading.Thread(target=self._run, args=(interval_s,), daemon=True, name="ticker")
            self._thread.start()

    def stop(self) -> None:
        """Call the function no more; wait for a call in work."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, interval_s: float) -> None:
        while not self._ended.wait(interval_s):
            self._function()


class _Lines:
    """Prints where a call stands every LINE_INTERVAL_S seconds, also while it reports nothing."""

    def __init__(self, print_line: Callable[[str], None]) -> None:
        self._print = print_line
        self._describe: Callable[[], str] = str
        self._title, self._started = "", 0.0
        self._ticker = Ticker(self._print_state)

    def start(self) -> None:
        """Print lines from now on."""
        self._ticker.start(LINE_INTERVAL_S)

    def describe(self, describe: Callable[[], str]) -> None:
        """Take a function that returns the next lines."""
        self._describe = describe

    def update(
        self,
        title: str,
        done: int = 0,
        total: int = 0,
        *,
        unit: str = "",
        detail: str = "",
        has_speed: bool = True,
    ) -> None:
        """Take the place of the earlier state. Without `has_speed`, no time left is computed: `detail` has it."""
        if title != self._title:
            self._title, self._started = title, time.monotonic()
        started = self._started

        def describe() -> str:
            seconds = time.monotonic() - started
            if not total:
                return f"{title}, {describe_duration(seconds)}"
            left = f"{describe_duration((total - done) * seconds / done)} left" if done and has_speed else ""
            return ", ".join(filter(None, (f"{title}: {done} of {total} {unit}".strip(), detail, left)))

        self._describe = describe

    def stop(self) -> None:
        """Print no more lines."""
        self._ticker.stop()

    def _print_state(self) -> None:
        if line := self._describe():
            self._print(line)


def describe_counts(counts: ImageCounts) -> str:
    """Return the line that tells where a run stands."""
    failed = f"{counts.failed} failed" if counts.done else ""
    speed = f"{counts.images_per_second:.3g} images/s" if counts.ok + counts.failed else ""
    left = "" if counts.seconds_left is None else f"{describe_duration(counts.seconds_left)} left"
    return ", ".join(filter(None, (f"segment: {counts.done} of {counts.images} images", failed, speed, left)))


def describe_duration(seconds: float) -> str:
    """Return a duration in a unit that suits it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
