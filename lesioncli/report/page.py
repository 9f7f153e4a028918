"""One HTML file: everything that it shows is in it, and nothing in it can reach out.

The page comes first, with its figures, and what the gallery needs to know of each case; then the pictures, one block a
case, which are drawn while the file is written and looked at by the browser only when they come into sight.
"""

import base64
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from lesioncli import __version__
from lesioncli.errors import InputError, MissingPackageError
from lesioncli.evaluation.metrics.scores import SCORE_THRESHOLD
from lesioncli.evaluation.protocols import PROTOCOLS
from lesioncli.evaluation.result import Evaluation
from lesioncli.files import atomic_output, printable
from lesioncli.inference.results import FAILED, read_run
from lesioncli.report.cases import (
    AREA,
    CONFIDENCE,
    JUDGED,
    NOT_JUDGED,
    SEGMENTED,
    WITHOUT_TRUTH,
    Case,
    Scores,
    collect,
    find_photographs,
    read_scores_csv,
)
from lesioncli.report.figures import (
    Plot,
    classes_table,
    described,
    group_tables,
    mask_figures,
    matrix_table,
    plots,
    readable,
    tiles,
)
from lesioncli.report.pictures import GRID, Picture, draw_all

DOCTYPE = b"<!doctype html>"
HERE = Path(__file__).parent
NAMED = 200  # names in a list of the page; evaluate --json has all of them


@dataclass(frozen=True)
class Written:
    """What went into a report: cases by state, how many the gallery shows, and what could not be drawn, and why."""

    path: Path
    states: Mapping[str, int]
    shown: int
    problems: tuple[str, ...]
    size: int

    @property
    def failed(self) -> bool:
        """Whether an image failed, could not be judged or cannot be seen as it should."""
        return bool(self.problems or self.states.get(FAILED) or self.states.get(NOT_JUDGED))


def refuse_others(out: Path) -> None:
    """InputError where `out` is there and no HTML file, as a report is."""
    if not out.exists():
        return
    if not out.is_file() or not _begins_as_html(out):
        raise InputError(f"{out}: not an HTML file, so not replaced by a report; name another file with --out")


def _begins_as_html(path: Path) -> bool:
    """Whether it begins as a report does, or is empty."""
    try:
        with path.open("rb") as file:
            start = file.read(len(DOCTYPE))
    except OSError:  # nobody can tell, so it stays
        return False
    return start.lower() in (DOCTYPE, b"")


def write_report(
    predictions: Path,
    out: Path,
    *,
    sources: Sequence[Path] = (),
    evaluation: Evaluation | None = None,
    protocol: str = "plain",
    about: Mapping[str, str] | None = None,
    gallery: int = 3000,
    workers: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write what is known of the masks in `predictions` to the HTML file `out`, whole or not at all.

    `sources` are files and folders with the photographs, `evaluation` is what evaluate() found by `protocol`, or None
    without truth. `about` says more of how the report was made. The gallery shows the `gallery` worst cases; all count
    in the figures. `workers` threads draw, 0 means one a core; `on_progress` is told (done, total) after each picture.

    InputError where there is nothing to report or `out` cannot be written, MissingPackageError without the extra
    `report`.
    """
    template = _template()
    scores = read_scores_csv(predictions)
    cases = collect(predictions, scores, find_photographs(sources, predictions), evaluation)
    shown = cases[:gallery]
    problems: list[str] = []
    blocks = _watched(_blocks(shown, workers, problems, seen=bool(sources)), len(shown), on_progress)
    context = _context(predictions, cases, len(shown), scores, evaluation, protocol)
    script = (HERE / "page.js").read_text(encoding="utf-8")
    style = (HERE / "page.css").read_text(encoding="utf-8")
    page = template.generate(
        context
        | {
            "style": style,
            "script": script,
            "style_hash": _hash(style),
            "script_hash": _hash(script),
            "about": _about(predictions, about or {}),
            "source": _source(read_run(predictions), about or {}, protocol if evaluation else ""),
            "data": _data(shown, scores, evaluation),
            "pictures": blocks,
            "grid": GRID,
        }
    )
    with atomic_output(out, "--out") as aside:
        with aside.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(page)
        size = aside.stat().st_size
    return Written(out, context["states"], len(shown), tuple(problems), size)


def _template() -> Any:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ModuleNotFoundError as error:
        raise MissingPackageError(str(error.name), "report") from error
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters["figure"] = _figure
    return environment.get_template("page.html.j2")


def _hash(text: str) -> str:
    """How a content security policy names a script or a style that may be used."""
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"


def _figure(value: float, digits: int = 3) -> str:
    return "undefined" if math.isnan(value) else f"{value:.{digits}f}"


def _context(
    predictions: Path,
    cases: Sequence[Case],
    shown: int,
    scores: Scores,
    evaluation: Evaluation | None,
    protocol: str,
) -> dict[str, Any]:
    """What the template shows of all cases together."""
    states = Counter(case.state for case in cases)
    drawn: list[Plot] = plots(cases, scores.classes, evaluation)
    return {
        "title": printable(str(predictions)),
        "cases": len(cases),
        "shown": shown,
        "states": {state: states[state] for state in (FAILED, NOT_JUDGED, JUDGED, WITHOUT_TRUTH, SEGMENTED)},
        "missing": sum(case.photograph is None for case in cases),
        "judged": evaluation is not None,
        "ranked_by": _ranked_by(evaluation),
        "protocol": protocol,
        "incomplete": evaluation.incomplete if evaluation and PROTOCOLS[evaluation.protocol].complete else (),
        "cluster": printable(evaluation.plan.column) if evaluation else "",
        "tiles": tiles(cases, evaluation),
        "mask_figures": mask_figures(evaluation) if evaluation else [],
        "figures": described(cases, scores.figures),
        "per_class": classes_table(evaluation) if evaluation else None,
        "matrix": matrix_table(evaluation.scores.matrix) if evaluation else None,
        "groups": group_tables(evaluation, PROTOCOLS[evaluation.protocol].mask_metric) if evaluation else [],
        "plots": {plot.name: plot for plot in drawn},
        "named": _named(evaluation),
        "labelled": sorted({label for case in cases for label in case.labels or ()}),
        "classes": scores.classes,
        "positive_above": SCORE_THRESHOLD,
        "sorts": _sorts(scores, evaluation),
        "area": AREA,
        "failed_state": FAILED,
    }


def _ranked_by(evaluation: Evaluation | None) -> list[tuple[str, str, float]]:
    return [(what, name, value) for what, (name, value) in evaluation.official.ranking.items()] if evaluation else []


def _named(evaluation: Evaluation | None) -> list[tuple[str, tuple[str, ...], int]]:
    """What evaluate has to say beside figures and cases: a title, lines, and how many more there are."""
    if evaluation is None:
        return []
    lists = {
        "Scores that count in no figure": evaluation.scores.labelled.problems,
        "Scores without a label": evaluation.scores.labelled.extra,
        "Notes": evaluation.notes,
    }
    return [
        (title, tuple(map(printable, lines[:NAMED])), max(0, len(lines) - NAMED))
        for title, lines in lists.items()
        if lines
    ]


def _sorts(scores: Scores, evaluation: Evaluation | None) -> list[tuple[str, str]]:
    """What the gallery can be sorted by: column and words."""
    metrics = ["jaccard"] if evaluation and evaluation.masks.means else []
    first = [each for each in (CONFIDENCE, AREA) if each in scores.figures]
    others = [each for each in scores.figures if each not in first]
    return [(each, readable(each)) for each in (*metrics, *first, *others)]


def _about(predictions: Path, more: Mapping[str, str]) -> dict[str, str]:
    """How masks and report were made."""
    run = read_run(predictions)
    made = {
        "model": "model",
        "engine_sha256": "engine, SHA-256",
        "backend": "backend",
        "precision": "precision",
        "device": "device",
        "threshold": "threshold",
        "tta": "test-time augmentation",
        "regions": "regions kept",
        "started": "segmented",
        "lesioncli": "segmented by lesioncli",
    }
    return {
        "masks": printable(str(predictions)),
        **{label: str(run[key]) for key, label in made.items() if key in run and "model" in run},
        **more,
        "report by lesioncli": __version__,
        "report made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _source(run: Mapping[str, Any], about: Mapping[str, str], protocol: str) -> list[str]:
    """What a reader wants to know first: which model, when, against what, by whose rules."""
    parts = {
        "": run.get("model", ""),
        "segmented ": str(run.get("started", ""))[:10],
        "truth ": Path(about.get("truth", "")).name if protocol else "",
        "protocol ": protocol,
    }
    return [f"{words}{value}" for words, value in parts.items() if value]


def _data(shown: Sequence[Case], scores: Scores, evaluation: Evaluation | None) -> dict[str, Any]:
    """What the gallery knows of each case, as JSON; columns are named once."""
    columns = [*(evaluation.masks.means if evaluation else ()), *scores.figures]
    return {
        "columns": [[column, readable(column)] for column in columns],
        "classes": scores.classes,
        "positive_above": SCORE_THRESHOLD,
        "cases": [
            [
                case.name,
                case.image,
                case.state,
                printable(case.reason),
                printable(case.note),
                case.size,
                case.labels,
                [_rounded(case.value(column)) for column in columns],
            ]
            for case in shown
        ],
    }


def _rounded(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None


def _blocks(shown: Sequence[Case], workers: int, problems: list[str], seen: bool) -> Iterator[str]:
    """One JSON text a case, with its picture and outlines. What cannot be seen of a case is named in `problems`."""
    for case, picture in zip(shown, draw_all(shown, workers), strict=True):
        if case.photograph or seen:
            problems.extend(f"{case.name}: {problem}" for problem in picture.problems if problem != case.reason)
        yield _block(picture)


def _block(picture: Picture) -> str:
    content = json.dumps(
        {
            "width": picture.width,
            "height": picture.height,
            "truth": picture.truth,
            "prediction": picture.prediction,
            "problems": [printable(problem) for problem in picture.problems],
            "webp": base64.b64encode(picture.webp).decode(),
        },
        separators=(",", ":"),
    )
    return content.replace("<", "\\u003c")  # a file's name in a problem may hold "</script>"


def _watched(blocks: Iterable[str], total: int, on_progress: Callable[[int, int], None] | None) -> Iterator[str]:
    for done, block in enumerate(blocks, 1):
        if on_progress:
            on_progress(done, total)
        yield block
