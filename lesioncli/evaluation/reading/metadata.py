"""Which group of a column each image is in: columns of metadata or labels, and what is known of the images themselves.

Numbers of many values are cut into bands that have their borders in their name. What is missing is a group too.
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
from lesioncli.evaluation.reading.matching import match
from lesioncli.evaluation.reading.tables import ID_COLUMNS, WEIGHTS, LabelTable, column_key, read_columns, read_header

LESION_SIZE = "lesion_size"  # percent of the picture that is truly lesion

UNKNOWN = "unknown"
MISSING = {"", "unknown", "nan", "na", "n/a", "none", "null"}

MOST_VALUES = 6  # numbers of more values than this are cut into bands
AGE_BAND = 20  # years: fixed, so that data sets can be compared
MOST_GROUPS = 30  # at more, an interval for all of them is so wide that nothing could be found behind all others


@dataclass(frozen=True)
class Grouping:
    """Groups of a column in display order, unknown last, and the group of each image."""

    column: str
    groups: tuple[str, ...]
    group_of: Mapping[str, str]


def find_columns(
    names: Iterable[str], metadata: Path | None, labels: LabelTable
) -> dict[str, Mapping[str, str] | None]:
    """What each of the columns `names` says by id: of the metadata, else of the labels; None is for LESION_SIZE.

    InputError where there is no such column, a table has one in the place of LESION_SIZE, or an id twice or none.
    """
    asked = list(dict.fromkeys(names))
    tables = [table for table in (metadata, labels.path) if table]
    found: dict[str, Mapping[str, str] | None] = {LESION_SIZE: None}
    found |= {name: _of_class(name, labels) for name in labels.classes}
    for table in reversed(tables):
        columns = read_columns(table, asked)
        if LESION_SIZE in columns:
            said = f"{LESION_SIZE} is what lesioncli measures on true masks; give this column another name"
            raise InputError(f"{table}: {said}")
        found |= columns
    if missing := [name for name in asked if name not in found]:
        raise InputError(f"no column {', '.join(missing)} in {_where(tables)}; there are: {_known(tables, labels)}")
    return {name: found[name] for name in asked}


def _of_class(name: str, labels: LabelTable) -> dict[str, str]:
    column = labels.classes.index(name)
    return {image: str(int(label[column])) for image, label in labels.by_id.items()}


def _where(tables: list[Path]) -> str:
    return " or ".join(map(str, tables)) or "the labels; give a table with --metadata"


def _known(tables: list[Path], labels: LabelTable) -> str:
    columns = [column for table in tables for column in read_header(table)]
    columns = [column for column in columns if column_key(column) not in (*ID_COLUMNS, *WEIGHTS)]
    return ", ".join(dict.fromkeys([*columns, *labels.classes, LESION_SIZE]))


def values_by_image(
    masks: Collection[str], ids: Collection[str], texts: Mapping[str, str], rules: Protocol, column: str
) -> tuple[dict[str, str], str]:
    """What `texts` say of each true mask and each labelled id, "" where nothing, and a note on those without a row.

    InputError where no image has one: the table is then another data set's.
    """
    matches = {**match(ids, texts, rules), **match(masks, texts, rules)}
    found = {image: texts[names[0]] if len(names) == 1 else "" for image, names in matches.items()}
    without = sorted(image for image, names in matches.items() if len(names) != 1)
    if not without:
        return found, ""
    if len(without) == len(found):
        raise InputError(f"{column}: its table has no row for any of the {len(found)} images, such as {without[0]}")
    more = ", ..." if len(without) > 3 else ""
    return found, f"{column}: no row for {len(without)} images, so {UNKNOWN}: {', '.join(without[:3])}{more}"


def make_grouping(column: str, texts: Mapping[str, str]) -> Grouping:
    """The groups of the images, from what is said of each.

    InputError where there are more than MOST_GROUPS.
    """
    known = {image: text for image, text in texts.items() if text.lower() not in MISSING}
    numbers = {image: _number(text) for image, text in known.items()}
    if not all(math.isfinite(number) for number in numbers.values()):
        return _column(column, known, sorted(set(known.values())), texts)
    if len(set(numbers.values())) <= MOST_VALUES:
        named = {image: f"{number:.15g}" for image, number in numbers.items()}
        return _column(column, named, sorted(set(named.values()), key=float), texts)
    if column.lower().startswith("age"):
        borders = np.arange(0, max(numbers.values()) + AGE_BAND, AGE_BAND)
        names = [f"{low:g} to {low + AGE_BAND - 1:g}" for low in borders]
        return _banded(column, numbers, borders[1:], names, texts)
    return _quartiles(column, numbers, texts)


def _quartiles(column: str, numbers: Mapping[str, float], texts: Mapping[str, str]) -> Grouping:
    """The borders are rounded before the cut, so that a band's name is the truth."""
    values = np.array(list(numbers.values()))
    shown = list(dict.fromkeys(_rounded(border, values) for border in np.quantile(values, (0.25, 0.5, 0.75))))
    unit = " %" if column == LESION_SIZE else ""
    between = [f"{low} to {high}{unit}" for low, high in itertools.pairwise(shown)]
    names = [f"below {shown[0]}{unit}", *between, f"{shown[-1]}{unit} or more"]
    return _banded(column, numbers, np.array(shown, np.float64), names, texts)


def _rounded(border: float, values: NDArray[np.float64]) -> str:
    """A border in three digits, or in as many more as it takes to cut the values where it does itself."""
    rounded = (float(f"{border:.{digits}g}") for digits in range(3, 18))  # 17 digits are every float itself
    least = next(each for each in rounded if np.array_equal(values < each, values < border))
    return np.format_float_positional(least, trim="-")


def _banded(
    column: str, numbers: Mapping[str, float], borders: NDArray[np.float64], names: list[str], texts: Mapping[str, str]
) -> Grouping:
    """A number on a border belongs to the band above it."""
    bands = np.searchsorted(borders, list(numbers.values()), side="right").tolist()
    return _column(column, {image: names[band] for image, band in zip(numbers, bands, strict=True)}, names, texts)


def _column(column: str, named: Mapping[str, str], order: list[str], texts: Mapping[str, str]) -> Grouping:
    of = {image: named.get(image, UNKNOWN) for image in texts}
    there = set(of.values())
    groups = tuple(name for name in (*order, UNKNOWN) if name in there)
    if len(groups) > MOST_GROUPS:
        raise InputError(f"{column}: {len(groups)} different values; --by takes at most {MOST_GROUPS} groups")
    return Grouping(column, groups, of)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
