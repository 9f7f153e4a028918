"""Tables as spreadsheets and data sets write them: encodings, separators, and what is refused."""

import re
import time
from pathlib import Path

import pytest
from helpers.evaluation_data import write_lines

from lesioncli.errors import InputError
from lesioncli.evaluation.reading.csv_table import open_table
from lesioncli.evaluation.reading.tables import find_labels, read_columns, read_labels

ROWS = [("image", "melanoma", "site"), ("a", "1", "arm, left"), ("b", "0", "leg")]
LABELS = {"a": (True,), "b": (False,)}


def text(separator: str = ",", end: str = "\n") -> str:
    """Return the rows as a table; a field with a comma is in quotes."""
    return "".join(separator.join(f'"{cell}"' if "," in cell else cell for cell in row) + end for row in ROWS)


CONTENTS = {
    "commas": text().encode(),
    "semicolons": text(";").encode(),
    "tabs": text("\t").encode(),
    "separator line": b"sep=;\r\n" + text(";", "\r\n").encode(),
    "quoted separator line": b'"sep=\t"\r\n' + text("\t", "\r\n").encode(),
    "UTF-16 of Excel": text("\t", "\r\n").encode("utf-16"),
    "big-endian UTF-16": "\ufeff".encode("utf-16-be") + text().encode("utf-16-be"),
    "byte order mark": text().encode("utf-8-sig"),
    "two byte order marks": b"\xef\xbb\xbf" + text().encode("utf-8-sig"),
    "line ends of old Macs": text(end="\r").encode(),
    "rows of separators": text().encode() + b",,\n,,\n",
    "no-break spaces": text().replace("a,", "a\u00a0,").replace("0", "0\u00a0").encode(),
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_labels_and_columns_of_tables_as_people_export_them(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    assert read_labels(path).by_id == LABELS
    assert read_columns(path, ["site"]) == {"site": {"a": "arm, left", "b": "leg"}}


def test_a_line_number_counts_the_separator_line(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("sep=;\nimage;melanoma\na;1\nb;2\n")
    with pytest.raises(InputError, match=r"x\.csv, line 4: melanoma is '2'"):
        read_labels(path)


def test_decimal_commas_and_words_are_labels(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("image;melanoma;nevus\na;1,0;FALSE\nb;0,0;True\n")
    assert read_labels(path).by_id == {"a": (True, False), "b": (False, True)}


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "labels.tab"])
def test_labels_of_isic_2020(name: str, tmp_path: Path) -> None:
    header = "image_name,patient_id,sex,diagnosis,benign_malignant,target"
    path = tmp_path / name
    path.write_text(f"{header}\nISIC_0000001,IP_1,male,nevus,benign,0\nISIC_0000002,IP_1,male,melanoma,malignant,1\n")
    assert find_labels(tmp_path) == path
    labels = read_labels(path)
    assert (labels.classes, labels.by_id) == (("melanoma",), {"ISIC_0000001": (False,), "ISIC_0000002": (True,)})
    assert read_columns(path, ["patient_id"])["patient_id"]["ISIC_0000002"] == "IP_1"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"image;melanoma,nevus\na;1,0\n", ", line 1"),
        (b"image_id,dx\na,mel\n", ", line 2: dx is 'mel'.*columns: image_id, dx"),
        (b"file,melanoma\na,1\n", ".*columns: file, melanoma"),
        (b"\xff\xfei\0m", ".*"),
    ],
)
def test_an_ambiguous_table_is_refused_with_its_columns(content: bytes, named: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(path)) + named):
        read_labels(path)


def test_a_header_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"")
    assert open_table(path).columns == ()


def test_labels_may_be_unknown(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("image,melanoma,nevus\na,1,0\nb,,1\n")
    labels = read_labels(path)
    assert labels.by_id["a"] == (True, False)
    assert [str(value) for value in labels.by_id["b"]] == ["nan", "1.0"]


def test_many_rows_share_their_labels_and_take_little_time(tmp_path: Path) -> None:
    """Of a million rows, read in 7 s; without that, they took 52 s and 683 MiB."""
    rows = (f"ISIC_{number:07},{number % 2},{number % 3 // 2}" for number in range(50_000))
    path = write_lines(tmp_path / "labels.csv", "image,melanoma,seborrheic_keratosis", *rows)
    started = time.process_time()
    labels = read_labels(path).by_id
    assert time.process_time() - started < 1.5
    assert len(labels) == 50_000
    assert len({id(values) for values in labels.values()}) == 4
