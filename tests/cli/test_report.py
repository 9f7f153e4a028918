"""The command `report`: its defaults, exit codes and the files that it refuses to replace."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.command import call
from helpers.drawn_run import HEIGHT, WIDTH, DrawnRun
from helpers.report_page import Page

from lesioncli.errors import ExitCode
from lesioncli.inference.pictures import write_mask


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DrawnRun:
    """A run in the working directory: two images with ground truth and one that failed."""
    monkeypatch.chdir(tmp_path)
    run = DrawnRun(tmp_path)
    for number in range(2):
        run.add(f"case_{number}", number, shift_px=number)
    run.add_failed("broken.jpg")
    return run.finish()


def test_report_needs_no_arguments_after_a_run(run: DrawnRun) -> None:
    done = call("report")
    assert done.exit_code == ExitCode.SOME_FAILED, "an image of the run failed"
    assert "images: images (" in done.stderr
    assert "report.html" in done.stdout
    assert [*Page(Path("report.html")).cases] == ["broken", "case_1", "case_0"]


def test_report_compares_with_ground_truth(run: DrawnRun) -> None:
    done = call("report", "masks", "--gt", "labels", "--out", "sub/mine.html", "--gallery", "2")
    assert done.exit_code == ExitCode.SOME_FAILED
    assert "--gallery" in done.stdout
    page = Page(Path("sub/mine.html"))
    assert [*page.cases] == ["broken", "case_1"]
    assert page.cases["case_1"]["jaccard"] < 1


def test_run_record_is_read_once(run: DrawnRun, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Counter[str] = Counter()
    read_text = Path.read_text

    def count_reads(path: Path, *arguments: Any, **options: Any) -> str:
        read[path.as_posix()] += 1
        return read_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", count_reads)
    call("report", "--gt", "labels")
    assert read["masks/run.json"] == 1


def test_report_without_problems_exits_with_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = DrawnRun(tmp_path)
    run.add("a", 0)
    run.finish()
    monkeypatch.chdir(tmp_path)
    assert call("report", "--gt", "labels").exit_code == ExitCode.OK
    shutil.rmtree("images")
    assert call("report").exit_code == ExitCode.OK, "images that nobody named are no problem"
    assert "1 without an image file" in Page(Path("report.html")).words


def test_report_that_cannot_be_written_is_an_error(run: DrawnRun) -> None:
    path = Path("labels/labels.csv/report.html")
    done = call("report", "--out", path)
    assert done.exit_code == ExitCode.INPUT
    assert str(path) in done.stderr.splitlines()[-1]
    assert "--out" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["rep", "labels/labels.csv", "report.html/"])
def test_report_has_the_suffix_of_html(run: DrawnRun, name: str) -> None:
    if name.endswith("/"):
        Path(name).mkdir()
    before = sorted(Path().rglob("*"))
    done = call("report", "--out", name)
    assert done.exit_code == (ExitCode.INPUT if name.endswith("/") else ExitCode.USAGE)
    assert name.rstrip("/") in done.stderr
    assert sorted(Path().rglob("*")) == before


def test_interrupted_run_is_named_on_the_page_and_by_the_command(run: DrawnRun) -> None:
    run.finish(images=600, status="interrupted")
    done = call("report")
    assert done.exit_code == ExitCode.SOME_FAILED
    assert "interrupted: 3 of 600 images" in done.stderr
    assert "interrupted: 3 of 600 images" in Page(Path("report.html")).words
    run.finish(images=3, status="finished")
    assert "interrupted" not in call("report").stderr
    assert "interrupted" not in Page(Path("report.html")).words


def test_a_killed_run_is_not_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves masks and a journal, but no scores.csv."""
    run = DrawnRun(tmp_path)
    for number in range(3):
        run.add(f"case_{number}", number)
    run.finish(images=3, status="finished")
    monkeypatch.chdir(tmp_path)
    assert call("report").exit_code == ExitCode.OK
    run.finish(images=40, status="running")
    (run.masks / "scores.csv").rename(run.masks / "scores.csv.part")
    done = call("report")
    assert done.exit_code == ExitCode.SOME_FAILED
    assert "interrupted: 3 of 40 images" in done.stderr
    assert "interrupted: 3 of 40 images" in Page(Path("report.html")).words


def test_images_beside_the_masks_are_named_by_their_plain_path(run: DrawnRun, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.masks / "run.json").unlink()
    monkeypatch.chdir(run.labels)
    done = call("report", "../masks/../masks")
    assert f"images: {run.images} (" in done.stderr


def test_only_html_and_empty_files_are_replaced(run: DrawnRun, tmp_path: Path) -> None:
    table = run.labels / "labels.csv"
    before = table.read_text()
    foreign = table.rename(run.labels / "labels.html")
    done = call("report", "--out", foreign)
    assert done.exit_code == ExitCode.INPUT
    assert str(foreign) in done.stderr
    assert foreign.read_text() == before
    (tmp_path / "empty.html").touch()
    for _ in range(2):
        assert call("report", "--out", "empty.html").exit_code == ExitCode.SOME_FAILED
    assert Page(tmp_path / "empty.html").cases


def test_report_names_the_clusters_of_its_intervals(run: DrawnRun, tmp_path: Path) -> None:
    (tmp_path / "more.csv").write_text("image,patient\n" + "".join(f"{name},P\n" for name, *_ in run.labelled))
    call("report", "--gt", "labels", "--metadata", "more.csv", "--cluster", "patient")
    assert "clusters of images (patient)" in Page(Path("report.html")).words
    call("report", "--gt", "labels")
    assert "clusters" not in Page(Path("report.html")).words


def test_official_figures_are_missing_only_where_an_image_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = DrawnRun(tmp_path)
    for number in range(4):
        run.add(f"IMD00{number}", number)
    run.finish()

    def report() -> str:
        assert call("report", "--gt", "labels", "--protocol", "ph2").exit_code == ExitCode.SOME_FAILED
        return Page(Path("report.html")).words

    table = run.masks / "scores.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    text = report()
    assert "No official figures of scores by ph2" in text
    assert "ph2 ranks masks by macro_average.jaccard: 1.0000" in text
    run.finish()
    (run.masks / "IMD003.png").unlink()
    text = report()
    assert "No official figures of masks by ph2" in text
    assert "ph2 ranks scores by macro_average.auc" in text


def test_the_first_problems_are_listed(run: DrawnRun) -> None:
    for number in range(22):
        write_mask(run.labels / f"alone_{number:02d}_segmentation.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    listed = call("report", "--gt", "labels").stderr
    assert listed.count(": alone_") == 20
    assert "2 more" in listed


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--protocol", "mine"), ExitCode.USAGE),
        (("--labels", "labels/labels.csv"), ExitCode.USAGE),
        (("--by", "sex"), ExitCode.USAGE),
        (("--gt", "labels", "--by", "sex"), ExitCode.INPUT),
        (("--cluster", "patient"), ExitCode.USAGE),
        (("--gt", "labels", "--cluster", "patient"), ExitCode.INPUT),
        (("--gallery", "-1"), ExitCode.USAGE),
        (("--images", "gone"), ExitCode.INPUT),
        (("--gt", "gone"), ExitCode.INPUT),
        (("gone",), ExitCode.INPUT),
    ],
)
def test_wrong_arguments_write_nothing(words: tuple[str, ...], code: ExitCode, run: DrawnRun) -> None:
    done = call("report", *words)
    assert done.exit_code == code
    assert not Path("report.html").exists()
    if code == ExitCode.INPUT:
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
