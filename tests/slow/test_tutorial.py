"""The tutorial notebook runs from its first cell to the last, and holds no outputs."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOK = DOCS / "tutorial.ipynb"
DRAWN = 12

pytestmark = pytest.mark.slow


def cells(kind: str) -> list[dict[str, Any]]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def run_cell(source: str, names: dict[str, Any]) -> None:
    """Run a cell as Jupyter does: the shell has lines with `!`."""
    if source.startswith("!"):
        command, *words = shlex.split(source[1:])
        assert command == "lesioncli"
        subprocess.run([sys.executable, "-m", command, *words], check=True, capture_output=True)
    else:
        exec(compile(source, NOTEBOOK.name, "exec"), names)  # noqa: S102 - the notebook is ours


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    names: dict[str, Any] = {}
    for cell in cells("code"):
        run_cell("".join(cell["source"]), names)
    plt.close("all")
    assert f"{DRAWN} ok, 0 failed, 0 skipped" in capsys.readouterr().out
    assert names["evaluation"].masks.means["jaccard"] > 0.7
    assert {group.column for group in names["evaluation"].groups} == {"contrast"}
    assert len(names["joined"]) == len(names["coco"]["images"]) == DRAWN


def test_the_notebook_has_no_outputs_and_leads_to_pages() -> None:
    code, text = cells("code"), cells("markdown")
    assert len(code) > 5
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    links = re.findall(r"\]\(([^)]+)\)", "".join("".join(cell["source"]) for cell in text))
    assert len(links) >= 4
    assert all((DOCS / link).is_file() for link in links)
