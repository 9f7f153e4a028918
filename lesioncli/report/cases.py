"""The cases of a report: what a run, its folder and the truth say of each image. Nothing is matched or judged here.

A case goes by the name of its mask, that of a failed image by the one it would have: relative, with "/", without suffix
and `_segmentation`. That is also the image's name, but where `segment --isic` named the masks.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from lesioncli.errors import InputError
from lesioncli.evaluation.cases import CaseResult
from lesioncli.evaluation.predictions import OVERLAYS, SCORES
from lesioncli.evaluation.reading.masks import find_masks, image_stem
from lesioncli.evaluation.reading.tables import column_key, read_header, read_rows
from lesioncli.evaluation.result import Evaluation
from lesioncli.files import printable
from lesioncli.images.find import find_images
from lesioncli.inference.results import ABOUT, FAILED, image_name, read_run, without_suffix
from lesioncli.isic import named_by_id

AREA, CONFIDENCE = "lesion_area_fraction", "confidence"
JUDGED, NOT_JUDGED, WITHOUT_TRUTH, SEGMENTED = "judged", "not judged", "without truth", "segmented"


@dataclass(frozen=True)
class Case:
    """An image, a predicted mask or a true one, and what belongs to it.

    `state` is FAILED, where the run says so, or what became of the comparison, or SEGMENTED where there was none;
    `reason` says why it failed or was not judged. `figures` are the columns of scores.csv, `metrics` those of
    evaluate; `labels` are the classes that the image has by its labels, None where it has no labels.
    """

    name: str
    image: str
    state: str
    reason: str = ""
    note: str = ""
    size: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    photograph: Path | None = None
    prediction: Path | None = None
    truth: Path | None = None

    def value(self, column: str) -> float:
        """A metric or a figure; nan where there is none."""
        return self.metrics.get(column, self.figures.get(column, math.nan))


@dataclass(frozen=True)
class Scores:
    """scores.csv: its rows by case, the columns of the classes, and all columns of figures."""

    rows: Mapping[str, Mapping[str, str]]
    classes: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()


def read_scores_csv(predictions: Path) -> Scores:
    """All of a run's scores.csv; nothing where there is none. InputError where it is not what segment writes."""
    path = predictions / SCORES
    if not path.exists():
        return Scores({})
    header = list(map(column_key, read_header(path)))
    if missing := [column for column in ("image", "status", "reason") if column not in header]:
        raise InputError(f"{path}: no column {', '.join(missing)}; it is not what `lesioncli segment` writes")
    figures = tuple(column for column in header if column not in (*ABOUT, "note"))
    classes = figures[: figures.index(AREA)] if AREA in figures else ()
    by_id = read_run(predictions).get("names") == "isic"
    return Scores({_case_name(row, by_id): row for _, row in read_rows(path)}, classes, figures)


def _case_name(row: Mapping[str, str], by_id: bool) -> str:
    """The name of the row's mask; a failed image has none, and `by_id` says how it would have been called."""
    image = without_suffix(row["image"])
    mask = PurePosixPath(row.get("mask") or f"{named_by_id(image) if by_id else image}.png")
    return mask.with_name(image_stem(mask)).as_posix()


def choose_sources(predictions: Path, asked: Sequence[Path]) -> tuple[list[Path], str]:
    """Where the photographs lie, and why there: as asked, as run.json has it, beside the masks, or nowhere."""
    if asked:
        return list(asked), "as asked"
    recorded = [_from_here(predictions / source) for source in read_run(predictions).get("sources", ())]
    if there := [source for source in recorded if source.exists()]:
        return there, "as run.json says"
    beside = predictions.absolute().parent / "images"
    if beside.is_dir():
        return [beside], "the folder beside the masks"
    return [], "none found; give them with --images"


def _from_here(path: Path) -> Path:
    whole = path.resolve()
    return whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else whole


def find_photographs(sources: Iterable[Path], predictions: Path) -> dict[str, Path]:
    """Photographs by image. Of two with one name the later source has it, as in a folder where the run went on."""
    return {
        without_suffix(image_name(image)): image.path
        for each in sources
        for image in find_images([each], exclude=predictions)
    }


def collect(
    predictions: Path, scores: Scores, photographs: Mapping[str, Path], evaluation: Evaluation | None
) -> list[Case]:
    """One case for every row of scores.csv, every predicted mask and every true one, the worst first.

    InputError where there is none.
    """
    images = {without_suffix(row["image"]): name for name, row in scores.rows.items()}
    results = {_result_name(result, images): result for result in evaluation.masks.cases} if evaluation else {}
    masks = _find_masks(predictions, evaluation)
    labels = _labels(evaluation)
    names = sorted({*scores.rows, *masks, *results})
    if not names:
        raise InputError(f"{predictions}: no masks and no scores.csv; give the folder that `lesioncli segment` wrote")
    judging = bool(results)
    cases = [_case(name, scores, masks.get(name), results.get(name), labels, photographs, judging) for name in names]
    return sorted(cases, key=_badness)


def _result_name(result: CaseResult, images: Mapping[str, str]) -> str:
    """The case of a result; that of a failed image has the image's name."""
    name = printable((result.pair.matched if result.pair else "") or result.name)
    return images.get(name, name)


def _find_masks(predictions: Path, evaluation: Evaluation | None) -> dict[str, Path]:
    if evaluation and not predictions.is_dir():  # a table pairs masks that lie anywhere
        return {}
    return {printable(name): path for name, path in find_masks(predictions, skip=OVERLAYS).masks.items()}


def _labels(evaluation: Evaluation | None) -> dict[str, tuple[str, ...]]:
    if evaluation is None:
        return {}
    scored = evaluation.scores.labelled
    return {
        row: tuple(name for name, is_it in zip(scored.classes, labels, strict=True) if is_it)
        for row, labels in zip(scored.rows, scored.labels, strict=True)
    }


def _case(
    name: str,
    scores: Scores,
    mask: Path | None,
    result: CaseResult | None,
    labels: Mapping[str, tuple[str, ...]],
    photographs: Mapping[str, Path],
    judging: bool,
) -> Case:
    row = scores.rows.get(name, {})
    image = without_suffix(row["image"]) if row else name
    photograph = photographs.get(image)
    job = result.pair if result else None
    failed = row.get("status") == FAILED
    problem = result.problem if result else ""
    return Case(
        name=name,
        image=row.get("image") or (photograph and printable(photograph.name)) or name,
        state=FAILED if failed else _state(result, judging),
        reason=(row["reason"] or "failed") if failed else problem,
        note="; ".join(filter(None, (row.get("note", ""), result.note if result else ""))),
        size=f"{row['width']} x {row['height']} px" if row.get("width") else "",
        figures={column: _number(row[column]) for column in scores.figures} if row and not failed else {},
        metrics=result.metrics if result else {},
        labels=labels.get(image),
        photograph=photograph,
        prediction=None if failed else (job.prediction if job and job.prediction else mask),
        truth=job.truth if job else None,
    )


def _state(result: CaseResult | None, judging: bool) -> str:
    if not judging:
        return SEGMENTED
    if result is None:
        return WITHOUT_TRUTH
    return NOT_JUDGED if result.problem else JUDGED


def _badness(case: Case) -> tuple[int, float, str]:
    """What failed or could not be judged, then by Jaccard, then by confidence what has no truth."""
    jaccard, confidence = case.value("jaccard"), case.value(CONFIDENCE)
    if case.state in (FAILED, NOT_JUDGED):
        return 0, 0.0, case.name
    if not math.isnan(jaccard):
        return 1, jaccard, case.name
    return (3, 0.0, case.name) if math.isnan(confidence) else (2, confidence, case.name)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
