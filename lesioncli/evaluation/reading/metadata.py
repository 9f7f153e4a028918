"""Columns of metadata or labels as groups of images, and values of the images themselves.

A column of many numbers is divided into bands, whose limits are in their names. Unknown values are a group, too.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lesioncli.errors import InputError
from lesioncli.evaluation.protocols import Protocol
from lesioncli.evaluation.reading.csv_table import ID_COLUMNS, column_key, read_header
from lesioncli.evaluation.reading.matching import match
from lesioncli.evaluation.reading.tables import WEIGHTS, LabelTable, read_columns

LESION_SIZE = "lesion_size"  # percentage of the pixels that are lesion in the ground truth
CONTRAST = "contrast"  # of the lesion with the skin around it, see contrast.py
MEASURED = (LESION_SIZE, CONTRAST)  # columns that no table has
_UNITS = {LESION_SIZE: " %"}

UNKNOWN = "unknown"
MISSING = {"", "unknown", "nan", "na", "n/a", "none", "null"}

MAX_SEPARATE_NUMBERS = 6  # a column of more numbers is divided into bands
AGE_BAND_YEARS = 20  # fixed, so that data sets can be compared
MAX_GROUPS = 30  # with more groups, their joint intervals are too wide to find a difference
MIN_PER_SLACK = 20  # measured values per one that may change its band so that the limit is a short number


@dataclass(frozen=True)
class Grouping:
    """Groups of a column in display order, unknown last, and the group of each image."""

    column: str
    groups: tuple[str, ...]
    group_of: Mapping[str, str]


# Values of columns


def find_columns(
    names: Iterable[str], metadata: Path | None, labels: LabelTable
) -> dict[str, Mapping[str, str] | None]:
    """Return the text of each column by image id, from `metadata` if it has the column, else from the labels.

    None stands for a column that is MEASURED. Raises InputError if a column does not exist, a table has such a column,
    or image ids are missing or duplicate.
    """
    names = list(dict.fromkeys(names))
    if not names:
        return {}
    tables = [table for table in (metadata, labels.path) if table]
    texts: dict[str, Mapping[str, str] | None] = dict.fromkeys(MEASURED)
    texts |= {name: _class_column(name, labels) for name in labels.classes if name in names}
    for table in reversed(tables):
        columns = read_columns(table, names)
        for name in columns.keys() & set(MEASURED):
            reason = "which lesioncli measures on the ground truth masks; give this column another name"
            raise InputError(f"{table}: column {name}, {reason}")
        texts |= columns
    if missing := [name for name in names if name not in texts]:
        searched = " or ".join(map(str, tables)) or "the labels; give a table with --metadata"
        known = ", ".join(_known_columns(tables, labels))
        raise InputError(f"no column {', '.join(missing)} in {searched}; known columns: {known}")
    return {name: texts[name] for name in names}


def _class_column(name: str, labels: LabelTable) -> dict[str, str]:
    index = labels.classes.index(name)
    return {image: "" if math.isnan(label[index]) else str(int(label[index])) for image, label in labels.by_id.items()}


def _known_columns(tables: Iterable[Path], labels: LabelTable) -> Iterable[str]:
    columns = [column for table in tables for column in read_header(table)]
    columns = [column for column in columns if column_key(column) not in (*ID_COLUMNS, *WEIGHTS)]
    return dict.fromkeys([*columns, *labels.classes, *MEASURED])


def values_by_image(
    masks: Collection[str], ids: Collection[str], texts: Mapping[str, str], rules: Protocol, column: str
) -> tuple[dict[str, str], str]:
    """Return the text for each ground truth mask and labelled id, and a note on those without a row, which get "".

    Raises InputError if no image has a row: the table then belongs to another data set.
    """
    matches = {**match(ids, texts, rules), **match(masks, texts, rules)}
    values = {image: texts[rows[0]] if len(rows) == 1 else "" for image, rows in matches.items()}
    without = sorted(image for image, rows in matches.items() if len(rows) != 1)
    if not without:
        return values, ""
    if len(without) == len(values):
        raise InputError(f"{column}: its table has no row for any of the {len(values)} images, such as {without[0]}")
    more = ", ..." if len(without) > 3 else ""
    return values, f"{column}: {len(without)} images without a row are {UNKNOWN}: {', '.join(without[:3])}{more}"


# Groups


def make_grouping(column: str, texts: Mapping[str, str]) -> Grouping:
    """Group images by the text of each; InputError if there are more than MAX_GROUPS groups."""
    known = {image: text for image, text in texts.items() if text.lower() not in MISSING}
    numbers = {image: _parse_number(text) for image, text in known.items()}
    if not all(math.isfinite(number) for number in numbers.values()):
        return _group_by_name(column, known, sorted(set(known.values())), texts)
    if len(set(numbers.values())) <= MAX_SEPARATE_NUMBERS:
        names = {image: f"{number:.15g}" for image, number in numbers.items()}
        return _group_by_name(column, names, sorted(set(names.values()), key=float), texts)
    if column.lower().startswith("age"):
        limits = np.arange(0, max(numbers.values()) + AGE_BAND_YEARS, AGE_BAND_YEARS)
        bands = [f"{low:g} to {low + AGE_BAND_YEARS - 1:g}" for low in limits]
        return _group_by_band(column, numbers, limits[1:], bands, texts)
    return _group_by_quartile(column, numbers, texts)


def _group_by_quartile(column: str, numbers: Mapping[str, float], texts: Mapping[str, str]) -> Grouping:
    """Divide numbers at their quartiles, rounded before they are used, so that the names of the bands are exact."""
    values = np.array(list(numbers.values()))
    slack = len(values) // MIN_PER_SLACK + 1 if column in MEASURED else 0
    quartiles = np.quantile(values, (0.25, 0.5, 0.75))
    limits = list(dict.fromkeys(_round_limit(limit, values, slack) for limit in quartiles))
    unit = _UNITS.get(column, "")
    between = [f"{low} to {high}{unit}" for low, high in itertools.pairwise(limits)]
    bands = [f"below {limits[0]}{unit}", *between, f"{limits[-1]}{unit} or more"]
    return _group_by_band(column, numbers, np.array(limits, np.float64), bands, texts)


def _round_limit(limit: float, values: NDArray[np.float64], slack: int) -> str:
    """Round to three digits, or to as many more as are needed so that at most `slack` values change their side."""
    candidates = (float(f"{limit:.{digits}g}") for digits in range(3, 18))  # 17 digits are exact for any float
    below = values < limit
    rounded = next(candidate for candidate in candidates if np.count_nonzero((values < candidate) != below) <= slack)
    return np.format_float_positional(rounded, trim="-")


def _group_by_band(
    column: str, numbers: Mapping[str, float], limits: NDArray[np.float64], bands: list[str], texts: Mapping[str, str]
) -> Grouping:
    """Group numbers by band; a number on a limit belongs to the band above it."""
    indices = np.searchsorted(limits, list(numbers.values()), side="right").tolist()
    names = {image: bands[index] for image, index in zip(numbers, indices, strict=True)}
    return _group_by_name(column, names, bands, texts)


def _group_by_name(column: str, names: Mapping[str, str], order: Iterable[str], texts: Mapping[str, str]) -> Grouping:
    """Group images by `names`, in the given order without empty groups; an image without a name is UNKNOWN."""
    group_of = {image: names.get(image, UNKNOWN) for image in texts}
    used = set(group_of.values())
    groups = tuple(name for name in (*order, UNKNOWN) if name in used)
    if len(groups) > MAX_GROUPS:
        raise InputError(f"{column}: {len(groups)} different values; --by takes at most {MAX_GROUPS} groups")
    return Grouping(column, groups, group_of)


def _parse_number(text: str) -> float:
    """Return nan for anything that is not a number."""
    try:
        return float(text)
    except ValueError:
        return math.nan
