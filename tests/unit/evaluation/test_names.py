"""The rule by which names of images match."""

import unicodedata

import pytest

from lesioncli.evaluation.reading.names import loose_key, match_names

NFC = unicodedata.normalize("NFC", "Läsion_é")
NFD = unicodedata.normalize("NFD", NFC)


@pytest.mark.parametrize(
    ("names", "available", "matches"),
    [
        (["a"], ["a", "d/a"], {"a": ("a",)}),
        (["a"], ["d/a"], {"a": ("d/a",)}),
        (["a"], ["d/a", "e/a"], {"a": ("d/a", "e/a")}),
        (["d/a"], ["a"], {"d/a": ("a",)}),
        (["d/a", "e/a"], ["a"], {"d/a": (), "e/a": ()}),
        (["d/a"], ["e/a"], {"d/a": ()}),
        ([NFC], [NFD], {NFC: (NFD,)}),
        ([NFD], [f"d/{NFC}"], {NFD: (f"d/{NFC}",)}),
        (["ISIC_0000001"], ["isic-0000001_crop"], {"ISIC_0000001": ("isic-0000001_crop",)}),
        (
            ["ISIC_0000001", "ISIC_0000001_b"],
            ["ISIC_0000001"],
            {"ISIC_0000001": ("ISIC_0000001",), "ISIC_0000001_b": ()},
        ),
        (["ISIC_0000001"], ["0000001"], {"ISIC_0000001": ()}),
        (["A"], ["a"], {"A": ()}),
    ],
)
def test_matches(names: list[str], available: list[str], matches: dict[str, tuple[str, ...]]) -> None:
    assert match_names(names, available) == matches


def test_any_seven_digits_may_be_an_isic_number() -> None:
    assert match_names(["ISIC_0000001"], ["d/0000001"], any_number=True) == {"ISIC_0000001": ("d/0000001",)}


@pytest.mark.parametrize("other", ["IMG_001", "img_1_downsampled", "d/img-0001"])
def test_names_that_are_probably_one_image_have_one_loose_key(other: str) -> None:
    assert loose_key(other) == loose_key("img_001")
    assert loose_key("img_002") != loose_key("img_001")
