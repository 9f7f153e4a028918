"""Which predicted mask, and which row of scores, belongs to which image of the truth."""

from collections.abc import Collection, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from lesioncli.errors import InputError
from lesioncli.evaluation.protocols import Protocol, image_id
from lesioncli.evaluation.reading.masks import Found
from lesioncli.isic import named_by_id


def by_image(masks: Mapping[str, Path], rules: Protocol) -> dict[str, Path]:
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


class Job(NamedTuple):
    """A truth mask and its prediction, or why there is none.

    `matched` is the name under which the predictions have it, with a mask or as a failure; empty where none or several
    do.
    """

    name: str
    truth: Path
    prediction: Path | str
    matched: str


def pair(
    truths: Mapping[str, Path], found: Found, failures: Mapping[str, str], rules: Protocol
) -> tuple[list[Job], tuple[str, ...]]:
    """One job per truth, sorted by name, and the names of the masks that no truth asked for."""
    matches = _match_predictions(truths, found.masks, failures, rules)
    unusable = {image_id(name, rules): path for name, path in found.others.items()}
    jobs = [
        Job(name, truths[name], _choose(name, matches[name], found.masks, failures, unusable), _only(matches[name]))
        for name in sorted(truths)
    ]
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


def _choose(
    name: str,
    matches: tuple[str, ...],
    masks: Mapping[str, Path],
    failures: Mapping[str, str],
    unusable: Mapping[str, Path],
) -> Path | str:
    if not matches:
        other = unusable.get(name.rpartition("/")[2])
        return f"no prediction: {other.name} is not a PNG, BMP or TIFF; save it as PNG" if other else "no prediction"
    if len(matches) > 1:
        return f"several predictions: {', '.join(matches)}"
    if matches[0] in failures:  # a mask that is there all the same is left from an earlier run
        return f"no prediction: {failures[matches[0]]}"
    return masks[matches[0]]
