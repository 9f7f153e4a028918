"""The two tables that evaluate reads: labels of the truth, and the scores of segment or of a challenge submission."""

import csv
import itertools
import math
import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lesioncli.errors import InputError
from lesioncli.spec import CLASSES

ID_COLUMNS = ("image", "image_id", "isic_id", "lesion_id", "name")
WEIGHTS = ("score_weight", "validation_weight")
WITHOUT_WEIGHT = "ISIC_0035068"  # the official scorer takes this image out of every score

_SUFFIX = re.compile(r"\.[^./]+$")
_PICTURE_SUFFIX = re.compile(r"\.(jpe?g|jfif|png|bmp|webp|tiff?)$", re.IGNORECASE)  # an id without one may hold a dot


class Labels(NamedTuple):
    """The labels CSV: its classes, and for each id whether it is one of them and what it weighs (score, validation).

    `table` is the file, where it has a header and so perhaps more columns, and `unread` are those that are neither ids
    nor weights nor classes.
    """

    classes: tuple[str, ...]
    by_id: Mapping[str, tuple[bool, ...]]
    weights: Mapping[str, tuple[float, float]]
    table: Path | None = None
    unread: tuple[str, ...] = ()


NO_LABELS = Labels((), {}, {})


class ScoreRow(NamedTuple):
    """A row of scores: the reason if it failed, and the score of each class in the labels, nan for no number.

    `also` is the score of a class that was not needed, nan where there is none.
    """

    failure: str
    scores: tuple[float, ...]
    also: float = math.nan


def find_labels(folder: Path) -> Path | None:
    """The CSV in `folder` with labels for the classes of CLASSES; None where there is none."""
    tables = [path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".csv" and path.name[0] != "."]
    found = [path for path in tables if _id_column(header := read_header(path)) and _known_classes(header)]
    if len(found) > 1:
        raise InputError(f"several CSV files with labels, keep one of them: {', '.join(map(str, found))}")
    return found[0] if found else None


def read_labels(path: Path) -> Labels:
    """Labels by id: of the classes of CLASSES that the CSV has, or, where it has none, of every other column."""
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
    return Labels(classes, by_id, weights, path, tuple(each for each in others if column_key(each) not in read))


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
    path: Path, classes: tuple[str, ...], also: str = "", labels: Path | None = None
) -> dict[str, ScoreRow] | None:
    """Scores by id: of segment's scores.csv, or of a submission, which has no status. None where there is no file.

    All `classes`, which are those of the table `labels`, must have a column, class `also` may have one.
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
        found[name] = ScoreRow(failure, scores, _number(row.get(also, "")))
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
