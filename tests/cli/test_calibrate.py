"""`lesioncli calibrate` after a real run of `segment`, and again after a run of the calibrated engine."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.calibration_data import change_column
from helpers.command import call
from helpers.evaluation_data import write_lines
from helpers.graphs import MakeEngine
from helpers.pictures import draw, read, save
from helpers.runs import record_of, rows_of

from lesioncli.errors import ExitCode

IMAGES = 105


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory, tiny_manifest: MakeEngine) -> Path:
    """A folder with an engine of the tiny graph, images, masks and labels that depend on masks and scores."""
    folder = tmp_path_factory.mktemp("segmented")
    shutil.copytree(tiny_manifest(2).parent, folder / "engines")
    for number in range(IMAGES):
        save(folder / "images" / f"{number:03}.png", draw(number, 40, 60))
    engine = folder / "engines" / "tiny.openvino.json"
    done = call("segment", folder / "images", "--out", folder / "masks", "--engine", engine)
    assert done.exit_code == ExitCode.OK, done.output
    rng = np.random.default_rng(0)
    labels = ["image,melanoma"]
    scores = np.array([float(row["melanoma"]) for row in rows_of(folder / "masks").values()])
    for name, row in rows_of(folder / "masks").items():
        mask = read(folder / "masks" / row["mask"]).copy()
        mask[: int(rng.integers(1, 20))] = 0
        mask[0, 0] = 255
        save(folder / "labels" / row["mask"], mask)
        labels.append(f"{name},{int(float(row['melanoma']) + rng.normal(0, scores.std()) > np.median(scores))}")
    write_lines(folder / "labels" / "labels.csv", *labels)
    return folder


@pytest.fixture
def here(segmented: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(segmented, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_calibrate_twice_is_calibrate_once(here: Path) -> None:
    first = call("calibrate", "--gt", "labels", "--pred", "masks", "--engine", "tiny", "--export", "first.json")
    assert first.exit_code == ExitCode.OK, first.output
    assert "tiny-calibrated.openvino.json" in first.stdout

    again = call("segment", "images", "--out", "again", "--engine", "tiny-calibrated")
    assert again.exit_code == ExitCode.OK, again.output
    assert "calibration tiny-calibrated" in again.stderr
    assert record_of(here / "again")["calibration"].startswith("tiny-calibrated-")
    raw, calibrated = rows_of(here / "masks"), rows_of(here / "again")
    assert all(calibrated[name]["raw_confidence"] == row["confidence"] for name, row in raw.items())
    assert any(calibrated[name]["confidence"] != row["confidence"] for name, row in raw.items())

    words = ["calibrate", "--gt", "labels", "again", "--engine", "tiny-calibrated", "--export", "second.json"]
    assert call(*words).exit_code == ExitCode.OK
    assert json.loads(Path("second.json").read_text()) == json.loads(Path("first.json").read_text())


def test_a_folder_takes_no_rows_of_another_calibration(here: Path) -> None:
    assert call("calibrate", "--gt", "labels", "--engine", "tiny").exit_code == ExitCode.OK
    mixed = call("segment", "images", "--out", "masks", "--engine", "tiny-calibrated")
    assert mixed.exit_code == ExitCode.INPUT
    assert "calibration none" in mixed.stderr
    assert "raw_melanoma" not in (here / "masks" / "scores.csv").read_text()


def test_a_run_with_other_options_is_told_so(here: Path) -> None:
    assert call("calibrate", "--gt", "labels", "--engine", "tiny").exit_code == ExitCode.OK
    words = ["segment", "images/000.png", "--out", "low", "--engine", "tiny-calibrated"]
    assert "--threshold 0.5, not 0.3" in call(*words, "--threshold", "0.3").stderr
    listed = call("engines")
    assert "calibration tiny-calibrated (melanoma at prevalence 0." in listed.stdout


def test_json_has_the_figures_and_what_was_skipped(here: Path) -> None:
    done = call("calibrate", "--gt", "labels", "--engine", "tiny", "--name", "mine", "--json")
    document = json.loads(done.stdout)
    assert Path(document["engine"]) == Path("engines/mine.openvino.json")
    assert document["calibration"]["name"] == "mine"
    assert list(document["outputs"]) == ["melanoma", "confidence"]
    change = document["outputs"]["confidence"]["changes"]["bias"]
    assert change["after_interval"][0] < change["after"] < change["after_interval"][1]
    assert list(document["skipped"]) == ["seborrheic_keratosis", "nevus"]


def test_a_threshold_is_proposed_and_nothing_changed(here: Path) -> None:
    """The ground truth is that of another threshold."""
    words = ["segment", "images", "--engine", "tiny", "--regions", "all"]
    assert call(*words, "--out", "low", "--threshold", "0.35").exit_code == ExitCode.OK
    assert call(*words, "--out", "half", "--save-probabilities").exit_code == ExitCode.OK
    shutil.copytree("low", "truth", ignore=shutil.ignore_patterns("*.csv", "*.json"))
    document = json.loads(call("calibrate", "--gt", "truth", "half", "--engine", "tiny", "--json").stdout)
    threshold = document["threshold"]
    assert (threshold["now"], threshold["best"], threshold["is_better"]) == (0.5, 0.35, True)
    assert document["calibration"]["threshold"] == 0.5
    assert record_of(here / "half")["threshold"] == 0.5
    printed = call("calibrate", "--gt", "truth", "half", "--engine", "tiny").stdout
    assert "--threshold 0.35" in printed
    assert "--save-probabilities" in call("calibrate", "--gt", "labels", "--engine", "tiny").stdout


def test_images_that_cannot_be_used_are_named(here: Path) -> None:
    change_column(here / "masks" / "scores.csv", "confidence", ["", *["0.5"] * (IMAGES - 1)])
    done = call("calibrate", "--gt", "labels", "--engine", "tiny")
    assert done.exit_code == ExitCode.SOME_FAILED
    assert "000" in done.stderr


def test_bad_input(here: Path) -> None:
    shutil.copytree(here / "masks", here / "foreign")
    (here / "foreign" / "run.json").unlink()
    for words, code, named in [
        (["--engine", "nowhere"], ExitCode.ENGINE, "nowhere"),
        (["foreign", "--engine", "tiny"], ExitCode.INPUT, "foreign"),
        (["elsewhere", "--engine", "tiny"], ExitCode.INPUT, "elsewhere"),
        (["masks", "--pred", "foreign", "--engine", "tiny"], ExitCode.INPUT, "foreign"),
        (["foreign", "--pred", "masks", "--engine", "tiny"], ExitCode.USAGE, "--pred"),
        (["--engine", "tiny", "--name", "tiny"], ExitCode.INPUT, "tiny.openvino.json"),
        (["--engine", "tiny", "--labels", "nolabels.csv"], ExitCode.INPUT, "nolabels.csv"),
    ]:
        done = call("calibrate", "--gt", "labels", *words)
        assert done.exit_code == code, done.output
        assert named in done.stderr
    assert [path.name for path in Path("engines").glob("*.json")] == ["tiny.openvino.json"]


def test_an_engine_that_was_built_anew_is_refused(here: Path) -> None:
    manifest = here / "engines" / "tiny.openvino.json"
    content = json.loads(manifest.read_text())
    assert call("calibrate", "--gt", "labels", "--engine", "tiny").exit_code == ExitCode.OK
    name = min(content["files"])
    (here / "engines" / name).write_bytes((here / "engines" / name).read_bytes() + b" ")
    assert call("calibrate", "--gt", "labels", "--engine", "tiny").exit_code == ExitCode.ENGINE
    calibrated = call("segment", "images", "--out", "other", "--engine", "tiny-calibrated")
    assert calibrated.exit_code == ExitCode.ENGINE
    assert "tiny-calibrated.openvino.json" in calibrated.stderr
    assert "calibrate again" in calibrated.stderr
