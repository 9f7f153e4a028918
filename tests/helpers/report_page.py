"""Read the HTML file of a report as a program reads it."""

import json
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from helpers.drawn_run import DrawnRun
from lesioncli.evaluation.result import Evaluation
from lesioncli.report.options import ReportOptions
from lesioncli.report.page import WrittenReport, write_report
from lesioncli.segmented import read_segmented_folder

CASE_FIELDS = ("name", "image", "state", "problem", "note", "size", "labels", "values")


class Page(HTMLParser):
    """Elements with attributes, scripts, styles and text of an HTML file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.styles: list[str] = []
        self.text = ""
        self._tag = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._tag = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._tag = ""

    def handle_data(self, data: str) -> None:
        if self._tag == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = attributes, before + data
        elif self._tag == "style":
            self.styles.append(data)
        else:
            self.text += data

    @property
    def words(self) -> str:
        """The text with single spaces."""
        return " ".join(self.text.split())

    def json(self, element_id: str) -> Any:
        """Return the content of a JSON script."""
        return json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == element_id))

    @property
    def cases(self) -> dict[str, dict[str, Any]]:
        """The cases of the gallery by name, their values by column."""
        document = self.json("data")
        columns = [key for key, _ in document["columns"]]
        cases = [dict(zip(CASE_FIELDS, case, strict=True)) for case in document["cases"]]
        return {case["name"]: case | dict(zip(columns, case["values"], strict=True)) for case in cases}

    @property
    def security_policy(self) -> str:
        """The content security policy."""
        metas = [attributes for tag, attributes in self.elements if tag == "meta"]
        return str(next(meta["content"] for meta in metas if meta.get("http-equiv") == "Content-Security-Policy"))


def write_page(
    run: DrawnRun, evaluation: Evaluation | None = None, on_progress: Any = None, **options: Any
) -> tuple[WrittenReport, Page]:
    """Write report.html beside the masks, and read it."""
    path = run.masks.parent / "report.html"
    segmented = read_segmented_folder(run.masks)
    written = write_report(
        segmented, path, ReportOptions(sources=(run.images,), **options), evaluation, on_progress=on_progress
    )
    return written, Page(path)


@dataclass(frozen=True)
class EvaluatedRun:
    """A drawn run, its evaluation and its report."""

    run: DrawnRun
    evaluation: Evaluation
    written: WrittenReport
    page: Page
