"""Tables by image id: labels, class scores, and any other columns."""

import math
import re
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lesioncli import isic
from lesioncli.errors import InputError
from lesioncli.evaluation.reading.csv_table import (
    ID_COLUMNS,
    CsvTable,
    column_key,
    find_id_column,
    open_table,
    read_lines,
)
from lesioncli.files import from_cell
from lesioncli.images.formats import supported_suffixes
from lesioncli.images.mask_archives import split_path
from lesioncli.spec import CLASSES

WEIGHTS = ("score_weight", "validation_weight")
SEGMENT_COLUMNS = {"mask", "status", "reason"}  # of segment's scores.csv, beside its id and class columns
WITHOUT_WEIGHT = "ISIC_0035068"  # the official scorer gives this image weight 0

_IMAGE_SUFFIX = re.compile(f"({'|'.join(map(re.escape, supported_suffixes()))})$", re.IGNORECASE)  # ids may have dots
_ISIC2016_LABELS = {"benign": 0.0, "malignant": 1.0, "0.0": 0.0, "1.0": 1.0, "0": 0.0, "1": 1.0}
_WORDS = {"": math.nan, "true": 1.0, "false": 0.0}  # of labels that are not numbers; an empty one is unknown
_TABLE_SUFFIXES = (".csv", ".tsv", ".tab")
_ISIC2020_LABELS = {"image_name", "benign_malignant", "target"}  # target is 1 for melanoma


@dataclass(frozen=True)
class LabelTable:
    """Labels by image id: 1 or 0 for each class, nan where unknown; and the weights of the image, if not (1, 1).

    Weights are those for score and validation. `path` is the CSV if it has a header, and so perhaps further columns;
    `ignored_columns` are those that are neither ids nor weights nor classes.
    """

    classes: tuple[str, ...] = ()
    by_id: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    weights: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    path: Path | None = None
    ignored_columns: tuple[str, ...] = ()

    @property
    def ids(self) -> Collection[str]:
        """The images with a row."""
        return self.by_id.keys()


NO_LABELS = LabelTable()


@dataclass(frozen=True)
class ScoreRow:
    """Class scores of one image in the order of the labels, nan where a cell is not a number.

    `failure` is the reason why `segment` failed on the image, else "". `optional_score` is the score of a class that
    the table may lack, and `confidence` that of the mask; nan where there is none. `mask` is the path of the mask,
    without the archive that it may be in.
    `width`, `height` and `image`, its path, are those that `segment` recorded, as text.
    """

    failure: str
    scores: tuple[float, ...]
    optional_score: float = math.nan
    confidence: float = math.nan
    mask: str = ""
    width: str = ""
    height: str = ""
    image: str = ""


# Labels


def find_labels(folder: Path) -> Path | None:
    """Return the CSV in `folder` that has ids and a column for any of CLASSES, or is that of ISIC-2020."""
    tables = [
        path for path in sorted(folder.iterdir()) if path.suffix.lower() in _TABLE_SUFFIXES and path.name[0] != "."
    ]
    labels = [path for path in tables if _has_labels(open_table(path).keys)]
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
    classes, keys = _label_columns(table, others)
    if not classes:
        raise InputError(f"{path}: no column of a class; add a column of 0 and 1 for each class")
    by_id: dict[str, tuple[float, ...]] = {}
    parsed: dict[tuple[str, ...], tuple[float, ...]] = {}  # of a million rows, only a few differ
    for line, (text, *fields) in table.pick(id_column, *keys):
        name = _new_id(_image_id(text), by_id, path, line)
        cells = tuple(fields)
        if (labels := parsed.get(cells)) is None:
            parsed[cells] = labels = _parse_labels(classes, cells, table, line)
        by_id[name] = labels
    if not by_id:
        raise InputError(f"{path}: no labels below the header")
    read = {"", *keys}
    ignored = tuple(column for column in others if column_key(column) not in read)
    return LabelTable(classes, by_id, _read_weights(path, by_id), path, ignored)


def _label_columns(table: CsvTable, others: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes that a table has labels of, and the keys of their columns."""
    if classes := _known_classes(table.keys):
        return classes, classes
    if set(table.keys) >= _ISIC2020_LABELS:
        return CLASSES[:1], ("target",)
    return tuple(others), tuple(map(column_key, others))


def _read_isic2016_labels(path: Path) -> LabelTable:
    by_id: dict[str, tuple[float, ...]] = {}
    for line, (name, *labels) in read_lines(path):
        _new_id(name, by_id, path, line)
        if len(labels) != 1 or labels[0].strip() not in _ISIC2016_LABELS:
            raise InputError(f"{path}, line {line}: label {','.join(labels)!r} is not benign or malignant, or 0 or 1")
        by_id[name] = (_ISIC2016_LABELS[labels[0].strip()],)
    return LabelTable(("melanoma",), by_id)


def _has_labels(keys: Collection[str]) -> bool:
    return bool(find_id_column(keys) and _known_classes(keys)) or set(keys) >= _ISIC2020_LABELS


def _known_classes(keys: Collection[str]) -> tuple[str, ...]:
    return tuple(column for column in CLASSES if column in keys)


def _image_id(text: str) -> str:
    return _IMAGE_SUFFIX.sub("", text.strip())


def _new_id(name: str, known: Container[str], path: Path, line: int) -> str:
    if not name:
        raise InputError(f"{path}, line {line}: empty image id")
    if name in known:
        raise InputError(f"{path}, line {line}: duplicate image id {name}")
    return name


def _parse_labels(classes: tuple[str, ...], cells: tuple[str, ...], table: CsvTable, line: int) -> tuple[float, ...]:
    """Return labels as 0, 1 and, where unknown, nan."""
    values: list[float] = []
    for column, text in zip(classes, cells, strict=True):
        cell = text.strip().lower()
        if cell in _WORDS:
            values.append(_WORDS[cell])
            continue
        value = _parse_number(cell.replace(",", ".") if table.has_decimal_commas else cell)
        if value not in (0, 1):
            raise InputError(
                f"{table.path}, line {line}: {column} is {text!r}, not 0 or 1, or empty where it is unknown; columns:"
                f" {table.describe()}"
            )
        values.append(value)
    return tuple(values)


def _read_weights(path: Path, names: Collection[str]) -> dict[str, tuple[float, float]]:
    """Return the weights that are not (1, 1)."""
    table = open_table(path)
    fixed = {WITHOUT_WEIGHT: (0.0, 0.0)} if WITHOUT_WEIGHT in names else {}
    if not (columns := [column for column in WEIGHTS if column in table.keys]):
        return fixed
    weights: dict[str, tuple[float, float]] = {}
    for line, (text, *cells) in table.pick(table.id_column(), *columns):
        row = dict(zip(columns, cells, strict=True))
        weights[_image_id(text)] = _parse_weights(row, f"{path}, line {line}")
    return weights | fixed


def _parse_weights(row: Mapping[str, str], location: str) -> tuple[float, float]:
    score, validation = (_parse_number(row.get(column, "1")) for column in WEIGHTS)
    for column, value in zip(WEIGHTS, (score, validation), strict=True):
        if not 0 <= value < math.inf:
            raise InputError(f"{location}: {column} is {row[column]!r}, not a number of at least 0")
    return score, validation


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
        if from_segment:
            row |= {key: from_cell(row[key]) for key in ("image", "mask") if key in row}
        name = _IMAGE_SUFFIX.sub("", row["image"]) if from_segment else _image_id(row[id_column])
        _new_id(name, scores, path, line)
        failure = (row["reason"] or "failed") if from_segment and row["status"] == "failed" else ""
        values = tuple(_parse_number(row[column_key(column)]) for column in columns)
        optional, confidence = (_parse_number(row.get(f"{prefix}{key}", "")) for key in (optional_class, "confidence"))
        mask = split_path(row.get("mask", ""))[1] if from_segment else ""
        recorded = (row.get(key, "") if from_segment else "" for key in ("width", "height", "image"))
        scores[name] = ScoreRow(failure, values, optional, confidence, mask, *recorded)
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
    texts: dict[str, dict[str, str]] = {column: {} for column in columns if column_key(column) in table.keys}
    ids: set[str] = set()
    for line, (text, *cells) in table.pick(table.id_column(), *map(column_key, texts)):
        name = _new_id(_image_id(text), ids, path, line)
        ids.add(name)
        for by_id, cell in zip(texts.values(), cells, strict=True):
            by_id[name] = cell.strip()
    return texts


def _parse_number(text: str) -> float:
    """Return nan for anything that is not a number."""
    try:
        return float(text)
    except ValueError:
        return math.nan
