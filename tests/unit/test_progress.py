"""Progress in a terminal, in a notebook and in neither."""

import importlib.util
import io
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from rich.console import Console

from lesioncli.images.find import ImageFile
from lesioncli.inference.outcome import Outcome
from lesioncli.options import Status
from lesioncli.progress import ProgressBars


def show(console: Console) -> None:
    """Report one image of two, then its end."""
    with ProgressBars(console) as progress:
        progress.start_images(2)
        progress.image(Outcome(ImageFile(Path("a.jpg"), "a"), Status.OK), 1, 2)


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
