"""PH2: masks in `PH2 Dataset images/IMDxxx/IMDxxx_lesion/IMDxxx_lesion.bmp`, and a table of diagnoses beside them."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lesioncli.errors import InputError, MissingPackageError
from lesioncli.evaluation.reading.csv_table import column_key
from lesioncli.evaluation.reading.tables import LabelTable
from lesioncli.images.ignored import PH2_MASK, PH2_PHOTOGRAPH

IMAGES = "PH2 Dataset images"
TABLE = "PH2_dataset.txt"
SPREADSHEET = "PH2_dataset.xlsx"

_IMAGE_COLUMN = "Image Name"
_DIAGNOSIS_COLUMNS = {"0": "Common Nevus", "1": "Atypical Nevus", "2": "Melanoma"}  # of the spreadsheet; X marks one
_MELANOMA = "2"
_ROW = re.compile(r"\|\|\s*(IMD\d+)\s*\|\|[^|]*\|\|\s*(\w*)\s*\|\|")  # image, histological and clinical diagnosis


@dataclass(frozen=True)
class _Row:
    """One image of the table: its clinical diagnosis as in PH2_dataset.txt, and where the row is."""

    image: str
    diagnosis: str
    location: str


def find_ph2(folder: Path) -> Path | None:
    """Return the folder of images, which is `folder` or in it, by its contents or its name; None if there is none."""
    if not folder.is_dir():
        return None
    candidates = [folder, *_list_folders(folder)]
    named = (path for path in candidates if column_key(path.name) == column_key(IMAGES))
    return next((path for path in candidates if _has_cases(path)), None) or next(named, None)


def is_ph2_photograph(path: Path) -> bool:
    """Return whether a file is the photograph of a PH2 case, by its folder."""
    return path.parent.name == f"{path.stem}{PH2_PHOTOGRAPH}"


def _has_cases(folder: Path) -> bool:
    return any(_mask_of(case).is_file() for case in _list_folders(folder))


def _mask_of(case: Path) -> Path:
    name = f"{case.name}{PH2_MASK}"
    return case / name / f"{name}.bmp"


def _list_folders(folder: Path) -> list[Path]:
    """Return the sub-folders that are not hidden, sorted; none if the folder cannot be listed."""
    try:
        with os.scandir(folder) as entries:  # tells folders apart without a system call per file
            return sorted(folder / entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
    except OSError:
        return []


def list_ph2_masks(images: Path) -> Mapping[str, Path]:
    """Return the mask of every image; a mask may not exist."""
    cases = _list_folders(images)
    return {case.name: _mask_of(case) for case in cases}


def read_ph2_labels(root: Path) -> LabelTable | None:
    """Read whether each image is a melanoma, by its clinical diagnosis; None if there is no table."""
    if (root / TABLE).exists():
        return _make_labels(root / TABLE, _read_text(root / TABLE))
    if (root / SPREADSHEET).exists():
        return _make_labels(root / SPREADSHEET, _read_spreadsheet(root / SPREADSHEET))
    return None


def _read_text(path: Path) -> list[_Row]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [
        _Row(row[1], row[2], f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if (row := _ROW.search(line))
    ]


def _read_spreadsheet(path: Path) -> list[_Row]:
    """Read the rows below the header, which follows some lines of legend; "" means no diagnosis."""
    try:
        import openpyxl
    except ModuleNotFoundError as error:
        raise MissingPackageError("openpyxl", "xlsx") from error
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        lines = [[" ".join(str(cell or "").split()) for cell in line] for line in book.worksheets[0].values]
        book.close()
    except Exception as error:  # a damaged file makes zipfile, the XML parser or openpyxl raise almost anything
        raise InputError(f"{path}: cannot be read as a spreadsheet ({error})") from error
    columns = {_IMAGE_COLUMN, *_DIAGNOSIS_COLUMNS.values()}
    header = next((index for index, line in enumerate(lines) if columns <= set(line)), len(lines))
    rows: list[_Row] = []
    for number, line in enumerate(lines[header + 1 :], header + 2):
        fields = dict(zip(lines[header], line, strict=False))
        if (image := fields.get(_IMAGE_COLUMN, "")).startswith("IMD"):
            diagnosis = "".join(code for code, column in _DIAGNOSIS_COLUMNS.items() if fields.get(column) == "X")
            rows.append(_Row(image, diagnosis, f"{path}, line {number}"))
    return rows


def _make_labels(path: Path, rows: Iterable[_Row]) -> LabelTable:
    by_id: dict[str, tuple[float, ...]] = {}
    for row in rows:
        if row.image in by_id:
            raise InputError(f"{row.location}: duplicate image id {row.image}")
        if row.diagnosis not in _DIAGNOSIS_COLUMNS:
            raise InputError(f"{row.location}: diagnosis {row.diagnosis!r} of {row.image} is not one of 0, 1, 2")
        by_id[row.image] = (float(row.diagnosis == _MELANOMA),)
    if not by_id:
        raise InputError(f"{path}: no rows of an image, such as IMD003, and its diagnosis")
    return LabelTable(("melanoma",), by_id)
