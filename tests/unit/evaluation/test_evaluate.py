"""evaluate.py on folders drawn here: every figure is known by hand, every bad input has its test."""

import csv
import math
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

from lesioncli.errors import InputError
from lesioncli.evaluation import cases as judge
from lesioncli.evaluation.cases import CaseResult
from lesioncli.evaluation.evaluate import Evaluation, evaluate
from lesioncli.evaluation.metrics import pixels as metrics
from lesioncli.evaluation.reading.masks import read_mask
from lesioncli.evaluation.results import write_cases
from lesioncli.evaluation.statistics import bootstrap
from lesioncli.spec import CLASSES

UInt8 = NDArray[np.uint8]
SCORES_HEADER = (
    "image,mask,width,height,status,reason,melanoma,seborrheic_keratosis,nevus,lesion_area_fraction,confidence"
)


def block(rows: int, columns: int, shape: tuple[int, int] = (8, 10)) -> UInt8:
    """A 0/255 mask with a lesion of rows x columns in its upper left corner."""
    mask = np.zeros(shape, np.uint8)
    mask[:rows, :columns] = 255
    return mask


def save(path: Path, pixels: UInt8 | Image.Image | None = None, **options: Any) -> Path:
    """Write a mask (block(4, 5) unless told) in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(block(4, 5) if pixels is None else pixels)
    picture.save(path, **options)
    return path


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    folder = tmp_path / "labels"
    folder.mkdir()
    return folder


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    folder.mkdir()
    return folder


def only(evaluation: Evaluation) -> CaseResult:
    (case,) = evaluation.cases
    return case


def problems(evaluation: Evaluation) -> dict[str, str]:
    return {case.name: case.problem for case in evaluation.cases}


def notes(evaluation: Evaluation) -> tuple[str, ...]:
    """All but that of intervals of few images, which every small case has."""
    return tuple(note for note in evaluation.notes if not note.startswith("intervals of fewer"))


def jaccards(evaluation: Evaluation) -> dict[str, float]:
    return {case.name: case.metrics["jaccard"] for case in evaluation.cases}


# Figures


def test_figures_by_hand(truth: Path, masks: Path) -> None:
    save(truth / "b_segmentation.png", block(4, 5))
    save(masks / "b.png", block(4, 10))  # 20 pixels of 40 wanted, 40 more are background
    save(truth / "a_segmentation.png", block(2, 5))
    save(masks / "a.png", block(2, 5))
    evaluation = evaluate(truth, masks)
    assert [case.name for case in evaluation.cases] == ["a", "b"]
    assert evaluation.cases[0].metrics == dict.fromkeys(metrics.PIXEL_METRICS, 1.0)
    figures = {"jaccard": 1 / 2, "dice": 2 / 3, "accuracy": 3 / 4, "sensitivity": 1, "specificity": 2 / 3}
    figures["threshold_jaccard"] = 0
    assert evaluation.cases[1].metrics == pytest.approx(figures)
    assert evaluation.means == pytest.approx({name: (1 + value) / 2 for name, value in figures.items()})
    assert (evaluation.extra, evaluation.score_problems, evaluation.failed) == ((), (), False)


def test_means_are_over_the_scored_cases_only(truth: Path, masks: Path) -> None:
    for name in ("a", "b", "c"):
        save(truth / f"{name}.png", block(4, 5))
    save(masks / "a.png", block(4, 10))
    save(masks / "c.png")
    evaluation = evaluate(truth, masks)
    assert evaluation.means["jaccard"] == 3 / 4
    assert evaluation.intervals["jaccard"] == (1 / 2, 1)
    assert evaluation.cases[1] == CaseResult("b", {}, "no prediction")
    assert evaluation.failed


def test_nothing_scored_means_no_figures(truth: Path, masks: Path) -> None:
    save(truth / "a.png")
    save(masks / "a.png", block(4, 5, (9, 9)))
    save(masks / "b.png")
    evaluation = evaluate(truth, masks)
    assert (evaluation.means, evaluation.intervals, evaluation.auc) == ({}, {}, {})
    assert math.isnan(evaluation.auc_mean)
    assert (evaluation.extra, evaluation.failed) == (("b",), True)


def test_intervals_are_the_bootstrap_of_the_cases(truth: Path, masks: Path) -> None:
    for width in range(1, 10):
        save(truth / f"{width}.png", block(4, 10))
        save(masks / f"{width}.png", block(4, width))
    values = np.array([[width / 10] for width in range(1, 10)])
    by_hand = bootstrap.percentile_interval(bootstrap.bootstrap_means(values, bootstrap.Draws(5))[:, 0])
    assert evaluate(truth, masks, seed=5).intervals["jaccard"] == pytest.approx(by_hand)
    assert evaluate(truth, masks, seed=5) == evaluate(truth, masks, seed=5)
    assert evaluate(truth, masks, seed=5).intervals != evaluate(truth, masks, seed=6).intervals


def test_distances_are_means_over_the_cases_that_have_one(truth: Path, masks: Path, tmp_path: Path) -> None:
    for name, prediction in (("a", block(4, 5)), ("b", block(4, 8)), ("c", block(0, 0))):
        save(truth / f"{name}.png", block(4, 5))
        save(masks / f"{name}.png", prediction)
    evaluation = evaluate(truth, masks, distances=True)
    assert evaluation.means["hausdorff95_px"] == pytest.approx((0 + 3) / 2)
    assert evaluation.means["area_error"] == pytest.approx((0 + 3 / 5 - 1) / 3)
    assert evaluation.intervals["hausdorff95_px"] == pytest.approx((0, 3))
    write_cases(evaluation, tmp_path / "cases.csv")
    with (tmp_path / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["hausdorff95_px"] for row in rows] == ["0.0", "3.0", ""]
    assert [row["problem"] for row in rows] == ["", "", ""]


def test_a_distance_that_no_case_has_is_nan_and_has_no_interval(truth: Path, masks: Path) -> None:
    save(truth / "a.png", block(4, 5))
    save(masks / "a.png", block(0, 0))
    evaluation = evaluate(truth, masks, distances=True)
    assert math.isnan(evaluation.means["surface_distance_px"])
    assert "surface_distance_px" not in evaluation.intervals
    assert "area_error" in evaluation.intervals
    assert set(evaluate(truth, masks).means) == set(metrics.PIXEL_METRICS)


def test_threads_and_queue_change_nothing(truth: Path, masks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in range(1, 10):
        save(truth / f"{width}.png", block(4, 10))
        save(masks / f"{width}.png", block(4, width))
    one = evaluate(truth, masks, workers=1)
    monkeypatch.setattr(judge, "_QUEUE_LENGTH", 2)
    assert evaluate(truth, masks, workers=4) == one
    assert jaccards(one) == {str(width): width / 10 for width in range(1, 10)}


@pytest.mark.parametrize(("workers", "threads"), [(0, 7), (3, 3)])
def test_without_a_wish_there_is_a_thread_per_cpu(
    workers: int, threads: int, truth: Path, masks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Recorder(ThreadPoolExecutor):
        def __init__(self, max_workers: int) -> None:
            asked.append(max_workers)
            super().__init__(max_workers)

    asked: list[int] = []
    monkeypatch.setattr(judge, "count_cores", lambda: 7)
    monkeypatch.setattr(judge, "ThreadPoolExecutor", Recorder)
    save(truth / "x.png")
    save(masks / "x.png")
    evaluate(truth, masks, workers=workers)
    assert asked == [threads]


def test_progress_is_told_after_each_case(truth: Path, masks: Path) -> None:
    for name in ("a", "b", "c"):
        save(truth / f"{name}.png")
    save(masks / "b.png")
    told: list[tuple[int, int]] = []
    evaluate(truth, masks, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


# Which files are masks, and which belong together


def test_strays_are_no_masks(truth: Path, masks: Path) -> None:
    save(truth / "x_segmentation.png")
    save(truth / "x_superpixels.png")
    save(truth / ".hidden.png")
    save(truth / ".cache" / "y.png")
    write(truth / "LICENSE.txt", "CC0")
    write(truth / "ATTRIBUTION", "ISIC")
    write(truth / "._labels.csv", "image_id,melanoma", "x,both")
    (truth / "folder.png").mkdir()
    save(masks / "x.png")
    evaluation = evaluate(truth, masks)
    assert jaccards(evaluation) == {"x": 1.0}
    assert (evaluation.extra, evaluation.failed) == ((), False)


def test_overlays_are_no_masks_but_photographs_may_lie_in_a_folder_of_that_name(truth: Path, masks: Path) -> None:
    for name in ("overlays/x", "y", "z"):
        save(truth / f"{name}.png")
    save(masks / "overlays" / "x.png")
    save(masks / "overlays" / "y.jpg")
    save(masks / "sub" / "overlays" / "z.jpg")  # only the folder at the top is what segment writes
    unusable = "no prediction: z.jpg is not a PNG, BMP or TIFF; save it as PNG"
    assert problems(evaluate(truth, masks)) == {"overlays/x": "", "y": "no prediction", "z": unusable}


@pytest.mark.parametrize("name", ["x.png", "x.PNG", "x_segmentation.png", "x.bmp", "x.tif", "x.tiff"])
def test_names_and_formats_of_a_mask(name: str, truth: Path, masks: Path) -> None:
    save(truth / name)
    save(masks / "x.png", block(4, 10))
    assert jaccards(evaluate(truth, masks)) == {"x": 0.5}
    assert jaccards(evaluate(masks, truth)) == {"x": 0.5}


def test_sub_folders_are_part_of_the_name(truth: Path, masks: Path) -> None:
    for folder, width in (("a", 5), ("b", 10)):
        save(truth / folder / "1_segmentation.png", block(4, 10))
        save(masks / folder / "1.png", block(4, width))
    assert jaccards(evaluate(truth, masks)) == {"a/1": 0.5, "b/1": 1.0}


def test_links_to_folders_are_followed_but_not_in_circles(truth: Path, masks: Path, tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "1_segmentation.png")
    (truth / "a").symlink_to(tmp_path / "elsewhere")
    save(masks / "a" / "1.png")
    (masks / "a" / "up").symlink_to(masks)
    evaluation = evaluate(truth, masks)
    assert jaccards(evaluation) == {"a/1": 1.0}
    assert evaluation.extra == ()


def test_a_mask_never_stands_in_for_that_of_another_folder(truth: Path, masks: Path) -> None:
    save(truth / "a" / "1.png")
    save(masks / "b" / "1.png")
    for folder in (truth, masks):
        save(folder / "a" / "2.png")
    evaluation = evaluate(truth, masks)
    assert problems(evaluation) == {"a/1": "no prediction", "a/2": ""}
    assert evaluation.extra == ("b/1",)


def test_a_prediction_serves_one_truth(truth: Path, masks: Path) -> None:
    save(truth / "1.png")
    save(truth / "a" / "1.png")
    save(masks / "a" / "1.png")
    assert problems(evaluate(truth, masks)) == {"1": "no prediction", "a/1": ""}


def test_cases_are_sorted_by_name(truth: Path, masks: Path) -> None:
    names = ["a/2", "b", "b-1", "b/1", "c"]
    for name in reversed(names):
        save(truth / f"{name}_segmentation.png")
        save(masks / f"{name}.png")
    assert list(problems(evaluate(truth, masks))) == names


def test_a_flat_truth_finds_its_prediction_in_a_sub_folder(truth: Path, masks: Path) -> None:
    save(truth / "x.png")
    save(masks / "sub" / "x.png", block(4, 10))
    assert jaccards(evaluate(truth, masks)) == {"x": 0.5}


def test_the_whole_name_goes_before_its_last_part(truth: Path, masks: Path) -> None:
    save(truth / "x.png")
    save(masks / "x.png", block(4, 10))
    save(masks / "sub" / "x.png")
    evaluation = evaluate(truth, masks)
    assert jaccards(evaluation) == {"x": 0.5}
    assert evaluation.extra == ("sub/x",)


def test_two_predictions_with_the_same_last_part_are_named(truth: Path, masks: Path) -> None:
    save(truth / "x.png")
    save(masks / "b" / "x.png")
    save(masks / "a" / "x.png")
    evaluation = evaluate(truth, masks)
    assert problems(evaluation) == {"x": "several predictions: a/x, b/x"}
    assert evaluation.extra == ()


@pytest.mark.parametrize("second", ["x_segmentation.png", "x.bmp"])
@pytest.mark.parametrize("where", ["labels", "masks"])
def test_two_masks_of_one_name_are_refused(where: str, second: str, truth: Path, masks: Path) -> None:
    save(truth / "x.png")
    save(masks / "x.png")
    save(truth.parent / where / second)
    with pytest.raises(InputError, match=rf"two masks for x: .*{where}/x.*\.\w+ and .*{where}/x.*\.\w+; keep one"):
        evaluate(truth, masks)


def test_a_truth_folder_without_masks_is_refused(truth: Path, masks: Path) -> None:
    save(masks / "x.png")
    save(truth / "x.jpg")
    with pytest.raises(InputError, match=r"labels: no masks found; looked for x\.png or x_segmentation\.png"):
        evaluate(truth, masks)


def test_predictions_without_masks_are_refused(truth: Path, masks: Path) -> None:
    save(truth / "x.png")
    write(masks / "scores.csv", SCORES_HEADER)
    with pytest.raises(InputError, match=r"masks: no masks found; .*segment"):
        evaluate(truth, masks)


def test_where_no_name_is_that_of_a_true_mask_one_of_each_is_shown(truth: Path, masks: Path) -> None:
    for number in range(3):
        save(truth / f"x{number}_mask.png")
        save(masks / f"x{number}.png")
    said = r"masks/x0\.png: neither .* true one, such as .*labels/x0_mask\.png; .* x\.png or x_segmentation\.png"
    with pytest.raises(InputError, match=said):
        evaluate(truth, masks)


def test_where_no_label_is_that_of_a_row_of_scores_one_of_each_is_shown(tmp_path: Path) -> None:
    labels = write(tmp_path / "gt.csv", "image,melanoma", "case 1,1", "case 2,0")
    scores = write(tmp_path / "s.csv", "image,melanoma", "case-1,.9", "case-2,.1")
    with pytest.raises(InputError, match=r"gt\.csv: no id is that of a row of scores, as case 1 and case-1; both"):
        evaluate(labels, tmp_path, scores=scores)


@pytest.mark.parametrize("missing", ["labels", "masks"])
def test_a_missing_folder_is_named(missing: str, truth: Path, masks: Path) -> None:
    save(truth / "x.png")
    save(masks / "x.png")
    (truth.parent / missing).rename(truth.parent / "elsewhere")
    with pytest.raises(InputError, match=f"{missing}: no such folder"):
        evaluate(truth, masks)


def test_a_folder_that_cannot_be_listed_is_not_passed_over(
    truth: Path, masks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(truth / "x.png")
    save(truth / "locked" / "y.png")
    save(masks / "x.png")
    scandir = os.scandir

    def refuse_locked(folder: str) -> Any:
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse_locked)
    with pytest.raises(InputError, match=r"labels/locked: cannot be listed \(Permission denied\)"):
        evaluate(truth, masks)


# Failed images


def test_a_failed_row_gives_its_reason_even_where_an_old_mask_lies(truth: Path, masks: Path) -> None:
    for name in ("a", "b", "c"):
        save(truth / f"{name}.png")
    save(masks / "b.png")
    save(masks / "c.png")
    rows = ("a.jpg,,,,failed,decode: cut short,,,,,", "b.jpg,,,,failed,,,,,,", "c.jpg,c.png,10,8,ok,,.1,.2,.7,.3,.9")
    write(masks / "scores.csv", SCORES_HEADER, *rows)
    evaluation = evaluate(truth, masks)
    assert problems(evaluation) == {"a": "no prediction: decode: cut short", "b": "no prediction: failed", "c": ""}
    assert evaluation.extra == ()


def test_a_run_in_which_everything_failed_can_be_judged(truth: Path, masks: Path) -> None:
    save(truth / "sub" / "a.png")
    write(masks / "scores.csv", SCORES_HEADER, "sub/a.jpg,,,,failed,decode: cut short,,,,,")
    assert problems(evaluate(truth, masks)) == {"sub/a": "no prediction: decode: cut short"}


# Sizes and values


def test_sizes_must_be_equal(truth: Path, masks: Path) -> None:
    save(truth / "x.png", block(4, 5, (8, 10)))
    save(masks / "x.png", block(4, 5, (10, 8)))
    assert only(evaluate(truth, masks)) == CaseResult("x", {}, "sizes differ: truth 8x10, prediction 10x8")


def test_lesion_begins_above_128(truth: Path, masks: Path) -> None:
    levels = np.array([[0, 127, 128, 129, 255]], np.uint8)
    save(truth / "x.png", levels)
    save(masks / "x.png", np.array([[0, 0, 0, 255, 255]], np.uint8))
    assert jaccards(evaluate(truth, masks)) == {"x": 1.0}
    assert jaccards(evaluate(masks, truth)) == {"x": 1.0}


def test_16_bits_are_scaled_to_8(truth: Path, masks: Path) -> None:
    levels = np.array([[0, 128 * 257, 128 * 257 + 1, 65535]], np.uint16)
    save(truth / "x.png", Image.fromarray(levels))
    save(masks / "x.png", np.array([[0, 0, 255, 255]], np.uint8))
    assert jaccards(evaluate(truth, masks)) == {"x": 1.0}


def deep(mask: UInt8, top: int = 65535, kind: str = "<u2") -> Image.Image:
    return Image.fromarray((mask // 255 * np.uint16(top)).astype(kind))


def palette(mask: UInt8, *colours: int) -> Image.Image:
    picture = Image.fromarray((mask > 0).astype(np.uint8)).convert("L")
    indexed = Image.frombytes("P", picture.size, picture.tobytes())
    indexed.putpalette(colours)
    return indexed


def grey(mask: UInt8) -> Image.Image:
    return Image.fromarray(mask)


MASK = block(4, 5)
GOOD: Mapping[str, tuple[str, Image.Image, Mapping[str, Any]]] = {
    "8 bit": ("png", grey(MASK), {}),
    "1 bit": ("png", grey(MASK).convert("1"), {}),
    "1 bit BMP": ("bmp", grey(MASK).convert("1"), {}),
    "1 bit TIFF, fax": ("tif", grey(MASK).convert("1"), {"compression": "group4"}),
    "8 bit TIFF, LZW": ("tif", grey(MASK), {"compression": "tiff_lzw"}),
    "16 bit": ("png", deep(MASK), {}),
    "16 bit TIFF": ("tif", deep(MASK), {}),
    "16 bit TIFF, big-endian": ("tif", deep(MASK, kind=">u2"), {}),
    "grey RGB": ("png", grey(MASK).convert("RGB"), {}),
    "grey RGB BMP": ("bmp", grey(MASK).convert("RGB"), {}),
    "grey palette": ("png", palette(MASK, 0, 0, 0, 255, 255, 255), {}),
    "grey palette, 1 bit": ("png", palette(MASK, 0, 0, 0, 255, 255, 255), {"bits": 1}),
    "opaque LA": ("png", grey(MASK).convert("LA"), {}),
    "opaque RGBA": ("png", grey(MASK).convert("RGBA"), {}),
}


@pytest.mark.parametrize(("suffix", "picture", "options"), GOOD.values(), ids=GOOD)
@pytest.mark.parametrize("other", ["labels", "masks"])
def test_masks_that_are_grey_in_effect(
    other: str, suffix: str, picture: Image.Image, options: Mapping[str, Any], truth: Path, masks: Path
) -> None:
    for folder in (truth, masks):
        mine = folder.name == other
        save(folder / f"x.{suffix if mine else 'png'}", picture if mine else block(4, 5), **(options if mine else {}))
    case = only(evaluate(truth, masks))
    assert (case.metrics, case.problem) == (dict.fromkeys(metrics.PIXEL_METRICS, 1.0), "")
    role = "truth" if other == "labels" else "prediction"
    assert case.note == ("" if picture.mode in ("1", "L") else f"{role} is stored as {picture.mode}")


NOT_GREY = "is not a single-channel mask: "
BAD: Mapping[str, tuple[str, Image.Image, Mapping[str, Any], str]] = {
    "0/1": ("png", grey(MASK // 255), {}, "is a 0/1 mask, not 0/255"),
    "0/1 TIFF": ("tif", grey(MASK // 255), {}, "is a 0/1 mask, not 0/255"),
    "8 bit values in 16 bit": ("png", deep(MASK, 255), {}, "is a 0/255 mask, not 0/65535"),
    "colours": ("png", Image.merge("RGB", [grey(MASK), grey(MASK), grey(0 * MASK)]), {}, NOT_GREY + "it has colours"),
    "coloured palette": ("png", palette(MASK, 0, 0, 0, 255, 255, 0), {}, NOT_GREY + "it has colours"),
    "lesion in alpha": (
        "png",
        Image.merge("LA", [grey(0 * MASK), grey(MASK)]),
        {},
        NOT_GREY + "it is transparent in places",
    ),
    "one grey is transparent": ("png", grey(MASK), {"transparency": 255}, NOT_GREY + "it is transparent in places"),
    "float": ("tif", grey(MASK).convert("F"), {}, NOT_GREY + "its mode is F"),
    "32 bit": ("tif", grey(MASK).convert("I"), {}, NOT_GREY + "its mode is I"),
    "two pages": ("tif", grey(MASK), {"save_all": True, "append_images": [grey(MASK)]}, "has 2 pages, not one"),
}


@pytest.mark.parametrize(("suffix", "picture", "options", "problem"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("role", ["truth", "prediction"])
def test_masks_that_are_not(
    role: str, suffix: str, picture: Image.Image, options: Mapping[str, Any], problem: str, truth: Path, masks: Path
) -> None:
    good, bad = (masks, truth) if role == "truth" else (truth, masks)
    save(good / "x.png")
    save(bad / f"x.{suffix}", picture, **options)
    assert only(evaluate(truth, masks)) == CaseResult("x", {}, f"{role} {problem}")


@pytest.mark.parametrize(
    ("levels", "note"),
    [
        (grey(MASK // 255 * 2), "brightest level is 2, not 255: no pixel is above 128"),
        (grey(MASK // 255 * 128), "brightest level is 128, not 255: no pixel is above 128"),
        (grey(MASK // 255 * 129), "brightest level is 129, not 255"),
        (grey(MASK // 255 * 200).convert("RGB"), "brightest level is 200, not 255"),
        (deep(MASK, 32896), "brightest level is 32896, not 65535: no pixel is above 32896"),
        (deep(MASK, 32897), "brightest level is 32897, not 65535"),
    ],
)
def test_a_mask_without_white_is_cut_all_the_same_and_noted(
    levels: Image.Image, note: str, truth: Path, masks: Path
) -> None:
    save(truth / "x.png")
    save(masks / "x.png", levels)
    case = only(evaluate(truth, masks))
    assert case.metrics["jaccard"] == (0 if "no pixel" in note else 1)
    assert f"prediction's {note}" in case.note.split("; ")
    assert "soft" not in case.note
    if "no pixel" not in note:
        assert f"truth's {note}" in only(evaluate(masks, truth)).note.split("; ")


def test_a_dark_probability_map_predicts_nothing_but_a_dark_truth_is_wrong(truth: Path, masks: Path) -> None:
    save(truth / "x.png")
    save(masks / "x.png", MASK // 255 * 128)
    assert jaccards(evaluate(truth, masks)) == {"x": 0.0}
    assert problems(evaluate(masks, truth)) == {"x": "truth is a 0/128 mask, not 0/255"}


def test_empty_masks_are_masks(truth: Path, masks: Path) -> None:
    save(truth / "x.png", 0 * MASK)
    save(masks / "x.png", 0 * MASK)
    assert only(evaluate(truth, masks)) == CaseResult("x", dict.fromkeys(metrics.PIXEL_METRICS, 1.0))


# Damaged files


def noisy_png(folder: Path) -> bytes:
    """A PNG of 400 bytes that does not compress, so that most of it is pixels."""
    noise = np.random.default_rng(0).integers(0, 2, (16, 180), np.uint8) * 255
    return save(folder / "whole.png", grey(noise).convert("1")).read_bytes()


def as_cases(pieces: list[bytes], folder: Path) -> None:
    for number, piece in enumerate(pieces):
        (folder / f"{number:04}.png").write_bytes(piece)


@pytest.mark.parametrize("role", ["truth", "prediction"])
def test_a_png_cut_anywhere_is_noticed(role: str, truth: Path, masks: Path, tmp_path: Path) -> None:
    whole = noisy_png(tmp_path)
    cut = [whole[:length] for length in range(len(whole) - 4)]  # the last 4 bytes are the checksum of nothing
    as_cases([whole] * len(cut), masks if role == "truth" else truth)
    as_cases(cut, truth if role == "truth" else masks)
    evaluation = evaluate(truth, masks)
    assert len(evaluation.cases) == len(whole) - 4 > 350
    assert all(case.problem.startswith(f"{role} unreadable: ") for case in evaluation.cases)


def test_a_wrong_bit_anywhere_in_a_png_is_noticed(truth: Path, masks: Path, tmp_path: Path) -> None:
    whole = noisy_png(tmp_path)
    end_chunk = len(whole) - 12
    wrong = [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(end_chunk)]
    as_cases([whole] * end_chunk, truth)
    as_cases(wrong, masks)
    evaluation = evaluate(truth, masks)
    assert [case.name for case in evaluation.cases if not case.problem.startswith("prediction unreadable: ")] == []


def png(bits: int, packed: UInt8, compressed: bytes | None = None) -> bytes:
    """A grey PNG of some bits a pixel from rows of bytes that hold its pixels; `compressed` may be something else."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows, bytes_a_row = packed.shape
    header = struct.pack(">IIBBBBB", bytes_a_row * 8 // bits, rows, bits, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed)) if compressed is None else compressed
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_grey_png_of_any_depth_is_what_pillow_says(bits: int, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(bits, np.random.default_rng(bits).integers(0, 256, (32, 40), np.uint8)))
    with Image.open(path) as picture:
        expected = np.asarray(picture.convert("L")) > 128
    assert expected.shape == (32, 320 // bits)
    assert (read_mask(path, "truth").lesion == expected).all()


@pytest.mark.parametrize("spoil", ["too few pixels", "cut short", "wrong checksum", "no filter of this number"])
def test_wrong_pixels_with_right_checksums_are_noticed(spoil: str, truth: Path, masks: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 40), np.uint8)
    whole = b"".join(b"\0" + row.tobytes() for row in pixels)
    compressed = {
        "too few pixels": zlib.compress(whole[:700]),
        "cut short": zlib.compress(whole)[:-300],
        "wrong checksum": zlib.compress(whole)[:-4] + b"abcd",
        "no filter of this number": zlib.compress(b"\x09" + whole[1:]),
    }
    save(truth / "x.png", block(4, 5, pixels.shape))
    (masks / "x.png").write_bytes(png(8, pixels, compressed[spoil]))
    assert only(evaluate(truth, masks)).problem == "prediction unreadable: broken data stream"


@pytest.mark.parametrize("suffix", ["bmp", "tif"])
def test_other_formats_cut_short(suffix: str, truth: Path, masks: Path) -> None:
    save(truth / "x.png")
    damaged = save(masks / f"x.{suffix}")
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert only(evaluate(truth, masks)).problem.startswith("prediction unreadable: ")


@pytest.mark.parametrize("suffix", ["eps", "jpg"])
def test_other_formats_under_a_mask_name_are_not_opened(suffix: str, truth: Path, masks: Path) -> None:
    save(truth / "x.png")
    save(masks / f"x.{suffix}").rename(masks / "x.png")
    problem = "prediction unreadable: not a PNG, BMP or TIFF picture, or cut short"
    assert only(evaluate(truth, masks)).problem == problem


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_judged(truth: Path, masks: Path) -> None:
    for name in ("a", "b", "c"):
        save(truth / f"{name}.png")
        save(masks / f"{name}.png")
    (masks / "b.png").unlink()
    (masks / "b.png").symlink_to(masks / "gone.png")
    found = problems(evaluate(truth, masks))
    assert found.pop("b").startswith("prediction unreadable: [Errno 2]")
    assert found == {"a": "", "c": ""}


# Labels and scores


@pytest.fixture
def scored(truth: Path, masks: Path) -> tuple[Path, Path]:
    """A truth and a prediction, to which a test adds labels and scores."""
    save(truth / "a.png")
    save(masks / "a.png")
    return truth, masks


def score_rows(scores: Mapping[str, tuple[object, ...]]) -> list[str]:
    """Lines of a scores.csv from melanoma, keratosis and nevus by image."""
    rows = [f"{name},x.png,10,8,ok,,{m},{k},{n},.3,.9" for name, (m, k, n) in scores.items()]
    return [SCORES_HEADER, *rows]


def test_auc_is_that_of_scikit_learn_whatever_the_order_of_the_rows(scored: tuple[Path, Path]) -> None:
    truth, masks = scored
    rng = np.random.default_rng(2)
    labels, scores = rng.random((40, 2)) < 0.4, rng.random((40, 2)).round(1)
    ids = [f"ISIC_{number:07}" for number in range(40)]
    rows = [f"{name},{m:.1f},{k:.1f}" for name, (m, k) in zip(ids, labels.astype(float), strict=True)]
    write(truth / "ISIC-2017_Test_v2_Part3_GroundTruth.csv", "image_id,melanoma,seborrheic_keratosis", *rows)
    by_image = {f"{name}.jpg": (m, k, 0) for name, (m, k) in zip(ids, scores, strict=True)}
    shuffled = dict(sorted(by_image.items(), key=lambda _: rng.random()))
    write(masks / "scores.csv", *score_rows({**shuffled, "unlabelled.jpg": (1, 1, 1)}))
    evaluation = evaluate(truth, masks, seed=4)
    theirs = {name: roc_auc_score(labels[:, k], scores[:, k]) for k, name in enumerate(CLASSES[:2])}
    assert evaluation.auc == pytest.approx(theirs)
    assert evaluation.auc_mean == pytest.approx(sum(theirs.values()) / 2)
    assert (evaluation.auc_count, evaluation.score_problems, evaluation.failed) == (40, (), False)
    assert evaluation.extra_scores == ("unlabelled",)
    resampled = bootstrap.bootstrap_aucs(labels, scores, bootstrap.Draws(4))
    columns = {**dict(zip(theirs, resampled.T, strict=True)), "auc_mean": resampled.mean(axis=1)}
    for name, column in columns.items():
        assert evaluation.intervals[name] == pytest.approx(bootstrap.percentile_interval(column))


def test_each_class_is_read_from_its_own_column(scored: tuple[Path, Path]) -> None:
    truth, masks = scored
    write(truth / "labels.csv", "nevus,image,melanoma", "0,p,1", "1,q,0", "1,r,0")
    write(masks / "scores.csv", *score_rows({"p.jpg": (0.9, 0, 0.5), "q.jpg": (0.1, 0, 0.4), "r.jpg": (0.2, 0, 0.6)}))
    evaluation = evaluate(truth, masks)
    assert evaluation.auc == {"melanoma": 1.0, "nevus": 0.5}
    assert evaluation.auc_mean == 0.75


@pytest.mark.parametrize("header", ["image,Melanoma", "IMAGE_ID,melanoma", "isic_id, melanoma ", "\ufeffname,melanoma"])
@pytest.mark.parametrize("name", ["p", "p.jpg", "p.JPG", " p "])
def test_spellings_of_labels(header: str, name: str, scored: tuple[Path, Path]) -> None:
    truth, masks = scored
    write(truth / "labels.csv", header, "", f"{name},1.0", "q,0")
    write(masks / "scores.csv", *score_rows({"p.jpg": (0.9, 0, 0), "q.png": (0.1, 0, 0)}))
    evaluation = evaluate(truth, masks)
    assert (evaluation.auc, evaluation.auc_count) == ({"melanoma": 1.0}, 2)


@pytest.mark.parametrize("header", ["Seborrheic keratosis,Melanoma", "seborrheic-keratosis,melanoma"])
def test_a_blank_or_hyphen_in_a_header_is_an_underscore(header: str, scored: tuple[Path, Path]) -> None:
    truth, masks = scored
    write(truth / "labels.csv", f"Image ID,{header}", "p,0,1", "q,1,0")
    write(masks / "scores.csv", *score_rows({"p.jpg": (0.9, 0, 0), "q.jpg": (0.1, 1, 0)}))
    evaluation = evaluate(truth, masks, protocol="isic2017", by=["seborrheic keratosis"])
    assert evaluation.auc == {"melanoma": 1.0, "seborrheic_keratosis": 1.0}
    assert [group.group for group in evaluation.groups] == ["0", "1", "unknown"]


def test_columns_of_labels_that_are_no_classes_are_named(scored: tuple[Path, Path]) -> None:
    truth, masks = scored
    labels = write(truth / "labels.csv", "image,name,melanoma,sk,score_weight", "p,x,1,0,1", "q,y,0,1,1")
    assert notes(evaluate(truth, masks)) == ()
    write(masks / "scores.csv", *score_rows({"p.jpg": (0.9, 0, 0), "q.jpg": (0.1, 0, 0)}))
    assert notes(evaluate(truth, masks)) == (f"{labels}: not read as classes: sk",)


@pytest.mark.parametrize(
    ("header", "protocol", "said"),
    [
        ("melanoma", "isic2017", "isic2017 ranks no scores here: the labels have no seborrheic_keratosis"),
        ("melanoma,seborrheic_keratosis", "isic2017", ""),
        ("melanoma,seborrheic_keratosis,nevus", "isic2017", "isic2017 ranks no scores here: it has no nevus"),
        ("melanoma,nevus", "plain", ""),
    ],
)
def test_scores_are_ranked_by_all_classes_of_a_challenge_or_not_at_all(
    header: str, protocol: str, said: str, scored: tuple[Path, Path]
) -> None:
    truth, masks = scored
    rows = [f"{name},{','.join(label * (1 + header.count(',')))}" for name, label in (("p", "1"), ("q", "0"))]
    labels = write(truth / "labels.csv", f"image,{header}", *rows)
    write(masks / "scores.csv", *score_rows({"p.jpg": (0.9, 0.9, 0.9), "q.jpg": (0.1, 0.1, 0.1)}))
    evaluation = evaluate(labels, masks, protocol=protocol)
    assert notes(evaluation) == ((said,) if said else ())
    assert ("scores" in evaluation.ranking) is not bool(said)
    assert evaluation.score_document["macro_average"]["auc"] == 1


def test_labels_find_scores_in_sub_folders_as_masks_do(scored: tuple[Path, Path]) -> None:
    truth, masks = scored
    write(truth / "labels.csv", "image,melanoma", "p,1", "q,0", "r,0")
    rows = {"s/p.jpg": (0.9, 0, 0), "t/q.jpg": (0.1, 0, 0), "s/r.jpg": (0.1, 0, 0), "t/r.jpg": (0.1, 0, 0)}
    write(masks / "scores.csv", *score_rows(rows))
    evaluation = evaluate(truth, masks)
    assert (evaluation.auc, evaluation.auc_count) == ({"melanoma": 1.0}, 2)
    assert evaluation.score_problems == ("r: several rows of scores: s/r, t/r",)


@pytest.mark.parametrize("name", [" p ", "p.v2", "p.jpg"])
def test_an_image_is_what_its_file_is_called_without_its_suffix(name: str, scored: tuple[Path, Path]) -> None:
    truth, masks = scored
    save(truth / f"{name}.png")
    write(masks / "scores.csv", SCORES_HEADER, f"{name}.dat,,,,failed,cut short,,,,,")
    assert problems(evaluate(truth, masks))[name] == "no prediction: cut short"


@pytest.mark.parametrize("value", ["", "nan", "n/a", "1.01", "-0.01", "inf"])
def test_a_labelled_id_without_a_usable_score_is_named(value: str, scored: tuple[Path, Path]) -> None:
    truth, masks = scored
    rows = score_rows({"p.jpg": (0.9, 0, 0), "q.jpg": (0.1, 0, 1), "r.jpg": (value, 0, 0), "s.jpg": (value, 0, value)})
    write(masks / "scores.csv", *rows, "u.jpg,,,,failed,decode: cut short,,,,,")
    write(truth / "labels.csv", "image,melanoma,nevus", "u,0,0", "t,0,1", "s,1,0", "r,1,0", "q,0,1", "p,1,0")
    evaluation = evaluate(truth, masks)
    assert evaluation.score_problems == (
        "r: melanoma not a number from 0 to 1",
        "s: melanoma and nevus not a number from 0 to 1",
        "t: no row of scores",
        "u: failed: decode: cut short",
    )
    assert (evaluation.auc, evaluation.auc_count) == ({"melanoma": 1.0, "nevus": 1.0}, 2)
    assert not any(problems(evaluation).values())
    assert evaluation.failed


def test_without_labels_or_without_scores_there_is_no_auc(scored: tuple[Path, Path]) -> None:
    truth, masks = scored
    scores = write(masks / "scores.csv", *score_rows({"a.jpg": (0.9, 0, 0)}))
    unlabelled = evaluate(truth, masks)
    scores.unlink()
    write(truth / "labels.csv", "image,melanoma", "a,1")
    for evaluation in (unlabelled, evaluate(truth, masks)):
        assert (evaluation.auc, evaluation.auc_count, evaluation.score_problems) == ({}, 0, ())
        assert list(evaluation.intervals) == list(evaluation.means)
        assert math.isnan(evaluation.auc_mean)
        assert not evaluation.failed


def test_scores_without_rows_lack_every_id(scored: tuple[Path, Path]) -> None:
    truth, masks = scored
    write(truth / "labels.csv", "image,melanoma", "a,1")
    write(masks / "scores.csv", SCORES_HEADER)
    evaluation = evaluate(truth, masks)
    assert evaluation.score_problems == ("a: no row of scores",)
    assert (list(evaluation.auc), evaluation.auc_count) == (["melanoma"], 0)
    assert math.isnan(evaluation.auc["melanoma"])


def test_auc_of_a_class_with_one_label_is_nan_and_so_is_the_mean(scored: tuple[Path, Path]) -> None:
    truth, masks = scored
    write(truth / "labels.csv", "image,melanoma,nevus", "p,1,0", "q,0,0")
    write(masks / "scores.csv", *score_rows({"p.jpg": (0.9, 0, 0), "q.jpg": (0.1, 0, 0)}))
    evaluation = evaluate(truth, masks)
    assert evaluation.auc["melanoma"] == 1.0
    assert math.isnan(evaluation.auc["nevus"])
    assert math.isnan(evaluation.auc_mean)
    assert set(evaluation.intervals) - set(evaluation.means) == {"melanoma"}


def test_tables_that_are_no_labels_are_passed_over(scored: tuple[Path, Path]) -> None:
    truth, masks = scored
    write(truth / "labels.csv", "image,melanoma", "p,1", "q,0")
    write(truth / "metadata.csv", "image_id,sex", "p,female")
    write(truth / "counts.csv", "melanoma,nevus", "374,1372")
    write(truth / "empty.csv")
    write(masks / "scores.csv", *score_rows({"p.jpg": (0.9, 0, 0), "q.jpg": (0.1, 0, 0)}))
    assert evaluate(truth, masks).auc == {"melanoma": 1.0}


def test_tables_may_be_divided_by_semicolons(scored: tuple[Path, Path]) -> None:
    truth, masks = scored
    write(truth / "labels.csv", "image;melanoma;site", "p;1;arm, left", "q;0;leg")
    write(masks / "scores.csv", "image;melanoma;seborrheic_keratosis", "p;.9;0", "q;.1;0")
    evaluation = evaluate(truth, masks, by=["site"])
    assert evaluation.auc == {"melanoma": 1.0}
    assert [group.group for group in evaluation.groups] == ["arm, left", "leg", "unknown"]


def test_labels_of_classes_that_segment_does_not_know_are_named(scored: tuple[Path, Path]) -> None:
    truth, masks = scored
    write(masks / "scores.csv", *score_rows({"p.jpg": (0.9, 0, 0)}))
    labels = write(truth.parent / "gt.csv", "image,mel,sk", "p,1,0")
    said = r"scores\.csv: no column mel, sk, which .*gt\.csv has as classes; call its columns melanoma, seborrheic_ker"
    with pytest.raises(InputError, match=said):
        evaluate(truth, masks, labels=labels)


def test_several_label_files_are_refused(scored: tuple[Path, Path]) -> None:
    truth, masks = scored
    for name in ("one.csv", "two.CSV"):
        write(truth / name, "image,melanoma", "a,1")
    with pytest.raises(InputError, match=r"several CSV files with labels, keep one of them: .*one\.csv, .*two\.CSV"):
        evaluate(truth, masks)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["p,1", "q,0.5"], r"line 3: melanoma is '0\.5', not 0 or 1"),
        (["p,1", "", "q,"], "line 4: melanoma is '', not 0 or 1"),
        (["p,yes"], "line 2: melanoma is 'yes', not 0 or 1"),
        (["p,nan"], "line 2: melanoma is 'nan', not 0 or 1"),
        (["p,1", "q,0", "p.jpg,0"], "line 4: image 'p' is there twice"),
        ([",1"], "line 2: image '' is empty"),
        (["p"], "line 2: 1 fields, but the header has 2"),
        (["p,1,0"], "line 2: 3 fields, but the header has 2"),
        (['"p,1'], r"cannot be read as CSV \(unexpected end of data\)"),
        ([], "no labels below the header"),
    ],
)
def test_labels_that_cannot_be_trusted_are_refused(lines: list[str], complaint: str, scored: tuple[Path, Path]) -> None:
    truth, masks = scored
    write(truth / "labels.csv", "image,melanoma", *lines)
    with pytest.raises(InputError, match=rf"labels\.csv.*{complaint}"):
        evaluate(truth, masks)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([], "no column melanoma"),
        (["image,status,nevus", "a.jpg,ok,.5"], "no column reason, melanoma"),
        (["image,status,reason,melanoma", "a.jpg,ok,,.5", "a.png,ok,,.5"], "line 3: image 'a' is there twice"),
        (["image,status,reason,melanoma", ",ok,,.5"], "line 2: image '' is empty"),
        (["image,status,reason,melanoma", "a.jpg,ok"], "line 2: 2 fields, but the header has 4"),
    ],
)
def test_scores_that_cannot_be_trusted_are_refused(lines: list[str], complaint: str, scored: tuple[Path, Path]) -> None:
    truth, masks = scored
    write(truth / "labels.csv", "image,melanoma", "a,1")
    write(masks / "scores.csv", *lines)
    with pytest.raises(InputError, match=rf"scores\.csv.*{complaint}"):
        evaluate(truth, masks)


# The table of cases


def test_cases_are_written_with_all_their_digits(tmp_path: Path) -> None:
    figures = dict(zip(metrics.PIXEL_METRICS, (1 / 3, 0.5, 1.0, 0.0, 2 / 3, math.nan), strict=True))
    cases = (
        CaseResult("a", figures, note="truth is stored as RGB"),
        CaseResult("sub/b", {}, 'no prediction: "odd", quoted'),
    )
    path = tmp_path / "new" / "cases.csv"
    write_cases(Evaluation(cases, (), {}, {}, 0, (), {}), path)
    assert list(csv.reader(path.read_text().splitlines())) == [
        ["image", "jaccard", "dice", "accuracy", "sensitivity", "specificity", "threshold_jaccard", "problem", "note"],
        ["a", repr(1 / 3), "0.5", "1.0", "0.0", repr(2 / 3), "", "", "truth is stored as RGB"],
        ["sub/b", "", "", "", "", "", "", 'no prediction: "odd", quoted', ""],
    ]
    assert list(path.parent.iterdir()) == [path]


def test_an_old_table_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    class Broken(dict[str, float]):
        def get(self, *_: object) -> float:
            raise KeyboardInterrupt

    path = write(tmp_path / "cases.csv", "old")
    with pytest.raises(KeyboardInterrupt):
        write_cases(Evaluation((CaseResult("a", Broken()),), (), {}, {}, 0, (), {}), path)
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform != "linux", reason="only here may a file name be any bytes")
def test_names_that_are_not_utf_8_survive(truth: Path, masks: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    save(truth / f"{name}.png")
    save(masks / f"{name}.png")
    (truth / "labels.csv").write_bytes(b"image,melanoma\ncaf\xe9,1\n")
    (masks / "scores.csv").write_bytes(b"image,status,reason,melanoma\ncaf\xe9.jpg,ok,,.5\n")
    evaluation = evaluate(truth, masks)
    assert (only(evaluation).name, evaluation.auc_count) == (name, 1)
    write_cases(evaluation, tmp_path / "cases.csv")
    assert b"\ncaf\xe9,1.0," in (tmp_path / "cases.csv").read_bytes()


def test_evaluation_starts_without_torch_pandas_and_scipy() -> None:
    code = "import sys, lesioncli.evaluation.evaluate; print({'torch', 'pandas', 'scipy', 'sklearn'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
