"""Tar archives of masks: the bytes that `segment` wrote, in archives of bounded size, read again by others."""

import json
import tarfile
from pathlib import Path
from typing import IO, cast

import pytest
from helpers.command import call
from helpers.drawn_run import DrawnRun
from helpers.graphs import MakeEngine
from helpers.pictures import save_many

from lesioncli.errors import ExitCode
from lesioncli.export import tar
from lesioncli.export.run import export_run
from lesioncli.options import ExportFormat


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {info.name: cast(IO[bytes], archive.extractfile(info)).read() for info in archive}


def test_archives_hold_the_masks_of_segment(
    tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar, "IMAGES_PER_ARCHIVE", 2)
    save_many(tmp_path / "images/P01", 5)
    (tmp_path / "images/bad.jpg").write_bytes(b"no image")
    call("segment", tmp_path / "images", "--out", tmp_path / "masks", "--engine", tiny_manifest(2))
    result = call("export", tmp_path / "masks", "--format", "tar", "--out", tmp_path / "tar")
    assert result.exit_code == ExitCode.SOME_FAILED
    assert "bad.jpg" in result.output
    paths = sorted((tmp_path / "tar").iterdir())
    assert [path.name for path in paths] == ["masks-00000.tar", "masks-00001.tar", "masks-00002.tar"]
    found = {name: content for path in paths for name, content in members(path).items()}
    masks = {f"P01/{number:03d}.png" for number in range(5)}
    assert set(found) == masks | {name.replace(".png", ".json") for name in masks}
    assert all(found[name] == (tmp_path / "masks" / name).read_bytes() for name in masks)
    sample = json.loads(found["P01/000.json"])
    assert sample["image"] == "P01/000.jpg"
    assert 0 <= sample["melanoma"] <= 1
    before = [path.read_bytes() for path in paths]
    assert call("export", tmp_path / "masks", "--format", "tar", "--out", tmp_path / "tar").exit_code == ExitCode.INPUT
    call("export", tmp_path / "masks", "--format", "tar", "--out", tmp_path / "tar", "--overwrite")
    assert [path.read_bytes() for path in paths] == before


def test_a_name_that_leads_out_is_not_packed(tmp_path: Path) -> None:
    run = DrawnRun(tmp_path)
    run.add("good", 0)
    run.add("evil", 1)
    run.finish()
    scores = run.masks / "scores.csv"
    scores.write_text(scores.read_text().replace("evil.jpg", "../evil.jpg"))
    exported = export_run(run.masks, ExportFormat.TAR, tmp_path / "tar")
    assert exported.exported == 1
    assert "../evil.jpg" in exported.problems[0]
    assert set(members(tmp_path / "tar/masks-00000.tar")) == {"good.png", "good.json"}
