"""CSV files that evaluate writes: evaluation.csv with the metrics of each image, comparison.csv with differences."""

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lesioncli.errors import InputError
from lesioncli.evaluation.cases import CaseResult
from lesioncli.evaluation.metrics.pixels import PIXEL_METRICS
from lesioncli.evaluation.reading.csv_table import read_header
from lesioncli.evaluation.result import Evaluation
from lesioncli.evaluation.statistics.comparison import Comparison
from lesioncli.files import as_cell, atomic_output

FIRST_COLUMN = "image"
LAST_COLUMNS = ("problem", "note")


def refuse_foreign_files(path: Path, comparing: bool) -> None:
    """Raise InputError if `path`, or comparison.csv beside it, would be replaced and evaluate did not write it."""
    comparison = comparison_path(path)
    if comparing and path == comparison:
        raise InputError(f"{path}: this name is used for the differences; name another file with --csv")
    last_columns = {path: LAST_COLUMNS, **({comparison: ()} if comparing else {})}
    for file, last in last_columns.items():
        if file.exists() and not _is_ours(file, last):
            raise InputError(f"{file}: not written by evaluate, so not replaced; name another file with --csv")


def _is_ours(path: Path, last_columns: tuple[str, ...]) -> bool:
    """Whether evaluate, of this or another version, wrote the file, or it has no columns yet.

    Half of today's pixel metrics must be there, so a metric can be added or removed between versions.
    """
    if not path.is_file():
        return False
    header = tuple(read_header(path))
    known_metrics = PIXEL_METRICS.keys() & set(header)
    return not header or (
        header[0] == FIRST_COLUMN
        and header[len(header) - len(last_columns) :] == last_columns
        and 2 * len(known_metrics) >= len(PIXEL_METRICS)
    )


def comparison_path(path: Path) -> Path:
    """Return the path of the differences if the metrics of each image go to `path`."""
    return path.with_name("comparison.csv")


def write_csv_files(evaluation: Evaluation, path: Path) -> Iterator[Path]:
    """Write evaluation.csv to `path`, and comparison.csv beside it, if they have any rows; yield each path."""
    if evaluation.masks.means:
        write_cases(evaluation.masks.cases, path)
        yield path
    if evaluation.comparison and evaluation.comparison.per_image:
        write_differences(evaluation.comparison, comparison_path(path), evaluation.masks.cases)
        yield comparison_path(path)


def write_cases(cases: Sequence[CaseResult], path: Path) -> None:
    """Write one row per case: image, metrics (empty where undefined), problem, note.

    The image is that of scores.csv, else the name of the mask. The file is replaced as a whole.
    """
    names = next((tuple(case.metrics) for case in cases if case.metrics), tuple(PIXEL_METRICS))
    rows = (
        (
            as_cell(case.image or case.name),
            *(_field(case.metrics.get(name, math.nan)) for name in names),
            case.problem,
            case.note,
        )
        for case in cases
    )
    _write_table(path, (FIRST_COLUMN, *names, *LAST_COLUMNS), rows)


def write_differences(comparison: Comparison, path: Path, cases: Sequence[CaseResult] = ()) -> None:
    """Write one row per image with a mask in both predictions: image, and ours minus the other's for each metric.

    Images are named as write_cases() does for `cases`.
    """
    images = {case.name: case.image for case in cases if case.image}
    names = next(iter(comparison.per_image.values()), {})
    rows = (
        (as_cell(images.get(name, name)), *map(_field, metrics.values()))
        for name, metrics in comparison.per_image.items()
    )
    _write_table(path, (FIRST_COLUMN, *names), rows)


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with (
        atomic_output(path, "--csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _field(value: float) -> float | str:
    return "" if math.isnan(value) else value
