"""Columns of metadata and labels: where they are found, their values by image, and their groups."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation_data import write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from lesioncli.errors import InputError
from lesioncli.evaluation.protocols import PROTOCOLS
from lesioncli.evaluation.reading.metadata import (
    LESION_SIZE,
    MAX_GROUPS,
    UNKNOWN,
    find_columns,
    make_grouping,
    values_by_image,
)
from lesioncli.evaluation.reading.tables import NO_LABELS, read_labels
from lesioncli.options import ProtocolName

PLAIN = PROTOCOLS[ProtocolName.PLAIN]


def numbered(*values: object) -> dict[str, str]:
    return {f"i{number}": str(value) for number, value in enumerate(values)}


def groups_of(column: str, *values: object) -> dict[str, list[str]]:
    """Return the values in each group, in display order."""
    texts = numbered(*values)
    grouping = make_grouping(column, texts)
    assert grouping.group_of.keys() == texts.keys()
    return {group: [texts[image] for image in texts if grouping.group_of[image] == group] for group in grouping.groups}


def test_words_are_groups_and_missing_values_are_one_group() -> None:
    found = groups_of("sex", "male", "female", "", "unknown", "male", "NaN", "N/A")
    assert found == {"female": ["female"], "male": ["male", "male"], UNKNOWN: ["", "unknown", "NaN", "N/A"]}


def test_few_numbers_are_groups_in_numeric_order_in_any_spelling() -> None:
    assert groups_of("ruler", "10", "1.0", "1", "0", "2") == {"0": ["0"], "1": ["1.0", "1"], "2": ["2"], "10": ["10"]}


def test_ages_are_in_bands_of_20_years() -> None:
    found = groups_of("Age_approximate", 0, 19, 20, 45, 59, 60, 85, "")
    assert found == {
        "0 to 19": ["0", "19"],
        "20 to 39": ["20"],
        "40 to 59": ["45", "59"],
        "60 to 79": ["60"],
        "80 to 99": ["85"],
        UNKNOWN: [""],
    }


def test_other_numbers_are_divided_at_quartiles_which_belong_to_the_band_above() -> None:
    found = groups_of("thickness", *range(9))
    assert found == {
        "below 2": ["0", "1"],
        "2 to 4": ["2", "3"],
        "4 to 6": ["4", "5"],
        "6 or more": ["6", "7", "8"],
    }


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        (range(2011, 2020), ["below 2013", "2013 to 2015", "2015 to 2017", "2017 or more"]),
        (range(2011, 2019), ["below 2013", "2013 to 2014.5", "2014.5 to 2016.2", "2016.2 or more"]),
        (
            range(24_000_001, 24_000_010),
            ["below 24000003", "24000003 to 24000005", "24000005 to 24000007", "24000007 or more"],
        ),
        ([0] * 20 + list(range(1, 9)), ["0 to 1.25", "1.25 or more"]),
        (range(1000, 10000, 1000), ["below 3000", "3000 to 5000", "5000 to 7000", "7000 or more"]),
    ],
)
def test_a_limit_has_enough_digits_to_divide_at_the_quartile(values: Sequence[int], groups: list[str]) -> None:
    assert list(groups_of("x", *values)) == groups


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6) | st.integers(2000, 2030).map(float), min_size=7, max_size=60))
def test_bands_are_divided_at_the_exact_quartiles(values: list[float]) -> None:
    if len(set(values)) <= 6:
        return
    limits = np.quantile(values, (0.25, 0.5, 0.75))
    bands = Counter(sum(value >= limit for limit in limits) for value in values)
    assert [len(members) for members in groups_of("x", *values).values()] == [bands[band] for band in sorted(bands)]


def test_bands_of_lesion_size_are_short_percentages() -> None:
    """An area to the sixth digit says nothing; a few images may be on the other side of a quartile."""
    assert list(groups_of(LESION_SIZE, *(value / 7 for value in range(9)))) == [
        "below 0.286 %",
        "0.286 to 0.571 %",
        "0.571 to 0.857 %",
        "0.857 % or more",
    ]


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, allow_subnormal=False) | st.sampled_from([0.0, 1.0]), min_size=7, max_size=60))
def test_the_values_of_a_band_are_within_its_name(values: list[float]) -> None:
    if len(set(values)) <= 6:
        return
    for name, members in groups_of("x", *values).items():
        low, high = -math.inf, math.inf
        if name.startswith("below "):
            high = float(name.removeprefix("below "))
        elif name.endswith(" or more"):
            low = float(name.removesuffix(" or more"))
        else:
            low, high = map(float, name.split(" to "))
        assert all(low <= float(member) < high for member in members)


@settings(deadline=None)
@given(st.lists(st.text(max_size=3) | st.integers().map(str) | st.floats().map(str), min_size=1, max_size=25))
def test_every_image_is_in_one_group_of_any_column(values: list[str]) -> None:
    found = make_grouping("x", numbered(*values))
    assert sum(Counter(found.group_of.values()).values()) == len(values)
    assert set(found.group_of.values()) == set(found.groups)
    assert len(found.groups) == len(set(found.groups))


def test_a_column_of_names_is_refused() -> None:
    with pytest.raises(InputError, match=r"patient: 31 .*30"):
        make_grouping("patient", numbered(*(f"p{number}" for number in range(MAX_GROUPS + 1))))


# Tables


def test_metadata_have_precedence_over_labels_and_labels_over_derived_columns(tmp_path: Path) -> None:
    labels = read_labels(write_lines(tmp_path / "labels.csv", "image,melanoma,site,sex", "a,1,arm,f", "b,0,leg,m"))
    metadata = write_lines(tmp_path / "more.csv", "image_id, SEX ,hair", "a.jpg,female,1", "b,male,0")
    found = find_columns(["sex", "site", "melanoma", "sex", LESION_SIZE], metadata, labels)
    assert found == {
        "sex": {"a": "female", "b": "male"},
        "site": {"a": "arm", "b": "leg"},
        "melanoma": {"a": "1", "b": "0"},
        LESION_SIZE: None,
    }
    with pytest.raises(InputError, match=r"ears, eyes in .*more\.csv.*labels\.csv.*SEX, hair, mel"):
        find_columns(["ears", "sex", "eyes"], metadata, labels)


@pytest.mark.parametrize("header", ["image,melanoma,lesion_size", "image,melanoma,Lesion size"])
@pytest.mark.parametrize("where", ["metadata", "labels"])
def test_a_column_named_lesion_size_is_refused(where: str, header: str, tmp_path: Path) -> None:
    table = write_lines(tmp_path / "mine.csv", header, "a,1,1", "b,0,0")
    metadata, labels = (table, NO_LABELS) if where == "metadata" else (None, read_labels(table))
    assert find_columns(["melanoma"], metadata, labels)["melanoma"] == {"a": "1", "b": "0"}
    with pytest.raises(InputError, match=r"mine\.csv: column lesion_size"):
        find_columns(["melanoma", "lesion_size"], metadata, labels)


def test_an_unknown_column_without_metadata_names_the_option() -> None:
    with pytest.raises(InputError, match=r"sex.*--metadata.*lesion_size"):
        find_columns(["sex"], None, NO_LABELS)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["image,sex", "a,f", "a.png,m"], ", line 3: duplicate image id a"),
        (["image,sex", ",f"], ", line 2: empty image id"),
        (["sex", "f"], ": no column of image ids"),
        (["image,sex", "a"], ", line 2: 1 fields.* 2"),
        (["image,sex,Sex", "a,f,f"], ": duplicate column sex"),
    ],
)
def test_invalid_metadata_are_refused_by_line(lines: list[str], problem: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"more\.csv{problem}"):
        find_columns(["sex"], write_lines(tmp_path / "more.csv", *lines), NO_LABELS)


def test_missing_metadata_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.csv"):
        find_columns(["sex"], tmp_path / "gone.csv", NO_LABELS)


def test_images_without_a_row_are_unknown_and_counted() -> None:
    values, note = values_by_image(["a", "b", "c"], ["d", "e"], {"a": "f"}, PLAIN, "sex")
    assert values == {"a": "f", "b": "", "c": "", "d": "", "e": ""}
    assert re.fullmatch("sex: 4 images .*: b, c, d, ...", note)


def test_a_table_of_other_images_is_refused() -> None:
    with pytest.raises(InputError, match=r"sex: .*2 images, such as a"):
        values_by_image(["a"], ["a", "b"], {"x": "f"}, PLAIN, "sex")


def test_rows_match_by_the_protocols_names() -> None:
    values, note = values_by_image(["ISIC_0000001"], [], {"x_0000001": "f"}, PROTOCOLS[ProtocolName.ISIC2017], "sex")
    assert (values, note) == ({"ISIC_0000001": "f"}, "")
