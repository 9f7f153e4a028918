"""A folder that segment wrote, as the files that an ISIC challenge asks for."""

import csv
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from lesioncli import isic
from lesioncli.errors import ImageError, InputError
from lesioncli.evaluation.predictions import OVERLAYS, SCORES
from lesioncli.evaluation.reading.masks import MaskRole, find_masks, read_mask
from lesioncli.evaluation.reading.tables import ScoreRow, read_scores
from lesioncli.files import atomic_output

Value = TypeVar("Value")

MASKS_ZIP = "segmentation.zip"
SCORES_CSV = "classification.csv"

# The columns of scores that a challenge asks for; 2018 asks for seven diseases, which no model here knows.
CHALLENGES: Mapping[str, tuple[str, ...]] = {
    "isic2017": ("melanoma", "seborrheic_keratosis"),
    "isic2018": (),
}


@dataclass(frozen=True)
class Submission:
    """The files written and how many images each has, and the images that are missing in one, with the reason.

    `notes` are about masks that were written, but were out of the ordinary.
    """

    files: Mapping[Path, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def write_submission(predictions: Path, out: Path, challenge: str) -> Submission:
    """Write to `out` the masks as segmentation.zip, and the scores that the challenge takes as classification.csv.

    InputError where an image's name holds no ISIC number, two hold the same, there is nothing to submit, or `out`
    cannot be written.
    """
    masks = _by_id(find_masks(predictions, skip=OVERLAYS).masks)
    classes = CHALLENGES[challenge]
    rows = _by_id(read_scores(predictions / SCORES, classes) or {})
    if not masks and not rows:
        raise InputError(f"{predictions}: no masks found; give the folder that `lesioncli segment` wrote")
    failed = {image: row.failure for image, row in rows.items() if row.failure}
    problems = [f"{image}: no mask: {reason}" for image, reason in failed.items()]
    masks = {image: path for image, path in masks.items() if image not in failed}
    problems += _one_sided(masks, {image: row for image, row in rows.items() if image not in failed}, classes)
    files: dict[Path, int] = {}
    notes: list[str] = []
    if masks:
        files[out / MASKS_ZIP] = _write_masks(masks, out / MASKS_ZIP, problems, notes)
    if classes and rows:
        files[out / SCORES_CSV] = _write_scores(rows, classes, out / SCORES_CSV, problems)
    return Submission(files, tuple(problems), tuple(notes))


def _one_sided(masks: Mapping[str, Path], rows: Mapping[str, ScoreRow], classes: tuple[str, ...]) -> list[str]:
    """The images that only one of two files would have; without any masks, or any rows, there is one file."""
    if not (masks and rows):
        return []
    without = [f"{image}: no mask, but a row of scores" for image in rows if image not in masks]
    return without + [f"{image}: no row of scores, but a mask" for image in masks if classes and image not in rows]


def _by_id(named: Mapping[str, Value]) -> dict[str, Value]:
    """By ISIC id, sorted."""
    names: dict[str, str] = {}
    for name in named:
        if not (image := isic.find_id(name)):
            raise InputError(f"{name}: not one ISIC number of seven digits in this name, as in ISIC_0012345")
        if image in names:
            raise InputError(f"two images are {image}: {names[image]} and {name}; keep one of them")
        names[image] = name
    return {image: named[names[image]] for image in sorted(names)}


def _write_masks(masks: Mapping[str, Path], path: Path, problems: list[str], notes: list[str]) -> int:
    """Masks as the challenges have them: PNG, 8 bits, 0 or 255. The number written; `problems` gets the others.

    `notes` gets what was odd about those that were written.
    """
    written = 0
    with atomic_output(path, "--out") as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as archive:
        for image, mask in masks.items():
            try:
                prediction = read_mask(mask, MaskRole.PREDICTION)
            except ImageError as error:
                problems.append(f"{image}: no mask: {error.reason}")
                continue
            is_encoded, png = cv2.imencode(".png", prediction.lesion.astype(np.uint8) * 255)
            if not is_encoded:
                height, width = prediction.lesion.shape
                problems.append(f"{image}: no mask: {width} x {height} pixels, too large for PNG")
                continue
            archive.writestr(zipfile.ZipInfo(f"{image}{isic.MASK_ENDING}.png"), png.tobytes())
            if prediction.note:
                notes.append(f"{image}: {prediction.note}")
            written += 1
    return written


def _write_scores(rows: Mapping[str, ScoreRow], classes: tuple[str, ...], path: Path, problems: list[str]) -> int:
    """One row an image, written as floats: the official scorer takes no column of integers."""
    good = {image: row.scores for image, row in rows.items() if not row.failure}
    for image in [image for image, scores in good.items() if not all(0 <= score <= 1 for score in scores)]:
        problems.append(f"{image}: no scores: {' or '.join(classes)} is not a number from 0 to 1")
        del good[image]
    lines: Iterable[tuple[object, ...]] = ((image, *scores) for image, scores in good.items())
    with atomic_output(path, "--out") as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", *classes))
        writer.writerows(lines)
    return len(good)
