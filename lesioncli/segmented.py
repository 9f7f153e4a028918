"""The output folder of `segment`, read again: its run record, its scores.csv and the files of its images."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath

from lesioncli.errors import InputError
from lesioncli.evaluation.reading.archived_masks import SCORES
from lesioncli.evaluation.reading.csv_table import column_key, read_header, read_rows
from lesioncli.evaluation.reading.masks import image_stem
from lesioncli.files import from_cell
from lesioncli.images.find import find_images
from lesioncli.images.ignored import name_of_file
from lesioncli.images.mask_archives import MaskArchives, split_path
from lesioncli.images.sources import source_kind
from lesioncli.images.stored import ImagePath
from lesioncli.inference.outcome import DESCRIPTIVE_COLUMNS, image_name, read_number, without_suffix
from lesioncli.inference.record import MaskNames, RunRecord, read_joint_record
from lesioncli.isic import name_by_id
from lesioncli.options import Decision
from lesioncli.sharding import find_parts
from lesioncli.spec import CLASSES
from lesioncli.urls import is_url

AREA, CONFIDENCE = "lesion_area_fraction", "confidence"
NOTE = "note"
REQUIRED_COLUMNS = ("image", "status", "reason")


@dataclass(frozen=True)
class SegmentedFolder:
    """Contents of an output folder of `segment`; a folder of masks alone has an empty record and no rows.

    `rows` are those of scores.csv by the name of their mask. `columns` names the columns of numbers, and `classes`
    those of them that are class scores.
    """

    folder: Path
    record: RunRecord = field(default_factory=RunRecord)
    rows: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders that names of images are relative to."""
        return tuple(self.folder / root for root in self.record.roots if not is_url(root))

    def locate_mask(self, name: str) -> ImagePath:
        """Return the file or the member of an archive that a row, by the name of its mask, says is the mask."""
        return self.archives.locate(self.rows[name].get("mask") or f"{name}.png")

    @cached_property
    def archives(self) -> MaskArchives:
        """The archives of masks in the folder."""
        return MaskArchives(self.folder)

    def values(self, name: str) -> dict[str, float]:
        """Return the numbers in the row of a mask; nan where a cell is not a number, in a column of the user's own."""
        row = self.rows[name]
        return {column: _number(row[column]) for column in self.columns}


def read_segmented_folder(folder: Path) -> SegmentedFolder:
    """Read run.json and scores.csv of a folder, and those of shards that are not merged.

    Raises InputError if a scores.csv lacks a column that `segment` writes, or has text in one of its numbers.
    """
    segmented = SegmentedFolder(folder, read_joint_record(folder))
    for part in find_parts(folder):
        if (path := part / SCORES).exists():
            segmented = _with_table(segmented, path)
    return segmented


def _with_table(segmented: SegmentedFolder, path: Path) -> SegmentedFolder:
    """Return a folder with the rows of one more scores.csv."""
    record = segmented.record
    header = list(map(column_key, read_header(path)))
    if missing := [column for column in REQUIRED_COLUMNS if column not in header]:
        raise InputError(
            f"{path}: has no column {', '.join(missing)}; give the folder that `lesioncli segment` wrote, unchanged"
        )
    columns = tuple(column for column in header if column not in DESCRIPTIVE_COLUMNS)
    # A run.json of an early version does not name the classes: its models had these.
    recorded = CLASSES if record.classes is None else tuple(map(column_key, record.classes))
    classes = tuple(column for column in columns if column in recorded)
    numeric = [*classes, *(column for column in columns if column in (AREA, CONFIDENCE))]
    rows = dict(segmented.rows)
    for line, row in read_rows(path):
        for column in numeric:
            read_number(row[column], f"{path}, line {line}", column)
        row |= {name: from_cell(row[name]) for name in ("image", "mask") if name in row}
        rows[_mask_name(row, record)] = row
    return replace(segmented, rows=rows, columns=columns, classes=classes)


def _mask_name(row: Mapping[str, str], record: RunRecord) -> str:
    """Return the name of a row's mask without suffix; of a failed image, the name that its mask would have."""
    image = without_suffix(row["image"])
    planned = name_by_id(image) if record.names == MaskNames.ISIC else image
    mask = PurePosixPath(split_path(row.get("mask", ""))[1] or f"{planned}.png")
    return mask.with_name(image_stem(mask)).as_posix()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def choose_image_sources(segmented: SegmentedFolder, given: Sequence[Path]) -> Decision[tuple[Path, ...]]:
    """Choose the files and folders of the images: as given, as run.json names them, beside the masks, or none."""
    if given:
        return Decision(tuple(given), "given with --images")
    recorded = [_shorten(segmented.folder / source) for source in segmented.record.sources if not is_url(source)]
    if existing := tuple(source for source in recorded if source.exists() and not source_kind(source)):
        return Decision(existing, "named in run.json")
    beside = _shorten(_parent(segmented.folder) / "images")
    if beside.is_dir():
        return Decision((beside,), "the folder images/ beside the masks")
    return Decision((), "not found; name them with --images")


def _parent(folder: Path) -> Path:
    """Return the folder that holds a folder by its name; of a link, not that of its target."""
    return Path(os.path.normpath(folder.absolute())).parent


def _shorten(path: Path) -> Path:
    """Return a path relative to the working directory if it lies inside, else absolute."""
    absolute = path.resolve()
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute


def find_image_files(sources: Iterable[Path], exclude: Path, roots: Iterable[Path] = ()) -> dict[str, Path]:
    """Return image files by name without suffix, relative to their source and to `roots`.

    If two files have a name, the later source counts.

    Raises InputError if a source does not exist or holds no images.
    """
    found = [image for source in sources for image in find_images([source], exclude=exclude)]
    images = [image for image in found if isinstance(image.path, Path)]
    by_name = {without_suffix(image_name(image)): image.local_path for image in images}
    for real_root in map(os.path.realpath, roots):
        for image in images:
            folder = PurePath(os.path.relpath(os.path.realpath(image.local_path.parent), real_root))
            if os.pardir not in folder.parts:
                relative = replace(image, name=(folder / name_of_file(image.path.name)).as_posix())
                by_name[without_suffix(image_name(relative))] = image.local_path
    return by_name
