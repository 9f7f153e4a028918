"""Sections of the report. To add one, write a function and add it to SECTIONS."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lesioncli import __version__
from lesioncli.evaluation.metrics.scores import SCORE_THRESHOLD
from lesioncli.evaluation.protocols import PROTOCOLS
from lesioncli.evaluation.result import Evaluation
from lesioncli.files import printable
from lesioncli.options import ProtocolName
from lesioncli.report.cases import CaseState
from lesioncli.report.data import ReportData
from lesioncli.report.plots import plots_of
from lesioncli.report.tables import (
    PERCENTILES,
    class_table,
    column_table,
    confidence_table,
    group_tables,
    headline_metrics,
    mask_metrics,
    matrix_table,
    score_tables,
)
from lesioncli.report.titles import title
from lesioncli.segmented import AREA, CONFIDENCE

MAX_LISTED = 200  # lines of a list in the page; `evaluate --json` lists all

Render = Callable[[str, Mapping[str, Any]], str]  # name of a template and its variables -> HTML


@dataclass(frozen=True)
class Section:
    """A section of the page; `id` is its anchor, and `html` its content below the heading."""

    id: str
    title: str
    html: str


SectionFunction = Callable[[ReportData, Render], Section | None]


def results_section(data: ReportData, render: Render) -> Section:
    """Show the headline metrics, the mask metrics, the columns of scores.csv, and their plots."""
    evaluation = data.evaluation
    needs_all = evaluation is not None and PROTOCOLS[evaluation.protocol].complete
    is_challenge = evaluation is not None and evaluation.protocol != ProtocolName.PLAIN
    variables = {
        "evaluation": evaluation,
        "headline": headline_metrics(data),
        "incomplete": evaluation.incomplete if evaluation and needs_all else (),
        "ranking": evaluation.official.ranking if evaluation and is_challenge else {},
        "mask_metrics": mask_metrics(evaluation) if evaluation else [],
        "columns": column_table(data),
        "percentiles": PERCENTILES,
        "plots": plots_of("results", data),
        "reliability": confidence_table(evaluation) if evaluation else [],
    }
    return Section("results", "Results", render("results.html.j2", variables))


def classes_section(data: ReportData, render: Render) -> Section | None:
    """Show the metrics of the class scores, if there are any."""
    if data.evaluation is None or not data.evaluation.scores.per_class:
        return None
    scores = data.evaluation.scores
    variables = {
        "table": class_table(scores),
        "matrix": matrix_table(scores.matrix),
        "plots": plots_of("classes", data),
        "reliability": score_tables(scores),
        "threshold": SCORE_THRESHOLD,
    }
    return Section("classes", "Classes", render("classes.html.j2", variables))


def groups_section(data: ReportData, render: Render) -> Section | None:
    """Show the groups of each requested column, if there are any."""
    if data.evaluation is None or not data.evaluation.groups:
        return None
    return Section("groups", "Groups", render("groups.html.j2", {"tables": group_tables(data.evaluation)}))


def cases_section(data: ReportData, render: Render) -> Section:
    """Show the gallery with its controls."""
    states = Counter(case.state for case in data.cases)
    variables = {
        "evaluation": data.evaluation,
        "cases": len(data.cases),
        "shown": len(data.shown),
        "states": [state for state in CaseState if states[state]],
        "sort_keys": _sort_keys(data),
        "labelled": sorted({label for case in data.cases for label in case.labels or ()}),
        "classes": data.segmented.classes,
        "threshold": SCORE_THRESHOLD,
    }
    return Section("cases", "Images", render("cases.html.j2", variables))


def _sort_keys(data: ReportData) -> list[tuple[str, str]]:
    """Return the columns by which the gallery can be sorted, with their titles."""
    metrics = ["jaccard"] if data.evaluation and data.evaluation.masks.means else []
    columns = data.segmented.columns
    first = [column for column in (CONFIDENCE, AREA) if column in columns]
    rest = [column for column in columns if column not in first]
    return [(key, title(key)) for key in (*metrics, *first, *rest)]


def about_section(data: ReportData, render: Render) -> Section:
    """Show the run, the report and the notes of the evaluation."""
    variables = {
        "facts": _facts(data),
        "cluster": printable(data.evaluation.plan.column) if data.evaluation else "",
        "lists": _lists(data.evaluation),
        "max_listed": MAX_LISTED,
    }
    return Section("about", "About", render("about.html.j2", variables))


def _facts(data: ReportData) -> dict[str, str]:
    """Return facts about the run and the report, by title."""
    record = data.segmented.record
    run = {
        "model": record.model,
        "engine, SHA-256": record.engine_sha256,
        "backend": record.backend,
        "precision": record.precision,
        "device": record.device,
        "threshold": record.threshold,
        "test-time augmentation": record.tta,
        "regions": record.regions,
        "calibration": record.calibration_maps.description if record.calibration_maps else record.calibration,
        "segmented": record.started,
        "segmented by lesioncli": record.lesioncli,
    }
    known = {key: str(value) for key, value in run.items() if value is not None and record.model is not None}
    return {
        "masks": printable(str(data.segmented.folder)),
        **known,
        **data.options.about,
        "report by lesioncli": __version__,
        "report written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _lists(evaluation: Evaluation | None) -> dict[str, tuple[str, ...]]:
    """Return the lists of an evaluation beside its cases, by title."""
    if evaluation is None:
        return {}
    lists = {
        "Images without usable scores": evaluation.scores.labelled.problems,
        "Scores without a label": evaluation.scores.labelled.extra,
        "Notes": evaluation.notes,
    }
    return {heading: tuple(map(printable, lines)) for heading, lines in lists.items() if lines}


# Sections of the page, in order; a section without data is left out.
SECTIONS: tuple[SectionFunction, ...] = (
    results_section,
    classes_section,
    groups_section,
    cases_section,
    about_section,
)
