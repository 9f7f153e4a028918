"""What evaluate answers to each kind of bad input: the exit code by the README's table, and the words that name it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from lesioncli.cli.app import app

UInt8 = NDArray[np.uint8]
Spoil = Callable[[Path], object]
MASK = np.zeros((8, 10), np.uint8)
MASK[:4, :5] = 255
LABELS = "image,melanoma\nISIC_0000001,1\nISIC_0000002,0\nISIC_0000003,0\n"
SCORES = "image,status,reason,melanoma\nISIC_0000001.jpg,ok,,.9\nISIC_0000002.jpg,ok,,.2\nISIC_0000003.jpg,ok,,.1\n"

SEVEN = "MEL, NV, BCC, AKIEC, BKL, DF, VASC"
UNRANKED = f"note: isic2018 ranks no scores here: the labels have no {SEVEN}, and it has no melanoma\n"
FEW = r"note: intervals of fewer than 20 images are narrower.*\n"
PREDICTION = "masks/ISIC_0000002.png"


def put(name: str, mask: UInt8 | Image.Image) -> Spoil:
    return lambda here: (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(here / name)


def cut(name: str) -> Spoil:
    return lambda here: (here / name).write_bytes((here / name).read_bytes()[:-20])


def move(name: str, new: str) -> Spoil:
    return lambda here: (here / name).rename(here / new)


def edit(name: str, old: str, new: str) -> Spoil:
    return lambda here: (here / name).write_text((here / name).read_text().replace(old, new))


SOFT = np.linspace(0, 255, 80).astype(np.uint8).reshape(8, 10)
COLOUR = Image.merge("RGB", [Image.fromarray(MASK), Image.fromarray(MASK), Image.fromarray(0 * MASK)])

KINDS: dict[str, tuple[Spoil, int, str]] = {
    "good": (lambda _: None, 0, ""),
    "unequal sizes": (put(PREDICTION, MASK.T), 5, "ISIC_0000002: sizes differ: truth 8x10, prediction 10x8"),
    "truncated PNG": (cut(PREDICTION), 5, "ISIC_0000002: prediction unreadable: "),
    "truncated true PNG": (cut("labels/ISIC_0000002_segmentation.png"), 5, "ISIC_0000002: truth unreadable: "),
    "RGB mask": (put(PREDICTION, COLOUR), 5, "ISIC_0000002: prediction is not a single-channel mask: it has colours"),
    "grey RGB mask": (
        put(PREDICTION, Image.fromarray(MASK).convert("RGB")),
        0,
        "ISIC_0000002: prediction is stored as RGB",
    ),
    "soft mask": (put(PREDICTION, SOFT), 0, "ISIC_0000002: prediction is soft: 78 pixels are neither 0 nor 255"),
    "soft true mask": (
        put("labels/ISIC_0000002_segmentation.png", SOFT),
        0,
        "ISIC_0000002: truth is soft: 78 pixels are neither 0 nor 255",
    ),
    "0/1 mask": (put(PREDICTION, MASK // 255), 5, "ISIC_0000002: prediction is a 0/1 mask, not 0/255"),
    "other extension": (
        move(PREDICTION, "masks/ISIC_0000002.jpg"),
        5,
        "ISIC_0000002: no prediction: ISIC_0000002.jpg is not a PNG, BMP or TIFF; save it as PNG",
    ),
    "other true extension": (
        put("labels/ISIC_0000009.jpg", MASK),
        0,
        "ISIC_0000009.jpg: not a PNG, BMP or TIFF, so not a true mask; left out",
    ),
    "wrong id of a mask": (move(PREDICTION, "masks/ISIC_0000020.png"), 5, "ISIC_0000002: no prediction"),
    "id of a mask that nobody asked for": (
        put("masks/ISIC_0000020.png", MASK),
        0,
        "prediction without a truth: ISIC_0000020",
    ),
    "duplicated id of a mask": (put("masks/ISIC_0000002.bmp", MASK), 3, "two masks for ISIC_0000002"),
    "wrong id of scores": (edit("masks/scores.csv", "0000002", "0000020"), 5, "ISIC_0000002: no row of scores"),
    "scores that nobody asked for": (
        edit("masks/scores.csv", "ISIC_0000003.jpg", "ISIC_0000009.jpg,ok,,.3\nISIC_0000003.jpg"),
        0,
        "scores without a label: ISIC_0000009",
    ),
    "duplicated id of scores": (edit("masks/scores.csv", "0000002", "0000001"), 3, "'ISIC_0000001' is there twice"),
    "duplicated id of labels": (edit("labels/labels.csv", "0000002", "0000001"), 3, "'ISIC_0000001' is there twice"),
    "NaN score": (edit("masks/scores.csv", ".2", "nan"), 5, "ISIC_0000002: melanoma not a number from 0 to 1"),
    "a label that is none": (
        edit("labels/labels.csv", "0000002,0", "0000002,2"),
        3,
        "line 3: melanoma is '2', not 0 or 1",
    ),
    "one label": (edit("labels/labels.csv", "0000001,1", "0000001,0"), 0, "melanoma: all 3 labels are 0, so its AUC"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2, 3):
        for name in (f"labels/ISIC_{number:07}_segmentation.png", f"masks/ISIC_{number:07}.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.fromarray(MASK).save(tmp_path / name)
    (tmp_path / "labels" / "labels.csv").write_text(LABELS)
    (tmp_path / "masks" / "scores.csv").write_text(SCORES)
    return tmp_path


@pytest.mark.parametrize(("spoil", "code", "said"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("protocol", ["plain", "isic2018"])
def test_each_kind_has_its_answer(protocol: str, spoil: Spoil, code: int, said: str, here: Path) -> None:
    spoil(here)
    done = CliRunner().invoke(app, ["evaluate", "--gt", "labels", "--protocol", protocol])
    assert done.exit_code == code, done.output
    assert said in done.stderr
    assert bool(said) == bool(re.sub(FEW, "", done.stderr.replace(UNRANKED, "")))


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
def test_there_is_no_official_figure_of_a_part(kind: str, protocol: str, absent: set[str], here: Path) -> None:
    KINDS[kind][0](here)
    done = CliRunner().invoke(app, ["evaluate", "--gt", "labels", "--protocol", protocol, "--json"])
    document = json.loads(done.stdout)
    masks = {"overall", "validation"} & set(document) and "jaccard" in document["macro_average"]
    assert masks == ("overall" not in absent)
    assert {"classification", "per_category"} - set(document) == absent - {"overall"}
    assert document["lesioncli"]["means"]["jaccard"] == 1
    assert bool(document["lesioncli"]["problems"]) == (kind != "good")


@pytest.mark.parametrize(("protocol", "code"), [("plain", 0), ("isic2018", 5), ("ph2", 5)])
def test_an_image_of_a_true_mask_without_a_label_is_missing_where_every_one_is_wanted(
    protocol: str, code: int, here: Path
) -> None:
    edit("labels/labels.csv", "ISIC_0000002,0\n", "")(here)
    done = CliRunner().invoke(app, ["evaluate", "--gt", "labels", "--protocol", protocol, "--json"])
    ours = json.loads(done.stdout)
    assert (done.exit_code, "classification" in ours) == (code, not code)
    assert ours["lesioncli"]["problems"] == (["ISIC_0000002: no label"] if code else [])
    assert ours["lesioncli"]["auc_count"] == 2


def test_labels_of_other_images_than_the_masks_lack_none(here: Path) -> None:
    for name in ("labels/labels.csv", "masks/scores.csv"):
        edit(name, "ISIC_000", "ISIC_009")(here)
    done = CliRunner().invoke(app, ["evaluate", "--gt", "labels", "--protocol", "isic2018", "--json"])
    assert (done.exit_code, "classification" in json.loads(done.stdout)) == (0, True)


def test_what_is_undefined_is_null(here: Path) -> None:
    KINDS["one label"][0](here)
    document = json.loads(CliRunner().invoke(app, ["evaluate", "--gt", "labels", "--json"]).stdout)
    assert document["per_category"]["auc"] == {"melanoma": None}
    assert document["lesioncli"]["auc_mean"] is None


def test_masks_and_scores_have_a_document_each(here: Path) -> None:
    document = json.loads(CliRunner().invoke(app, ["evaluate", "--gt", "labels", "--json"]).stdout)
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


def test_the_table_says_of_how_many_images_a_mean_is(here: Path) -> None:
    put(PREDICTION, 0 * MASK)(here)
    done = CliRunner().invoke(app, ["evaluate", "--gt", "labels", "--distances"])
    cells = {line.split()[1]: line.split()[-2] for line in done.stdout.splitlines() if line.startswith("│")}
    assert (cells["jaccard"], cells["hausdorff95_px"], cells["area_error"]) == ("3", "2", "3")
