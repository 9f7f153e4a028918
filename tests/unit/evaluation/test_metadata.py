"""metadata.py: which columns there are, what they say of each image, and how it is cut into groups."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesioncli.errors import InputError
from lesioncli.evaluation.protocols import PROTOCOLS
from lesioncli.evaluation.reading.metadata import LESION_SIZE, MOST_GROUPS, UNKNOWN, make_grouping, find_columns, values_by_image
from lesioncli.evaluation.reading.tables import NO_LABELS, read_labels

PLAIN = PROTOCOLS["plain"]


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def numbered(*values: object) -> dict[str, str]:
    return {f"i{number}": str(value) for number, value in enumerate(values)}


def groups_of(column: str, *values: object) -> dict[str, list[str]]:
    """Groups in their order, with the values in each."""
    texts = numbered(*values)
    found = make_grouping(column, texts)
    assert found.group_of.keys() == texts.keys()
    return {group: [texts[image] for image in texts if found.group_of[image] == group] for group in found.groups}


def test_words_are_groups_and_what_is_missing_is_one_too() -> None:
    found = groups_of("sex", "male", "female", "", "unknown", "male", "NaN", "N/A")
    assert found == {"female": ["female"], "male": ["male", "male"], UNKNOWN: ["", "unknown", "NaN", "N/A"]}


def test_few_numbers_are_groups_in_their_order_however_they_are_spelt() -> None:
    assert groups_of("ruler", "10", "1.0", "1", "0", "2") == {"0": ["0"], "1": ["1.0", "1"], "2": ["2"], "10": ["10"]}


def test_ages_are_cut_every_20_years() -> None:
    found = groups_of("Age_approximate", 0, 19, 20, 45, 59, 60, 85, "")
    assert found == {
        "0 to 19": ["0", "19"],
        "20 to 39": ["20"],
        "40 to 59": ["45", "59"],
        "60 to 79": ["60"],
        "80 to 99": ["85"],
        UNKNOWN: [""],
    }


def test_other_numbers_are_cut_at_their_quartiles_which_belong_to_the_band_above() -> None:
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
def test_a_border_has_the_digits_that_it_takes_to_cut_at_the_quartile(values: Sequence[int], groups: list[str]) -> None:
    assert list(groups_of("x", *values)) == groups


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6) | st.integers(2000, 2030).map(float), min_size=7, max_size=60))
def test_bands_are_those_of_the_exact_quartiles(values: list[float]) -> None:
    if len(set(values)) <= 6:
        return
    cuts = np.quantile(values, (0.25, 0.5, 0.75))
    bands = Counter(sum(value >= cut for cut in cuts) for value in values)
    assert [len(members) for members in groups_of("x", *values).values()] == [bands[band] for band in sorted(bands)]


def test_lesion_size_is_in_percent() -> None:
    assert list(groups_of(LESION_SIZE, *(value / 7 for value in range(9)))) == [
        "below 0.2857 %",
        "0.2857 to 0.571 %",
        "0.571 to 0.857 %",
        "0.857 % or more",
    ]


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, allow_subnormal=False) | st.sampled_from([0.0, 1.0]), min_size=7, max_size=60))
def test_a_band_holds_what_its_name_says(values: list[float]) -> None:
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
    with pytest.raises(InputError, match=r"patient: 31 different values; --by takes at most 30 groups"):
        make_grouping("patient", numbered(*(f"p{number}" for number in range(MOST_GROUPS + 1))))


# Where columns are


def test_metadata_go_before_labels_and_labels_before_what_is_derived(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path / "labels.csv", "image,melanoma,site,sex", "a,1,arm,f", "b,0,leg,m"))
    metadata = write(tmp_path / "more.csv", "image_id, SEX ,hair", "a.jpg,female,1", "b,male,0")
    found = find_columns(["sex", "site", "melanoma", "sex", LESION_SIZE], metadata, labels)
    assert found == {
        "sex": {"a": "female", "b": "male"},
        "site": {"a": "arm", "b": "leg"},
        "melanoma": {"a": "1", "b": "0"},
        LESION_SIZE: None,
    }
    complaint = r"no column ears, eyes in .*more\.csv or .*labels\.csv; there are: SEX, hair, mel"
    with pytest.raises(InputError, match=complaint):
        find_columns(["ears", "sex", "eyes"], metadata, labels)


@pytest.mark.parametrize("header", ["image,melanoma,lesion_size", "image,melanoma,Lesion size"])
@pytest.mark.parametrize("where", ["metadata", "labels"])
def test_a_column_in_the_place_of_the_lesions_true_size_is_refused(where: str, header: str, tmp_path: Path) -> None:
    table = write(tmp_path / "mine.csv", header, "a,1,1", "b,0,0")
    metadata, labels = (table, NO_LABELS) if where == "metadata" else (None, read_labels(table))
    assert find_columns(["melanoma"], metadata, labels)["melanoma"] == {"a": "1", "b": "0"}
    said = r"mine\.csv: lesion_size is what lesioncli measures on true masks; give this column another name"
    with pytest.raises(InputError, match=said):
        find_columns(["melanoma", "lesion_size"], metadata, labels)


def test_without_metadata_an_unknown_column_says_how_to_give_some() -> None:
    with pytest.raises(InputError, match="no column sex in the labels; give a table with --metadata; there are: les"):
        find_columns(["sex"], None, NO_LABELS)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["image,sex", "a,f", "a.png,m"], "line 3: image 'a' is there twice"),
        (["image,sex", ",f"], "line 2: image '' is empty"),
        (["sex", "f"], "no column image or image_id"),
        (["image,sex", "a"], "line 2: 1 fields, but the header has 2"),
        (["image,sex,Sex", "a,f,f"], "column sex is there twice"),
    ],
)
def test_metadata_that_cannot_be_trusted_are_refused(lines: list[str], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"more\.csv.*{complaint}"):
        find_columns(["sex"], write(tmp_path / "more.csv", *lines), NO_LABELS)


def test_missing_metadata_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.csv: cannot be read as CSV"):
        find_columns(["sex"], tmp_path / "gone.csv", NO_LABELS)


def test_images_without_a_row_are_unknown_and_counted() -> None:
    found, note = values_by_image(["a", "b", "c"], ["d", "e"], {"a": "f"}, PLAIN, "sex")
    assert found == {"a": "f", "b": "", "c": "", "d": "", "e": ""}
    assert note == "sex: no row for 4 images, so unknown: b, c, d, ..."


def test_a_table_of_other_images_is_refused() -> None:
    with pytest.raises(InputError, match="sex: its table has no row for any of the 2 images, such as a"):
        values_by_image(["a"], ["a", "b"], {"x": "f"}, PLAIN, "sex")


def test_rows_are_found_by_the_protocols_names() -> None:
    found, note = values_by_image(["ISIC_0000001"], [], {"x_0000001": "f"}, PROTOCOLS["isic2017"], "sex")
    assert (found, note) == ({"ISIC_0000001": "f"}, "")
