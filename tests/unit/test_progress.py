"""Progress in a terminal, in a notebook and in neither."""

import importlib.util
import io
import re
import threading
import time
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from rich.console import Console

from lesioncli.counts import ImageCounts
from lesioncli.images.find import ImageFile
from lesioncli.inference.outcome import Outcome
from lesioncli.options import Status
from lesioncli.progress import ProgressBars, Reporter


def show(console: Console) -> None:
    """Report one image of two, then its end."""
    with ProgressBars(console) as progress:
        progress.start_images(counts := ImageCounts(2))
        counts.add(Status.OK)
        progress.image(Outcome(ImageFile(Path("a.jpg"), "a"), Status.OK), counts)


@pytest.mark.parametrize("installed", [True, False])
def test_a_notebook_without_ipywidgets_has_a_note_in_place_of_bars(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    notes: list[str] = []
    monkeypatch.setattr("rich.progress.Progress.start", lambda self: started.append("bar"))
    monkeypatch.setattr("rich.progress.Progress.stop", lambda self: None)
    monkeypatch.setattr(ProgressBars, "note", lambda self, text: notes.append(text))
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: ModuleSpec(name, None) if installed and name == "ipywidgets" else None
    )
    with warnings.catch_warnings(action="error"):
        show(Console(file=io.StringIO(), force_jupyter=True))
    assert bool(started) == installed
    assert [("ipywidgets" in note) for note in notes] == ([] if installed else [True])


def test_bars_are_shown_in_a_terminal_only() -> None:
    for is_terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=is_terminal, width=80)
        show(console)
        assert isinstance(console.file, io.StringIO)
        assert ("1/2" in console.file.getvalue()) == is_terminal


def report_images(progress: Reporter) -> None:
    """Report 4 of 100 images: two skipped ones, a finished and a failed one."""
    progress.start_images(counts := ImageCounts(100))
    for status in (Status.SKIPPED, Status.SKIPPED, Status.OK, Status.FAILED):
        counts.add(status)
        progress.image(Outcome(ImageFile(Path("a.jpg"), "a"), status, reason="cut"), counts)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (report_images, r"segment: 4 of 100 images, 1 failed, [\d.e+]+ images/s, \d+ (s|min) left"),
        (lambda progress: progress.count("draw", 3, 9), r"draw: 3 of 9, \d+ s left"),
        (lambda progress: progress.count("draw", 0, 9), r"draw: 0 of 9"),
        (lambda progress: progress.build("export", 0, 3), r"build: export, \d+ s"),
        (
            lambda progress: progress.train("cn 1/2", 3, 9, "loss 0.5, 2 min left"),
            r"cn 1/2: 3 of 9 steps, loss 0\.5, 2 min left",
        ),
    ],
)
def test_a_log_has_a_line_at_intervals_also_while_nothing_is_reported(
    report: Callable[[Reporter], None], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lesioncli.progress.LINE_INTERVAL_S", 0.2)
    console = Console(file=io.StringIO(), width=200)
    with ProgressBars(console) as progress:
        report(progress)
        time.sleep(0.9)
    assert isinstance(console.file, io.StringIO)
    lines = [line for line in console.file.getvalue().splitlines() if not line.startswith("failed: ")]
    assert len(lines) >= 3
    assert [line for line in lines if not re.fullmatch(expected, line)] == []
    assert threading.active_count() == 1


def test_a_terminal_has_no_such_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lesioncli.progress.LINE_INTERVAL_S", 0.02)
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with ProgressBars(console) as progress:
        report_images(progress)
        time.sleep(0.1)
    assert isinstance(console.file, io.StringIO)
    assert "segment: " not in console.file.getvalue()
