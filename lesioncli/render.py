"""How what a command does looks: progress and notes on stderr, results as lines, tables and JSON on stdout.

Only cli.py calls this, and nothing here decides anything. What draws is imported where it does, for the sake of --help.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console

if TYPE_CHECKING:
    from lesioncli.backends.choose import Listed
    from lesioncli.evaluation.evaluate import Evaluation
    from lesioncli.inference.images import ImageFile
    from lesioncli.inference.run import Summary

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


def list_some(title: str, lines: Sequence[str]) -> None:
    for line in lines[:SHOWN_FAILURES]:
        err.print(f"[red]{title}:[/] {plain(line)}", soft_wrap=True)
    if len(lines) > SHOWN_FAILURES:
        err.print(f"... and {len(lines) - SHOWN_FAILURES} more; --json lists them all")


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
                err.print(f"[red]failed:[/] {plain(outcome.image.path)}: {outcome.stage}: {plain(outcome.reason)}")

        yield tell
    if failures > SHOWN_FAILURES:
        err.print(f"... and {failures - SHOWN_FAILURES} more failed; scores.csv names them all")


@contextmanager
def comparing(show: bool) -> Iterator[Callable[[int, int], None]]:
    """Yields what takes (done, total) and moves a bar, in a terminal."""
    from rich.progress import Progress

    with Progress(console=err, disable=not (show and err.is_terminal), transient=True) as bar:
        task = bar.add_task("comparing")
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
    if summary.ok > len(summary.look_first):
        names = ", ".join(f"{plain(name)} ({confidence:.2f})" for name, confidence in summary.look_first)
        out.print(f"least sure, so worth a look first: {names}", soft_wrap=True)


def print_evaluation(evaluation: "Evaluation", protocol: str) -> None:
    """Means with their intervals; by a challenge's protocol also each class, and what it ranks by."""
    from rich.table import Table

    from lesioncli.evaluation.bootstrap import AUC_MEAN

    table = Table("metric", "value", "95 % interval", "images")
    for column in table.columns[1:]:
        column.justify = "right"
    judged = [case.metrics for case in evaluation.cases if not case.problem]
    means = [
        (name, name, value, sum(not math.isnan(metrics[name]) for metrics in judged))
        for name, value in evaluation.means.items()
    ]
    aucs = [
        (name, f"AUC {name.replace('_', ' ')}", value, evaluation.auc_count) for name, value in evaluation.auc.items()
    ]
    if len(aucs) > 1:
        aucs.append((AUC_MEAN, "AUC mean", evaluation.auc_mean, evaluation.auc_count))
    for key, name, value, count in [*means, *aucs]:
        interval = evaluation.intervals.get(key)
        shown = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        table.add_row(plain(name), _figure(value), shown, str(count))
    out.print(table)
    if protocol == "plain":  # which nobody is ranked by
        if evaluation.per_class:
            out.print("more of each class: --protocol isic2017, or --json", soft_wrap=True)
        return
    if evaluation.per_class:
        _print_classes(evaluation.per_class)
    for what, (name, value) in evaluation.ranking.items():
        out.print(f"{protocol} ranks {what} by {name}: {_figure(value)}", soft_wrap=True)


def _print_classes(per_class: Mapping[str, Mapping[str, float]]) -> None:
    from rich.table import Table

    table = Table("metric", *(plain(name.replace("_", " ")) for name in per_class))
    for column in table.columns[1:]:
        column.justify = "right"
    for metric in next(iter(per_class.values())):
        table.add_row(metric, *(_figure(metrics[metric]) for metrics in per_class.values()))
    out.print(table)


def _figure(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4f}"


def tell_evaluation(evaluation: "Evaluation", complete: bool) -> None:
    """Say what was not judged, what was too much, and what was odd."""
    problems = _problems(evaluation)
    list_some("not scored", problems)
    list_some("prediction without a truth", evaluation.extra)
    list_some("scores without a label", evaluation.extra_scores)
    list_some("note", _notes(evaluation))
    if problems and complete:
        say("no official figures where an image is missing: the official scorer takes all or none")


def _problems(evaluation: "Evaluation") -> list[str]:
    return [f"{case.name}: {case.problem}" for case in evaluation.cases if case.problem] + [*evaluation.score_problems]


def _notes(evaluation: "Evaluation") -> list[str]:
    return [*evaluation.notes, *(f"{case.name}: {case.note}" for case in evaluation.cases if case.note)]


def evaluation_json(evaluation: "Evaluation", protocol: str) -> Mapping[str, Any]:
    """The official scorer's document, and all else under `lesioncli`."""
    from lesioncli.evaluation.protocols import joined

    scored = sum(not case.problem for case in evaluation.cases)
    ours = {
        "protocol": protocol,
        "ranking": {key: {"figure": name, "value": value} for key, (name, value) in evaluation.ranking.items()},
        "truths": len(evaluation.cases),
        "scored": scored,
        "means": evaluation.means,
        "auc": evaluation.auc,
        "auc_mean": evaluation.auc_mean,
        "auc_count": evaluation.auc_count,
        "per_class": evaluation.per_class,
        "intervals": {key: list(value) for key, value in evaluation.intervals.items()},
        "problems": _problems(evaluation),
        "extra": evaluation.extra,
        "extra_scores": evaluation.extra_scores,
        "notes": _notes(evaluation),
    }
    official = joined(evaluation.mask_document, evaluation.score_document)
    return cast(Mapping[str, Any], _without_nan({**official, "lesioncli": ours}))


def _without_nan(content: Any) -> Any:
    """JSON has no nan: a figure that is undefined is null."""
    if isinstance(content, Mapping):
        return {key: _without_nan(value) for key, value in content.items()}
    return None if isinstance(content, float) and math.isnan(content) else content


def engine_json(engine: "Listed") -> Mapping[str, Any]:
    manifest = dataclasses.asdict(engine.manifest) if engine.manifest else None
    return {
        "engine": str(engine.path),
        "runs_here": not engine.problem,
        "problem": engine.problem,
        "manifest": manifest,
    }
