"""Compare a folder of predicted masks, and the class scores beside them, with the truth.

Every truth mask becomes one CaseResult, scored or with the reason why not, and every labelled id counts for the AUC or
is named: nothing is resized, guessed or left out in silence. Masks are read pair by pair, so memory does not grow with
their size; of a million images only names and numbers are held.
"""

import csv
import io
import itertools
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
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
from lesioncli.files import written_whole
from lesioncli.spec import CLASSES

SCORES = "scores.csv"
OVERLAYS = "overlays"
AUC_MEAN = "auc_mean"
ID_COLUMNS = ("image", "image_id", "isic_id", "name")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
MASK_FORMATS = ("PNG", "BMP", "TIFF")  # by content: left to choose, Pillow runs Ghostscript on an EPS named x.png

_SUFFIX = re.compile(r"\.[^./]+$")
_PICTURE_SUFFIX = re.compile(r"\.(jpe?g|png|bmp|tiff?)$", re.IGNORECASE)  # an id without one may hold a dot
_QUEUE_LENGTH = 1024  # cases handed to the threads at once; futures for a million would outweigh the results

Role = Literal["truth", "prediction"]


@dataclass(frozen=True)
class CaseResult:
    """One truth mask: its metrics by the names in PIXEL_METRICS, or the `problem` that kept it from being scored."""

    name: str
    metrics: Mapping[str, float]
    problem: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What evaluate() found.

    `cases` has one entry for every truth mask, sorted by name; `extra` names the predictions without a truth. `means`
    are over the scored cases, and empty where there are none. `auc` is per class in the labels CSV, over the
    `auc_count` ids with a score, and nan where those have one label only; it is empty where there is no labels CSV or
    no scores.csv. `score_problems` names the other labelled ids and says why. `intervals` are 95 % bootstrap
    intervals for the keys of `means` and `auc` and for AUC_MEAN, except where the value itself is nan.
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
        """Plain mean over the classes in the labels CSV, by which ISIC-2017 Part 3 ranks; nan where there is none."""
        return sum(self.auc.values()) / len(self.auc) if self.auc else math.nan

    @property
    def failed(self) -> bool:
        """Whether any truth mask or labelled id could not be judged."""
        return bool(self.score_problems) or any(case.problem for case in self.cases)


def evaluate(
    truth: Path,
    predictions: Path,
    *,
    workers: int = 0,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Judge the masks and scores.csv in folder `predictions` by the masks and the labels CSV in folder `truth`.

    `workers` threads read masks, 0 means one per CPU. `seed` is the bootstrap's. `on_progress` is told (done, total)
    after each case. InputError where a folder has no masks or two of one name, or a CSV is not what it should be.
    """
    truths, masks = _find_masks(truth), _find_masks(predictions, skip=OVERLAYS)
    labels = _read_labels(truth)
    rows = _read_scores(predictions / SCORES, labels.classes)
    if not truths:
        raise InputError(f"{truth}: no masks found; looked for x.png or x_segmentation.png, also .bmp, .tif and .tiff")
    if not masks and not rows:
        raise InputError(f"{predictions}: no masks found; give the folder that `lesioncli segment` wrote")
    failures = {name: row.failure for name, row in (rows or {}).items() if row.failure}
    jobs, extra = _pair(truths, masks, failures)
    cases = tuple(_watched(_run(jobs, workers or os.cpu_count() or 1), len(jobs), on_progress))
    means, mean_intervals = _mean_metrics(cases, seed)
    scored = _join(labels, rows)
    aucs, auc_intervals = _aucs(scored, seed)
    intervals = mean_intervals | auc_intervals
    return Evaluation(cases, extra, means, aucs, len(scored.labels), scored.problems, intervals)


def write_cases(evaluation: Evaluation, path: Path) -> None:
    """Write one CSV row per case: image, the metrics (blank where not scored), problem. Written whole or not at all."""
    rows = (
        (case.name, *(case.metrics.get(each, "") for each in PIXEL_METRICS), case.problem) for case in evaluation.cases
    )
    with written_whole(path) as aside, aside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(("image", *PIXEL_METRICS, "problem"))
        writer.writerows(rows)


# Finding masks, and which belongs to which


def _find_masks(folder: Path, skip: str = "") -> dict[str, Path]:
    """Masks by name: the posix path below `folder`, without suffix and `_segmentation`; sub-folder `skip` is left."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in _walk(folder, skip):
        if path.suffix.lower() not in MASK_SUFFIXES or path.stem.endswith("_superpixels"):
            continue
        name = path.relative_to(folder).with_name(path.stem.removesuffix("_segmentation")).as_posix()
        if name in found:
            raise InputError(f"two masks for {name}: {found[name]} and {path}; keep one of them")
        found[name] = path
    return found


def _walk(folder: Path, skip: str) -> Iterator[Path]:
    """Every file below `folder` except hidden ones and what lies in its sub-folder `skip`, in sorted order."""
    for here, folders, files in os.walk(folder, onerror=_refuse):
        at_top = Path(here) == folder
        folders[:] = sorted(each for each in folders if not each.startswith(".") and not (at_top and each == skip))
        yield from (Path(here, file) for file in sorted(files) if not file.startswith("."))


def _refuse(error: OSError) -> NoReturn:
    """os.walk() would go on without the folder, and its masks with it."""
    raise InputError(f"{error.filename}: cannot be listed ({error.strerror})") from error


def _match(names: Collection[str], available: Collection[str]) -> dict[str, tuple[str, ...]]:
    """For each name what it may mean in `available`: one is a match, none or several are a problem.

    The whole name decides. Only where no name has a folder does the last part of an available one do too: elsewhere
    x could take what belongs to a/x.
    """
    by_last_part: dict[str, list[str]] = {}
    if not any("/" in name for name in names):
        for each in sorted(available):
            by_last_part.setdefault(each.rpartition("/")[2], []).append(each)
    return {name: (name,) if name in available else tuple(by_last_part.get(name, ())) for name in names}


class _Job(NamedTuple):
    """A truth mask and its prediction, or why there is none."""

    name: str
    truth: Path
    prediction: Path | str


def _pair(
    truths: Mapping[str, Path], masks: Mapping[str, Path], failures: Mapping[str, str]
) -> tuple[list[_Job], tuple[str, ...]]:
    """One job per truth, sorted by name, and the names of the masks that no truth asked for."""
    matches = _match(truths, masks.keys() | failures.keys())
    jobs = [_Job(name, truths[name], _choose(matches[name], masks, failures)) for name in sorted(truths)]
    asked_for = {name for found in matches.values() for name in found}
    return jobs, tuple(sorted(masks.keys() - asked_for))


def _choose(found: tuple[str, ...], masks: Mapping[str, Path], failures: Mapping[str, str]) -> Path | str:
    if not found:
        return "no prediction"
    if len(found) > 1:
        return f"several predictions: {', '.join(found)}"
    if found[0] in failures:  # a mask that is there all the same is left from an earlier run
        return f"no prediction: {failures[found[0]]}"
    return masks[found[0]]


# Judging masks


def _run(jobs: list[_Job], workers: int) -> Iterator[CaseResult]:
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(jobs), _QUEUE_LENGTH):
            yield from pool.map(_judge, jobs[start : start + _QUEUE_LENGTH])


def _watched(
    cases: Iterator[CaseResult], total: int, on_progress: Callable[[int, int], None] | None
) -> Iterator[CaseResult]:
    for done, case in enumerate(cases, 1):
        if on_progress:
            on_progress(done, total)
        yield case


def _judge(job: _Job) -> CaseResult:
    if isinstance(job.prediction, str):
        return CaseResult(job.name, {}, job.prediction)
    try:
        truth, prediction = _read_mask(job.truth, "truth"), _read_mask(job.prediction, "prediction")
    except ImageError as error:
        return CaseResult(job.name, {}, error.reason)
    if truth.shape != prediction.shape:
        sizes = "truth {}x{}, prediction {}x{}".format(*truth.shape, *prediction.shape)
        return CaseResult(job.name, {}, f"sizes differ: {sizes}")
    counts = count(truth, prediction)
    return CaseResult(job.name, {name: metric(counts) for name, metric in PIXEL_METRICS.items()})


def _read_mask(path: Path, role: Role) -> NDArray[np.bool_]:
    """Where the mask (H, W) is lesion; ImageError, its reason beginning with `role`, where that cannot be told."""
    grey, white = _grey(_decode(path, role), role)
    # A 0/1 mask would be all background. A prediction above that may be a probability map that never reached 1/2.
    too_dark = THRESHOLD if role == "truth" else 1
    if 0 < (brightest := int(grey.max())) <= too_dark * white // 255:
        raise ImageError("decode", f"{role} is a 0/{brightest} mask, not 0/{white}")
    return np.asarray(grey > THRESHOLD * white // 255)


def _decode(path: Path, role: Role) -> Image.Image:
    try:
        data = path.read_bytes()
        # Decoding stops once it has its pixels; verify() goes through all of a PNG's chunks and their checksums. It
        # leaves the picture unusable, hence the second open().
        Image.open(io.BytesIO(data), formats=MASK_FORMATS).verify()
        image = Image.open(io.BytesIO(data), formats=MASK_FORMATS)
        image.load()
    except UnidentifiedImageError as error:
        raise ImageError("decode", f"{role} unreadable: not a PNG, BMP or TIFF picture, or cut short") from error
    except Exception as error:  # damaged bytes make Pillow raise OSError, SyntaxError, struct.error and more
        raise ImageError("decode", f"{role} unreadable: {str(error) or type(error).__name__}") from error
    return image


def _grey(image: Image.Image, role: Role) -> tuple[NDArray[np.integer[Any]], int]:
    """Values (H, W) of a picture that is grey in effect, and which value is white; ImageError for any other picture."""
    if (pages := getattr(image, "n_frames", 1)) > 1:
        raise ImageError("decode", f"{role} has {pages} pages, not one")
    if image.mode.startswith("I;16"):
        return np.asarray(image), 65535
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return np.asarray(image.convert("L")), 255
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise ImageError("decode", f"{role} is not a single-channel mask: its mode is {image.mode}")
    rgba = np.asarray(image.convert("RGBA"))
    if (rgba[..., 3] != 255).any():
        raise ImageError("decode", f"{role} is not a single-channel mask: it is transparent in places")
    if (rgba[..., :3] != rgba[..., :1]).any():
        raise ImageError("decode", f"{role} is not a single-channel mask: it has colours")
    return rgba[..., 0], 255


def _mean_metrics(cases: tuple[CaseResult, ...], seed: int) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Means over the scored cases, and their intervals."""
    values = np.array([[case.metrics[name] for name in PIXEL_METRICS] for case in cases if not case.problem])
    if not values.size:
        return {}, {}
    means = dict(zip(PIXEL_METRICS, values.mean(axis=0).tolist(), strict=True))
    resampled = bootstrap_means(values, seed)
    return means, {name: percentile_interval(resampled[:, column]) for column, name in enumerate(PIXEL_METRICS)}


# Labels and scores


class _Labels(NamedTuple):
    """The labels CSV: its classes in the order of CLASSES, and for each id whether it is one of them."""

    classes: tuple[str, ...]
    by_id: Mapping[str, tuple[bool, ...]]


class _ScoreRow(NamedTuple):
    """A row of scores.csv: the reason if it failed, and the score of each class in the labels, nan for no number."""

    failure: str
    scores: tuple[float, ...]


class _Scored(NamedTuple):
    """Labels and scores (N, K) of the labelled ids that have both, and what is wrong with the others."""

    classes: tuple[str, ...]
    labels: NDArray[np.bool_]
    scores: NDArray[np.float64]
    problems: tuple[str, ...]


def _read_labels(folder: Path) -> _Labels:
    """The labels CSV that lies in `folder`; no classes where there is none."""
    tables = [path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".csv" and path.name[0] != "."]
    found = {path: columns for path in tables if (columns := _label_columns(path))}
    if len(found) > 1:
        raise InputError(f"several CSV files with labels, keep one of them: {', '.join(map(str, found))}")
    for path, (id_column, *classes) in found.items():
        return _parse_labels(path, id_column, tuple(classes))
    return _Labels((), {})


def _label_columns(path: Path) -> tuple[str, ...]:
    """The id column of a labels CSV and its classes; empty where this is none."""
    header = _header(path)
    ids = [column for column in ID_COLUMNS if column in header]
    classes = [column for column in CLASSES if column in header]
    return (ids[0], *classes) if ids and classes else ()


def _parse_labels(path: Path, id_column: str, classes: tuple[str, ...]) -> _Labels:
    by_id: dict[str, tuple[bool, ...]] = {}
    for line, row in _rows(path):
        name = _PICTURE_SUFFIX.sub("", row[id_column].strip())
        if not name or name in by_id:
            raise InputError(f"{path}, line {line}: {id_column} {name!r} is {'there twice' if name else 'empty'}")
        for column in classes:
            if _number(row[column]) not in (0, 1):
                raise InputError(f"{path}, line {line}: {column} is {row[column]!r}, not 0 or 1")
        by_id[name] = tuple(_number(row[column]) == 1 for column in classes)
    if not by_id:
        raise InputError(f"{path}: no labels below the header")
    return _Labels(classes, by_id)


def _read_scores(path: Path, classes: tuple[str, ...]) -> dict[str, _ScoreRow] | None:
    """Rows of scores.csv by mask name; None where there is no such file."""
    if not path.exists():
        return None
    if missing := [column for column in ("image", "status", "reason", *classes) if column not in _header(path)]:
        raise InputError(f"{path}: no column {', '.join(missing)}")
    found: dict[str, _ScoreRow] = {}
    for line, row in _rows(path):
        name = _SUFFIX.sub("", row["image"])
        if not name or name in found:
            raise InputError(f"{path}, line {line}: image {name!r} is {'there twice' if name else 'empty'}")
        failure = (row["reason"] or "failed") if row["status"] == "failed" else ""
        found[name] = _ScoreRow(failure, tuple(_number(row[column]) for column in classes))
    return found


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line that is not blank. File names need not be UTF-8, hence the escapes."""
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.reader(file, strict=True)
            yield from ((reader.line_num, fields) for fields in reader if fields)
    except (csv.Error, OSError) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from error


def _header(path: Path) -> list[str]:
    _, columns = next(_lines(path), (0, []))
    return [column.strip().lower() for column in columns]


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and fields by column below the header; InputError where there are more or fewer than it has."""
    header = _header(path)
    for line, fields in itertools.islice(_lines(path), 1, None):
        if len(fields) != len(header):
            raise InputError(f"{path}, line {line}: {len(fields)} fields, but the header has {len(header)}")
        yield line, dict(zip(header, fields, strict=True))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _join(labels: _Labels, rows: Mapping[str, _ScoreRow] | None) -> _Scored:
    """Scores of the labelled ids; nothing at all where there is no scores.csv."""
    if rows is None:
        labels, rows = _Labels((), {}), {}
    usable: list[tuple[str, _ScoreRow]] = []
    problems: list[str] = []
    for name, found in sorted(_match(labels.by_id, rows).items()):
        if problem := _score_problem(found, rows, labels.classes):
            problems.append(f"{name}: {problem}")
        else:
            usable.append((name, rows[found[0]]))
    shape = len(usable), len(labels.classes)
    truths = np.array([labels.by_id[name] for name, _ in usable], np.bool_).reshape(shape)
    scores = np.array([row.scores for _, row in usable], np.float64).reshape(shape)
    return _Scored(labels.classes, truths, scores, tuple(problems))


def _score_problem(found: tuple[str, ...], rows: Mapping[str, _ScoreRow], classes: tuple[str, ...]) -> str:
    if not found:
        return f"no row in {SCORES}"
    if len(found) > 1:
        return f"several rows in {SCORES}: {', '.join(found)}"
    row = rows[found[0]]
    if row.failure:
        return f"failed: {row.failure}"
    bad = [column for column, score in zip(classes, row.scores, strict=True) if not 0 <= score <= 1]
    return f"{' and '.join(bad)} not a number from 0 to 1" if bad else ""


def _aucs(scored: _Scored, seed: int) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """AUC per class, and the intervals of these and their mean."""
    columns = list(zip(scored.labels.T, scored.scores.T, strict=True))
    aucs = {name: auc(*column) for name, column in zip(scored.classes, columns, strict=True)}
    if not scored.labels.size:
        return aucs, {}
    resampled = bootstrap_aucs(scored.labels, scored.scores, seed)
    by_name = {**dict(zip(aucs, resampled.T, strict=True)), AUC_MEAN: resampled.mean(axis=1)}
    return aucs, {name: percentile_interval(each) for name, each in by_name.items() if not np.isnan(each).all()}
