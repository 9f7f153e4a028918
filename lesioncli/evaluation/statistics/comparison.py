"""Two sets of predictions of the same images: paired differences, how sure they are, and how likely by chance.

Intervals are percentile bootstraps over images or clusters of them, both predictions of an image drawn together. The
p-value of a mean is that of a sign-flip test: were the two alike, each image's difference, or those of each cluster,
could as well have the other sign. An AUC is no mean of differences, so the p-value of its difference is that of the
bootstrap, the level at which its interval would just touch zero (Efron and Tibshirani 1993, section 15.4). Both are
two-sided and never zero (Phipson and Smyth 2010).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.cases import Masks, Scored
from lesioncli.evaluation.statistics.bootstrap import (
    AUC_MEAN,
    DRAWS_AT_ONCE,
    MAX_DRAWS,
    Drawing,
    Draws,
    auc,
    bootstrap_aucs,
    bootstrap_means,
    means,
    percentile_interval,
)

FLIPS = 10_000


class Difference(NamedTuple):
    """One figure of both over the same images, and ours minus the other's with its 95 % interval and p-value.

    `clusters` is how many the images are of: as many as images where each is drawn alone.
    """

    ours: float
    other: float
    difference: float
    low: float
    high: float
    p: float
    images: int
    clusters: int


@dataclass(frozen=True)
class Comparison:
    """What compare() found.

    `differences` are by the names of Evaluation.means and .auc, and AUC_MEAN. `per_image` has the differences of the
    metrics of each mask that both have. `only_ours` and `only_other` name the images of which one of them alone has a
    mask, or scores, that could be judged. `other` says what was compared with.
    """

    other: str
    differences: Mapping[str, Difference]
    per_image: Mapping[str, Mapping[str, float]]
    only_ours: tuple[str, ...]
    only_other: tuple[str, ...]


def compare(ours: tuple[Masks, Scored], other: tuple[Masks, Scored], name: str, drawing: Drawing) -> Comparison:
    """Differences over the images that both have, masks and scores each for themselves; `name` is the other's."""
    masks = _common(ours[0].images, other[0].images)
    scores = _common(ours[1].ids, other[1].ids)
    return Comparison(
        other=name,
        differences={**_of_means(ours[0], other[0], masks, drawing), **_of_aucs(ours[1], other[1], scores, drawing)},
        per_image=_per_image(ours[0], other[0], masks),
        only_ours=_missing(ours, other),
        only_other=_missing(other, ours),
    )


def _common(ours: Sequence[str], other: Sequence[str]) -> tuple[list[int], list[int]]:
    """Rows of the images that both have, in our order."""
    where = {image: row for row, image in enumerate(other)}
    rows = [row for row, image in enumerate(ours) if image in where]
    return rows, [where[ours[row]] for row in rows]


def _per_image(ours: Masks, other: Masks, rows: tuple[list[int], list[int]]) -> dict[str, dict[str, float]]:
    differences = (ours.values[a] - other.values[b] for a, b in zip(*rows, strict=True))
    named = (dict(zip(ours.names, each.tolist(), strict=True)) for each in differences)
    return dict(zip((ours.images[row] for row in rows[0]), named, strict=True))


def _missing(there: tuple[Masks, Scored], gone: tuple[Masks, Scored]) -> tuple[str, ...]:
    masks = {*there[0].images} - {*gone[0].images}
    return tuple(sorted(masks | ({*there[1].ids} - {*gone[1].ids})))


def _of_means(ours: Masks, other: Masks, rows: tuple[list[int], list[int]], drawing: Drawing) -> dict[str, Difference]:
    if not rows[0]:
        return {}
    values = np.stack([ours.values[rows[0]], other.values[rows[1]]])  # (2, N, M)
    values[np.broadcast_to(np.isnan(values).any(axis=0), values.shape)] = math.nan  # a mean of pairs wants both
    paired = values[0] - values[1]
    draws = drawing.of([ours.images[row] for row in rows[0]])
    averages = [means(each).tolist() for each in (*values, paired)]
    intervals = [percentile_interval(each) for each in bootstrap_means(paired, draws).T]
    known = [(each.size, draws.count(each)) for each in map(np.flatnonzero, ~np.isnan(paired).T)]
    columns = zip(*averages, intervals, flip_signs(paired, draws), known, strict=True)
    found = [Difference(a, b, apart, low, high, p, *counts) for a, b, apart, (low, high), p, counts in columns]
    return {name: each for name, each in zip(ours.names, found, strict=True) if each.images}


def flip_signs(paired: NDArray[np.float64], draws: Draws) -> list[float]:
    """Two-sided p-value (M,) of the mean of paired differences (N, M), by flipping signs; a nan is left out.

    All differences of a cluster change their sign together.
    """
    filled = np.where(np.isnan(paired), 0, paired)
    sums = np.abs(filled.sum(axis=0))
    slack = 1e-12 * np.abs(filled).sum(axis=0)  # of two equal sums one may round up
    as_far = np.zeros(len(sums))
    flips = 0
    for signs in _signs(len(filled), draws):
        flips += len(signs)
        as_far += (np.abs(signs @ filled) >= sums - slack).sum(axis=0)
    return [float(value) for value in (as_far + 1) / (flips + 1)]


def _signs(images: int, draws: Draws) -> Iterator[NDArray[np.float64]]:
    """Blocks (F, images) of 1 and -1; FLIPS rows in all, and fewer, down to 1000, above 20,000 images."""
    rng = np.random.default_rng(draws.seed)
    wanted = min(FLIPS, max(1000, MAX_DRAWS // images))
    rows_at_once = max(1, DRAWS_AT_ONCE // images)
    clusters = draws.count(np.arange(images))
    for done in range(0, wanted, rows_at_once):
        drawn = rng.integers(2, size=(min(rows_at_once, wanted - done), clusters), dtype=np.int8)
        yield draws.of_images(drawn * np.float64(2) - 1)


def _of_aucs(ours: Scored, other: Scored, rows: tuple[list[int], list[int]], drawing: Drawing) -> dict[str, Difference]:
    labels, scores = ours.labels[rows[0]], (ours.scores[rows[0]], other.scores[rows[1]])
    if not labels.size:
        return {}
    draws = drawing.of([ours.ids[row] for row in rows[0]])
    drawn = bootstrap_aucs(labels, scores[0], draws) - bootstrap_aucs(labels, scores[1], draws)
    counts = len(labels), draws.count(np.arange(len(labels)))
    mine, others = ([auc(*columns) for columns in zip(labels.T, each.T, strict=True)] for each in scores)
    columns = zip(ours.classes, mine, others, drawn.T, strict=True)
    found = {name: _difference(a, b, each, counts) for name, a, b, each in columns}
    if len(found) > 1:
        found[AUC_MEAN] = _difference(_mean(mine), _mean(others), drawn.mean(axis=1), counts)
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _difference(ours: float, other: float, resampled: NDArray[np.float64], counts: tuple[int, int]) -> Difference:
    known = resampled[~np.isnan(resampled)]
    low, high = percentile_interval(known)
    rarer = min((known <= 0).sum(), (known >= 0).sum())
    chance = min(1.0, 2 * (rarer + 1) / (known.size + 1)) if known.size else math.nan
    return Difference(ours, other, ours - other, low, high, float(chance), *counts)
