"""Write the files that an ISIC challenge takes from a folder that segment wrote."""

import csv
import zipfile
from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from lesioncli import isic
from lesioncli.errors import ImageError, InputError
from lesioncli.evaluation.reading.archived_masks import SCORES
from lesioncli.evaluation.reading.masks import MaskRole, find_predicted_masks, read_mask
from lesioncli.evaluation.reading.tables import ScoreRow, read_scores
from lesioncli.files import as_cell, atomic_output
from lesioncli.images.find import find_images
from lesioncli.images.stored import ImagePath
from lesioncli.inference.record import read_record
from lesioncli.options import Challenge
from lesioncli.sharding import refuse_unmerged
from lesioncli.spec import CLASSES

Value = TypeVar("Value")

MASKS_ZIP = "segmentation.zip"
SCORES_CSV = "classification.csv"

# Classes that a challenge takes scores for; ISIC-2018 has seven, for which no model here has scores.
CHALLENGE_CLASSES: Mapping[Challenge, tuple[str, ...]] = {
    Challenge.ISIC2017: CLASSES[:2],
    Challenge.ISIC2018: (),
}


@dataclass(frozen=True)
class Submission:
    """Files written, with their number of images.

    `problems` names images that are missing from a file, with the reason. `notes` names masks whose files are unusual,
    and files of an earlier submission that are still in the folder.
    """

    files: Mapping[Path, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass
class _Report:
    """Problems and notes, collected while the files are written, and the function that receives progress."""

    on_progress: Callable[[int, int], None]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def write_submission(
    predictions: Path,
    out: Path,
    challenge: Challenge,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Submission:
    """Write segmentation.zip and, if the challenge takes scores, classification.csv to the folder `out`.

    `on_progress` receives (done, total) before each mask.

    Raises InputError if the name of an image has no ISIC number or that of another image, there is nothing to submit,
    or `out` cannot be written.
    """
    refuse_unmerged(predictions)
    classes = CHALLENGE_CLASSES[challenge]
    masks = _by_isic_id(find_predicted_masks(predictions).masks)
    rows = _by_isic_id(read_scores(predictions / SCORES, classes) or {})
    if not masks and not rows:
        raise InputError(f"{predictions}: no masks found; give the folder that `lesioncli segment` wrote")
    failures = {image: row.failure for image, row in rows.items() if row.failure}
    masks = {image: path for image, path in masks.items() if image not in failures}
    scores = {image: row for image, row in rows.items() if image not in failures}
    report = _Report(on_progress, [f"{image}: no mask: {reason}" for image, reason in failures.items()])
    report.problems += _missing_from_run(predictions, {**masks, **rows})
    report.problems += _missing_from_one_file(masks, scores, classes)
    files: dict[Path, int] = {}
    if masks:
        files[out / MASKS_ZIP] = _write_masks(masks, scores, out / MASKS_ZIP, report)
    if classes and rows:
        files[out / SCORES_CSV] = _write_scores(scores, classes, out / SCORES_CSV, report)
    elif classes:
        report.notes.append(f"{SCORES_CSV}: not written, because there is no {predictions / SCORES}")
    report.notes += _left_over(out, files)
    return Submission(files, tuple(report.problems), tuple(report.notes))


def _left_over(out: Path, files: Container[Path]) -> list[str]:
    """Return a note on each file of an earlier submission that this one does not have."""
    older = [path for path in (out / MASKS_ZIP, out / SCORES_CSV) if path not in files and path.exists()]
    return [f"{path}: of an earlier submission; delete it, or choose another folder with --out" for path in older]


def _missing_from_run(predictions: Path, known: Collection[str]) -> list[str]:
    """Return the images that the latest run of `segment` did not come to; by number if the images are gone."""
    record = read_record(predictions)
    interruption = record.describe_interruption(len(known))
    if not interruption:
        return []
    sources = [predictions / source for source in record.sources]
    try:
        images = [image.name for image in find_images(sources, exclude=predictions)]
    except InputError:  # they were moved
        images = []
    names = [isic.find_id(name) or name for name in images]
    missing = [f"{name}: no mask: not segmented" for name in names if name not in known]
    return [f"{predictions}: {interruption}; the same lesioncli segment command continues", *missing]


def _missing_from_one_file(
    masks: Mapping[str, ImagePath], scores: Mapping[str, ScoreRow], classes: tuple[str, ...]
) -> list[str]:
    """Return the images that have a mask or scores only; none if there are no masks, or no scores, at all."""
    if not (masks and scores):
        return []
    problems = [f"{image}: no mask, but a row of scores" for image in scores if image not in masks]
    return problems + [f"{image}: no row of scores, but a mask" for image in masks if classes and image not in scores]


def _by_isic_id(by_name: Mapping[str, Value]) -> dict[str, Value]:
    """Return the values by ISIC id, sorted."""
    names: dict[str, str] = {}
    for name in by_name:
        if not (image := isic.find_id(name)):
            raise InputError(f"{name}: the name needs one ISIC number of seven digits, as in ISIC_0012345")
        if image in names:
            raise InputError(f"{name}: second image {image}, beside {names[image]}; keep one of them")
        names[image] = name
    return {image: by_name[names[image]] for image in sorted(names)}


def _write_masks(masks: Mapping[str, ImagePath], rows: Mapping[str, ScoreRow], path: Path, report: _Report) -> int:
    """Write masks as PNGs of 8 bits, 0 or 255, and return their number; `rows` have the sizes of the images."""
    written = 0
    with atomic_output(path, "--out") as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for done, (image, mask) in enumerate(masks.items()):
            report.on_progress(done, len(masks))
            try:
                prediction = read_mask(mask, MaskRole.PREDICTION)
            except ImageError as error:
                report.problems.append(f"{image}: no mask: {error.reason}")
                continue
            height, width = prediction.lesion.shape
            row = rows.get(image, ScoreRow("", ()))
            if row.width and (row.width, row.height) != (str(width), str(height)):
                size = f"{width} x {height} pixels, its image has {row.width} x {row.height}"
                report.problems.append(f"{image}: no mask: {size}; run lesioncli segment again")
                continue
            is_encoded, png = cv2.imencode(".png", prediction.lesion.astype(np.uint8) * 255)
            if not is_encoded:
                report.problems.append(f"{image}: no mask: {width} x {height} pixels are too large for PNG")
                continue
            archive.writestr(zipfile.ZipInfo(f"{image}{isic.MASK_ENDING}.png"), png.tobytes())
            if prediction.note:
                report.notes.append(f"{image}: {prediction.note}")
            written += 1
    return written


def _write_scores(scores: Mapping[str, ScoreRow], classes: tuple[str, ...], path: Path, report: _Report) -> int:
    """Write one row per image and return their number. Values are floats: the scorer rejects a column of integers."""
    valid = {image: row.scores for image, row in scores.items() if all(0 <= score <= 1 for score in row.scores)}
    invalid = [image for image in scores if image not in valid]
    report.problems += [f"{image}: no scores: {' or '.join(classes)} is not a number from 0 to 1" for image in invalid]
    with atomic_output(path, "--out") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", *classes))
        writer.writerows((as_cell(image), *values) for image, values in valid.items())
    return len(valid)
