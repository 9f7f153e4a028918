"""Open a CSV table as spreadsheets, pandas and data sets write it.

The csv module is used rather than pandas: messages name the line, file names need not be UTF-8, a table of a million
rows is read as a stream, and `segment` must not load pandas.
"""

import codecs
import csv
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TextIO

from lesioncli.errors import InputError

ID_COLUMNS = ("image", "image_id", "isic_id", "image_name", "lesion_id", "name")

_SEPARATORS = ",;\t"
_SEPARATOR_LINE = "sep="  # first line of a table for Excel, such as "sep=;"
_BYTE_ORDER_MARK = "\ufeff"

Line = tuple[int, list[str]]
Row = tuple[int, dict[str, str]]


@dataclass(frozen=True)
class CsvTable:
    """An open CSV: `columns` as in its header, and by column_key() in `keys`.

    `lines` yields the line number and the fields of each row below the header, once. It raises InputError if the header
    has a column twice, or a row has more or fewer fields than the header. Rows without any text are left out.
    `has_decimal_commas`: a comma is not the separator, so it may be that of a decimal number.
    """

    path: Path
    columns: tuple[str, ...]
    keys: tuple[str, ...]
    lines: Iterator[Line]
    has_decimal_commas: bool = False

    @property
    def rows(self) -> Iterator[Row]:
        """The line number and the fields by key of each row, once."""
        return ((line, dict(zip(self.keys, fields, strict=True))) for line, fields in self.lines)

    def pick(self, *keys: str) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Return the line number and the fields of some columns for each row, once: rows() takes twice the time."""
        indices = list(map(self.keys.index, keys))
        if len(indices) == 1:
            return ((line, (fields[indices[0]],)) for line, fields in self.lines)
        fields_of = itemgetter(*indices)
        return ((line, fields_of(fields)) for line, fields in self.lines)

    def id_column(self) -> str:
        """Return the key of the column of image ids; InputError if there is none."""
        if key := find_id_column(self.keys):
            return key
        raise InputError(
            f"{self.path}: no column of image ids; name it {' or '.join(ID_COLUMNS)}; columns: {self.describe()}"
        )

    def describe(self) -> str:
        """Return the names of the columns for a message."""
        return ", ".join(self.columns) or "none"


def column_key(column: str) -> str:
    """Return the normalized name of a column: `Seborrheic keratosis` is `seborrheic_keratosis`."""
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def find_id_column(keys: Collection[str]) -> str:
    """Return the column of image ids among the keys of a table; "" if there is none."""
    return next((column for column in ID_COLUMNS if column in keys), "")


def open_table(path: Path) -> CsvTable:
    """Open a CSV and read its header, which is empty if the file is; InputError if it cannot be read."""
    with _naming_path(path):
        dialect = _find_dialect(path)
    lines = _read_lines(path, dialect)
    _, header = next(lines, (0, []))
    keys, columns = tuple(map(column_key, header)), tuple(column.strip() for column in header)
    return CsvTable(path, columns, keys, _check_lines(path, keys, lines), dialect.separator != ",")


def read_header(path: Path) -> tuple[str, ...]:
    """Return the columns of a CSV, without surrounding spaces; none if it is empty."""
    return open_table(path).columns


def read_rows(path: Path) -> Iterator[Row]:
    """Return the rows of a CSV, as CsvTable describes them."""
    return open_table(path).rows


def _check_lines(path: Path, keys: tuple[str, ...], lines: Iterator[Line]) -> Iterator[Line]:
    if duplicates := sorted({key for key in keys if key and keys.count(key) > 1}):
        raise InputError(f"{path}: duplicate column {', '.join(duplicates)}")
    count = len(keys)
    for line, fields in lines:
        if len(fields) != count:
            raise InputError(f"{path}, line {line}: {len(fields)} fields, but the header has {count}")
        if fields[0] or any(fields):  # spreadsheets write rows of separators alone
            yield line, fields


@dataclass(frozen=True)
class _Dialect:
    encoding: str
    separator: str
    lines_before: int  # the header


def read_lines(path: Path) -> Iterator[Line]:
    """Yield line number and fields of each line that is not blank, with the header; InputError if it cannot be read."""
    with _naming_path(path):
        dialect = _find_dialect(path)
    return _read_lines(path, dialect)


def _read_lines(path: Path, dialect: _Dialect) -> Iterator[Line]:
    """Yield the lines below `dialect.lines_before`. File names need not be UTF-8, hence the escapes."""
    with _naming_path(path), _open(path, dialect.encoding) as file:
        for _ in range(dialect.lines_before):
            file.readline()
        marked = (line if number else line.lstrip(_BYTE_ORDER_MARK) for number, line in enumerate(file))
        reader = csv.reader(marked, strict=True, delimiter=dialect.separator)
        try:
            yield from ((reader.line_num + dialect.lines_before, fields) for fields in reader if fields)
        except csv.Error as error:
            line = reader.line_num + dialect.lines_before
            raise InputError(f"{path}, line {line}: cannot be read as CSV ({error})") from error


@contextmanager
def _naming_path(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except UnicodeError as error:  # of UTF-16 only
        raise InputError(f"{path}: cannot be read as UTF-16 ({error}); save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _open(path: Path, encoding: str) -> TextIO:
    errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
    return path.open(newline="", encoding=encoding, errors=errors)


def _find_dialect(path: Path) -> _Dialect:
    """Find the encoding by the byte order mark, and the separator: that of a line `sep=;`, else of the header."""
    with path.open("rb") as file:
        start = file.read(2)
    encoding = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    with _open(path, encoding) as text:
        first = text.readline().lstrip(_BYTE_ORDER_MARK).strip("\r\n\"'")
    if first.lower().startswith(_SEPARATOR_LINE) and len(first) == len(_SEPARATOR_LINE) + 1:
        return _Dialect(encoding, first[-1], 1)
    counts = {separator: first.count(separator) for separator in _SEPARATORS}
    most = max(counts.values())
    separators = [separator for separator, count in counts.items() if count == most]
    if most and len(separators) > 1:
        found = " and ".join({",": "commas", ";": "semicolons", "\t": "tabs"}[separator] for separator in separators)
        raise InputError(f"{path}, line 1: as many {found}; separate the columns by one of them; found: {first!r}")
    return _Dialect(encoding, separators[0], 0)
