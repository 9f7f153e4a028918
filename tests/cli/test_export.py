"""`lesioncli export`: files, messages and exit codes."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
from helpers.command import call, save_lesion
from helpers.drawn_run import DrawnRun
from helpers.graphs import MakeEngine
from helpers.pictures import read

from lesioncli.errors import ExitCode
from lesioncli.export.registry import EXPORTERS
from lesioncli.options import ExportFormat


def test_what_segment_writes_can_be_exported(
    tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_lesion(tmp_path / "images" / "a.jpg")
    call("segment", "images", "--out", "masks", "--engine", tiny_manifest(1))
    for name in (ExportFormat.COCO, ExportFormat.GEOJSON, ExportFormat.LABELME):
        done = call("export", "--format", name)
        assert done.exit_code == ExitCode.OK, done.stderr
        assert f"{EXPORTERS[name].default_out}: 1 images" in done.stdout
    (annotation,) = json.loads((tmp_path / "coco.json").read_text())["annotations"]
    assert annotation["area"] == annotation["attributes"]["area_px"] == (read(tmp_path / "masks" / "a.png") > 0).sum()
    assert json.loads((tmp_path / "labelme" / "a.json").read_text())["imagePath"] == "../images/a.jpg"


def test_failed_images_are_named(tmp_path: Path) -> None:
    run = DrawnRun(tmp_path)
    run.add("good", 0)
    run.add_failed("bad.jpg")
    run.finish()
    out = tmp_path / "coco.json"
    done = call("export", run.masks, "--format", "coco", "--out", out)
    assert done.exit_code == ExitCode.SOME_FAILED
    assert "bad.jpg" in done.stderr
    assert call("export", run.masks, "--format", "coco", "--out", out).exit_code == ExitCode.INPUT
    again = call("export", run.masks, "--format", "coco", "--out", out, "--overwrite", "--json")
    assert again.exit_code == ExitCode.SOME_FAILED
    summary = json.loads(again.stdout)
    assert (summary["out"], summary["images"], len(summary["problems"])) == (str(out), 1, 1)


def test_an_interrupted_run_is_not_complete(tmp_path: Path) -> None:
    run = DrawnRun(tmp_path)
    run.add("good", 0)
    run.finish(images=2)
    done = call("export", run.masks, "--format", "coco", "--out", tmp_path / "coco.json")
    assert done.exit_code == ExitCode.SOME_FAILED
    assert "1 of 2" in done.stderr


@pytest.mark.parametrize(
    "options", ["--format yolo", "", "--format coco --simplify 1", "--format labelme --simplify nan"]
)
def test_wrong_options(tmp_path: Path, options: str) -> None:
    assert call("export", tmp_path, *options.split()).exit_code == ExitCode.USAGE


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = DrawnRun(tmp_path)
    run.add("good", 0)
    run.finish()
    real = builtins.__import__

    def without_pyarrow(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    done = call("export", run.masks, "--format", "parquet", "--out", tmp_path / "out")
    assert done.exit_code == ExitCode.ENGINE
    assert "[parquet]" in done.stderr
