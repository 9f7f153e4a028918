"""submission.py: what it writes is read here with zipfile and csv, and scored without a complaint."""

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.official_cases import DOCUMENTS, SAME
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from lesioncli.cli.app import app
from lesioncli.errors import InputError
from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.submission import write_submission
from lesioncli.options import EvaluationOptions, ProtocolName

UInt8 = NDArray[np.uint8]
MASK = np.zeros((8, 10), np.uint8)
MASK[:4, :5] = 255
HEADER = "image,status,reason,melanoma,seborrheic_keratosis,nevus"


def save(path: Path, mask: UInt8 | Image.Image = MASK) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(path)
    return path


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def masks_in(path: Path) -> dict[str, Image.Image]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist()}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What segment leaves of three images, one of them in a sub-folder and one failed."""
    folder = tmp_path / "masks"
    save(folder / "sub" / "ISIC_0000002.png", 255 - MASK)
    save(folder / "ISIC_0000001.png")
    save(folder / "overlays" / "ISIC_0000001.jpg")
    rows = (
        "sub/ISIC_0000002.jpg,ok,,0.25,1,0",
        "ISIC_0000001.jpg,ok,,1e-05,0,1",
        "ISIC_0000003.jpg,failed,cut short,,,",
    )
    write(folder / "scores.csv", HEADER, *rows)
    return folder


def test_masks_are_named_and_stored_as_the_challenges_do(run: Path, tmp_path: Path) -> None:
    written = write_submission(run, tmp_path / "out", "isic2017")
    found = masks_in(tmp_path / "out" / "segmentation.zip")
    assert list(found) == ["ISIC_0000001_segmentation.png", "ISIC_0000002_segmentation.png"]
    for picture, expected in zip(found.values(), (MASK, 255 - MASK), strict=True):
        assert picture.mode == "L"
        assert (np.asarray(picture) == expected).all()
    assert written.problems == ("ISIC_0000003: no mask: cut short",)
    assert {path.name: count for path, count in written.files.items()} == {
        "segmentation.zip": 2,
        "classification.csv": 2,
    }


def test_scores_are_those_that_2017_asked_for(run: Path, tmp_path: Path) -> None:
    write_submission(run, tmp_path / "out", "isic2017")
    with (tmp_path / "out" / "classification.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["image", "melanoma", "seborrheic_keratosis"],
            ["ISIC_0000001", "1e-05", "0.0"],
            ["ISIC_0000002", "0.25", "1.0"],
        ]


def test_photographs_may_lie_in_a_folder_called_overlays(run: Path, tmp_path: Path) -> None:
    (run / "sub").rename(run / "overlays" / "sub")
    write_submission(run, tmp_path / "out", "isic2018")
    assert len(masks_in(tmp_path / "out" / "segmentation.zip")) == 2


def test_2018_asks_for_masks_only(run: Path, tmp_path: Path) -> None:
    write_submission(run, tmp_path / "out", "isic2018")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["segmentation.zip"]


@pytest.mark.parametrize("picture", [Image.fromarray(MASK).convert("1"), Image.fromarray(MASK).convert("RGB")])
def test_any_mask_becomes_one_of_8_bits(picture: Image.Image, tmp_path: Path) -> None:
    save(tmp_path / "masks" / "ISIC_0000001.tif", picture)
    assert not write_submission(tmp_path / "masks", tmp_path, "isic2017").problems
    (found,) = masks_in(tmp_path / "segmentation.zip").values()
    assert found.mode == "L"
    assert (np.asarray(found) == MASK).all()


def test_what_cannot_be_submitted_is_named(run: Path, tmp_path: Path) -> None:
    (run / "ISIC_0000001.png").write_bytes(b"no picture")
    write(run / "scores.csv", HEADER, "ISIC_0000001.jpg,ok,,.1,.2,.7", "sub/ISIC_0000002.jpg,ok,,,0.2,0")
    written = write_submission(run, tmp_path / "out", "isic2017")
    assert written.problems == (
        "ISIC_0000001: no mask: prediction unreadable: not a PNG, BMP or TIFF picture, or cut short",
        "ISIC_0000002: no scores: melanoma or seborrheic_keratosis is not a number from 0 to 1",
    )
    assert list(written.files.values()) == [1, 1]


def test_a_mask_larger_than_a_png_can_be_is_named_and_not_sent_empty(tmp_path: Path) -> None:
    save(tmp_path / "masks" / "ISIC_0000001.png")
    save(tmp_path / "masks" / "ISIC_0000002.tif", np.full((1, 1_000_001), 255, np.uint8))
    written = write_submission(tmp_path / "masks", tmp_path / "out", "isic2018")
    assert written.problems == ("ISIC_0000002: no mask: 1000001 x 1 pixels, too large for PNG",)
    assert list(masks_in(next(iter(written.files)))) == ["ISIC_0000001_segmentation.png"]


def test_a_mask_that_becomes_empty_is_noted(run: Path, tmp_path: Path) -> None:
    save(run / "ISIC_0000001.png", MASK // 127)
    note = "ISIC_0000001: prediction's brightest level is 2, not 255: no pixel is above 128"
    assert write_submission(run, tmp_path / "out", "isic2018").notes == (note,)
    assert not np.asarray(masks_in(tmp_path / "out" / "segmentation.zip")["ISIC_0000001_segmentation.png"]).any()
    words = ["submission", str(run), "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, words)
    assert json.loads(done.stdout)["notes"] == [note]
    assert f"note: {note}" in done.stderr


@pytest.mark.parametrize("challenge", ["isic2017", "isic2018"])
def test_an_image_in_one_file_alone_is_named(challenge: str, run: Path, tmp_path: Path) -> None:
    save(run / "ISIC_0000009.png")
    (run / "ISIC_0000001.png").unlink()
    written = write_submission(run, tmp_path / "out", challenge)
    assert written.problems == (
        "ISIC_0000003: no mask: cut short",
        "ISIC_0000001: no mask, but a row of scores",
        *(["ISIC_0000009: no row of scores, but a mask"] if challenge == "isic2017" else []),
    )


def test_an_old_mask_of_a_failed_image_is_not_submitted(run: Path, tmp_path: Path) -> None:
    save(run / "ISIC_0000003.png")
    written = write_submission(run, tmp_path / "out", "isic2017")
    assert len(masks_in(tmp_path / "out" / "segmentation.zip")) == 2
    assert written.problems == ("ISIC_0000003: no mask: cut short",)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["x"], "x: not one ISIC number of seven digits"),
        (["ISIC_10000001"], "ISIC_10000001: not one ISIC number"),
        (["ISIC_0000001", "b/ISIC_0000001"], "two images are ISIC_0000001: ISIC_0000001 and b/ISIC_0000001; keep one"),
        ([], "masks: no masks found"),
    ],
)
def test_names_that_no_challenge_knows_are_refused(names: list[str], complaint: str, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for name in names:
        save(tmp_path / "masks" / f"{name}.png")
    with pytest.raises(InputError, match=complaint):
        write_submission(tmp_path / "masks", tmp_path / "out", "isic2017")
    assert not (tmp_path / "out").exists()


def test_the_same_files_twice(run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_submission(run, tmp_path / name, "isic2017")
    for name in ("segmentation.zip", "classification.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with zipfile.ZipFile(tmp_path / "one" / "segmentation.zip") as archive:
        assert {each.date_time[:3] for each in archive.infolist()} == {(1980, 1, 1)}  # else it is the time of day


def test_a_submission_is_scored_as_its_folder_is(tmp_path: Path) -> None:
    SAME["many"](tmp_path)
    write_submission(tmp_path / "prediction", tmp_path, "isic2018")
    with zipfile.ZipFile(tmp_path / "segmentation.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    evaluation = evaluate(tmp_path / "truth", tmp_path / "unpacked", EvaluationOptions(protocol=ProtocolName.ISIC2018))
    recorded = json.loads(DOCUMENTS.read_text())["many"]
    assert evaluation.official.mask_document["macro_average"] == pytest.approx(recorded["macro_average"], abs=1e-9)


@pytest.mark.parametrize("in_the_way", ["segmentation.zip", "classification.csv"])
def test_a_folder_that_cannot_be_written_is_said(in_the_way: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / in_the_way).mkdir(parents=True)
    done = CliRunner().invoke(app, ["submission", str(run), "--out", str(tmp_path / "out")])
    assert done.exit_code == 3
    said = f"{in_the_way}: cannot be written (it is there and no regular file); name another with --out"
    assert said in " ".join(done.stderr.split())


def test_scores_without_masks_are_submitted_alone(tmp_path: Path) -> None:
    write(tmp_path / "masks" / "scores.csv", HEADER, "ISIC_0000001.jpg,ok,,.1,.2,.7")
    write_submission(tmp_path / "masks", tmp_path / "out", "isic2017")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["classification.csv"]


def test_the_command_names_files_and_what_is_left_out(run: Path, tmp_path: Path) -> None:
    call = CliRunner().invoke
    done = call(app, ["submission", str(run), "--out", str(tmp_path / "out")])
    assert done.exit_code == 5
    assert "segmentation.zip: 2 images" in done.stdout.replace("\n", "")
    assert "left out: ISIC_0000003: no mask: cut short" in done.stderr.replace("\n", "")
    (run / "scores.csv").unlink()
    assert call(app, ["submission", str(run), "--out", str(tmp_path / "out"), "--json"]).exit_code == 0
    assert call(app, ["submission", str(run), "--protocol", "ph2"]).exit_code == 2
    assert call(app, ["submission", str(tmp_path / "nowhere")]).exit_code == 3
