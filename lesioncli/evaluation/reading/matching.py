"""Which predicted mask, and which row of scores, belongs to which image of the truth."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from lesioncli.errors import InputError
from lesioncli.evaluation.protocols import Protocol, image_id
from lesioncli.evaluation.reading.masks import MaskListing
from lesioncli.isic import named_by_id


def masks_by_image(masks: Mapping[str, Path], rules: Protocol) -> dict[str, Path]:
    """True masks by the image that the protocol sees in their names."""
    if not rules.isic_names:
        return dict(masks)
    found: dict[str, Path] = {}
    for name, path in masks.items():
        image = image_id(name, rules)
        if image in found:
            raise InputError(f"two masks for {image}: {found[image]} and {path}; keep one of them")
        found[image] = path
    return found


def match(names: Collection[str], available: Collection[str], rules: Protocol) -> dict[str, tuple[str, ...]]:
    """For each name what it may mean in `available`: one is a match, none or several are a problem.

    The whole name decides. Only where no name has a folder does the image that an available one names do too:
    elsewhere x could take what belongs to a/x.
    """
    named: dict[str, list[str]] = {}
    if not any("/" in name for name in names):
        for each in sorted(available):
            named.setdefault(image_id(each, rules), []).append(each)
    return {name: (name,) if name in available else tuple(named.get(name, ())) for name in names}


@dataclass(frozen=True)
class MaskPair:
    """A ground truth mask and its prediction, or the `problem` why there is none.

    `matched` is the name of the image in the predictions, with a mask or as a failure; "" if no or several names match.
    """

    name: str
    truth: Path
    prediction: Path | None
    problem: str
    matched: str


def pair_masks(
    truths: Mapping[str, Path], found: MaskListing, failures: Mapping[str, str], rules: Protocol
) -> tuple[list[MaskPair], tuple[str, ...]]:
    """One job per truth, sorted by name, and the names of the masks that no truth asked for."""
    matches = _match_predictions(truths, found.masks, failures, rules)
    unusable = {image_id(name, rules): path for name, path in found.unsupported.items()}
    jobs: list[MaskPair] = []
    for name in sorted(truths):
        problem = _pairing_problem(name, matches[name], failures, unusable)
        prediction = None if problem else found.masks[matches[name][0]]
        jobs.append(MaskPair(name, truths[name], prediction, problem, _only(matches[name])))
    asked_for = {name for each in matches.values() for name in each}
    return jobs, tuple(sorted(found.masks.keys() - asked_for))


def _match_predictions(
    truths: Collection[str], masks: Collection[str], failures: Collection[str], rules: Protocol
) -> dict[str, tuple[str, ...]]:
    """For each truth the masks and failed images that it may mean.

    A failed image has no mask: where nothing has the truth's name, and no truth its own, it goes by the one that
    `segment --isic` would give.
    """
    named = match(truths, {*masks, *failures}, rules)
    nameless = set(failures) - {each for matches in named.values() for each in matches}
    by_id: dict[str, list[str]] = {}
    for name in sorted(nameless):
        by_id.setdefault(named_by_id(name), []).append(name)
    failed = match(truths, by_id, rules)
    return {name: named[name] or tuple(chain(*(by_id[each] for each in failed[name]))) for name in truths}


def _only(matches: tuple[str, ...]) -> str:
    return matches[0] if len(matches) == 1 else ""


def _pairing_problem(
    name: str, matches: tuple[str, ...], failures: Mapping[str, str], unusable: Mapping[str, Path]
) -> str:
    if not matches:
        other = unusable.get(name.rpartition("/")[2])
        return f"no prediction: {other.name} is not a PNG, BMP or TIFF; save it as PNG" if other else "no prediction"
    if len(matches) > 1:
        return f"several predictions: {', '.join(matches)}"
    if matches[0] in failures:  # a mask that is there all the same is left from an earlier run
        return f"no prediction: {failures[matches[0]]}"
    return ""
