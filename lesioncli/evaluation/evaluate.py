"""Compare a folder of predicted masks, and the class scores beside them, with the truth.

Every truth mask becomes one CaseResult, scored or with the reason why not; every labelled id counts for the AUC or is
named. Nothing is resized, guessed or left out in silence. Masks are read pair by pair, so memory does not grow with
their size; of a million images only names and numbers are held.
"""

import csv
import io
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lesioncli.errors import ImageError, InputError
from lesioncli.evaluation.metrics import (
    PIXEL_METRICS,
    THRESHOLD,
    auc,
    bootstrap_aucs,
    bootstrap_means,
    count,
    percentile_interval,
)
from lesioncli.spec import CLASSES

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
MASK_FORMATS = ("PNG", "BMP", "TIFF")  # by content; Pillow would start Ghostscript for an EPS that is called x.png
SCORES_NAME = "scores.csv"
OVERLAYS_NAME = "overlays"
ID_COLUMNS = ("image", "image_id", "isic_id", "name")
AUC_MEAN = "auc_mean"

_PICTURE_SUFFIX = re.compile(r"\.(jpe?g|png|bmp|tiff?)$", re.IGNORECASE)
_CASES_AT_ONCE = 1024  # in the thread pool's queue: a million futures would outweigh the results

Role = Literal["truth", "prediction"]


@dataclass(frozen=True)
class CaseResult:
    """One truth mask: its metrics (the keys of PIXEL_METRICS), or the `problem` that kept it from being scored."""

    name: str
    metrics: Mapping[str, float]
    problem: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What evaluate() found.

    `cases` has one entry for every truth mask, sorted by name; `extra` names the predictions without a truth. `means`
    are over the scored cases and empty where there are none. `auc` is per class of the labels, over `auc_count` ids,
    nan where those share one label; it is empty without labels or without scores.csv. `score_problems` says of each
    other labelled id what is wrong with its score. `intervals` are 95 % bootstrap intervals for the keys of `means`
    and `auc` and for AUC_MEAN, as far as these are not nan.
    """

    cases: tuple[CaseResult, ...]
    extra: tuple[str, ...]
    means: Mapping[str, float]
    auc: Mapping[str, float]
    auc_count: int
    score_problems: tuple[str, ...]
    intervals: Mapping[str, tuple[float, float]]

    @property
    def auc_mean(self) -> float:
        """Plain mean over the classes of the labels, the ranking figure of ISIC-2017 Part 3; nan without AUC."""
        return sum(self.auc.values()) / len(self.auc) if self.auc else math.nan

    @property
    def failed(self) -> bool:
        """Whether any truth mask or any labelled id could not be judged."""
        return bool(self.score_problems) or any(case.problem for case in self.cases)


def evaluate(
    truth: Path,
    predictions: Path,
    *,
    workers: int = 0,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Judge the masks and scores.csv in `predictions` by the masks and the labels CSV in `truth`.

    `workers` threads read masks (0: one per CPU); `seed` is the bootstrap's; `on_progress` gets (done, total) after
    each case. InputError where a folder has no masks, two masks of one name, or a CSV that cannot be trusted.
    """
    truths = find_masks(truth)
    labels = read_labels(truth)
    masks = find_masks(predictions, skip=OVERLAYS_NAME)
    rows = read_scores(predictions / SCORES_NAME, labels.classes if labels else ())
    if not truths:
        raise InputError(f"{truth}: no masks here; looked for x.png and x_segmentation.png (or {_OTHERS}), also deeper")
    if not masks and not rows:
        raise InputError(f"{predictions}: no masks here, and no {SCORES_NAME}; run segment first, or name its folder")

    failures = {name: row.failure for name, row in rows.items() if row.failure}
    matches = match(truths, masks.keys() | failures.keys())
    used = {name for found in matches.values() for name in found}
    jobs = [_Job(name, truths[name], _choose(matches[name], masks, failures)) for name in sorted(truths)]
    cases = tuple(_run(jobs, workers or os.cpu_count() or 1, on_progress))
    means, mean_intervals = _mean_metrics(cases, seed)
    scored = score_labelled(labels, rows) if labels and rows else None
    aucs, auc_intervals = _aucs(scored, seed) if scored else ({}, {})
    return Evaluation(
        cases=cases,
        extra=tuple(sorted(masks.keys() - used)),
        means=means,
        auc=aucs,
        auc_count=len(scored.labels) if scored else 0,
        score_problems=scored.problems if scored else (),
        intervals=mean_intervals | auc_intervals,
    )
