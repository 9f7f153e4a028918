"""Which files are masks, and which predicted mask belongs to which ground truth mask."""

import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from helpers.evaluation_data import SCORES_HEADER, block, jaccards, problems, save_mask, write_lines

from lesioncli.errors import InputError
from lesioncli.evaluation.evaluate import evaluate
from lesioncli.options import EvaluationOptions, ProtocolName

PLAIN_AND_ISIC = [ProtocolName.PLAIN, ProtocolName.ISIC2017]


def test_other_files_are_no_masks(truth: Path, masks: Path) -> None:
    save_mask(truth / "x_segmentation.png")
    save_mask(truth / "x_superpixels.png")
    save_mask(truth / ".hidden.png")
    save_mask(truth / ".cache" / "y.png")
    write_lines(truth / "LICENSE.txt", "CC0")
    write_lines(truth / "ATTRIBUTION", "ISIC")
    write_lines(truth / "._labels.csv", "image_id,melanoma", "x,both")
    (truth / "folder.png").mkdir()
    save_mask(masks / "x.png")
    evaluation = evaluate(truth, masks)
    assert jaccards(evaluation) == {"x": 1.0}
    assert (evaluation.masks.extra, evaluation.failed) == ((), False)


def test_overlays_are_ignored_but_images_may_be_in_a_folder_of_that_name(truth: Path, masks: Path) -> None:
    for name in ("overlays/x", "y", "z"):
        save_mask(truth / f"{name}.png")
    save_mask(masks / "overlays" / "x.png")
    save_mask(masks / "overlays" / "y.jpg")
    save_mask(masks / "sub" / "overlays" / "z.jpg")  # segment writes overlays in the top folder only
    found = problems(evaluate(truth, masks))
    assert found.pop("overlays/x") == ""
    assert "y.jpg" not in found["y"]
    assert "z.jpg" in found["z"]


@pytest.mark.parametrize("name", ["x.png", "x.PNG", "x_segmentation.png", "x.bmp", "x.tif", "x.tiff"])
def test_names_and_formats_of_a_mask(name: str, truth: Path, masks: Path) -> None:
    save_mask(truth / name)
    save_mask(masks / "x.png", block(4, 10))
    assert jaccards(evaluate(truth, masks)) == {"x": 0.5}
    assert jaccards(evaluate(masks, truth)) == {"x": 0.5}


def test_sub_folders_are_part_of_the_name(truth: Path, masks: Path) -> None:
    for folder, width in (("a", 5), ("b", 10)):
        save_mask(truth / folder / "1_segmentation.png", block(4, 10))
        save_mask(masks / folder / "1.png", block(4, width))
    assert jaccards(evaluate(truth, masks)) == {"a/1": 0.5, "b/1": 1.0}


def test_links_to_folders_are_followed_but_not_in_circles(truth: Path, masks: Path, tmp_path: Path) -> None:
    save_mask(tmp_path / "elsewhere" / "1_segmentation.png")
    (truth / "a").symlink_to(tmp_path / "elsewhere")
    save_mask(masks / "a" / "1.png")
    (masks / "a" / "up").symlink_to(masks)
    evaluation = evaluate(truth, masks)
    assert jaccards(evaluation) == {"a/1": 1.0}
    assert evaluation.masks.extra == ()


def test_a_mask_does_not_replace_one_of_another_folder(truth: Path, masks: Path) -> None:
    save_mask(truth / "a" / "1.png")
    save_mask(masks / "b" / "1.png")
    for folder in (truth, masks):
        save_mask(folder / "a" / "2.png")
    evaluation = evaluate(truth, masks)
    assert {name: bool(problem) for name, problem in problems(evaluation).items()} == {"a/1": True, "a/2": False}
    assert evaluation.masks.extra == ("b/1",)


def test_a_prediction_belongs_to_one_image(truth: Path, masks: Path) -> None:
    save_mask(truth / "1.png")
    save_mask(truth / "a" / "1.png")
    save_mask(masks / "a" / "1.png")
    found = problems(evaluate(truth, masks))
    assert {name: bool(problem) for name, problem in found.items()} == {"1": True, "a/1": False}


def test_cases_are_sorted_by_name(truth: Path, masks: Path) -> None:
    names = ["a/2", "b", "b-1", "b/1", "c"]
    for name in reversed(names):
        save_mask(truth / f"{name}_segmentation.png")
        save_mask(masks / f"{name}.png")
    assert list(problems(evaluate(truth, masks))) == names


def test_flat_ground_truth_finds_predictions_in_sub_folders(truth: Path, masks: Path) -> None:
    save_mask(truth / "x.png")
    save_mask(masks / "sub" / "x.png", block(4, 10))
    assert jaccards(evaluate(truth, masks)) == {"x": 0.5}


def test_the_whole_name_has_priority_over_the_file_name(truth: Path, masks: Path) -> None:
    save_mask(truth / "x.png")
    save_mask(masks / "x.png", block(4, 10))
    save_mask(masks / "sub" / "x.png")
    evaluation = evaluate(truth, masks)
    assert jaccards(evaluation) == {"x": 0.5}
    assert evaluation.masks.extra == ("sub/x",)


def test_two_predictions_with_the_same_file_name_are_a_problem(truth: Path, masks: Path) -> None:
    save_mask(truth / "x.png")
    save_mask(truth / "y.png")
    save_mask(masks / "b" / "x.png")
    save_mask(masks / "a" / "x.png")
    save_mask(masks / "a" / "y.png")
    evaluation = evaluate(truth, masks)
    assert "a/x, b/x" in problems(evaluation)["x"]
    assert evaluation.masks.extra == ()


@pytest.mark.parametrize("second", ["x_segmentation.png", "x.bmp"])
@pytest.mark.parametrize("folder", ["labels", "masks"])
def test_two_masks_of_one_name_are_refused(folder: str, second: str, truth: Path, masks: Path) -> None:
    save_mask(truth / "x.png")
    save_mask(masks / "x.png")
    save_mask(truth.parent / folder / second)
    with pytest.raises(InputError, match=rf"{folder}/x.*{folder}/x"):
        evaluate(truth, masks)


def test_ground_truth_without_masks_is_refused(truth: Path, masks: Path) -> None:
    save_mask(masks / "x.png")
    save_mask(truth / "x.jpg")
    with pytest.raises(InputError, match=re.escape(str(truth))):
        evaluate(truth, masks)


def test_predictions_without_masks_are_refused(truth: Path, masks: Path) -> None:
    save_mask(truth / "x.png")
    write_lines(masks / "scores.csv", SCORES_HEADER)
    with pytest.raises(InputError, match=re.escape(str(masks))):
        evaluate(truth, masks)


def test_if_no_name_matches_one_of_each_folder_is_shown(truth: Path, masks: Path) -> None:
    for number in range(3):
        save_mask(truth / f"x{number}_mask.png")
        save_mask(masks / f"x{number}.png")
    with pytest.raises(InputError, match=r"masks/x0\.png: .*labels/x0_mask\.png"):
        evaluate(truth, masks)


@pytest.mark.parametrize("missing", ["labels", "masks"])
def test_a_missing_folder_is_named(missing: str, truth: Path, masks: Path) -> None:
    save_mask(truth / "x.png")
    save_mask(masks / "x.png")
    (truth.parent / missing).rename(truth.parent / "elsewhere")
    with pytest.raises(InputError, match=f"/{missing}: "):
        evaluate(truth, masks)


def test_a_folder_that_cannot_be_listed_is_refused(truth: Path, masks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_mask(truth / "x.png")
    save_mask(truth / "locked" / "y.png")
    save_mask(masks / "x.png")
    scandir = os.scandir

    def refuse_locked(folder: str) -> Any:
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse_locked)
    with pytest.raises(InputError, match=r"labels/locked: .*Permission denied"):
        evaluate(truth, masks)


# Images that failed in segment


def test_a_failed_row_has_priority_over_an_older_mask(truth: Path, masks: Path) -> None:
    for name in ("a", "b", "c"):
        save_mask(truth / f"{name}.png")
    save_mask(masks / "b.png")
    save_mask(masks / "c.png")
    rows = ("a.jpg,,,,failed,decode: cut short,,,,,", "b.jpg,,,,failed,,,,,,", "c.jpg,c.png,10,8,ok,,.1,.2,.7,.3,.9")
    write_lines(masks / "scores.csv", SCORES_HEADER, *rows)
    evaluation = evaluate(truth, masks)
    found = problems(evaluation)
    assert "decode: cut short" in found["a"]
    assert "failed" in found["b"]
    assert found["c"] == ""
    assert evaluation.masks.extra == ()


def test_a_run_in_which_every_image_failed_can_be_evaluated(truth: Path, masks: Path) -> None:
    save_mask(truth / "sub" / "a.png")
    write_lines(masks / "scores.csv", SCORES_HEADER, "sub/a.jpg,,,,failed,decode: cut short,,,,,")
    assert "decode: cut short" in problems(evaluate(truth, masks))["sub/a"]


@pytest.mark.parametrize("folder", ["", "sub/"])
@pytest.mark.parametrize("protocol", PLAIN_AND_ISIC)
def test_a_failed_image_of_segment_isic_is_found_by_its_number(
    folder: str, protocol: ProtocolName, truth: Path, masks: Path
) -> None:
    """Its row has no mask. A mask would have had the name of the ground truth."""
    for path in (truth / "ISIC_0000001", masks / "ISIC_0000001", truth / f"{folder}ISIC_0000002"):
        save_mask(path.with_name(f"{path.name}_segmentation.png"))
    rows = (f"{folder}ISIC_0000002_downsampled.jpg,failed,decode: cut short", "ISIC_0000001_b.jpg,failed,another")
    write_lines(masks / "scores.csv", "image,status,reason", *rows)
    first, second = problems(evaluate(truth, masks, EvaluationOptions(protocol=protocol))).values()
    assert first == ""
    assert "decode: cut short" in second


def test_a_failure_belongs_to_the_image_with_its_name(truth: Path, masks: Path) -> None:
    """A failure is only matched by its number if no image has its name, and no other failure its number."""
    for name in ("ISIC_0000001", "ISIC_0000001_b", "ISIC_0000002"):
        save_mask(truth / f"{name}_segmentation.png")
    rows = [f"{name}.jpg,failed,decode: {name}" for name in ("ISIC_0000001_b", "ISIC_0000002_c", "ISIC_0000002_d")]
    save_mask(masks / "ISIC_0000003.png")
    write_lines(masks / "scores.csv", "image,status,reason", *rows)
    found = problems(evaluate(truth, masks))
    assert "decode" not in found["ISIC_0000001"]
    assert "decode: ISIC_0000001_b" in found["ISIC_0000001_b"]
    assert "ISIC_0000002_c, ISIC_0000002_d" in found["ISIC_0000002"]


def test_names_in_another_unicode_normalization_match(truth: Path, masks: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Läsion_é") for form in ("NFC", "NFD"))
    save_mask(truth / f"{composed}.png")
    save_mask(masks / f"{decomposed}.png")
    evaluation = evaluate(truth, masks)
    assert jaccards(evaluation) == {composed: 1.0}
    assert not evaluation.masks.extra
