"""The rows of an output folder: how scores.csv, checksums.csv and the journal of a run are read and written.

scores.csv is for people. checksums.csv holds what a later run or `verify` compares: when an image was last changed, and
the CRC-32 of image and mask. A line of the journal has the columns of both, the length of the journal that was known to
be on the disk, and its own CRC-32: after a power cut, a line counts only if it is whole.
"""

import csv
import io
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO, NamedTuple

import deflate

from lesioncli import isic
from lesioncli.errors import InputError
from lesioncli.files import as_cell, atomic_write, from_cell, printable
from lesioncli.inference.outcome import LATER_COLUMNS, Outcome, read_count, read_number, without_suffix
from lesioncli.inference.record import MaskNames
from lesioncli.options import Status

SCORES, CHECKSUMS, JOURNAL = "scores.csv", "checksums.csv", "scores.csv.part"
CHECK_COLUMNS = ("modified_ns", "image_crc32", "mask_crc32")
JOURNAL_COLUMNS = (*CHECK_COLUMNS, "synced", "check")
CRC32_DIGITS = 8
LINE_END = "\r\n"
REQUIRED_COLUMNS = ("image", "mask", "width", "height", "bytes", "status", "confidence", "note")
GONE = "image is gone"  # in the column `note`


class Checks(NamedTuple):
    """What is known of the files of a row; None in rows of early versions."""

    modified_ns: int | None = None
    image_crc32: int | None = None
    mask_crc32: int | None = None

    def fields(self) -> list[str]:
        """Return the cells of CHECK_COLUMNS."""
        checksums = ("" if crc32 is None else f"{crc32:08x}" for crc32 in self[1:])
        return ["" if self.modified_ns is None else str(self.modified_ns), *checksums]


UNKNOWN = Checks()


class Row(NamedTuple):  # created twice as fast as a frozen dataclass, for every image of earlier runs
    """A row of scores.csv, and its text.

    mask: its path as in the table, perhaps in an archive, see mask_archives.py; empty if the image failed. confidence:
    None if there is none.
    """

    line: str
    image: str
    mask: str
    is_ok: bool
    file_bytes: int | None
    confidence: float | None
    checks: Checks


class WrongColumnsError(InputError):
    """A table has not the columns of this run."""


def read_names(folder: Path) -> list[str]:
    """Return the columns of the rows of an output folder. Raises InputError if it has none that `segment` wrote."""
    for name in (SCORES, JOURNAL):
        if not (folder / name).exists():
            continue
        with (folder / name).open("rb") as file:
            _, header = next(_intact_rows(_Lines(file)), (0, []))
        if tuple(header[-len(JOURNAL_COLUMNS) :]) == JOURNAL_COLUMNS:
            header = header[: -len(JOURNAL_COLUMNS)]
        if missing := [column for column in REQUIRED_COLUMNS if column not in header]:
            raise InputError(
                f"{folder / name}: has no column {', '.join(missing)}; give the folder that `lesioncli segment` wrote,"
                " unchanged"
            )
        return header
    raise InputError(f"{folder / SCORES}: no such file; give the output folder of lesioncli segment")


class RowTables:
    """Reads and writes the rows with the columns `names` of one output folder."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.scores, self.checksums, self.journal = (folder / name for name in (SCORES, CHECKSUMS, JOURNAL))
        self.names = list(names)
        self._image, self._mask, self._note = map(self.names.index, ("image", "mask", "note"))
        self._pick = itemgetter(*map(self.names.index, ("image", "mask", "status", "bytes", "confidence")))

    def read_scores(self) -> Iterator[Row]:
        """Yield the rows of scores.csv. Raises InputError, with file and line, where the table is damaged."""
        if not self.scores.exists():
            return
        ahead = _Ahead(self.read_checks())
        with self.scores.open("rb") as file:
            reader = csv.reader(_Lines(file))
            try:
                header = next(reader, [])
                self._check_header(header, self.scores)
                for fields in reader:
                    if len(fields) != len(header):
                        raise InputError(
                            f"{self.scores}, line {reader.line_num}: {len(fields)} fields, but the header has"
                            f" {len(header)}; correct or remove the line"
                        )
                    location = f"{self.scores}, line {reader.line_num}"
                    cells = self._complete(header, fields)
                    checks = ahead.get(from_cell(cells[self._image])) if cells[self._mask] else UNKNOWN
                    yield self._parse(cells, checks, location)
            except csv.Error as error:
                location = f"{self.scores}, line {reader.line_num}"
                raise InputError(f"{location}: {error}; correct or remove the line") from error

    def read_journal(self) -> Iterator[tuple[Row, bool]]:
        """Yield the rows that a killed run left, and whether their masks were on the disk; of the last ones, that is
        not known. Damaged lines are left out.
        """
        waiting: deque[tuple[int, Row]] = deque()
        for start, row, synced in self._read_journal_lines() if self.journal.exists() else ():
            waiting.append((start, row))
            while waiting and waiting[0][0] < synced:
                yield waiting.popleft()[1], True
        yield from ((row, False) for _, row in waiting)

    def _read_journal_lines(self) -> Iterator[tuple[int, Row, int]]:
        """Yield the offset of each intact line, its row, and how many bytes of the journal were on the disk."""
        header: list[str] = list(self.names)
        is_early = False  # of a version whose lines have no checks
        with self.journal.open("rb") as file:
            for start, fields in _intact_rows(_Lines(file)):
                if start == 0:
                    is_early = tuple(fields[-len(JOURNAL_COLUMNS) :]) != JOURNAL_COLUMNS
                    header = fields if is_early else fields[: -len(JOURNAL_COLUMNS)]
                    self._check_header(header, self.journal)
                elif is_early and len(fields) == len(header):
                    yield start, self._parse(self._complete(header, fields)), 0
                elif len(fields) == len(header) + len(JOURNAL_COLUMNS) and _is_right(fields):
                    checks = _parse_checks(fields[len(header) :][: len(CHECK_COLUMNS)])
                    cells = self._complete(header, fields[: len(header)])
                    yield start, self._parse(cells, checks), int(fields[-2])

    def save(self, rows: Iterable[Row]) -> None:
        """Write rows to scores.csv and checksums.csv. Raises OSError.

        A first scores.csv comes last, since a shard that has one does not look for merged rows any more. Later, a row
        is withdrawn before its checksums: one without them would pass for one of an early version.
        """
        with ExitStack() as stack:
            in_order = (self.checksums, self.scores) if not self.scores.exists() else (self.scores, self.checksums)
            temporary = {path: stack.enter_context(atomic_write(path)) for path in reversed(in_order)}
            with (
                temporary[self.scores].open("w", newline="", encoding="utf-8") as scores,
                temporary[self.checksums].open("w", newline="", encoding="utf-8") as checksums,
            ):
                scores.write(csv_line(self.names))
                add_checks = csv.writer(checksums).writerow
                add_checks(("image", *CHECK_COLUMNS))
                for row in rows:
                    scores.write(row.line)
                    if row.checks.mask_crc32 is not None:
                        add_checks((as_cell(row.image), *row.checks.fields()))

    def make_row(self, outcome: Outcome, fields: Sequence[str]) -> Row:
        """Return the row of an outcome, whose cells are `fields`."""
        checks = Checks(outcome.modified_ns, outcome.image_crc32, outcome.mask_crc32)
        return self._parse(fields, checks)

    def journal_header(self) -> str:
        """Return the first line of a journal."""
        return csv_line((*self.names, *JOURNAL_COLUMNS))

    def journal_line(self, row: Row, synced: int) -> str:
        """Return the line of a row; the first `synced` bytes of the journal, and masks named there, are on the disk."""
        text = f"{row.line.removesuffix(LINE_END)},{','.join((*row.checks.fields(), str(synced)))}"
        return f"{text},{deflate.crc32(text.encode()):08x}{LINE_END}"

    def size_hw(self, row: Row) -> tuple[int, int]:
        """Return the size of the image of a row that is ok. Raises InputError if it is not a number."""
        cells = dict(zip(self.names, next(csv.reader(io.StringIO(row.line, newline=""))), strict=True))
        height, width = (read_count(cells[name], f"{self.scores}, {row.image}", name) for name in ("height", "width"))
        return height or 0, width or 0

    def mark(self, row: Row, is_gone: bool) -> Row:
        """Return a row whose note says whether its image is gone."""
        if not is_gone and GONE not in row.line:
            return row
        fields = next(csv.reader(io.StringIO(row.line, newline="")))
        notes = [note for note in fields[self._note].split("; ") if note and note != GONE]
        fields[self._note] = "; ".join([*notes, GONE] if is_gone else notes)
        return row._replace(line=csv_line(fields))

    def move(self, row: Row, mask: str) -> Row:
        """Return a row whose mask is now at the path `mask`."""
        fields = next(csv.reader(io.StringIO(row.line, newline="")))
        mask = printable(mask)
        fields[self._mask] = as_cell(mask)
        return row._replace(line=csv_line(fields), mask=mask)

    def _check_header(self, header: Sequence[str], path: Path) -> None:
        required = [name for name in self.names if name in header or name not in LATER_COLUMNS]
        if header and list(header) != required:
            raise WrongColumnsError(
                f"{path}: its columns are not those of this run; choose another --out or use --overwrite"
            )

    def _complete(self, header: Sequence[str], fields: Sequence[str]) -> Sequence[str]:
        """Return the fields with an empty one for each column that the table of an earlier version lacks."""
        if len(header) == len(self.names):
            return fields
        by_name = dict(zip(header, fields, strict=True))
        return [by_name.get(name, "") for name in self.names]

    def read_checks(self) -> Iterator[tuple[str, Checks]]:
        """Yield images and their checks from checksums.csv; whatever is damaged there is unknown."""
        if not self.checksums.exists():
            return
        with self.checksums.open("rb") as file:
            for start, fields in _intact_rows(_Lines(file)):
                if start and len(fields) == 1 + len(CHECK_COLUMNS):
                    yield from_cell(fields[0]), _parse_checks(fields[1:])

    def _parse(self, fields: Sequence[str], checks: Checks = UNKNOWN, location: str = "") -> Row:
        image, mask, status, size, confidence_text = self._pick(fields)
        image, mask = from_cell(image), from_cell(mask)
        confidence = read_number(confidence_text, location, "confidence")
        return Row(
            line=csv_line(fields),
            image=image,
            mask=mask,
            is_ok=status == Status.OK,
            file_bytes=read_count(size, location, "bytes"),
            confidence=confidence if math.isfinite(confidence) else None,
            checks=checks,
        )


def row_key(image: str, names: MaskNames | None) -> str:
    """Return the key of an image's row. All images that would have the same mask share a row: the newest."""
    stem = without_suffix(image)
    return isic.name_by_id(stem) if names == MaskNames.ISIC else stem


def csv_line(fields: Sequence[str]) -> str:
    """Return a line of a CSV file."""
    text = io.StringIO(newline="")
    csv.writer(text).writerow(fields)
    return text.getvalue()


class _Ahead:
    """Looks up checks in a table by reading on: images are asked for in its order, and those passed over are kept."""

    def __init__(self, checks: Iterator[tuple[str, Checks]]) -> None:
        self._coming = checks
        self._passed: dict[str, Checks] = {}

    def get(self, image: str) -> Checks:
        """Return the checks of an image, which is asked for once."""
        if image in self._passed:
            return self._passed.pop(image)
        for name, checks in self._coming:
            if name == image:
                return checks
            self._passed[name] = checks
        return UNKNOWN


class _Lines:
    """The complete lines of a file, as text, and how many bytes of it were read.

    A crash may truncate the last line, even inside a character.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.read_bytes = 0
        self._file = file
        self._encoding = "utf-8-sig"

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            if not line.endswith((b"\r", b"\n")):
                return
            self.read_bytes += len(line)
            yield line.decode(self._encoding, "replace")
            self._encoding = "utf-8"


def _intact_rows(lines: _Lines) -> Iterator[tuple[int, list[str]]]:
    """Yield the offset and the fields of each row, up to one that is not CSV."""
    reader, start = csv.reader(lines), 0
    while True:
        try:
            fields = next(reader)
        except (StopIteration, csv.Error):
            return
        if not (start == 0 and "\0" in "".join(fields)):  # a header that a power cut left as zeros
            yield start, fields
        start = lines.read_bytes


def _is_right(fields: Sequence[str]) -> bool:
    """Return whether the last field of a line of the journal is the CRC-32 of the others."""
    text = csv_line(fields[:-1]).removesuffix(LINE_END)
    return f"{deflate.crc32(text.encode(errors='replace')):08x}" == fields[-1]


def _parse_checks(fields: Sequence[str]) -> Checks:
    try:
        modified_ns, *checksums = fields
        if any(len(text) > CRC32_DIGITS for text in checksums):
            return UNKNOWN
        numbers = [int(text, 16) if text else None for text in checksums]
        return Checks(int(modified_ns) if modified_ns else None, *numbers)
    except ValueError:
        return UNKNOWN
