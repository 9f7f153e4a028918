"""How what a command does looks: progress and notes on stderr, results as lines, tables and JSON on stdout.

Only cli.py calls this, and nothing here decides anything. What draws is imported where it does, for the sake of --help.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from lesioncli.backends.registry import Listed
    from lesioncli.images.files import ImageFile
    from lesioncli.inference.run import Summary
    from lesioncli.report.page import Written

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

SHOWN_FAILURES = 20


def plain(text: object) -> str:
    """Text for rich in which a file's name is no markup."""
    from rich.markup import escape

    return escape(str(text))


def say(text: str) -> None:
    err.print(plain(text), style="dim", soft_wrap=True)


def print_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=1, default=str) + "\n")


def list_some(title: str, lines: Sequence[str], all_of_them: str = "--json lists them all") -> None:
    for line in lines[:SHOWN_FAILURES]:
        err.print(f"[red]{title}:[/] {plain(line)}", soft_wrap=True)
    if len(lines) > SHOWN_FAILURES:
        err.print(f"... and {len(lines) - SHOWN_FAILURES} more; {all_of_them}")


@contextmanager
def compiling(show: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Yields what takes (phase, step, steps) of a compiler and moves a bar, in a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=not (show and err.is_terminal), transient=True) as bar:
        task = bar.add_task("checking", total=None)
        yield lambda phase, step, steps: bar.update(task, description=phase, completed=step, total=max(steps, 1))


@contextmanager
def segmenting(images: "Sequence[ImageFile]", show: bool) -> Iterator[Callable[[Any], None]]:
    """Yields what takes each Outcome: moves a bar in a terminal, names the first failures anywhere."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    failures = done = 0
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=err, disable=not (show and err.is_terminal)) as bar:
        task = bar.add_task("", total=len(images), rate="")

        def tell(outcome: Any) -> None:
            nonlocal failures, done
            done += outcome.status != "skipped"
            elapsed = bar.tasks[0].elapsed
            bar.update(task, advance=1, rate=f"{done / elapsed:.0f} images/s" if elapsed else "")
            if outcome.status != "failed":
                return
            failures += 1
            if failures <= SHOWN_FAILURES:
                what = f"{plain(outcome.image.path)}: {outcome.stage}: {plain(outcome.reason)}"
                err.print(f"[red]failed:[/] {what}", soft_wrap=True)

        yield tell
    if failures > SHOWN_FAILURES:
        err.print(f"... and {failures - SHOWN_FAILURES} more failed; scores.csv names them all")


@contextmanager
def counting(what: str, show: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Yields what takes (done, total) and moves a bar, in a terminal."""
    from rich.progress import Progress

    with Progress(console=err, disable=not (show and err.is_terminal), transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def training_progress(
    show: bool,
) -> Iterator[tuple[Callable[[Any], None], Callable[[str, Mapping[str, float]], None]]]:
    """A bar over the epoch's steps with loss, rate and time left, and a line for every epoch."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.fields[where]}"), BarColumn(), MofNCompleteColumn())
    more = (TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, *more, console=err, disable=not (show and err.is_terminal)) as bar:
        task = bar.add_task("", total=None, where="", loss=math.nan, rate="")

        def on_step(progress: Any) -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed:.1f} steps/s" if speed else ""
            if progress.step == 0:
                bar.reset(task, total=progress.steps)
            where = f"{progress.stage} {progress.epoch + 1}/{progress.epochs}"
            bar.update(task, completed=progress.step + 1, where=where, loss=progress.loss, rate=rate)

        def on_epoch(stage: str, row: Mapping[str, float]) -> None:
            figures = ", ".join(f"{key} {value:.4g}" for key, value in row.items() if key != "epoch")
            err.print(f"{stage}, epoch {row['epoch']:.0f}: {figures}", soft_wrap=True)

        yield on_step, on_epoch


def report_run(summary: "Summary", json_output: bool) -> None:
    if json_output:
        print_json({**dataclasses.asdict(summary), "images_per_second": round(summary.images_per_second, 2)})
        return
    speed = f", {summary.images_per_second:.0f} images/s" if summary.ok + summary.failed else ""
    out.print(
        f"{summary.images} images: {summary.ok} ok, {summary.failed} failed, {summary.skipped} done before"
        f" ({summary.seconds:.1f} s{speed}); masks and scores.csv are in {plain(summary.out)}/",
        soft_wrap=True,
    )
    if summary.ok + summary.skipped > len(summary.look_first):
        names = ", ".join(f"{plain(name)} ({confidence:.2f})" for name, confidence in summary.look_first)
        out.print(f"least sure, so worth a look first: {names}", soft_wrap=True)


def report_written(written: "Written") -> None:
    """Say what the report shows, and name what it cannot."""
    list_some("not shown", written.problems, "each is said in its case")
    states = ", ".join(f"{number} {state}" for state, number in written.states.items() if number)
    cases = sum(written.states.values())
    part = "" if written.shown == cases else f"; the gallery has the {written.shown} worst, --gallery shows more"
    out.print(f"{plain(written.path)}: {states}{part} ({written.size / 1e6:.1f} MB)", soft_wrap=True)


def engine_json(engine: "Listed") -> Mapping[str, Any]:
    manifest = dataclasses.asdict(engine.manifest) if engine.manifest else None
    return {
        "engine": str(engine.path),
        "runs_here": not engine.problem,
        "problem": engine.problem,
        "manifest": manifest,
    }
