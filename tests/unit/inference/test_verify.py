"""verify(): each kind of damage is named, and --repair with another run gives the folder of an undisturbed run."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.pictures import draw, read, save
from helpers.runs import files_of, journal_of, record_of, rows_of, statuses

from lesioncli.backends.base import Engine
from lesioncli.errors import InputError
from lesioncli.inference.findings import Problem
from lesioncli.inference.journal import Journal
from lesioncli.inference.pictures import write_mask
from lesioncli.inference.verify import verify

PICTURES = {"overlay": True, "save_probabilities": True, "crops": 10.0}


@pytest.fixture
def finished(engine: Engine, images: Path, out: Path) -> Path:
    """The folder of a run with all pictures, in which one image failed."""
    (images / "005.jpg").write_bytes(b"")
    statuses(images, engine, out, **PICTURES)
    return out


def problems(folder: Path, repair: bool = False) -> list[tuple[str, str]]:
    return [(finding.name, finding.problem) for finding in verify(folder, repair).findings]


def test_a_finished_folder_has_no_problems(finished: Path) -> None:
    before = files_of(finished)
    verification = verify(finished)
    assert (verification.rows, verification.images, verification.masks) == (6, 5, 5)
    assert not verification.findings
    assert not verification.notes
    assert files_of(finished) == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    """Change a byte of the pixels, not the time."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def swap_mask(path: Path) -> None:
    write_mask(path, 255 - read(path))


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str, Problem, str]] = {
    # file, damage, finding, letters of the next run
    "mask missing": ("out/001.png", Path.unlink, "001.png", Problem.MISSING, "sosssf"),
    "mask cut": ("out/001.png", cut, "001.png", Problem.TRUNCATED, "sosssf"),
    "mask empty": ("out/001.png", empty, "001.png", Problem.TRUNCATED, "sosssf"),
    "mask bit": ("out/001.png", flip_a_bit, "001.png", Problem.CHANGED, "sosssf"),
    "another mask": ("out/001.png", swap_mask, "001.png", Problem.CHANGED, "sosssf"),
    "image bit": ("images/002.jpg", flip_a_bit, "002.jpg", Problem.CHANGED, "ssossf"),
    "image cut": ("images/002.jpg", cut, "002.jpg", Problem.CHANGED, "ssfssf"),
    "overlay cut": ("out/overlays/003.jpg", cut, "overlays/003.jpg", Problem.TRUNCATED, "sssosf"),
    "cut-out cut": ("out/crops/003.jpg", cut, "crops/003.jpg", Problem.TRUNCATED, "sssosf"),
    "map cut": ("out/probabilities/003.png", cut, "probabilities/003.png", Problem.TRUNCATED, "sssosf"),
    "map bit": ("out/probabilities/003.png", flip_a_bit, "probabilities/003.png", Problem.CHANGED, "sssosf"),
}


@pytest.mark.parametrize(("file", "damage", "name", "problem", "again"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_named_and_repaired_by_the_next_run(
    engine: Engine,
    images: Path,
    finished: Path,
    file: str,
    damage: Callable[[Path], None],
    name: str,
    problem: Problem,
    again: str,
) -> None:
    damage(finished.parent / file)
    statuses(images, engine, finished.parent / "whole", **PICTURES)
    damaged = files_of(finished)
    assert problems(finished) == [(name, problem)]
    assert files_of(finished) == damaged
    verification = verify(finished, repair=True)
    assert (verification.repaired, verification.remaining) == (1, 0)
    assert statuses(images, engine, finished, **PICTURES) == again
    assert files_of(finished) == files_of(finished.parent / "whole")
    assert problems(finished) == []


def test_foreign_files_and_leftovers(finished: Path) -> None:
    names = ("mine.png", "sub/notes.txt", "005.png", ".000.png.part", "sub/.x.png.part", "evaluation.csv", ".hidden")
    for name in names:
        (finished / name).parent.mkdir(exist_ok=True)
        (finished / name).write_bytes(b"any")
    shutil.copytree(finished, finished / "nested")  # another output folder
    expected = [
        (".000.png.part", Problem.LEFTOVER),
        ("005.png", Problem.FOREIGN),  # the image failed
        ("mine.png", Problem.FOREIGN),
        ("sub/.x.png.part", Problem.LEFTOVER),
        ("sub/notes.txt", Problem.FOREIGN),
    ]
    assert problems(finished) == expected
    assert verify(finished, repair=True).remaining == 3
    assert problems(finished) == [found for found in expected if found[1] == Problem.FOREIGN]


def test_images_that_are_gone_and_folders_that_are_not_there(images: Path, finished: Path) -> None:
    (images / "001.jpg").unlink()
    assert problems(finished) == [("001.jpg", Problem.MISSING)]
    assert verify(finished, repair=True).remaining == 1
    assert len(rows_of(finished)) == 6
    images.rename(images.with_name("unmounted"))
    verification = verify(finished)
    assert (verification.findings, verification.images) == ((), 0)
    assert [str(images.name) in note for note in verification.notes] == [True]


def test_a_row_that_is_missing(engine: Engine, images: Path, finished: Path) -> None:
    before = files_of(finished)
    lines = (finished / "scores.csv").read_bytes().splitlines(keepends=True)
    (finished / "scores.csv").write_bytes(b"".join(lines[:4]))
    missing = {("003.jpg", Problem.MISSING), ("004.jpg", Problem.MISSING), ("run.json", Problem.UNFINISHED)}
    assert set(problems(finished)) >= missing
    verify(finished, repair=True)
    assert statuses(images, engine, finished, **PICTURES) == "sssoof"
    assert files_of(finished) == before


@pytest.mark.parametrize(("content", "problem"), [(None, Problem.MISSING), ("{", Problem.UNREADABLE)])
def test_run_json_that_cannot_be_read(finished: Path, content: str | None, problem: Problem) -> None:
    (finished / "run.json").unlink()
    if content:
        (finished / "run.json").write_text(content)
    assert problems(finished) == [("run.json", problem)]
    assert verify(finished, repair=True).remaining == 1


def test_a_killed_run_is_verified_by_its_journal(engine: Engine, images: Path, finished: Path) -> None:
    before = files_of(finished)
    (finished / "scores.csv.part").write_bytes(journal_of(finished, 0))
    for name in ("scores.csv", "checksums.csv"):
        (finished / name).unlink()
    assert problems(finished) == []
    swap_mask(finished / "003.png")
    assert problems(finished) == [("003.png", Problem.CHANGED)]
    verify(finished, repair=True)
    assert not (finished / "scores.csv.part").exists()
    assert statuses(images, engine, finished, **PICTURES) == "sssosf"
    assert files_of(finished) == before


def test_results_of_an_early_version_have_no_checksums(finished: Path) -> None:
    (finished / "checksums.csv").unlink()
    swap_mask(finished / "003.png")
    save(finished / "004.png", draw(0, 7, 9)[..., 0])
    verification = verify(finished)
    assert [(found.name, found.problem) for found in verification.findings] == [("004.png", Problem.CHANGED)]
    assert any("checksums" in note for note in verification.notes)


def test_a_folder_that_segment_did_not_write(tmp_path: Path) -> None:
    for content, name in [(None, "scores.csv"), ("image,age\na,7\n", "mask")]:
        if content:
            (tmp_path / "scores.csv").write_text(content)
        with pytest.raises(InputError, match=f"{tmp_path}.*{name}"):
            verify(tmp_path)
    with pytest.raises(InputError, match="nowhere"):
        verify(tmp_path / "nowhere")


def test_a_folder_in_use_is_not_verified(finished: Path) -> None:
    journal = Journal(finished / "scores.csv.part")
    with pytest.raises(InputError, match="another run"):
        verify(finished)
    journal.close()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root and Windows may write anywhere")
def test_a_read_only_folder_is_verified(finished: Path) -> None:
    finished.chmod(0o500)
    try:
        assert problems(finished) == []
        with pytest.raises(InputError, match=str(finished)):
            verify(finished, repair=True)
    finally:
        finished.chmod(0o700)


def test_a_table_that_names_files_elsewhere_removes_nothing_there(finished: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"stays")
    table = finished / "scores.csv"
    table.write_text(table.read_text().replace("001.png", "../outside.png"))
    assert ("../outside.png", Problem.MISSING) in problems(finished, repair=True)
    assert outside.read_bytes() == b"stays"
    assert record_of(finished)["status"] == "finished"
