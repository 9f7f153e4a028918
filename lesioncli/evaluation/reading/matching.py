"""Match predictions and rows of tables with the images of the ground truth by name."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from lesioncli.errors import InputError
from lesioncli.evaluation.protocols import Protocol, image_id
from lesioncli.evaluation.reading.masks import MASK_FORMATS, MaskListing
from lesioncli.evaluation.reading.names import match_names
from lesioncli.images.stored import ImagePath
from lesioncli.isic import name_by_id


@dataclass(frozen=True)
class MaskPair:
    """A ground truth mask and its prediction, or the `problem` why there is none.

    `matched` is the name of the image in the predictions, with a mask or as a failure; "" if no or several names match.
    `probability_map` is that of the prediction, None if it has none. `image` is the image file, if it is needed.
    """

    name: str
    truth: Path
    prediction: ImagePath | None
    problem: str
    matched: str
    probability_map: ImagePath | None = None
    image: Path | None = None


def masks_by_image(masks: Mapping[str, Path], rules: Protocol) -> dict[str, Path]:
    """Return masks by the image that the protocol finds in their names; InputError if two belong to the same image."""
    if not rules.isic_names:
        return dict(masks)
    by_image: dict[str, Path] = {}
    for name, path in masks.items():
        image = image_id(name, rules)
        if image in by_image:
            raise InputError(f"{path}: second mask for {image}, beside {by_image[image]}; keep one of them")
        by_image[image] = path
    return by_image


def match(names: Collection[str], available: Collection[str], rules: Protocol) -> dict[str, tuple[str, ...]]:
    """Return the available names that each name may stand for, as match_names() does, by the rules of a protocol."""
    return match_names(names, available, any_number=rules.isic_names)


def pair_masks(
    truths: Mapping[str, Path], predictions: MaskListing[ImagePath], failures: Mapping[str, str], rules: Protocol
) -> tuple[list[MaskPair], tuple[str, ...]]:
    """Return one pair for each ground truth mask, sorted by name, and the names of predicted masks in no pair.

    `failures` are the reasons of failed images by name.
    """
    matches = _match_predictions(truths, predictions.masks, failures, rules)
    unsupported = {image_id(name, rules): path for name, path in predictions.unsupported.items()}
    pairs: list[MaskPair] = []
    for name in sorted(truths):
        candidates = matches[name]
        problem = _pairing_problem(candidates, failures, unsupported.get(name.rpartition("/")[2]))
        prediction = None if problem else predictions.masks[candidates[0]]
        image = candidates[0] if len(candidates) == 1 else ""
        probability_map = predictions.maps.get(image) if prediction else None
        pairs.append(MaskPair(name, truths[name], prediction, problem, image, probability_map))
    matched = {candidate for candidates in matches.values() for candidate in candidates}
    return pairs, tuple(sorted(predictions.masks.keys() - matched))


def _match_predictions(
    truths: Collection[str], masks: Collection[str], failures: Collection[str], rules: Protocol
) -> dict[str, tuple[str, ...]]:
    """Return the masks and failed images that each ground truth mask may belong to.

    A failed image has no mask, so its name is that of the image. If it matches nothing, the name that `segment --isic`
    would have given its mask is tried.
    """
    by_name = match(truths, {*masks, *failures}, rules)
    unmatched = set(failures) - {candidate for candidates in by_name.values() for candidate in candidates}
    renamed: dict[str, list[str]] = {}
    for name in sorted(unmatched):
        renamed.setdefault(name_by_id(name), []).append(name)
    by_id = match(truths, renamed, rules)
    return {name: by_name[name] or tuple(chain(*(renamed[image] for image in by_id[name]))) for name in truths}


def _pairing_problem(candidates: tuple[str, ...], failures: Mapping[str, str], unsupported: Path | None) -> str:
    """Return why a ground truth mask has no prediction; "" if it has one."""
    if not candidates and unsupported:
        return f"no prediction: {unsupported.name} is not one of {', '.join(MASK_FORMATS)}; save it as PNG"
    if not candidates:
        return "no prediction"
    if len(candidates) > 1:
        return f"several predictions: {', '.join(candidates)}"
    if candidates[0] in failures:  # a mask of this name is left over from an earlier run
        return f"no prediction: {failures[candidates[0]]}"
    return ""
