"""No table has a cell that a spreadsheet would run, whatever images are called, and every command reads them back."""

import csv
import json
import re
import sys
from pathlib import Path

import pytest
from helpers.command import call
from helpers.graphs import MakeEngine
from helpers.pictures import draw, read, save
from helpers.runs import files_of, rows_of

import lesioncli
from lesioncli.errors import ExitCode
from lesioncli.files import FORMULA_STARTS, as_cell, from_cell

NAMES = ["=1+1", "-x", "+y", "@z", "=cmd/a", "plain"]
# Modules that write tables; the last two write names of their own only.
WRITERS = {
    *("inference/rows.py", "evaluation/csv_files.py", "evaluation/submission.py", "images/written_list.py"),
    *("demo/folder.py", "training/history.py"),
}


def test_these_are_all_writers() -> None:
    package = Path(lesioncli.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"csv\.(Dict)?[wW]riter|\.to_csv\(", path.read_text(encoding="utf-8"))
    }
    assert found == WRITERS


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such file names")
def test_names_are_no_formulas(tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(NAMES):
        save(tmp_path / "images" / f"{name}.jpg", draw(number, 40, 60))
    (tmp_path / "images" / "=bad.jpg").touch()
    engine = tiny_manifest(1)
    words = ("segment", "images", "--out", "masks", "--engine", engine)
    assert call(*words).exit_code == ExitCode.SOME_FAILED
    for name in NAMES:
        (tmp_path / "gt" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "gt" / f"{name}.png").write_bytes((tmp_path / "masks" / f"{name}.png").read_bytes())
    evaluated = call("evaluate", "masks", "--gt", "gt", "--csv", "cases.csv", "--compare", "gt", "--json")
    assert evaluated.exit_code in (ExitCode.OK, ExitCode.SOME_FAILED), evaluated.stderr
    assert call("list", "images", "--out", "list.csv").exit_code == ExitCode.OK
    tables = sorted(tmp_path.rglob("*.csv"))
    assert {path.name for path in tables} == {
        *("scores.csv", "checksums.csv", "cases.csv", "comparison.csv", "list.csv"),
    }
    for path in tables:
        with path.open(newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert "./=1+1.jpg" in cells, path
        assert [cell for cell in cells if cell.startswith(FORMULA_STARTS) and not is_number(cell)] == [], path
    # What is written is read again.
    first = files_of(tmp_path / "masks")
    again = call(*words, "--json")
    assert json.loads(again.stdout)["skipped"] == len(NAMES)
    assert files_of(tmp_path / "masks") == first
    assert call("verify", "masks").exit_code == ExitCode.OK
    from_list = call("segment", "--from", "list.csv", "--out", "other", "--engine", engine)
    assert from_list.exit_code == ExitCode.SOME_FAILED, from_list.stderr
    assert rows_of(tmp_path / "other") == rows_of(tmp_path / "masks")
    assert call("report", "masks", "--gt", "gt", "--out", "report.html").exit_code == ExitCode.SOME_FAILED
    assert "=1+1.jpg" in (tmp_path / "report.html").read_text(encoding="utf-8")
    (tmp_path / "images" / "=1+1.jpg").unlink()
    assert call(*words, "--prune").exit_code == ExitCode.SOME_FAILED
    assert not (tmp_path / "masks" / "=1+1.png").exists()
    assert call(*words, "--overwrite").exit_code == ExitCode.SOME_FAILED
    assert read(tmp_path / "masks" / "-x.png").shape == (40, 60)


def is_number(cell: str) -> bool:
    return re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", cell) is not None


@pytest.mark.parametrize("name", ["=a", "+a", "-a", "@a", "\ta", "\ra", "a", "a=b", "b/=a", ".a"])
def test_a_cell_is_read_as_it_was_written(name: str) -> None:
    assert from_cell(as_cell(name)) == name
    assert not as_cell(name).startswith(FORMULA_STARTS)
    assert Path(as_cell(name)) == Path(name)
