"""CSV tables that evaluate reads: labels, class scores, and any columns by image id.

The csv module is used rather than pandas: messages name the line, file names need not be UTF-8, a table of a million
rows is read as a stream, and `segment` must not load pandas.
"""

import csv
import math
import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lesioncli import isic
from lesioncli.errors import InputError
from lesioncli.images.formats import supported_suffixes
from lesioncli.spec import CLASSES

ID_COLUMNS = ("image", "image_id", "isic_id", "lesion_id", "name")
WEIGHTS = ("score_weight", "validation_weight")
SEGMENT_COLUMNS = {"mask", "status", "reason"}  # of segment's scores.csv, beside its id and class columns
WITHOUT_WEIGHT = "ISIC_0035068"  # the official scorer gives this image weight 0

_SUFFIX = re.compile(r"\.[^./]+$")
_IMAGE_SUFFIX = re.compile(f"({'|'.join(map(re.escape, supported_suffixes()))})$", re.IGNORECASE)  # ids may have dots
_ISIC2016_LABELS = {"benign": False, "malignant": True, "0.0": False, "1.0": True, "0": False, "1": True}

Line = tuple[int, list[str]]
Row = tuple[int, dict[str, str]]


@dataclass(frozen=True)
class LabelTable:
    """Labels by image id: membership of each class, and the weights (score, validation) of the image.

    `path` is the CSV if it has a header, and so perhaps further columns; `ignored_columns` are those that are neither
    ids nor weights nor classes.
    """

    classes: tuple[str, ...] = ()
    by_id: Mapping[str, tuple[bool, ...]] = field(default_factory=dict)
    weights: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    path: Path | None = None
    ignored_columns: tuple[str, ...] = ()


NO_LABELS = LabelTable()


@dataclass(frozen=True)
class ScoreRow:
    """Class scores of one image in the order of the labels, nan where a cell is not a number.

    `failure` is the reason why `segment` failed on the image, else "". `optional_score` is the score of a class that
    the table may lack, and `confidence` that of the mask; nan where there is none. `mask` is the path of the mask.
    `width` and `height` are those of the image, as `segment` recorded them, as text.
    """

    failure: str
    scores: tuple[float, ...]
    optional_score: float = math.nan
    confidence: float = math.nan
    mask: str = ""
    width: str = ""
    height: str = ""


# CSV files


@dataclass(frozen=True)
class CsvTable:
    """An open CSV: `columns` as in its header, and by column_key() in `keys`.

    `rows` yields the line number and the fields by key of each row below the header, once. It raises InputError if the
    header has a column twice, or a row has more or fewer fields than the header.
    """

    path: Path
    columns: tuple[str, ...]
    keys: tuple[str, ...]
    rows: Iterator[Row]

    def id_column(self) -> str:
        """Return the key of the column of image ids; InputError if there is none."""
        if key := _find_id_column(self.keys):
            return key
        raise InputError(f"{self.path}: no column of image ids; name it {' or '.join(ID_COLUMNS)}")


def column_key(column: str) -> str:
    """Return the normalized name of a column: `Seborrheic keratosis` is `seborrheic_keratosis`."""
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def open_table(path: Path) -> CsvTable:
    """Open a CSV and read its header, which is empty if the file is; InputError if it cannot be read."""
    lines = _read_lines(path)
    _, header = next(lines, (0, []))
    keys = tuple(map(column_key, header))
    return CsvTable(path, tuple(column.strip() for column in header), keys, _read_rows(path, keys, lines))


def read_header(path: Path) -> tuple[str, ...]:
    """Return the columns of a CSV, without surrounding spaces; none if it is empty."""
    return open_table(path).columns


def read_rows(path: Path) -> Iterator[Row]:
    """Return the rows of a CSV, as CsvTable describes them."""
    return open_table(path).rows


def _read_rows(path: Path, keys: tuple[str, ...], lines: Iterator[Line]) -> Iterator[Row]:
    if duplicates := sorted({key for key in keys if key and keys.count(key) > 1}):
        raise InputError(f"{path}: duplicate column {', '.join(duplicates)}")
    for line, fields in lines:
        if len(fields) != len(keys):
            raise InputError(f"{path}, line {line}: {len(fields)} fields, but the header has {len(keys)}")
        yield line, dict(zip(keys, fields, strict=True))


def _read_lines(path: Path) -> Iterator[Line]:
    """Yield line number and fields of each line that is not blank. File names need not be UTF-8, hence the escapes.

    The separator is a semicolon if the first line has more of them than commas, as Excel writes in much of Europe.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, strict=True, delimiter=";" if first.count(";") > first.count(",") else ",")
            try:
                yield from ((reader.line_num, fields) for fields in reader if fields)
            except csv.Error as error:
                raise InputError(f"{path}, line {reader.line_num}: cannot be read as CSV ({error})") from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


# Labels


def find_labels(folder: Path) -> Path | None:
    """Return the CSV in `folder` that has ids and a column for any of CLASSES; None if there is none."""
    tables = [path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".csv" and path.name[0] != "."]
    labels = [path for path in tables if _find_id_column(keys := open_table(path).keys) and _known_classes(keys)]
    if len(labels) > 1:
        raise InputError(f"{folder}: several CSV files with labels; keep one of them: {', '.join(map(str, labels))}")
    return labels[0] if labels else None


def read_labels(path: Path) -> LabelTable:
    """Read labels of those of CLASSES that the CSV has, or, if it has none of them, of every other column.

    ISIC-2016's labels have no header: an id, and benign or malignant, or 0.0 or 1.0.
    """
    table = open_table(path)
    if set(table.keys) >= SEGMENT_COLUMNS:
        raise InputError(f"{path}: written by `lesioncli segment`, not labels; give the table of labels with --labels")
    if table.columns and isic.ID.fullmatch(table.columns[0]):
        return _read_isic2016_labels(path)
    others = [column for column in table.columns if column_key(column) not in (*ID_COLUMNS, *WEIGHTS)]
    id_column = table.id_column()
    if not (classes := _known_classes(table.keys) or tuple(others)):
        raise InputError(f"{path}: no column of a class; add a column of 0 and 1 for each class")
    by_id: dict[str, tuple[bool, ...]] = {}
    weights: dict[str, tuple[float, float]] = {}
    for line, row in table.rows:
        location = f"{path}, line {line}"
        name = _new_id(_image_id(row[id_column]), by_id, location)
        by_id[name] = tuple(_parse_label(column, row[column_key(column)], location) for column in classes)
        weights[name] = _parse_weights(name, row, location)
    if not by_id:
        raise InputError(f"{path}: no labels below the header")
    read = {"", *map(column_key, classes)}
    ignored = tuple(column for column in others if column_key(column) not in read)
    return LabelTable(classes, by_id, weights, path, ignored)


def _read_isic2016_labels(path: Path) -> LabelTable:
    by_id: dict[str, tuple[bool, ...]] = {}
    for line, (name, *labels) in _read_lines(path):
        _new_id(name, by_id, f"{path}, line {line}")
        if len(labels) != 1 or labels[0].strip() not in _ISIC2016_LABELS:
            raise InputError(f"{path}, line {line}: label {','.join(labels)!r} is not benign or malignant, or 0 or 1")
        by_id[name] = (_ISIC2016_LABELS[labels[0].strip()],)
    return LabelTable(("melanoma",), by_id, dict.fromkeys(by_id, (1.0, 1.0)))


def _find_id_column(keys: Collection[str]) -> str:
    return next((column for column in ID_COLUMNS if column in keys), "")


def _known_classes(keys: Collection[str]) -> tuple[str, ...]:
    return tuple(column for column in CLASSES if column in keys)


def _image_id(text: str) -> str:
    return _IMAGE_SUFFIX.sub("", text.strip())


def _new_id(name: str, known: Container[str], location: str) -> str:
    if not name:
        raise InputError(f"{location}: empty image id")
    if name in known:
        raise InputError(f"{location}: duplicate image id {name}")
    return name


def _parse_label(column: str, text: str, location: str) -> bool:
    if (value := _parse_number(text)) not in (0, 1):
        raise InputError(f"{location}: {column} is {text!r}, not 0 or 1")
    return value == 1


def _parse_weights(name: str, row: Mapping[str, str], location: str) -> tuple[float, float]:
    score, validation = (_parse_number(row.get(column, "1")) for column in WEIGHTS)
    for column, value in zip(WEIGHTS, (score, validation), strict=True):
        if not 0 <= value < math.inf:
            raise InputError(f"{location}: {column} is {row[column]!r}, not a number of at least 0")
    return (0.0, 0.0) if name == WITHOUT_WEIGHT else (score, validation)


# Scores


def read_scores(
    path: Path, classes: tuple[str, ...], optional_class: str = "", labels: Path | None = None, prefix: str = ""
) -> dict[str, ScoreRow] | None:
    """Read scores by image id from segment's scores.csv or a submission, which has no status; None if no such file.

    All `classes`, which are those of the table `labels`, must have a column; `optional_class` may have one. `prefix` is
    put before the names of the columns of classes and confidence.
    """
    if not path.exists():
        return None
    table = open_table(path)
    from_segment = "status" in table.keys
    columns = tuple(f"{prefix}{name}" for name in classes)
    required = ["image", "reason", *columns] if from_segment else list(columns)
    if missing := [column for column in required if column_key(column) not in table.keys]:
        raise InputError(f"{path}: no column {', '.join(missing)}{_explain_classes(missing, classes, labels)}")
    id_column = table.id_column()
    scores: dict[str, ScoreRow] = {}
    for line, row in table.rows:
        name = _SUFFIX.sub("", row["image"]) if from_segment else _image_id(row[id_column])
        _new_id(name, scores, f"{path}, line {line}")
        failure = (row["reason"] or "failed") if from_segment and row["status"] == "failed" else ""
        values = tuple(_parse_number(row[column_key(column)]) for column in columns)
        optional, confidence = (_parse_number(row.get(f"{prefix}{key}", "")) for key in (optional_class, "confidence"))
        recorded = (row.get(key, "") if from_segment else "" for key in ("mask", "width", "height"))
        scores[name] = ScoreRow(failure, values, optional, confidence, *recorded)
    return scores


def _explain_classes(missing: Collection[str], classes: tuple[str, ...], labels: Path | None) -> str:
    """Return what to do if the labels name classes that segment has no scores for."""
    if not labels or not {*missing} & {*classes} - {*CLASSES}:
        return ""
    return (
        f", which is a class in {labels}; rename the classes there to {', '.join(CLASSES)} to evaluate the scores of"
        " segment, or give scores of the same classes with --scores"
    )


# Other columns


def read_columns(path: Path, columns: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return, for those of `columns` that a CSV has, the text by image id. Names are compared by column_key()."""
    table = open_table(path)
    id_column = table.id_column()
    texts: dict[str, dict[str, str]] = {column: {} for column in columns if column_key(column) in table.keys}
    ids: set[str] = set()
    for line, row in table.rows:
        name = _new_id(_image_id(row[id_column]), ids, f"{path}, line {line}")
        ids.add(name)
        for column, by_id in texts.items():
            by_id[name] = row[column_key(column)].strip()
    return texts


def _parse_number(text: str) -> float:
    """Return nan for anything that is not a number."""
    try:
        return float(text)
    except ValueError:
        return math.nan
