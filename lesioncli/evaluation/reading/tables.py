"""The two tables that evaluate reads: labels of the truth, and the scores of segment or of a challenge submission."""

import csv
import itertools
import math
import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lesioncli.errors import InputError
from lesioncli.spec import CLASSES

ID_COLUMNS = ("image", "image_id", "isic_id", "lesion_id", "name")
WEIGHTS = ("score_weight", "validation_weight")
WITHOUT_WEIGHT = "ISIC_0035068"  # the official scorer takes this image out of every score

_SUFFIX = re.compile(r"\.[^./]+$")
_PICTURE_SUFFIX = re.compile(r"\.(jpe?g|jfif|png|bmp|webp|tiff?)$", re.IGNORECASE)  # an id without one may hold a dot


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
    the table may lack, then nan.
    """

    failure: str
    scores: tuple[float, ...]
    optional_score: float = math.nan


def find_labels(folder: Path) -> Path | None:
    """The CSV in `folder` with labels for the classes of CLASSES; None where there is none."""
    tables = [path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".csv" and path.name[0] != "."]
    found = [path for path in tables if _id_column(header := read_header(path)) and _known_classes(header)]
    if len(found) > 1:
        raise InputError(f"several CSV files with labels, keep one of them: {', '.join(map(str, found))}")
    return found[0] if found else None


def read_labels(path: Path) -> LabelTable:
    """LabelTable by id: of the classes of CLASSES that the CSV has, or, where it has none, of every other column."""
    header = read_header(path)
    others = [column for column in header if column_key(column) not in (*ID_COLUMNS, *WEIGHTS)]
    if not (id_column := _id_column(header)):
        raise InputError(f"{path}: no column {' or '.join(ID_COLUMNS)}")
    if not (classes := _known_classes(header) or tuple(others)):
        raise InputError(f"{path}: no column for any class")
    by_id: dict[str, tuple[bool, ...]] = {}
    weights: dict[str, tuple[float, float]] = {}
    for line, row in read_rows(path):
        name = _new(_id(row[id_column]), by_id, f"{path}, line {line}: {id_column}")
        for column in classes:
            if _number(row[column_key(column)]) not in (0, 1):
                raise InputError(f"{path}, line {line}: {column} is {row[column_key(column)]!r}, not 0 or 1")
        by_id[name] = tuple(_number(row[column_key(column)]) == 1 for column in classes)
        weights[name] = _weights(name, row, f"{path}, line {line}")
    if not by_id:
        raise InputError(f"{path}: no labels below the header")
    read = {"", *map(column_key, classes)}
    return LabelTable(classes, by_id, weights, path, tuple(each for each in others if column_key(each) not in read))


def column_key(column: str) -> str:
    """The name that a column goes by, however it is spelled: `Seborrheic keratosis` is `seborrheic_keratosis`."""
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def _id_column(header: list[str]) -> str:
    keys = list(map(column_key, header))
    return next((column for column in ID_COLUMNS if column in keys), "")


def _known_classes(header: list[str]) -> tuple[str, ...]:
    keys = list(map(column_key, header))
    return tuple(column for column in CLASSES if column in keys)


def _id(text: str) -> str:
    return _PICTURE_SUFFIX.sub("", text.strip())


def _new(name: str, taken: Container[str], where: str) -> str:
    if not name or name in taken:
        raise InputError(f"{where} {name!r} is {'there twice' if name else 'empty'}")
    return name


def _weights(name: str, row: Mapping[str, str], where: str) -> tuple[float, float]:
    values = [_number(row.get(column, "1")) for column in WEIGHTS]
    for column, value in zip(WEIGHTS, values, strict=True):
        if not 0 <= value < math.inf:
            raise InputError(f"{where}: {column} is {row[column]!r}, not a number from 0 on")
    return (0.0, 0.0) if name == WITHOUT_WEIGHT else (values[0], values[1])


def read_scores(
    path: Path, classes: tuple[str, ...], optional_class: str = "", labels: Path | None = None
) -> dict[str, ScoreRow] | None:
    """Scores by id: of segment's scores.csv, or of a submission, which has no status. None where there is no file.

    All `classes`, which are those of the table `labels`, must have a column, `optional_class` may have one.
    """
    if not path.exists():
        return None
    header = read_header(path)
    keys = list(map(column_key, header))
    from_segment = "status" in keys
    needed = ["image", "reason", *classes] if from_segment else list(classes)
    if missing := [column for column in needed if column_key(column) not in keys]:
        raise InputError(f"{path}: no column {', '.join(missing)}{_whose_classes(missing, classes, labels)}")
    if not (id_column := _id_column(header)):
        raise InputError(f"{path}: no column {' or '.join(ID_COLUMNS)}")
    found: dict[str, ScoreRow] = {}
    for line, row in read_rows(path):
        name = _SUFFIX.sub("", row["image"]) if from_segment else _id(row[id_column])
        _new(name, found, f"{path}, line {line}: {id_column}")
        failure = (row["reason"] or "failed") if from_segment and row["status"] == "failed" else ""
        scores = tuple(_number(row[column_key(column)]) for column in classes)
        found[name] = ScoreRow(failure, scores, _number(row.get(optional_class, "")))
    return found


def _whose_classes(missing: Collection[str], classes: tuple[str, ...], labels: Path | None) -> str:
    """What else to say of missing columns, where labels name the classes and segment never names them so."""
    if not labels or not {*missing} & {*classes} - {*CLASSES}:
        return ""
    return (
        f", which {labels} has as classes; call its columns {', '.join(CLASSES)} to judge what segment wrote,"
        " or give scores of the same classes with --scores"
    )


def read_columns(path: Path, wanted: Iterable[str]) -> dict[str, dict[str, str]]:
    """What those of the `wanted` columns that a CSV has say of each id; the spelling is that of column_key()."""
    if not (id_column := _id_column(read_header(path))):
        raise InputError(f"{path}: no column {' or '.join(ID_COLUMNS)}")
    keys = list(map(column_key, read_header(path)))
    found: dict[str, dict[str, str]] = {column: {} for column in wanted if column_key(column) in keys}
    ids: set[str] = set()
    for line, row in read_rows(path):
        name = _new(_id(row[id_column]), ids, f"{path}, line {line}: {id_column}")
        ids.add(name)
        for column, texts in found.items():
            texts[name] = row[column_key(column)].strip()
    return found


def read_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line that is not blank. File names need not be UTF-8, hence the escapes.

    Fields are divided by semicolons where the first line has more of them than commas, as Excel writes in Europe.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, strict=True, delimiter=";" if first.count(";") > first.count(",") else ",")
            yield from ((reader.line_num, fields) for fields in reader if fields)
    except (csv.Error, OSError) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from error


def read_header(path: Path) -> list[str]:
    """Columns of a CSV, stripped; none where it is empty."""
    _, columns = next(read_lines(path), (0, []))
    return [column.strip() for column in columns]


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and fields by column_key() below the header.

    InputError where a line has more or fewer fields than the header, or the header one column twice.
    """
    header = list(map(column_key, read_header(path)))
    if twice := sorted({column for column in header if column and header.count(column) > 1}):
        raise InputError(f"{path}: column {', '.join(twice)} is there twice")
    for line, fields in itertools.islice(read_lines(path), 1, None):
        if len(fields) != len(header):
            raise InputError(f"{path}, line {line}: {len(fields)} fields, but the header has {len(header)}")
        yield line, dict(zip(header, fields, strict=True))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
