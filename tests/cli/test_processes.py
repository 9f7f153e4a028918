"""`segment --processes`: the output folder is that of one process, byte for byte."""

from pathlib import Path

import pytest
from helpers.command import call
from helpers.graphs import MakeEngine
from helpers.pictures import save_many
from helpers.runs import files_of, record_of

from lesioncli.errors import ExitCode

DIFFERENT = ("started", "seconds", "cpu_seconds", "processes")


def test_two_processes_are_as_one(tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a broken image, pictures beside the masks, and for a folder that was begun by one process."""
    monkeypatch.chdir(tmp_path)
    save_many(tmp_path / "images", 20)
    words = ("segment", "images", "--engine", tiny_manifest(2), "--overlay", "--max-failures", "1")
    for out in ("one", "two"):
        assert call(*words, "--out", out).exit_code == ExitCode.OK
    (tmp_path / "two/003.png").unlink()
    (tmp_path / "two/overlays/004.jpg").unlink()
    save_many(tmp_path / "images/more", 40)
    (tmp_path / "images/broken.jpg").write_bytes(b"")
    assert call(*words, "--out", "one").exit_code == ExitCode.OK
    done = call(*words, "--out", "two", "--processes", "2")
    assert done.exit_code == ExitCode.OK, done.output
    assert "42 ok, 1 failed, 18 skipped" in done.stdout
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    one, two = record_of(tmp_path / "one"), record_of(tmp_path / "two")
    assert two["processes"] == 2
    assert (two.pop("ok"), two.pop("skipped")) == (42, 18)
    assert {key: value for key, value in one.items() if key not in (*DIFFERENT, "ok", "skipped")} == {
        key: value for key, value in two.items() if key not in DIFFERENT
    }


def test_what_contradicts_itself_is_refused(tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    save_many(tmp_path / "images", 1)
    words = ("segment", tmp_path / "images", "--out", tmp_path / "out", "--engine", tiny_manifest(1))
    assert call(*words, "--devices", "x").exit_code == ExitCode.USAGE
    assert call(*words, "--devices", "0,0").exit_code == ExitCode.USAGE
    assert call(*words, "--ray", "auto", "--devices", "0").exit_code == ExitCode.USAGE
    assert call(*words, "--processes", "2", "--trace", tmp_path / "t.json").exit_code == ExitCode.USAGE
    done = call(*words, "--devices", "all")
    assert (done.exit_code, "--processes" in done.stderr) == (ExitCode.ENGINE, True), done.output
    assert not (tmp_path / "out").exists()
