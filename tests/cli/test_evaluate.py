"""`lesioncli evaluate`: the exit code of every kind of bad input, what its message names, and the JSON document."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers.command import call
from numpy.typing import NDArray
from PIL import Image

from lesioncli.errors import ExitCode

UInt8 = NDArray[np.uint8]
Change = Callable[[Path], object]
MASK = np.zeros((8, 10), np.uint8)
MASK[:4, :5] = 255
LABELS = "image,melanoma\nISIC_0000001,1\nISIC_0000002,0\nISIC_0000003,0\n"
SCORES = "image,status,reason,melanoma\nISIC_0000001.jpg,ok,,.9\nISIC_0000002.jpg,ok,,.2\nISIC_0000003.jpg,ok,,.1\n"
PREDICTION = "masks/ISIC_0000002.png"
TRUTH = "labels/ISIC_0000002_segmentation.png"


def put(name: str, mask: UInt8 | Image.Image) -> Change:
    return lambda folder: (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(folder / name)


def truncate(name: str) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-20])


def move(name: str, new: str) -> Change:
    return lambda folder: (folder / name).rename(folder / new)


def edit(name: str, old: str, new: str) -> Change:
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


def replace_masks(name: str, suffix: str) -> Change:
    """Replace a folder by one that holds only images of the same names, with this suffix."""

    def change(folder: Path) -> None:
        names = [path.stem for path in (folder / name).glob("*.png")]
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
        for stem in names:
            put(f"{name}/{stem}{suffix}", MASK)(folder)

    return change


SOFT = np.linspace(0, 255, 80).astype(np.uint8).reshape(8, 10)
COLOUR = Image.merge("RGB", [Image.fromarray(MASK), Image.fromarray(MASK), Image.fromarray(0 * MASK)])
GREY_AS_RGB = Image.fromarray(MASK).convert("RGB")


@dataclass(frozen=True)
class Kind:
    """A change to good input, the exit code, and what the message must name."""

    change: Change
    code: ExitCode
    named: tuple[str, ...]


OK, INPUT, SOME_FAILED = ExitCode.OK, ExitCode.INPUT, ExitCode.SOME_FAILED
KINDS = {
    "good": Kind(lambda _: None, OK, ()),
    "unequal sizes": Kind(put(PREDICTION, MASK.T), SOME_FAILED, ("ISIC_0000002", "8 x 10", "10 x 8")),
    "truncated mask": Kind(truncate(PREDICTION), SOME_FAILED, ("ISIC_0000002",)),
    "truncated ground truth": Kind(truncate(TRUTH), SOME_FAILED, ("ISIC_0000002",)),
    "coloured mask": Kind(put(PREDICTION, COLOUR), SOME_FAILED, ("ISIC_0000002",)),
    "grey mask stored as RGB": Kind(put(PREDICTION, GREY_AS_RGB), OK, ("ISIC_0000002", "RGB")),
    "soft mask": Kind(put(PREDICTION, SOFT), OK, ("ISIC_0000002", "78 pixels")),
    "soft ground truth": Kind(put(TRUTH, SOFT), OK, ("ISIC_0000002", "78 pixels")),
    "0/1 mask": Kind(put(PREDICTION, MASK // 255), SOME_FAILED, ("ISIC_0000002", "0/1")),
    "mask of another format": Kind(move(PREDICTION, "masks/ISIC_0000002.jpg"), SOME_FAILED, ("ISIC_0000002.jpg",)),
    "ground truth of another format": Kind(put("labels/ISIC_0000009.jpg", MASK), OK, ("ISIC_0000009.jpg",)),
    "photographs in place of masks": Kind(replace_masks("masks", ".jpg"), INPUT, ("masks: ", "3 .jpg", "segment")),
    "ground truth of another format only": Kind(replace_masks("labels", ".jpg"), INPUT, ("labels: ", "3 .jpg", "PNG")),
    "mask of another id": Kind(move(PREDICTION, "masks/ISIC_0000020.png"), SOME_FAILED, ("ISIC_0000002",)),
    "mask without ground truth": Kind(put("masks/ISIC_0000020.png", MASK), OK, ("ISIC_0000020",)),
    "two masks": Kind(put("masks/ISIC_0000002.bmp", MASK), INPUT, ("ISIC_0000002.bmp", "ISIC_0000002.png")),
    "scores of another id": Kind(edit("masks/scores.csv", "0000002", "0000020"), SOME_FAILED, ("ISIC_0000002",)),
    "scores without a label": Kind(
        edit("masks/scores.csv", "ISIC_0000003.jpg", "ISIC_0000009.jpg,ok,,.3\nISIC_0000003.jpg"), OK, ("ISIC_0000009",)
    ),
    "duplicate scores": Kind(
        edit("masks/scores.csv", "0000002", "0000001"), INPUT, ("masks/scores.csv", "line 3", "ISIC_0000001")
    ),
    "duplicate labels": Kind(
        edit("labels/labels.csv", "0000002", "0000001"), INPUT, ("labels/labels.csv", "line 3", "ISIC_0000001")
    ),
    "NaN score": Kind(edit("masks/scores.csv", ".2", "nan"), SOME_FAILED, ("ISIC_0000002", "melanoma")),
    "label that is not 0 or 1": Kind(
        edit("labels/labels.csv", "0000002,0", "0000002,2"), INPUT, ("labels/labels.csv", "line 3", "melanoma", "'2'")
    ),
    "one label only": Kind(edit("labels/labels.csv", "0000001,1", "0000001,0"), OK, ("melanoma", "AUC")),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with three masks, their ground truth, labels and scores."""
    monkeypatch.chdir(tmp_path)
    for number in (1, 2, 3):
        for name in (f"labels/ISIC_{number:07}_segmentation.png", f"masks/ISIC_{number:07}.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.fromarray(MASK).save(tmp_path / name)
    (tmp_path / "labels" / "labels.csv").write_text(LABELS)
    (tmp_path / "masks" / "scores.csv").write_text(SCORES)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("protocol", ["plain", "isic2018"])
def test_each_kind_of_input_has_its_exit_code_and_is_named(protocol: str, kind: Kind, folder: Path) -> None:
    kind.change(folder)
    done = call("evaluate", "--gt", "labels", "--protocol", protocol)
    assert done.exit_code == kind.code, done.output
    assert all(name in done.stderr for name in kind.named)
    assert kind.named or not re.search(r"ISIC_\d{7}|AUC", done.stderr)


def test_the_folder_above_masks_and_ground_truth_is_refused(folder: Path) -> None:
    done = call("evaluate", ".", "--gt", "labels")
    assert (done.exit_code, done.stdout) == (INPUT, "")
    assert all(name in done.stderr for name in ("labels/ISIC_0000001", "masks/ISIC_0000001", "segment"))
    assert "ISIC_0000002" not in done.stderr


def test_an_image_in_another_format_stays_a_problem_if_scores_can_be_evaluated(folder: Path) -> None:
    for number in (1, 2, 3):
        move(f"masks/ISIC_{number:07}.png", f"masks/ISIC_{number:07}.jpg")(folder)
    done = call("evaluate", "--gt", "labels", "--json")
    assert done.exit_code == SOME_FAILED
    assert json.loads(done.stdout)["lesioncli"]["auc_count"] == 3


@pytest.mark.parametrize("scores", [True, False])
def test_without_an_evaluated_image_there_is_no_table(scores: bool, folder: Path) -> None:
    for number in (1, 2, 3):
        truncate(f"masks/ISIC_{number:07}.png")(folder)
    if scores:
        edit("masks/scores.csv", ",.", ",2.")(folder)
    else:
        (folder / "masks" / "scores.csv").unlink()
    done = call("evaluate", "--gt", "labels")
    assert (done.exit_code, done.stdout) == (SOME_FAILED, "0 of 3 images evaluated\n")
    assert all(f"ISIC_{number:07}: prediction unreadable" in done.stderr for number in (1, 2, 3))


def test_labelled_images_without_scores_are_counted(folder: Path) -> None:
    with (folder / "labels" / "labels.csv").open("a") as file:
        file.writelines(f"ISIC_{number:07},0\n" for number in range(4, 151))
    edit("masks/scores.csv", ".9", "nan")(folder)
    done = call("evaluate", "--gt", "labels")
    lines = [line for line in done.stderr.splitlines() if "ISIC_" in line or "more" in line]
    assert done.exit_code == SOME_FAILED
    assert "ISIC_0000001" in lines[0]  # a reason of its own is not among those that are counted
    assert len(lines) == 5
    assert "144 more" in lines[-1]
    assert "--labels" in lines[-1]
    assert len(json.loads(call("evaluate", "--gt", "labels", "--json").stdout)["lesioncli"]["problems"]) == 148


@pytest.mark.parametrize(
    ("protocol", "scores", "noted"),
    [("plain", True, True), ("isic2017", True, True), ("isic2018", True, False), ("plain", False, False)],
)
def test_missing_labels_are_noted_if_there_are_scores(protocol: str, scores: bool, noted: bool, folder: Path) -> None:
    (folder / "labels" / "labels.csv").unlink()
    if not scores:
        (folder / "masks" / "scores.csv").unlink()
    done = call("evaluate", "--gt", "labels", "--protocol", protocol)
    assert done.exit_code == OK
    assert ("labels/: " in done.stderr) == noted


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ("run.json", ("--gt", "masks")),
        ("scores.csv", ("--gt", "masks")),
        ("scores.csv", ("--gt", "masks/scores.csv")),
        ("scores.csv", ("--gt", "labels", "--labels", "masks/scores.csv")),
    ],
)
def test_output_of_segment_is_not_ground_truth(kept: str, words: tuple[str, ...], folder: Path) -> None:
    (folder / "masks" / "run.json").write_text('{"engine_sha256": "00"}')
    row = "ISIC_0000001.jpg,ISIC_0000001.png,ok,,1"  # a score that could be a label
    (folder / "masks" / "scores.csv").write_text(f"image,mask,status,reason,melanoma\n{row}\n")
    (folder / "masks" / ({"run.json", "scores.csv"} - {kept}).pop()).unlink()
    done = call("evaluate", *words)
    assert done.exit_code == INPUT
    assert words[-1] in done.stderr
    assert "`lesioncli segment`" in done.stderr


@pytest.mark.parametrize("name", ["x.jpg", "x.PNG", "x.zip"])
def test_ground_truth_that_is_neither_a_folder_nor_a_table(name: str, folder: Path) -> None:
    (folder / name).write_bytes(b"\xff\xd8\xff")
    done = call("evaluate", "--gt", name)
    assert done.exit_code == INPUT
    assert f"{name}: not a folder or CSV" in done.stderr


@pytest.mark.parametrize("flag", ["--labels", "--scores", "--metadata"])
def test_a_table_that_does_not_exist_is_named(flag: str, folder: Path) -> None:
    done = call("evaluate", "--gt", "labels", flag, "nope.csv", "--by", "melanoma")
    assert done.exit_code == INPUT
    assert "nope.csv: no such file" in done.stderr


@pytest.mark.parametrize("words", [("masks",), ("--pred", "masks"), ()])
def test_masks_are_an_argument_and_the_old_option_still_works(folder: Path, words: tuple[str, ...]) -> None:
    assert call("evaluate", "--gt", "labels", *words, "--csv", "table.csv").exit_code == 0
    (folder / "masks").rename(folder / "other")
    words = tuple(word.replace("masks", "other") for word in words)
    assert call("evaluate", *words, "--gt", "labels").exit_code == (0 if words else INPUT)
    assert (folder / "other" / "evaluation.csv").is_file() == bool(words)
    assert "--pred" not in call("evaluate", "--help").stdout


def test_two_different_folders_of_masks_are_refused(folder: Path) -> None:
    done = call("evaluate", "other", "--gt", "labels", "--pred", "masks")
    assert done.exit_code == ExitCode.USAGE
    assert "--pred" in done.stderr
    assert "other" in done.stderr


def test_results_per_image_are_written(folder: Path) -> None:
    (folder / PREDICTION).unlink()
    put("masks/stranger.png", MASK)(folder)
    done = call("evaluate", "--gt", "labels")
    assert done.exit_code == SOME_FAILED
    assert "ISIC_0000002" in done.stderr
    assert "stranger" in done.stderr
    with (folder / "masks" / "evaluation.csv").open(newline="", encoding="utf-8") as file:
        problems = {row["image"]: row["problem"] for row in csv.DictReader(file)}
    assert problems["ISIC_0000001.jpg"] == ""
    assert problems["ISIC_0000002"]


def test_a_note_that_masks_share_is_one_line(folder: Path) -> None:
    for number in (1, 2):
        path = folder / "masks" / f"ISIC_000000{number}.png"
        Image.open(path).convert("RGB").save(path)
    done = call("evaluate", "--gt", "labels")
    assert done.stderr.count("is stored as RGB") == 1
    assert "2 masks" in done.stderr


def test_metrics_per_class_and_the_ranking_are_shown_for_a_challenge_only(folder: Path) -> None:
    plain, isic = (call("evaluate", "--gt", "labels", "--protocol", name).stdout for name in ("plain", "isic2017"))
    assert "--protocol isic2017" in plain
    assert "ppv" not in plain
    assert "ppv" in isic
    assert "macro_average.jaccard" in isic
    assert "macro_average" not in plain


@pytest.mark.parametrize(
    ("kind", "protocol", "absent"),
    [
        ("good", "isic2018", set()),
        ("0/1 mask", "isic2018", {"overall"}),
        ("0/1 mask", "plain", set()),
        ("NaN score", "isic2018", {"classification", "per_category"}),
        ("NaN score", "plain", set()),
    ],
)
def test_official_figures_need_every_image(kind: str, protocol: str, absent: set[str], folder: Path) -> None:
    KINDS[kind].change(folder)
    done = call("evaluate", "--gt", "labels", "--protocol", protocol, "--json")
    document = json.loads(done.stdout)
    masks = {"overall", "validation"} & set(document) and "jaccard" in document["macro_average"]
    assert masks == ("overall" not in absent)
    assert {"classification", "per_category"} - set(document) == absent - {"overall"}
    assert document["lesioncli"]["means"]["jaccard"] == 1
    assert bool(document["lesioncli"]["problems"]) == (kind != "good")


@pytest.mark.parametrize(("protocol", "code"), [("plain", 0), ("isic2018", 5), ("isic2017", 5)])
def test_an_image_without_a_label_is_missing_in_a_challenge(protocol: str, code: int, folder: Path) -> None:
    edit("labels/labels.csv", "ISIC_0000002,0\n", "")(folder)
    done = call("evaluate", "--gt", "labels", "--protocol", protocol, "--json")
    ours = json.loads(done.stdout)
    assert (done.exit_code, "classification" in ours) == (code, not code)
    assert ours["lesioncli"]["problems"] == (["ISIC_0000002: no label"] if code else [])
    assert ours["lesioncli"]["auc_count"] == 2


def test_labels_may_be_of_other_images_than_the_masks(folder: Path) -> None:
    for name in ("labels/labels.csv", "masks/scores.csv"):
        edit(name, "ISIC_000", "ISIC_009")(folder)
    done = call("evaluate", "--gt", "labels", "--protocol", "isic2018", "--json")
    assert (done.exit_code, "classification" in json.loads(done.stdout)) == (0, True)


def test_an_undefined_figure_is_null(folder: Path) -> None:
    KINDS["one label only"].change(folder)
    document = json.loads(call("evaluate", "--gt", "labels", "--json").stdout)
    assert document["per_category"]["auc"] == {"melanoma": None}
    assert document["lesioncli"]["auc_mean"] is None


def test_masks_and_scores_each_have_a_document(folder: Path) -> None:
    document = json.loads(call("evaluate", "--gt", "labels", "--json").stdout)
    scores = document["classification"]
    assert list(scores) == ["overall", "validation", "per_category", "macro_average", "aggregate"]
    assert document["per_category"] == scores["per_category"]
    assert document["aggregate"] == scores["aggregate"]
    assert document["macro_average"] == dict.fromkeys(document["macro_average"], 1.0)
    assert set(document["macro_average"]) == {
        "accuracy", "sensitivity", "specificity", "jaccard", "threshold_jaccard", "dice",
    }  # fmt: skip
    assert set(scores["macro_average"]) == {
        "accuracy", "sensitivity", "specificity", "dice", "ppv", "npv", "auc", "auc_sens_80", "ap",
    }  # fmt: skip
    assert document["lesioncli"]["ranking"]["masks"] == {"figure": "macro_average.jaccard", "value": 1.0}


def test_the_table_has_the_number_of_images_of_each_mean(folder: Path) -> None:
    put(PREDICTION, 0 * MASK)(folder)
    done = call("evaluate", "--gt", "labels", "--distances")
    cells = {line.split()[1]: line.split()[-2] for line in done.stdout.splitlines() if line.startswith("│")}
    assert (cells["jaccard"], cells["hausdorff95_px"], cells["area_error"]) == ("3", "2", "3")
