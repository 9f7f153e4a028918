"""The outcome of an image, and its row: the columns of scores.csv as one table."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lesioncli.errors import InputError
from lesioncli.files import as_cell, printable
from lesioncli.images.find import ImageFile
from lesioncli.images.ignored import name_of_file
from lesioncli.options import FailureStage, Status


@dataclass(frozen=True)
class Outcome:
    """What became of one image.

    stored_hw: size of the image, (0, 0) if it could not be decoded. file_bytes: size of its file when it was read, None
    if there was no file. stage, reason: where and why it failed. values: scores and measures by column name. seconds:
    CPU seconds by stage. modified_ns: time of the last change of the image, in ns, before it was read. image_crc32,
    mask_crc32: checksums of the two files.
    """

    image: ImageFile
    status: Status
    stored_hw: tuple[int, int] = (0, 0)
    file_bytes: int | None = None
    stage: FailureStage | None = None
    reason: str = ""
    note: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    modified_ns: int | None = None
    image_crc32: int | None = None
    mask_crc32: int | None = None


@dataclass(frozen=True)
class Column:
    """A column of scores.csv; `text` returns the entry of an image."""

    name: str
    text: Callable[[Outcome], str]


def value_column(name: str, decimals: int = 5) -> Column:
    """Return the column of a number in Outcome.values."""
    return Column(name, lambda outcome: f"{outcome.values[name]:.{decimals}f}" if name in outcome.values else "")


# To add a column, add one line to one of these tables. Class scores stand between the first two; further outputs of the
# network stand before the last.
IMAGE_COLUMNS = (
    Column("image", lambda outcome: as_cell(image_name(outcome.image))),
    Column("mask", lambda outcome: as_cell(printable(outcome.image.mask_name)) if outcome.status == Status.OK else ""),
    Column("width", lambda outcome: str(outcome.stored_hw[1] or "")),
    Column("height", lambda outcome: str(outcome.stored_hw[0] or "")),
    Column("bytes", lambda outcome: "" if outcome.file_bytes is None else str(outcome.file_bytes)),
    Column("status", lambda outcome: outcome.status),
    Column("reason", lambda outcome: f"{outcome.stage}: {outcome.reason}" if outcome.reason else ""),
)
SHAPE_COLUMNS = (
    value_column("area_px", 0),
    *(value_column(name, 1) for name in ("perimeter_px", "long_axis_px", "short_axis_px")),
    *(value_column(name, 3) for name in ("area_mm2", "perimeter_mm", "long_axis_mm", "short_axis_mm")),
)
MEASURE_COLUMNS = (value_column("lesion_area_fraction"), *SHAPE_COLUMNS, value_column("confidence"))
MAX_DIGITS = 18  # of a count; Python refuses to convert thousands of digits
NOTE_COLUMNS = (Column("note", lambda outcome: outcome.note),)

# Columns that a table of an earlier version lacks; its rows keep empty cells there.
LATER_COLUMNS = tuple(column.name for column in SHAPE_COLUMNS)

# Columns that are neither a score nor a measure.
DESCRIPTIVE_COLUMNS = tuple(column.name for column in (*IMAGE_COLUMNS, *NOTE_COLUMNS))


def output_columns(classes: Sequence[str], extra: Sequence[str] = ()) -> tuple[Column, ...]:
    """Return the columns of scores.csv for a network's classes and its further outputs."""
    scores, outputs = map(value_column, classes), map(value_column, extra)
    return (*IMAGE_COLUMNS, *scores, *MEASURE_COLUMNS, *outputs, *NOTE_COLUMNS)


def read_number(text: str, location: str, column: str) -> float:
    """Return the number in a cell of scores.csv, nan if it is empty; InputError names its location and column."""
    try:
        return float(text) if text else math.nan
    except ValueError as error:
        raise InputError(f"{location}: {column} is {text!r}, not a number; correct it or empty the cell") from error


def read_count(text: str, location: str, column: str) -> int | None:
    """Return the whole number in a cell of scores.csv, None if it is empty; InputError as read_number()."""
    if text and not (text.isdecimal() and len(text) <= MAX_DIGITS):
        raise InputError(f"{location}: {column} is {text!r}, not a whole number; correct it or empty the cell")
    return int(text) if text else None


def image_name(image: ImageFile) -> str:
    """Return the name of an image in scores.csv: its relative path with suffix."""
    return printable(image.name + image.suffix)


def sort_by_name(reasons: Mapping[str, str]) -> dict[str, str]:
    """Return reasons by the names of images, in the order of the images of a run."""
    return dict(sorted(reasons.items(), key=lambda item: without_suffix(item[0])))


def without_suffix(name: str) -> str:
    """Remove the suffix of an image's name; a file name that is only a suffix is kept."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + name_of_file(file)
