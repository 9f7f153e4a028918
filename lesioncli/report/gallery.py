"""Data of the gallery: one JSON document about all cases, and one for the picture of each case."""

import base64
import json
import math
from collections.abc import Iterator
from typing import Any

from lesioncli.evaluation.metrics.scores import SCORE_THRESHOLD
from lesioncli.files import printable
from lesioncli.report.data import ReportData
from lesioncli.report.pictures import Picture, draw_all
from lesioncli.report.titles import title


def gallery_document(data: ReportData) -> dict[str, Any]:
    """Return what the gallery knows about the cases it shows; the order of their fields is that of page.js."""
    metrics = data.evaluation.masks.means if data.evaluation else ()
    columns = [*metrics, *data.segmented.columns]
    return {
        "columns": [[column, title(column)] for column in columns],
        "classes": data.segmented.classes,
        "threshold": SCORE_THRESHOLD,
        "cases": [
            [
                case.name,
                case.image,
                case.state,
                printable(case.problem),
                printable(case.note),
                case.size,
                case.labels,
                [_rounded(case.number(column)) for column in columns],
            ]
            for case in data.shown
        ],
    }


def _rounded(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None


def picture_documents(data: ReportData, problems: list[str]) -> Iterator[str]:
    """Yield one JSON text per case, with its picture and outlines; add what cannot be drawn to `problems`.

    A missing image file is a problem only if there are sources of images.
    """
    for case, picture in zip(data.shown, draw_all(data.shown, data.options.workers), strict=True):
        if case.image_path or data.options.sources:
            problems.extend(f"{case.name}: {problem}" for problem in picture.problems if problem != case.problem)
        yield _picture_document(picture)


def _picture_document(picture: Picture) -> str:
    document = {
        "width": picture.width,
        "height": picture.height,
        "truth": picture.truth,
        "prediction": picture.prediction,
        "problems": [printable(problem) for problem in picture.problems],
        "webp": base64.b64encode(picture.webp).decode(),
    }
    # A file name in a problem may contain "</script>".
    return json.dumps(document, separators=(",", ":")).replace("<", "\\u003c")
