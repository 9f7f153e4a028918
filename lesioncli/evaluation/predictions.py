"""Read and evaluate one set of predictions: a folder of masks with scores, or a table of scores alone."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from lesioncli.errors import InputError
from lesioncli.evaluation.cases import CaseResult, MaskMetrics, Measures, Progress, evaluate_pairs
from lesioncli.evaluation.labelled_scores import LabelledScores, join_scores
from lesioncli.evaluation.protocols import PROTOCOLS, Protocol
from lesioncli.evaluation.reading.archived_masks import SCORES
from lesioncli.evaluation.reading.ground_truth import GroundTruth
from lesioncli.evaluation.reading.masks import MaskListing, find_predicted_masks, mask_name
from lesioncli.evaluation.reading.matching import MaskPair, masks_by_image, match, pair_masks
from lesioncli.evaluation.reading.metadata import CONTRAST
from lesioncli.evaluation.reading.tables import LabelTable, ScoreRow, read_scores
from lesioncli.images.stored import ImagePath
from lesioncli.inference.record import RunRecord, read_joint_record
from lesioncli.options import EvaluationOptions, Regions
from lesioncli.sharding import find_parts
from lesioncli.spec import CLASSES

_NEVUS = CLASSES[2]  # ISIC-2017 labels have no column for it


@dataclass(frozen=True)
class EvaluatedPredictions:
    """One set of predictions, evaluated.

    `cases` has one entry per ground truth mask, sorted by name, and `masks` the metrics of those without a problem.
    `extra` names masks without ground truth. `has_scores`: there is a table of scores, with or without labels.
    `confidence` (N,) is that of each row of `masks`, nan where the table of scores has none.
    """

    cases: tuple[CaseResult, ...] = ()
    extra: tuple[str, ...] = ()
    masks: MaskMetrics = field(default_factory=lambda: MaskMetrics.from_cases(()))
    labelled: LabelledScores = field(default_factory=LabelledScores)
    has_scores: bool = False
    confidence: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


def evaluate_predictions(
    ground_truth: GroundTruth,
    predictions: Path,
    scores: Path | None,
    options: EvaluationOptions,
    on_progress: Progress | None = None,
    *,
    prefix: str = "",
    with_pictures: bool = False,
) -> EvaluatedPredictions:
    """Evaluate the masks in folder `predictions`, and the scores there or in the CSV `scores`.

    `prefix` is that of the columns of scores and confidence, as for read_scores(). `with_pictures`: probability
    maps are evaluated, too, and images, if the options ask for groups by contrast.

    Raises InputError where there is nothing to evaluate, or no prediction belongs to the ground truth.
    """
    rules = PROTOCOLS[options.protocol]
    rows = _read_scores(scores, predictions, ground_truth.labels, prefix)
    listing = _find_masks(ground_truth, predictions)
    _require_predictions(predictions, ground_truth, listing, rows)
    failures = {name: row.failure for name, row in (rows or {}).items() if row.failure}
    truths = masks_by_image(ground_truth.masks, rules)
    _require_common_masks(truths, {**listing.masks, **listing.unsupported}, failures, rules)
    if not truths:
        _require_common_ids(ground_truth.labels, rows or {}, rules)
    pairs, extra = pair_masks(truths, listing, failures, rules)
    if rows is None:
        _require_usable_masks(predictions, pairs, listing)
    images = _image_names(pairs, rows or {})
    by_contrast = CONTRAST in options.by
    record = read_joint_record(predictions) if with_pictures and (by_contrast or listing.maps) else None
    if record and by_contrast:
        pairs = _locate_images(pairs, images, predictions, record)
    regions = record.regions or Regions.LARGEST if record and listing.maps else None
    cases = evaluate_pairs(pairs, Measures(options.distances, regions), options.workers, on_progress)
    cases = tuple(replace(case, image=image) if image else case for case, image in zip(cases, images, strict=True))
    labelled = _join(ground_truth, rows, rules)
    confidence = _confidences(cases, rows or {})
    return EvaluatedPredictions(cases, extra, MaskMetrics.from_cases(cases), labelled, rows is not None, confidence)


def _image_names(pairs: Sequence[MaskPair], rows: Mapping[str, ScoreRow]) -> list[str]:
    """Return the image of each pair in the table of scores, found by its mask or, if it failed, its name; else ""."""
    by_mask = {mask_name(PurePosixPath(row.mask)): row.image for row in rows.values() if row.mask}
    by_name = {name: row.image for name, row in rows.items()}
    return [by_mask.get(pair.matched) or by_name.get(pair.matched, "") for pair in pairs]


def _locate_images(
    pairs: Sequence[MaskPair], names: Sequence[str], predictions: Path, record: RunRecord
) -> list[MaskPair]:
    """Return the pairs with their image files, in the folders that run.json names; InputError if there is none."""
    roots = [predictions / root for root in record.roots]
    files = [next((root / name for root in roots if name and (root / name).is_file()), None) for name in names]
    if not any(files):
        missing = f"none is in {roots[0].resolve()}" if roots else f"{predictions} has no run.json that names them"
        raise InputError(
            f"--by {CONTRAST}: is measured in the images, and {missing}; put them where they were when"
            " `lesioncli segment` ran, or segment them again"
        )
    return [replace(pair, image=file) for pair, file in zip(pairs, files, strict=True)]


def _confidences(cases: Sequence[CaseResult], rows: Mapping[str, ScoreRow]) -> NDArray[np.float64]:
    """Return the confidence (N,) of the cases without a problem; nan if it is missing or not from 0 to 1."""
    by_mask = {mask_name(PurePosixPath(row.mask)): row.confidence for row in rows.values() if row.mask}
    names = [case.pair.matched for case in cases if case.pair and not case.problem]
    values = np.array([by_mask.get(name, math.nan) for name in names], np.float64)
    return np.where((values >= 0) & (values <= 1), values, math.nan)


def _read_scores(table: Path | None, predictions: Path, labels: LabelTable, prefix: str) -> dict[str, ScoreRow] | None:
    if table and not table.is_file():
        raise InputError(f"{table}: no such file")
    tables = [table] if table else [part / SCORES for part in find_parts(predictions)]
    found = [read_scores(path, labels.classes, _NEVUS, labels.path, prefix) for path in tables]
    read = [rows for rows in found if rows is not None]
    return {name: row for rows in read for name, row in rows.items()} if read else None


def _find_masks(ground_truth: GroundTruth, predictions: Path) -> MaskListing[ImagePath]:
    """Return the predicted masks that a table of pairs names, else those in the folder; none for labels alone."""
    if ground_truth.pairs is not None:
        return MaskListing(ground_truth.pairs)
    has_masks = ground_truth.masks or not ground_truth.labels.ids
    return find_predicted_masks(predictions) if has_masks else MaskListing()


def _require_predictions(
    predictions: Path, ground_truth: GroundTruth, listing: MaskListing[ImagePath], rows: Mapping[str, ScoreRow] | None
) -> None:
    if ground_truth.masks and not (listing.masks or listing.unsupported or rows):
        raise InputError(f"{predictions}: no masks found; give the folder that `lesioncli segment` wrote")
    if not ground_truth.masks and rows is None:
        raise InputError(f"{predictions / SCORES}: no scores to compare with the labels; give a CSV with --scores")


def _require_common_masks(
    truths: Mapping[str, Path], predictions: Mapping[str, ImagePath], failures: Collection[str], rules: Protocol
) -> None:
    """Raise InputError if no ground truth mask has a prediction: their names differ, or the images do."""
    if not (truths and predictions) or any(match(truths, {*predictions, *failures}, rules).values()):
        return
    raise InputError(
        f"{predictions[min(predictions)]}: no predicted mask has the name of a ground truth mask, such as"
        f" {truths[min(truths)]}; for image x, name both masks x.png or x_segmentation.png, in the same sub-folders"
    )


def _require_usable_masks(predictions: Path, pairs: Sequence[MaskPair], listing: MaskListing[ImagePath]) -> None:
    """Raise InputError if no ground truth mask has a prediction: the folder holds photographs, or several folders."""
    if not pairs or any(pair.prediction for pair in pairs):
        return
    found = f"{pairs[0].name}: {pairs[0].problem}" if listing.masks else f"files found: {listing.count_unsupported()}"
    raise InputError(
        f"{predictions}: no usable masks ({found}); give the folder that `lesioncli segment` wrote, or masks as PNG"
    )


def _require_common_ids(labels: LabelTable, rows: Collection[str], rules: Protocol) -> None:
    """Raise InputError if no labelled image has a row of scores."""
    if labels.ids and rows and not any(match(labels.ids, rows, rules).values()):
        raise InputError(
            f"{labels.path or 'labels'}: no id matches a row of scores: the first ids are {min(labels.ids)} and"
            f" {min(rows)}; use the image's file name in both tables, with or without suffix"
        )


def _join(ground_truth: GroundTruth, rows: Mapping[str, ScoreRow] | None, rules: Protocol) -> LabelledScores:
    labelled = join_scores(ground_truth.labels, rows, rules)
    if not labelled.classes:
        return labelled
    unlabelled = (f"{name}: no label" for name in _unlabelled(ground_truth, rules))
    return replace(labelled, problems=tuple(sorted((*labelled.problems, *unlabelled))))


def _unlabelled(ground_truth: GroundTruth, rules: Protocol) -> list[str]:
    """Return images with a mask but no label, if the protocol needs every image and other images have both.

    In ISIC-2018, masks and labels belong to different images: then no image has both, and none is returned.
    """
    matches = match(masks_by_image(ground_truth.masks, rules), ground_truth.labels.ids, rules)
    unlabelled = [name for name, ids in matches.items() if not ids]
    return unlabelled if rules.complete and len(unlabelled) < len(matches) else []
