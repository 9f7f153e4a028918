"""The truth as people have it: a data set's own layout, a plain folder, a table of pairs, labels alone.

Each reader answers for the layout it knows, or not at all; the first that answers is taken.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lesioncli import isic
from lesioncli.errors import InputError, MissingPackageError
from lesioncli.evaluation.reading.masks import find_masks, image_stem
from lesioncli.evaluation.reading.tables import (
    NO_LABELS,
    LabelTable,
    column_key,
    find_labels,
    read_header,
    read_labels,
    read_lines,
    read_rows,
)

PH2_IMAGES = "PH2 Dataset images"
PH2_TABLE = "PH2_dataset.txt"
PH2_SPREADSHEET = "PH2_dataset.xlsx"

_ISIC_MASKS = re.compile(r"(Part1|Task1)\w*_GroundTruth$")
_PH2_ROW = re.compile(r"\|\|\s*(IMD\d+)\s*\|\|[^|]*\|\|\s*(\w*)\s*\|\|")  # name, histological and clinical diagnosis
_PH2_NAME = "Image Name"
_PH2_KINDS = {"0": "Common Nevus", "1": "Atypical Nevus", "2": "Melanoma"}  # columns of the spreadsheet; X marks one
_PH2_MELANOMA = {"0": False, "1": False, "2": True}  # common nevus, atypical nevus, melanoma


@dataclass(frozen=True)
class GroundTruth:
    """Masks by image name, labels, and notes on ignored files.

    `pairs` has the predicted mask of every image if a table pairs them, else it is None.
    """

    masks: Mapping[str, Path] = field(default_factory=dict)
    labels: LabelTable = NO_LABELS
    pairs: Mapping[str, Path] | None = None
    notes: tuple[str, ...] = ()


def read_ground_truth(path: Path, labels: Path | None = None) -> GroundTruth:
    """The truth at `path`, a folder or a CSV; `labels` takes the place of the labels found there.

    InputError where there is nothing, or it is not clear what is meant.
    """
    truth = _read_table(path) if path.is_file() else next(filter(None, (reader(path) for reader in _READERS)))
    return replace(truth, labels=_isic_labels(labels)) if labels else truth


def _ph2(folder: Path) -> GroundTruth | None:
    """PH2: `PH2 Dataset images/IMDxxx/IMDxxx_lesion/IMDxxx_lesion.bmp`, and PH2_dataset.txt beside the folder."""
    top = folder.parent if folder.name == PH2_IMAGES else folder
    if not (top / PH2_IMAGES).is_dir():
        return None
    cases = sorted(case for case in (top / PH2_IMAGES).iterdir() if case.is_dir() and case.name[0] != ".")
    masks = {case.name: case / f"{case.name}_lesion" / f"{case.name}_lesion.bmp" for case in cases}
    table, spreadsheet = top / PH2_TABLE, top / PH2_SPREADSHEET
    if table.exists():
        rows = _PH2_ROW.findall(table.read_text(encoding="utf-8", errors="replace"))
        return GroundTruth(masks, _ph2_labels(table, rows))
    if spreadsheet.exists():
        return GroundTruth(masks, _ph2_labels(spreadsheet, _read_ph2_spreadsheet(spreadsheet)))
    return GroundTruth(masks, NO_LABELS, notes=(f"{table}: not there, nor as .xlsx, so no labels",))


def _read_ph2_spreadsheet(table: Path) -> list[tuple[str, str]]:
    """Name and diagnosis of each row below the header, which stands somewhere down the sheet; "" is no diagnosis."""
    try:
        import openpyxl
    except ModuleNotFoundError as error:
        raise MissingPackageError("openpyxl", "xlsx") from error
    try:
        book = openpyxl.load_workbook(table, read_only=True, data_only=True)
        lines = [[" ".join(str(cell or "").split()) for cell in line] for line in book.worksheets[0].values]
        book.close()
    except Exception as error:  # a damaged one makes zipfile, the XML parser or openpyxl raise what they like
        raise InputError(f"{table}: cannot be read as a spreadsheet ({error})") from error
    wanted = {_PH2_NAME, *_PH2_KINDS.values()}
    header = next((number for number, line in enumerate(lines) if wanted <= set(line)), len(lines))
    rows = [dict(zip(lines[header], line, strict=False)) for line in lines[header + 1 :]]
    images = [row for row in rows if row.get(_PH2_NAME, "").startswith("IMD")]
    kinds = ["".join(kind for kind, column in _PH2_KINDS.items() if row.get(column) == "X") for row in images]
    return list(zip((row[_PH2_NAME] for row in images), kinds, strict=True))


def _ph2_labels(table: Path, rows: list[tuple[str, str]]) -> LabelTable:
    """Melanoma or not, by the clinical diagnosis; all others of PH2 are nevi."""
    by_id: dict[str, tuple[bool, ...]] = {}
    for name, diagnosis in rows:
        if diagnosis not in _PH2_MELANOMA or name in by_id:
            problem = "there twice" if name in by_id else f"diagnosed as {diagnosis!r}, not 0, 1 or 2"
            raise InputError(f"{table}: {name} is {problem}")
        by_id[name] = (_PH2_MELANOMA[diagnosis],)
    if not by_id:
        raise InputError(f"{table}: no row of an image such as IMD003 and its diagnosis")
    return LabelTable(("melanoma",), by_id, dict.fromkeys(by_id, (1.0, 1.0)))


def _isic(folder: Path) -> GroundTruth | None:
    """The folder of one ISIC challenge: 2016 and 2017 Part 1 with the labels of Part 3 beside it, or 2018 Task 1."""
    if not folder.is_dir():
        return None
    found = sorted(each for each in folder.iterdir() if each.is_dir() and _ISIC_MASKS.search(each.name))
    if not found:
        return None
    if len(found) > 1:
        raise InputError(f"several sets of true masks, give one of them: {', '.join(map(str, found))}")
    labels = found[0].with_name(found[0].name.replace("Part1", "Part3") + ".csv")
    return replace(_plain(found[0]), labels=_isic_labels(labels) if labels.is_file() else NO_LABELS)


def _isic_labels(path: Path) -> LabelTable:
    """LabelTable of Part 3. Those of 2016 have no header: an id, and benign or malignant, or 0.0 or 1.0."""
    _, first = next(read_lines(path), (0, [""]))
    if not isic.ID.fullmatch(first[0].strip()):
        return read_labels(path)
    words = {"benign": False, "malignant": True, "0.0": False, "1.0": True, "0": False, "1": True}
    by_id: dict[str, tuple[bool, ...]] = {}
    for _, (name, *label) in read_lines(path):
        if len(label) != 1 or label[0].strip() not in words or name in by_id:
            raise InputError(f"{path}: {name!r} is there twice, or its label {label} is not benign or malignant")
        by_id[name] = (words[label[0].strip()],)
    return LabelTable(("melanoma",), by_id, dict.fromkeys(by_id, (1.0, 1.0)))


def _plain(folder: Path) -> GroundTruth:
    """Masks `x.png` or `x_segmentation.png`, also in sub-folders, and one CSV with labels."""
    found = find_masks(folder)
    notes = tuple(
        f"{path}: not a PNG, BMP or TIFF, so not a true mask; left out" for path in found.unsupported.values()
    )
    labels = find_labels(folder)
    return GroundTruth(found.masks, read_labels(labels) if labels else NO_LABELS, notes=notes)


_READERS: tuple[Callable[[Path], GroundTruth | None], ...] = (_ph2, _isic, _plain)


def _read_table(path: Path) -> GroundTruth:
    """A table of pairs, with columns `truth` and `prediction` and perhaps `image`; else the labels of Part 3 alone."""
    if not {"truth", "prediction"} <= set(map(column_key, read_header(path))):
        return GroundTruth({}, _isic_labels(path))
    masks: dict[str, Path] = {}
    predictions: dict[str, Path] = {}
    for line, row in read_rows(path):
        truth = path.parent / row["truth"].strip()
        name = row.get("image", "").strip() or image_stem(truth)
        if name in masks:
            raise InputError(f"{path}, line {line}: image {name!r} is there twice")
        if not (row["truth"].strip() and row["prediction"].strip()):
            raise InputError(f"{path}, line {line}: truth or prediction is empty")
        masks[name], predictions[name] = truth, path.parent / row["prediction"].strip()
    return GroundTruth(masks, NO_LABELS, predictions)
