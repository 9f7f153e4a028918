"""The two tables that evaluate reads: labels beside the true masks, and the scores.csv that segment wrote."""

import csv
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lesioncli.errors import InputError
from lesioncli.spec import CLASSES

ID_COLUMNS = ("image", "image_id", "isic_id", "name")

_SUFFIX = re.compile(r"\.[^./]+$")
_PICTURE_SUFFIX = re.compile(r"\.(jpe?g|png|bmp|tiff?)$", re.IGNORECASE)  # an id without one may hold a dot


class Labels(NamedTuple):
    """The labels CSV: its classes in the order of CLASSES, and for each id whether it is one of them."""

    classes: tuple[str, ...]
    by_id: Mapping[str, tuple[bool, ...]]


class ScoreRow(NamedTuple):
    """A row of scores.csv: the reason if it failed, and the score of each class in the labels, nan for no number."""

    failure: str
    scores: tuple[float, ...]


def read_labels(folder: Path) -> Labels:
    """The labels CSV that lies in `folder`; no classes where there is none."""
    tables = [path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".csv" and path.name[0] != "."]
    found = {path: columns for path in tables if (columns := _label_columns(path))}
    if len(found) > 1:
        raise InputError(f"several CSV files with labels, keep one of them: {', '.join(map(str, found))}")
    for path, (id_column, *classes) in found.items():
        return _parse_labels(path, id_column, tuple(classes))
    return Labels((), {})


def _label_columns(path: Path) -> tuple[str, ...]:
    """The id column of a labels CSV and its classes; empty where this is none."""
    header = _header(path)
    ids = [column for column in ID_COLUMNS if column in header]
    classes = [column for column in CLASSES if column in header]
    return (ids[0], *classes) if ids and classes else ()


def _parse_labels(path: Path, id_column: str, classes: tuple[str, ...]) -> Labels:
    by_id: dict[str, tuple[bool, ...]] = {}
    for line, row in _rows(path):
        name = _PICTURE_SUFFIX.sub("", row[id_column].strip())
        if not name or name in by_id:
            raise InputError(f"{path}, line {line}: {id_column} {name!r} is {'there twice' if name else 'empty'}")
        for column in classes:
            if _number(row[column]) not in (0, 1):
                raise InputError(f"{path}, line {line}: {column} is {row[column]!r}, not 0 or 1")
        by_id[name] = tuple(_number(row[column]) == 1 for column in classes)
    if not by_id:
        raise InputError(f"{path}: no labels below the header")
    return Labels(classes, by_id)


def read_scores(path: Path, classes: tuple[str, ...]) -> dict[str, ScoreRow] | None:
    """Rows of scores.csv by mask name; None where there is no such file."""
    if not path.exists():
        return None
    if missing := [column for column in ("image", "status", "reason", *classes) if column not in _header(path)]:
        raise InputError(f"{path}: no column {', '.join(missing)}")
    found: dict[str, ScoreRow] = {}
    for line, row in _rows(path):
        name = _SUFFIX.sub("", row["image"])
        if not name or name in found:
            raise InputError(f"{path}, line {line}: image {name!r} is {'there twice' if name else 'empty'}")
        failure = (row["reason"] or "failed") if row["status"] == "failed" else ""
        found[name] = ScoreRow(failure, tuple(_number(row[column]) for column in classes))
    return found


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line that is not blank. File names need not be UTF-8, hence the escapes."""
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.reader(file, strict=True)
            yield from ((reader.line_num, fields) for fields in reader if fields)
    except (csv.Error, OSError) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from error


def _header(path: Path) -> list[str]:
    _, columns = next(_lines(path), (0, []))
    return [column.strip().lower() for column in columns]


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and fields by column below the header; InputError where there are more or fewer than it has."""
    header = _header(path)
    for line, fields in itertools.islice(_lines(path), 1, None):
        if len(fields) != len(header):
            raise InputError(f"{path}, line {line}: {len(fields)} fields, but the header has {len(header)}")
        yield line, dict(zip(header, fields, strict=True))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
