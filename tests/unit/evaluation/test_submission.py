"""Files of a submission, read back with zipfile and csv, and evaluated."""

import csv
import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation_data import block, save_mask, write_lines
from helpers.official_cases import DOCUMENTS, SAME
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from lesioncli.cli.app import app
from lesioncli.errors import InputError
from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.submission import Submission, write_submission
from lesioncli.options import Challenge, EvaluationOptions, ProtocolName

UInt8 = NDArray[np.uint8]
MASK = block(4, 5)
HEADER = "image,status,reason,melanoma,seborrheic_keratosis,nevus"


def masks_in(path: Path) -> dict[str, Image.Image]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist()}


def named(written: Submission) -> list[tuple[str, str]]:
    """Return the image of each problem, and what the image lacks."""
    parts = (re.match(r"(\w+): (no mask|no scores|no row of scores)", problem) for problem in written.problems)
    return [(part[1], part[2]) for part in parts if part]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a folder as segment writes it for three images, one in a sub-folder and one failed."""
    folder = tmp_path / "masks"
    save_mask(folder / "sub" / "ISIC_0000002.png", 255 - MASK)
    save_mask(folder / "ISIC_0000001.png")
    save_mask(folder / "overlays" / "ISIC_0000001.jpg")
    rows = (
        "sub/ISIC_0000002.jpg,ok,,0.25,1,0",
        "ISIC_0000001.jpg,ok,,1e-05,0,1",
        "ISIC_0000003.jpg,failed,cut short,,,",
    )
    write_lines(folder / "scores.csv", HEADER, *rows)
    return folder


def test_masks_are_named_and_stored_as_in_the_challenges(run: Path, tmp_path: Path) -> None:
    written = write_submission(run, tmp_path / "out", Challenge.ISIC2017)
    found = masks_in(tmp_path / "out" / "segmentation.zip")
    assert list(found) == ["ISIC_0000001_segmentation.png", "ISIC_0000002_segmentation.png"]
    for image, expected in zip(found.values(), (MASK, 255 - MASK), strict=True):
        assert image.mode == "L"
        assert (np.asarray(image) == expected).all()
    (problem,) = written.problems
    assert problem.startswith("ISIC_0000003: ")
    assert "cut short" in problem
    assert {path.name: count for path, count in written.files.items()} == {
        "segmentation.zip": 2,
        "classification.csv": 2,
    }


def test_scores_of_2017_have_its_two_classes(run: Path, tmp_path: Path) -> None:
    write_submission(run, tmp_path / "out", Challenge.ISIC2017)
    with (tmp_path / "out" / "classification.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["image", "melanoma", "seborrheic_keratosis"],
            ["ISIC_0000001", "1e-05", "0.0"],
            ["ISIC_0000002", "0.25", "1.0"],
        ]


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_images_that_a_run_did_not_come_to_are_missing(run: Path, tmp_path: Path, status: str) -> None:
    record = {"images": 5, "status": status, "sources": ["../images"]}
    (run / "run.json").write_text(json.dumps(record))
    problems = write_submission(run, tmp_path / "out", Challenge.ISIC2018).problems
    assert [problem.partition(":")[0] for problem in problems] == ["ISIC_0000003", str(run)]
    assert "3 of 5 images" in problems[1]
    for number in range(1, 6):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"ISIC_000000{number}_downsampled.jpg").touch()
    problems = write_submission(run, tmp_path / "out", Challenge.ISIC2018).problems
    assert [problem.partition(":")[0] for problem in problems[2:]] == ["ISIC_0000004", "ISIC_0000005"]
    (run / "run.json").write_text(json.dumps({**record, "images": 3, "status": "finished"}))
    assert len(write_submission(run, tmp_path / "out", Challenge.ISIC2018).problems) == 1


def test_scores_are_not_left_out_without_a_word(run: Path, tmp_path: Path) -> None:
    (run / "scores.csv").unlink()
    written = write_submission(run, tmp_path / "out", Challenge.ISIC2017)
    assert [path.name for path in written.files] == ["segmentation.zip"]
    assert any("classification.csv" in note and str(run / "scores.csv") in note for note in written.notes)
    assert write_submission(run, tmp_path / "out", Challenge.ISIC2018).notes == ()


def test_a_mask_of_another_size_than_its_image_is_refused(run: Path, tmp_path: Path) -> None:
    height, width = MASK.shape
    rows = (
        f"ISIC_0000001.jpg,ok,,{width},{height},0.5,0,1",
        f"sub/ISIC_0000002.jpg,ok,,{height},{width + 1},0.5,0,1",
    )
    write_lines(run / "scores.csv", HEADER.replace("reason,", "reason,width,height,"), *rows)
    written = write_submission(run, tmp_path / "out", Challenge.ISIC2017)
    assert list(masks_in(tmp_path / "out" / "segmentation.zip")) == ["ISIC_0000001_segmentation.png"]
    (problem,) = written.problems
    assert problem.startswith("ISIC_0000002: no mask: ")
    assert f"{width} x {height}" in problem
    assert f"{height} x {width + 1}" in problem


def test_images_may_be_in_a_folder_named_overlays(run: Path, tmp_path: Path) -> None:
    (run / "sub").rename(run / "overlays" / "sub")
    write_submission(run, tmp_path / "out", Challenge.ISIC2018)
    assert len(masks_in(tmp_path / "out" / "segmentation.zip")) == 2


def test_2018_takes_masks_only(run: Path, tmp_path: Path) -> None:
    write_submission(run, tmp_path / "out", Challenge.ISIC2018)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["segmentation.zip"]


def test_a_file_of_an_earlier_submission_is_named(run: Path, tmp_path: Path) -> None:
    assert write_submission(run, tmp_path / "out", Challenge.ISIC2017).notes == ()
    (note,) = write_submission(run, tmp_path / "out", Challenge.ISIC2018).notes
    assert note.startswith(f"{tmp_path / 'out' / 'classification.csv'}: ")
    assert (tmp_path / "out" / "classification.csv").exists()


@pytest.mark.parametrize("image", [Image.fromarray(MASK).convert("1"), Image.fromarray(MASK).convert("RGB")])
def test_any_mask_is_stored_with_8_bits(image: Image.Image, tmp_path: Path) -> None:
    save_mask(tmp_path / "masks" / "ISIC_0000001.tif", image)
    assert not write_submission(tmp_path / "masks", tmp_path, Challenge.ISIC2017).problems
    (found,) = masks_in(tmp_path / "segmentation.zip").values()
    assert found.mode == "L"
    assert (np.asarray(found) == MASK).all()


def test_images_that_cannot_be_submitted_are_named(run: Path, tmp_path: Path) -> None:
    (run / "ISIC_0000001.png").write_bytes(b"no picture")
    write_lines(run / "scores.csv", HEADER, "ISIC_0000001.jpg,ok,,.1,.2,.7", "sub/ISIC_0000002.jpg,ok,,,0.2,0")
    written = write_submission(run, tmp_path / "out", Challenge.ISIC2017)
    assert named(written) == [("ISIC_0000001", "no mask"), ("ISIC_0000002", "no scores")]
    assert list(written.files.values()) == [1, 1]


def test_a_mask_too_large_for_png_is_named_and_not_submitted(tmp_path: Path) -> None:
    save_mask(tmp_path / "masks" / "ISIC_0000001.png")
    save_mask(tmp_path / "masks" / "ISIC_0000002.tif", np.full((1, 1_000_001), 255, np.uint8))
    written = write_submission(tmp_path / "masks", tmp_path / "out", Challenge.ISIC2018)
    assert named(written) == [("ISIC_0000002", "no mask")]
    assert "1000001 x 1" in written.problems[0]
    assert list(masks_in(next(iter(written.files)))) == ["ISIC_0000001_segmentation.png"]


def test_a_mask_that_is_empty_after_thresholding_is_noted(run: Path, tmp_path: Path) -> None:
    save_mask(run / "ISIC_0000001.png", MASK // 127)
    (note,) = write_submission(run, tmp_path / "out", Challenge.ISIC2018).notes
    assert re.match("ISIC_0000001: .* 2, not 255: .* 128", note)
    assert not np.asarray(masks_in(tmp_path / "out" / "segmentation.zip")["ISIC_0000001_segmentation.png"]).any()
    arguments = ["submission", str(run), "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)
    assert json.loads(done.stdout)["notes"] == [note]
    assert note in done.stderr


@pytest.mark.parametrize("challenge", Challenge)
def test_an_image_in_one_file_only_is_named(challenge: Challenge, run: Path, tmp_path: Path) -> None:
    save_mask(run / "ISIC_0000009.png")
    (run / "ISIC_0000001.png").unlink()
    written = write_submission(run, tmp_path / "out", challenge)
    assert named(written) == [
        ("ISIC_0000003", "no mask"),
        ("ISIC_0000001", "no mask"),
        *([("ISIC_0000009", "no row of scores")] if challenge == Challenge.ISIC2017 else []),
    ]


def test_an_old_mask_of_a_failed_image_is_not_submitted(run: Path, tmp_path: Path) -> None:
    save_mask(run / "ISIC_0000003.png")
    written = write_submission(run, tmp_path / "out", Challenge.ISIC2017)
    assert len(masks_in(tmp_path / "out" / "segmentation.zip")) == 2
    assert named(written) == [("ISIC_0000003", "no mask")]


@pytest.mark.parametrize(
    ("names", "location"),
    [
        (["x"], "x: "),
        (["ISIC_10000001"], "ISIC_10000001: "),
        (["ISIC_0000001", "b/ISIC_0000001"], "b/ISIC_0000001: .*ISIC_0000001"),
        ([], "masks: "),
    ],
)
def test_names_without_one_isic_number_are_refused(names: list[str], location: str, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for name in names:
        save_mask(tmp_path / "masks" / f"{name}.png")
    with pytest.raises(InputError, match=location):
        write_submission(tmp_path / "masks", tmp_path / "out", Challenge.ISIC2017)
    assert not (tmp_path / "out").exists()


def test_the_same_run_gives_the_same_files(run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_submission(run, tmp_path / name, Challenge.ISIC2017)
    for name in ("segmentation.zip", "classification.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with zipfile.ZipFile(tmp_path / "one" / "segmentation.zip") as archive:
        assert {entry.date_time[:3] for entry in archive.infolist()} == {(1980, 1, 1)}  # not the current date


def test_a_submission_evaluates_as_the_official_scorer_did(tmp_path: Path) -> None:
    SAME["many"](tmp_path)
    write_submission(tmp_path / "prediction", tmp_path, Challenge.ISIC2018)
    with zipfile.ZipFile(tmp_path / "segmentation.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    evaluation = evaluate(tmp_path / "truth", tmp_path / "unpacked", EvaluationOptions(protocol=ProtocolName.ISIC2018))
    recorded = json.loads(DOCUMENTS.read_text())["many"]
    assert evaluation.official.mask_document["macro_average"] == pytest.approx(recorded["macro_average"], abs=1e-9)


@pytest.mark.parametrize("in_the_way", ["segmentation.zip", "classification.csv"])
def test_a_file_that_cannot_be_written_is_named(in_the_way: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / in_the_way).mkdir(parents=True)
    done = CliRunner().invoke(app, ["submission", str(run), "--out", str(tmp_path / "out")])
    assert done.exit_code == 3
    assert in_the_way in done.stderr
    assert "--out" in done.stderr


def test_scores_without_masks_are_submitted_alone(tmp_path: Path) -> None:
    write_lines(tmp_path / "masks" / "scores.csv", HEADER, "ISIC_0000001.jpg,ok,,.1,.2,.7")
    write_submission(tmp_path / "masks", tmp_path / "out", Challenge.ISIC2017)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["classification.csv"]


def test_the_command_names_files_and_missing_images(run: Path, tmp_path: Path) -> None:
    call = CliRunner().invoke
    done = call(app, ["submission", str(run), "--out", str(tmp_path / "out")])
    assert done.exit_code == 5
    assert "segmentation.zip: 2 images" in done.stdout.replace("\n", "")
    assert "ISIC_0000003: no mask: cut short" in done.stderr.replace("\n", "")
    (run / "scores.csv").unlink()
    assert call(app, ["submission", str(run), "--out", str(tmp_path / "out"), "--json"]).exit_code == 0
    assert call(app, ["submission", str(run), "--protocol", "ph2"]).exit_code == 2
    assert call(app, ["submission", str(tmp_path / "nowhere")]).exit_code == 3
