"""Rules of the protocols: names of images, classes of a challenge, and what masks and scores are ranked by."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.evaluation_data import block, save_mask, segment_scores, write_lines

from lesioncli.errors import InputError
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


@pytest.mark.parametrize(
    ("protocol", "names", "named"),
    [
        ("ph2", ["x"], "x"),
        ("ph2", ["IMD003", "ISIC_0000001"], "ISIC_0000001"),
        ("ph2", ["IMD003", "IMD0031"], "IMD0031"),
        ("ph2", ["IMD003/IMD003_Dermoscopic_Image"], "IMD003_Dermoscopic_Image"),
        ("isic2017", ["ISIC_0000001", "x"], "x"),
        ("isic2018", ["ISIC_10000001"], "ISIC_10000001"),
        ("ph2", ["sub/IMD003"], ""),
        ("isic2017", ["sub/ISIC_0000001_small"], ""),
        ("plain", ["x"], ""),
    ],
)
@pytest.mark.parametrize("has_masks", [True, False])
def test_a_protocol_is_for_its_data_set(
    protocol: str, names: list[str], named: str, has_masks: bool, tmp_path: Path
) -> None:
    for name in names:
        save_mask(tmp_path / "labels" / f"{name}.png")
        save_mask(tmp_path / "masks" / f"{name}.png")
    path = tmp_path / "labels"
    if not has_masks:
        path = write_lines(tmp_path / "labels.csv", "image,melanoma", *(f"{name},1" for name in names))
        scores = {f"{name}.jpg": (0.9, 0, 0) for name in names}
        write_lines(tmp_path / "masks" / "scores.csv", *segment_scores(scores))
    options = EvaluationOptions(protocol=ProtocolName(protocol))
    if not named:
        assert not evaluate(path, tmp_path / "masks", options).failed
        return
    looked_for = {"ph2": "PH2 Dataset images/IMD003"}.get(protocol, "Part1_GroundTruth")
    with pytest.raises(InputError, match=rf"{path}: .*{protocol}.*{named}.*{looked_for}.*--protocol plain"):
        evaluate(path, tmp_path / "masks", options)


@pytest.mark.parametrize(("tree", "protocol"), [("PH2", "isic2017"), ("ISIC", "ph2")])
def test_a_data_set_is_refused_under_the_protocol_of_another(tree: str, protocol: str, tmp_path: Path) -> None:
    truth = {
        "PH2": "PH2_Dataset_images/IMD003/IMD003_lesion/IMD003_lesion.bmp",
        "ISIC": "ISIC-2017_Test_v2_Part1_GroundTruth/ISIC_0000001_segmentation.png",
    }
    save_mask(tmp_path / truth[tree])
    save_mask(tmp_path / "masks" / "IMD003.png")
    save_mask(tmp_path / "masks" / "ISIC_0000001.png")
    with pytest.raises(InputError, match="looked for"):
        evaluate(tmp_path, tmp_path / "masks", EvaluationOptions(protocol=ProtocolName(protocol)))
    own = ProtocolName.PH2 if tree == "PH2" else ProtocolName.ISIC2017
    assert len(evaluate(tmp_path, tmp_path / "masks", EvaluationOptions(protocol=own)).masks.evaluated) == 1
