"""What evaluate leaves as tables: one of the cases, and one of the differences to other predictions."""

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lesioncli.errors import InputError
from lesioncli.evaluation.evaluate import Evaluation
from lesioncli.evaluation.metrics.pixels import PIXEL_METRICS
from lesioncli.evaluation.reading.tables import read_header
from lesioncli.evaluation.statistics.comparison import Comparison
from lesioncli.files import atomic_output

FIRST_COLUMNS = ("image", *PIXEL_METRICS)
LAST_COLUMNS = ("problem", "note")


def refuse_others(path: Path, comparing: bool) -> None:
    """InputError where `path`, or comparison.csv beside it, is there and nothing that evaluate wrote."""
    differences = differences_path(path)
    if comparing and path == differences:
        raise InputError(f"{path}: that is where the differences go; name another file with --csv")
    for table, last in {path: LAST_COLUMNS, **({differences: ()} if comparing else {})}.items():
        if table.exists() and not _is_ours(table, last):
            raise InputError(f"{table}: not a table that evaluate wrote, so not replaced; name another file with --csv")


def _is_ours(table: Path, last: tuple[str, ...]) -> bool:
    """Whether the columns are those of a table written here, `last` the last of them, or there are none yet."""
    if not table.is_file():
        return False
    header = tuple(read_header(table))
    return not header or (header[: len(FIRST_COLUMNS)] == FIRST_COLUMNS and header[len(header) - len(last) :] == last)


def differences_path(cases: Path) -> Path:
    """Where the differences go when the cases go to `cases`."""
    return cases.with_name("comparison.csv")


def write_tables(evaluation: Evaluation, path: Path) -> Iterator[Path]:
    """Write the cases to `path` and the differences beside it, each where there are any that were judged; name each."""
    if evaluation.means:
        write_cases(evaluation, path)
        yield path
    if evaluation.comparison and evaluation.comparison.per_image:
        write_differences(evaluation.comparison, differences_path(path))
        yield differences_path(path)


def write_cases(evaluation: Evaluation, path: Path) -> None:
    """Write one CSV row per case: image, the metrics (blank where there is none), problem, note.

    Written whole or not at all.
    """
    names = tuple(evaluation.means) or tuple(PIXEL_METRICS)
    rows = (
        (case.name, *(_shown(case.metrics.get(each, math.nan)) for each in names), case.problem, case.note)
        for case in evaluation.cases
    )
    _write_table(path, ("image", *names, *LAST_COLUMNS), rows)


def write_differences(comparison: Comparison, path: Path) -> None:
    """Write one CSV row per mask that both have: image, and by how much each metric of ours is larger."""
    rows = ((name, *map(_shown, metrics.values())) for name, metrics in comparison.per_image.items())
    names = next(iter(comparison.per_image.values()), {})
    _write_table(path, ("image", *names), rows)


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Whole or not at all; InputError where the disk refuses."""
    with (
        atomic_output(path, "--csv") as aside,
        aside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _shown(value: float) -> float | str:
    return "" if math.isnan(value) else value
