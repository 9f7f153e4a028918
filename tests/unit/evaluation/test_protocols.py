"""Rules of the protocols: names of images, classes of a challenge, and what masks and scores are ranked by."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.evaluation_data import block, save_mask

from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.protocols import PROTOCOLS, image_id, missing_classes, unknown_classes
from lesioncli.options import EvaluationOptions, ProtocolName

PLAIN, ISIC2017 = PROTOCOLS[ProtocolName.PLAIN], PROTOCOLS[ProtocolName.ISIC2017]


def test_every_protocol_has_rules() -> None:
    assert list(PROTOCOLS) == list(ProtocolName)


@pytest.mark.parametrize(
    ("name", "plain", "isic"),
    [
        ("sub/ISIC_0000001_b", "ISIC_0000001_b", "ISIC_0000001"),
        ("0000001", "0000001", "ISIC_0000001"),
        ("ISIC_10000003", "ISIC_10000003", "ISIC_10000003"),  # eight digits are no number of an image
        ("IMD002", "IMD002", "IMD002"),
    ],
)
def test_the_image_of_a_name(name: str, plain: str, isic: str) -> None:
    assert image_id(name, PLAIN) == plain
    assert image_id(name, ISIC2017) == isic


def test_classes_are_compared_in_any_spelling() -> None:
    classes = ("Melanoma", "nevus")
    assert missing_classes(ISIC2017, classes) == ("seborrheic_keratosis",)
    assert unknown_classes(ISIC2017, classes) == ("nevus",)
    assert missing_classes(PLAIN, classes) == unknown_classes(PLAIN, classes) == ()


def test_other_rules_are_one_entry_of_the_table(truth: Path, masks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, ProtocolName.PH2, replace(PLAIN, mask_metric="dice"))
    save_mask(truth / "x.png", block(4, 5))
    save_mask(masks / "x.png", block(4, 10))
    ranked = evaluate(truth, masks, EvaluationOptions(protocol=ProtocolName.PH2)).official.ranking["masks"]
    assert ranked.path == "macro_average.dice"
    assert ranked.value == pytest.approx(2 / 3)
