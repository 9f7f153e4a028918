"""Write a report: one HTML file that contains everything it shows and loads nothing.

The page comes first, with its metrics and a list of the cases. The pictures follow, one block per case: they are drawn
while the file is written, and the browser decodes them when they scroll into view.
"""

import base64
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lesioncli.errors import InputError
from lesioncli.evaluation.result import Evaluation
from lesioncli.files import atomic_output, printable
from lesioncli.report.cases import PROBLEMS, CaseState, list_cases
from lesioncli.report.data import ReportData
from lesioncli.report.gallery import gallery_document, picture_documents
from lesioncli.report.options import ReportOptions
from lesioncli.report.pictures import GRID
from lesioncli.report.sections import SECTIONS, Render
from lesioncli.segmented import SegmentedFolder, find_image_files

DOCTYPE = b"<!doctype html>"
TEMPLATES = Path(__file__).parent / "templates"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class WrittenReport:
    """A written report: its cases by state, the number in its gallery, and what could not be drawn, with reasons.

    `interruption` is what the latest run of `segment` left undone, "" if it finished.
    """

    path: Path
    states: Mapping[CaseState, int]
    shown: int
    problems: tuple[str, ...]
    size_bytes: int
    interruption: str

    @property
    def failed(self) -> bool:
        """Whether an image is missing, failed, could not be evaluated or could not be drawn."""
        return bool(self.problems or self.interruption) or any(self.states[state] for state in PROBLEMS)


def refuse_foreign_file(out: Path) -> None:
    """Raise InputError if `out` exists and is not an HTML file, as a report is."""
    if out.exists() and not (out.is_file() and _begins_as_html(out)):
        raise InputError(f"{out}: exists and is not an HTML file; choose another path with --out")


def _begins_as_html(path: Path) -> bool:
    """Whether a file begins as a report does, or is empty."""
    try:
        with path.open("rb") as file:
            start = file.read(len(DOCTYPE))
    except OSError:  # the content is unknown, so the file must not be replaced
        return False
    return start.lower() in (DOCTYPE, b"")


def write_report(
    segmented: SegmentedFolder,
    out: Path,
    options: ReportOptions,
    evaluation: Evaluation | None = None,
    on_progress: Progress | None = None,
) -> WrittenReport:
    """Write a report on a segmented folder to the HTML file `out`, atomically.

    `evaluation` is the result of evaluate() for the same folder, None without ground truth. `on_progress` receives
    (done, total) after each picture.

    Raises InputError if there is nothing to report or `out` cannot be written.
    """
    environment = make_environment()
    image_paths = find_image_files(options.sources, segmented.folder, segmented.roots)
    data = ReportData(segmented, list_cases(segmented, image_paths, evaluation), evaluation, options)
    problems: list[str] = []
    pictures = _report_progress(picture_documents(data, problems), len(data.shown), on_progress)
    states = Counter(case.state for case in data.cases)
    page = environment.get_template("page.html.j2").generate(
        **_header(data, states),
        **_sources(),
        sections=_render_sections(data, partial(_render, environment)),
        data=gallery_document(data),
        has_truth=evaluation is not None,
        pictures=pictures,
        grid=GRID,
    )
    with atomic_output(out, "--out") as temporary:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(page)
        size_bytes = temporary.stat().st_size
    counts = {state: states[state] for state in CaseState}
    return WrittenReport(out, counts, len(data.shown), tuple(problems), size_bytes, data.interruption)


def make_environment() -> Environment:
    """Return the jinja2 environment of the templates."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["number"] = _format
    return environment


def _format(value: float, digits: int = 3) -> str:
    """Return a number with this many decimals; without any from 100 on, as areas and lengths in pixels are."""
    if math.isnan(value):
        return "undefined"
    return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:.0f}"


def _render(environment: Environment, template: str, variables: Mapping[str, Any]) -> str:
    return str(environment.get_template(template).render(**variables))


def _render_sections(data: ReportData, render: Render) -> list[Any]:
    sections = (section(data, render) for section in SECTIONS)
    return [section for section in sections if section]


def _sources() -> dict[str, str]:
    """Return the script and the style of the page, and the hashes by which its security policy allows them."""
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    return {
        "style": style,
        "script": script,
        "style_hash": policy_hash(style),
        "script_hash": policy_hash(script),
    }


def policy_hash(text: str) -> str:
    """Return a hash as a content security policy names it."""
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"


def _header(data: ReportData, states: Mapping[CaseState, int]) -> dict[str, Any]:
    """Return the variables of the page's header."""
    return {
        "title": printable(str(data.segmented.folder)),
        "cases": len(data.cases),
        "states": {state: states[state] for state in CaseState if states[state] or state == CaseState.FAILED},
        "problem_states": PROBLEMS,
        "missing_images": sum(case.image_path is None for case in data.cases),
        "interruption": data.interruption,
        "origin": _origin(data),
    }


def _origin(data: ReportData) -> list[str]:
    """Return the model, the date, the ground truth and the protocol, as far as they are known."""
    record = data.segmented.record
    ground_truth = data.options.about.get("ground truth", "") if data.evaluation else ""
    facts = {
        "model": record.model or "",
        "segmented": (record.started or "")[:10],
        "ground truth": Path(ground_truth).name,
        "protocol": data.evaluation.protocol if data.evaluation else "",
    }
    return [f"{name} {value}" for name, value in facts.items() if value]


def _report_progress(documents: Iterable[str], total: int, on_progress: Progress | None) -> Iterator[str]:
    for done, document in enumerate(documents, 1):
        if on_progress:
            on_progress(done, total)
        yield document
