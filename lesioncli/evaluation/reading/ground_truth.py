"""Read ground truth: a data set as published, a table of pairs, a table of labels, or a plain folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from lesioncli.errors import InputError
from lesioncli.evaluation.reading.csv_table import open_table
from lesioncli.evaluation.reading.isic_layout import labels_beside, list_mask_folders
from lesioncli.evaluation.reading.masks import (
    MASK_FORMATS,
    MASK_SUFFIXES,
    UNSUPPORTED_SUFFIXES,
    MaskListing,
    find_masks,
    image_stem,
)
from lesioncli.evaluation.reading.ph2 import (
    IMAGES,
    SPREADSHEET,
    TABLE,
    find_ph2,
    is_ph2_photograph,
    list_ph2_masks,
    read_ph2_labels,
)
from lesioncli.evaluation.reading.tables import NO_LABELS, LabelTable, find_labels, read_labels
from lesioncli.images.ignored import is_output_folder

_NOT_TABLES = (*MASK_SUFFIXES, *UNSUPPORTED_SUFFIXES, ".xlsx", ".zip")


@dataclass(frozen=True)
class GroundTruth:
    """Masks by image name, labels, and notes on ignored files.

    `pairs` has the predicted mask of every image if a table pairs them, else it is None. `expected_labels` says
    where labels were looked for. `labels_from` reads them, unless others replace them; only a reader sets it.
    """

    masks: Mapping[str, Path] = field(default_factory=dict)
    labels: LabelTable = NO_LABELS
    pairs: Mapping[str, Path] | None = None
    notes: tuple[str, ...] = ()
    expected_labels: str = ""
    labels_from: Callable[[], LabelTable] | None = field(default=None, compare=False)


def read_ground_truth(path: Path, labels: Path | None = None) -> GroundTruth:
    """Read the ground truth at `path`, a folder or a CSV; the CSV `labels` replaces the labels there, unread.

    Raises InputError if there is none, or a file is ambiguous or invalid.
    """
    if path.is_file() and path.suffix.lower() in _NOT_TABLES:
        raise InputError(f"{path}: not a folder or CSV; give the folder of ground truth masks, or a CSV, with --gt")
    candidates = (reader(path) for reader in GROUND_TRUTH_READERS.values())
    found = next((result for result in candidates if result is not None), None) or _read_folder(path)
    read = partial(read_labels, labels) if labels else found.labels_from
    return replace(found, labels=read() if read else found.labels, labels_from=None)


def _read_pairs(path: Path) -> GroundTruth | None:
    """Read a CSV with columns `truth` and `prediction`, and perhaps `image`; paths are relative to the CSV."""
    if not path.is_file() or not {"truth", "prediction"} <= set((table := open_table(path)).keys):
        return None
    masks: dict[str, Path] = {}
    pairs: dict[str, Path] = {}
    for line, row in table.rows:
        truth, prediction = row["truth"].strip(), row["prediction"].strip()
        if not truth or not prediction:
            raise InputError(f"{path}, line {line}: column {'prediction' if truth else 'truth'} is empty")
        name = row.get("image", "").strip() or image_stem(Path(truth))
        if name in masks:
            raise InputError(f"{path}, line {line}: duplicate image {name}")
        masks[name], pairs[name] = path.parent / truth, path.parent / prediction
    return GroundTruth(masks, pairs=pairs)


def _read_labels_only(path: Path) -> GroundTruth | None:
    """Read a CSV of labels, for scores without masks."""
    return GroundTruth(labels_from=partial(read_labels, path)) if path.is_file() else None


def _read_ph2(folder: Path) -> GroundTruth | None:
    images = find_ph2(folder)
    if images is None:
        return None
    if not (masks := list_ph2_masks(images)):
        raise InputError(f"{images}: no folder of an image, such as IMD003")
    root = images.parent
    labels_from = partial(_read_ph2_labels, root)
    return GroundTruth(masks, expected_labels=f"{TABLE} or {SPREADSHEET} in {root}/", labels_from=labels_from)


def _read_ph2_labels(root: Path) -> LabelTable:
    return read_ph2_labels(root) or NO_LABELS


def _read_isic(folder: Path) -> GroundTruth | None:
    """Read the folder that holds one split of an ISIC challenge, with labels beside the masks."""
    mask_folders = list_mask_folders(folder) if folder.is_dir() else []
    if not mask_folders:
        return None
    if len(mask_folders) > 1:
        choices = ", ".join(map(str, mask_folders))
        raise InputError(f"{folder}: several folders of ground truth masks; give one of them: {choices}")
    masks, labels = mask_folders[0], labels_beside(mask_folders[0])
    return replace(
        _read_masks(masks),
        labels_from=partial(read_labels, labels) if labels.is_file() else None,
        expected_labels=f"CSV of class labels beside {masks}/",
    )


def _read_folder(folder: Path) -> GroundTruth:
    """Read a folder of masks with one CSV of labels, if there is one."""
    return replace(
        _read_masks(folder),
        labels_from=partial(_read_labels_in, folder),
        expected_labels=f"CSV of class labels in {folder}/",
    )


def _read_labels_in(folder: Path) -> LabelTable:
    labels = find_labels(folder)
    return read_labels(labels) if labels else NO_LABELS


def _read_masks(folder: Path) -> GroundTruth:
    """Read masks `x.png` or `x_segmentation.png`, also in sub-folders."""
    if is_output_folder(folder):
        raise InputError(f"{folder}: written by `lesioncli segment`, not ground truth; give another folder with --gt")
    listing = find_masks(folder)
    if photograph := next((path for path in listing.masks.values() if is_ph2_photograph(path)), None):
        raise InputError(
            f"{photograph}: a photograph of PH2, not a mask; give the folder that holds {IMAGES}/ or that folder, with"
            " masks such as IMD003/IMD003_lesion/IMD003_lesion.bmp in it"
        )
    if not listing.masks:
        raise InputError(f"{folder}: no masks found{_advise_on_masks(listing)}")
    formats = ", ".join(MASK_FORMATS)
    notes = tuple(f"{path}: ignored: a mask must be one of {formats}" for path in listing.unsupported.values())
    return GroundTruth(listing.masks, notes=notes)


def _advise_on_masks(listing: MaskListing[Path]) -> str:
    """Return what a folder without masks holds instead, or which names are masks."""
    if listing.unsupported:
        return f", but {listing.count_unsupported()}; if these are masks, save them as PNG"
    return f"; expected x.png or x_segmentation.png (suffixes: {', '.join(MASK_SUFFIXES)})"


# Layouts of ground truth. The first reader that does not return None is used; a path that no reader knows is read as a
# plain folder of masks. To add a layout, write its reader and add a line here.
GROUND_TRUTH_READERS: dict[str, Callable[[Path], GroundTruth | None]] = {
    "table of pairs": _read_pairs,
    "table of labels": _read_labels_only,
    "PH2": _read_ph2,
    "ISIC": _read_isic,
}
