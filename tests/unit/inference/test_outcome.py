"""The columns of scores.csv: a new one is one line of a table."""

from pathlib import Path

import pytest
from helpers.runs import record_of, rows_of, statuses

from lesioncli.backends.base import Engine
from lesioncli.errors import InputError
from lesioncli.images.find import ImageFile
from lesioncli.inference import outcome
from lesioncli.inference.outcome import Column, Outcome, output_columns, without_suffix
from lesioncli.options import FailureStage, Status

NAMES = [
    "image",
    "mask",
    "width",
    "height",
    "bytes",
    "status",
    "reason",
    "melanoma",
    "seborrheic_keratosis",
    "nevus",
    "lesion_area_fraction",
    "area_px",
    "perimeter_px",
    "long_axis_px",
    "short_axis_px",
    "area_mm2",
    "perimeter_mm",
    "long_axis_mm",
    "short_axis_mm",
    "confidence",
    "agreement",
    "note",
]
CLASSES = NAMES[7:10]


def entries(result: Outcome) -> dict[str, str]:
    return {column.name: column.text(result) for column in output_columns(CLASSES, ["agreement"])}


def test_columns_are_in_this_order() -> None:
    assert [column.name for column in output_columns(CLASSES, ["agreement"])] == NAMES


def test_entries_of_an_image_that_is_ok() -> None:
    values = dict.fromkeys(NAMES[7:-1], 0.123456)
    image = ImageFile(Path("a/x.jpg"), "a/x", "a/y")
    result = Outcome(image, Status.OK, (2, 3), 7, note="first of 2 pages", values=values)
    shape = ["0", *["0.1"] * 3, *["0.123"] * 4]
    numbers = [*["0.12346"] * 4, *shape, *["0.12346"] * 2]
    expected = ["a/x.jpg", "a/y.png", "3", "2", "7", "ok", "", *numbers, "first of 2 pages"]
    assert entries(result) == dict(zip(NAMES, expected, strict=True))


def test_entries_of_an_image_that_failed() -> None:
    result = Outcome(ImageFile(Path("x.jpg"), "x"), Status.FAILED, stage=FailureStage.DECODE, reason="file is empty")
    expected = {**dict.fromkeys(NAMES, ""), "image": "x.jpg", "status": "failed", "reason": "decode: file is empty"}
    assert entries(result) == expected


@pytest.mark.parametrize("table", ["IMAGE_COLUMNS", "MEASURE_COLUMNS", "NOTE_COLUMNS"])
def test_a_column_is_added_with_one_line(
    table: str, engine: Engine, images: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses(images, engine, out)
    pixels = Column("pixels", lambda result: str(result.stored_hw[0] * result.stored_hw[1]))
    monkeypatch.setattr(outcome, table, (*getattr(outcome, table), pixels))
    with pytest.raises(InputError, match=r"scores\.csv"):
        statuses(images, engine, out)
    assert statuses(images, engine, out, overwrite=True) == "oooooo"
    assert {row["pixels"] for row in rows_of(out).values()} == {"2400"}
    assert record_of(out)["classes"] == CLASSES
    assert statuses(images, engine, out) == "ssssss"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("x.jpg", "x"), ("a.d/x.y.jpg", "a.d/x.y"), ("a.d/x", "a.d/x"), ("x", "x"), (".jpg", ".jpg"), ("", "")],
)
def test_names_without_suffix(name: str, expected: str) -> None:
    assert without_suffix(name) == expected
