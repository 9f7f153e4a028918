"""Shards: processes that write side by side, and what merge leaves: byte for byte what one process leaves."""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from helpers.command import call
from helpers.graphs import MakeEngine
from helpers.pictures import draw, save, save_many
from helpers.runs import files_of, record_of, start_program
from typer.testing import Result

from lesioncli.errors import ExitCode
from lesioncli.files import atomic_write
from lesioncli.images.find import list_images
from lesioncli.inference import rows
from lesioncli.options import Shard
from lesioncli.sharding import contains

TIMES = ("started", "seconds", "cpu_seconds")
Segment = Callable[..., Result]


@pytest.fixture
def words(tmp_path: Path, tiny_manifest: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> tuple[str | Path, ...]:
    """A command on eight images, one of them broken, without --out."""
    monkeypatch.chdir(tmp_path)
    save_many(tmp_path / "images", 3)
    save_many(tmp_path / "images/P01", 4)
    (tmp_path / "images/broken.jpg").write_bytes(b"")
    return ("segment", "images", "--engine", tiny_manifest(1))


@pytest.fixture
def segment(words: tuple[str | Path, ...]) -> Segment:
    """Run a shard, or all images for ""; check its exit code: that of the broken image is 5."""

    def run(out: str, shard: str = "", *more: str, code: ExitCode | None = None) -> Result:
        done = call(*words, "--out", out, *(("--shard", shard) if shard else ()), *more)
        assert done.exit_code in ((ExitCode.OK, ExitCode.SOME_FAILED) if code is None else (code,)), done.output
        return done

    return run


def record_without_times(folder: Path) -> dict[str, Any]:
    record = record_of(folder)
    return {key: value for key, value in record.items() if key not in TIMES}


def assert_merged_as_one(out: Path, one: Path) -> None:
    """Merge twice; compare all files and the record with those of one process."""
    for _ in range(2):
        done = call("merge", out)
        assert done.exit_code == ExitCode.OK, done.output
        assert files_of(out) == files_of(one)
        assert record_without_times(out) == record_without_times(one)
        assert list(record_of(out)) == list(record_of(one))


def assert_refused(out: Path, *named: str) -> None:
    """Check that merge changes nothing and names what is wrong."""

    def files() -> dict[str, bytes]:
        return {name: content for name, content in files_of(out).items() if not name.endswith(".lock")}

    earlier, done = files(), call("merge", out)
    assert done.exit_code == ExitCode.INPUT, done.output
    assert [text for text in named if text not in done.stderr] == []
    assert files() == earlier


def test_shards_side_by_side_are_as_one_process(
    words: tuple[str | Path, ...], segment: Segment, tmp_path: Path
) -> None:
    segment("one", "", "--max-failures", "1")
    programs = [
        start_program(*words, "--out", "masks", "--shard", f"{index}/3", "--max-failures", "1", delay=0.2)
        for index in (1, 2, 3)
    ]
    outputs = [program.communicate(timeout=120)[0] for program in programs]
    assert [program.returncode for program in programs] == [0, 0, 0], outputs
    masks = tmp_path / "masks"
    assert {path.name for path in (masks / "shards").iterdir()} == {"1-of-3", "2-of-3", "3-of-3"}
    assert not (masks / "scores.csv").exists()
    shutil.copytree("one", "labels", ignore=shutil.ignore_patterns("*.csv", "run.json"))
    for command in (("verify", masks), ("export", "--format", "coco", masks)):
        done = call(*command)
        assert (done.exit_code, "lesioncli merge" in done.stderr) == (ExitCode.INPUT, True), done.output
    assert "lesioncli merge" in segment("masks", code=ExitCode.INPUT).stderr
    found = {image.name.partition("/")[0] for image in list_images([tmp_path]).images}
    assert found == {"images", "labels"}  # the folder is known as one of results
    assert_merged_as_one(masks, tmp_path / "one")


@pytest.mark.parametrize("storage", ["files", "tar"])
def test_shards_are_evaluated_and_reported_before_they_are_merged(
    segment: Segment, tmp_path: Path, storage: str
) -> None:
    """The figures are those of the merged run. Images of a shard that is missing have no result."""
    for index in (1, 2, 3):
        segment("masks", f"{index}/3", "--masks", storage)
    segment("one")
    shutil.copytree("one", "truth", ignore=shutil.ignore_patterns("*.csv", "run.json"))
    names = [path.relative_to("truth").with_suffix("") for path in sorted(Path("truth").rglob("*.png"))]
    rows = "".join(f"{name.as_posix()},{number % 2},0\n" for number, name in enumerate(names))
    Path("truth/labels.csv").write_text("image,melanoma,seborrheic_keratosis\n" + rows)

    def evaluate(folder: str) -> tuple[dict[str, Any], list[str]]:
        done = call("evaluate", "--gt", "truth", folder, "--json")
        assert done.exit_code == ExitCode.OK, done.output
        figures = json.loads(done.stdout)
        return figures, figures["lesioncli"].pop("notes")

    (expected, notes), (found, more) = evaluate("one"), evaluate("masks")
    assert found == expected
    assert [note for note in more if note not in notes] == [
        "shards are not merged: finished 3 of 3; run lesioncli merge masks for the final results"
    ]
    report = call("report", "masks", "--gt", "truth", "--out", "masks.html")
    assert (report.exit_code, "finished 3 of 3; lesioncli merge masks" in report.stderr) == (
        call("report", "one", "--gt", "truth", "--out", "one.html").exit_code,
        True,
    )
    assert "finished 3 of 3" in Path("masks.html").read_text(encoding="utf-8")
    lost = tmp_path / "masks/shards/2-of-3"
    shutil.rmtree(lost)
    for archive in tmp_path.glob("masks/masks-2-of-3-*.tar"):
        archive.unlink()
    for name in names:
        if contains(Shard(2, 3), name.as_posix()):
            (tmp_path / f"masks/{name}.png").unlink(missing_ok=True)
    done = call("evaluate", "--gt", "truth", "masks")
    assert (done.exit_code, "finished 2 of 3" in done.stderr) == (ExitCode.SOME_FAILED, True), done.output


def test_a_shard_that_was_killed_is_continued(words: tuple[str | Path, ...], segment: Segment, tmp_path: Path) -> None:
    save_many(tmp_path / "images/more", 40)  # rows are written only when the queues are full
    names = (f"z{number}" for number in range(100))
    last = save(tmp_path / "images" / f"{next(name for name in names if contains(Shard(1, 2), name))}.jpg", draw(1))
    segment("one")
    segment("masks", "2/2")
    masks, own = tmp_path / "masks", tmp_path / "masks/shards/1-of-2"
    program = start_program(*words, "--out", "masks", "--shard", "1/2", endless=last.name)
    journal, deadline = own / "scores.csv.part", time.monotonic() + 100
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 1):
        if time.monotonic() > deadline or program.poll() is not None:
            program.kill()
            pytest.fail(f"no row was written: {program.communicate()[0]!r}")
        time.sleep(0.1)
    try:
        done = call("merge", masks)  # it is running
        assert (done.exit_code, "1-of-2" in done.stderr) == (ExitCode.INPUT, True), done.output
        segment("masks", "1/2", code=ExitCode.INPUT)
    finally:
        program.kill()
        program.communicate()
    assert_refused(masks, "not finished: 1/2", "--shard 1/2")
    assert " 0 skipped" not in segment("masks", "1/2").stdout
    call("merge", masks)
    assert files_of(masks) == files_of(tmp_path / "one")


def test_missing_and_overlapping_shards_are_refused(segment: Segment, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    segment("masks", "2/3")
    assert_refused(masks, "missing: 1/3, 3/3", "--shard 1/3")
    assert "2/3" in segment("masks", "1/4", code=ExitCode.INPUT).stderr
    segment("masks", "1/3", "--threshold", "0.6", code=ExitCode.INPUT)
    assert not (masks / "shards/1-of-3").exists()
    shutil.copytree(masks / "shards/2-of-3", masks / "shards/1-of-4")
    assert_refused(masks, "overlap", "2/3")
    assert call("merge", tmp_path / "images").exit_code == ExitCode.INPUT
    assert call("merge", tmp_path / "none").exit_code == ExitCode.INPUT


def test_shards_of_different_runs_are_refused(segment: Segment, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    segment("masks", "1/2")
    segment("masks", "2/2", "--threshold", "0.6", "--overwrite")
    assert_refused(masks, "threshold", "0.5", "0.6")
    segment("masks", "2/2", "--overwrite")
    record = masks / "shards/2-of-2/run.json"
    content = record.read_text()
    record.write_text(content.replace(json.loads(content)["lesioncli"], "0.3.0"))
    assert_refused(masks, "lesioncli", "0.3.0")
    record.write_text(content)
    save_many(tmp_path / "images/later", 2)
    segment("masks", "2/2")
    assert_refused(masks, "8", "10", "lesioncli list")
    segment("masks", "1/2")
    segment("one")
    assert call("merge", masks).exit_code == ExitCode.OK
    assert files_of(masks) == files_of(tmp_path / "one")


def test_a_merged_folder_is_continued_by_shards_or_by_one_process(segment: Segment, tmp_path: Path) -> None:
    """Also with another number of shards, and with an image that is gone."""
    for out, shards in (("one", [""]), ("masks", ["1/2", "2/2"])):
        for shard in shards:
            segment(out, shard)
    assert call("merge", "masks").exit_code == ExitCode.OK
    save_many(tmp_path / "images/later", 3)
    (tmp_path / "images/P01/001.jpg").unlink()
    segment("one")
    for index in (1, 2, 3):
        segment("masks", f"{index}/3")
    assert_merged_as_one(tmp_path / "masks", tmp_path / "one")
    segment("masks", "1/2", "--overwrite", code=ExitCode.INPUT)
    done = segment("masks")
    assert "0 ok, 1 failed" in done.stdout
    assert files_of(tmp_path / "masks") == files_of(tmp_path / "one")


@pytest.mark.parametrize("stopped", [1, 2])
def test_a_shard_that_is_stopped_while_it_takes_over_merged_rows_loses_nothing(
    segment: Segment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: int
) -> None:
    """Before the first or the second of its two tables is written."""
    segment("one")
    segment("masks")
    written: list[str] = []

    def stop(path: Path) -> AbstractContextManager[Path]:
        written.append(path.name)
        if len(written) == stopped:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return atomic_write(path)

    with monkeypatch.context() as patch:
        patch.setattr(rows, "atomic_write", stop)
        segment("masks", "1/2", code=ExitCode.INPUT)
    assert len(written) == stopped
    segment("masks", "1/2")
    segment("masks", "2/2")
    assert call("merge", "masks").exit_code == ExitCode.OK
    assert files_of(tmp_path / "masks") == files_of(tmp_path / "one")


def test_a_merge_that_was_stopped_is_finished_later(segment: Segment, tmp_path: Path) -> None:
    """The marker says that the rows are in place; files of the user stay."""
    segment("one")
    for shard in ("1/2", "2/2"):
        segment("masks", shard)
    shards = tmp_path / "masks/shards"
    saved = shutil.copytree(shards, tmp_path / "saved")
    assert call("merge", "masks").exit_code == ExitCode.OK
    shutil.rmtree(saved / "1-of-2")
    shutil.copytree(saved, shards)
    (shards / "merged").touch()
    (shards / "2-of-2/slurm.log").write_text("mine")
    assert call("merge", "masks").exit_code == ExitCode.OK
    assert (shards / "2-of-2/slurm.log").read_text() == "mine"
    assert not (shards / "2-of-2/run.json").exists()


def test_names_of_isic_and_lists(tmp_path: Path, segment: Segment, tiny_manifest: MakeEngine) -> None:
    """Shards of a list have its images; empty ones are right, too."""
    for number, path in enumerate(sorted((tmp_path / "images").rglob("*.jpg"))):
        path.rename(path.with_name(f"ISIC_000000{number}.jpg"))
    segment("one", "", "--isic")
    assert call("list", "images", "--out", "images.csv").exit_code == ExitCode.OK
    save_many(tmp_path / "images/later", 2)
    for index in range(1, 13):
        words = ("--from", "images.csv", "--isic", "--engine", tiny_manifest(1), "--shard", f"{index}/12")
        assert call("segment", *words, "--out", "masks").exit_code in (ExitCode.OK, ExitCode.SOME_FAILED)
    assert sum(not (folder / "scores.csv").exists() for folder in (tmp_path / "masks/shards").iterdir()) >= 4
    assert_merged_as_one(tmp_path / "masks", tmp_path / "one")


def test_the_shard_of_an_array_job_is_named(segment: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
    segment("masks", "auto/2", code=ExitCode.USAGE)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    assert "shard 2/2: Kubernetes, JOB_COMPLETION_INDEX=1" in segment("masks", "auto/2").stderr
    segment("masks", "auto", code=ExitCode.USAGE)
