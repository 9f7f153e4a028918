"""Read training data: folders in the layout of the ISIC 2017 challenge, or plain ones.

DIR/ISIC-2017_Training_Data/ISIC_0000000.jpg                               DIR/images/x.jpg
DIR/ISIC-2017_Training_Part1_GroundTruth/ISIC_0000000_segmentation.png     DIR/masks/x.png (or x_segmentation.png)
DIR/ISIC-2017_Training_Part3_GroundTruth.csv                               DIR/labels.csv

The same with Validation instead of Training; or, as `evaluate` reads them, masks and labels.csv both in DIR/labels/.
Masks, labels, or single ones of them may be missing: a sample has what it has.
"""

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lesioncli import isic
from lesioncli.errors import ImageError, InputError
from lesioncli.evaluation.reading.isic_layout import SplitPaths, find_isic_split
from lesioncli.evaluation.reading.masks import MASK_SUFFIXES, MaskRole, read_mask
from lesioncli.evaluation.reading.names import loose_key, match_names
from lesioncli.evaluation.reading.tables import read_columns, read_labels
from lesioncli.images.decode import decode
from lesioncli.images.formats import supported_suffixes
from lesioncli.images.geometry import UInt8
from lesioncli.images.ignored import is_image_file, name_of_file
from lesioncli.images.pixels import DecodedImage
from lesioncli.training.overlap import refuse_overlap

LABEL_COLUMNS = ("melanoma", "seborrheic_keratosis")  # a sample with neither is a nevus
GROUP_COLUMNS = {"lesion": "lesion_id", "patient": "patient_id"}  # field of a Sample -> column of the table
DIAGNOSIS = "diagnosis"  # a column of words
HEADER_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
UNKNOWN = (nan,) * len(LABEL_COLUMNS)


@dataclass(frozen=True)
class Sample:
    """An image file, its mask if it has one, and its labels in the order of LABEL_COLUMNS; nan is unknown.

    `lesion` and `patient` are ids, `diagnosis` a word in lower case, from the table of labels; "" where unknown.
    """

    name: str
    image: Path
    mask: Path | None
    labels: tuple[float, ...] = UNKNOWN
    lesion: str = ""
    patient: str = ""
    diagnosis: str = ""

    @property
    def is_labelled(self) -> bool:
        return not all(map(isnan, self.labels))

    @property
    def image_id(self) -> str:
        """The ISIC id in the name, else the name: samples of one id are renderings of one image."""
        is_from_isic = "isic" in self.name.lower()  # another archive's numbers of seven digits are no ids
        return isic.name_by_id(self.name) if is_from_isic else self.name


@dataclass(frozen=True)
class TrainingData:
    """Samples to train on and samples to choose the best epoch by."""

    training: list[Sample]
    validation: list[Sample]


def read_training_data(
    training: Sequence[Path], validation: Sequence[Path], exclude: Iterable[str] = ()
) -> TrainingData:
    """Samples of the folders in `training` without those named in `exclude`, and of the folders in `validation`.

    Raises InputError if a plain folder is in both, since it has no split of its own, or what refuse_overlap() does.
    """
    training_samples = read_training_samples(training, exclude)
    for folder in validation:
        if folder in training and not has_split(folder, "Validation"):
            raise InputError(
                f"{folder}: has no validation split; give other images with --val, or hold some out with --fold"
            )
    validation_samples = [sample for folder in validation for sample in read_samples(folder, "Validation")]
    refuse_overlap(training_samples, validation_samples)
    return TrainingData(training_samples, validation_samples)


def read_training_samples(folders: Sequence[Path], exclude: Iterable[str] = ()) -> list[Sample]:
    """Samples of all folders without those named in `exclude`; renderings of one image share labels and ids."""
    excluded = isic.expand_lists(exclude)
    return share_labels([sample for folder in folders for sample in read_samples(folder, "Training", excluded)])


def raise_refusal(error: InputError) -> None:
    """Refuse training data: the default of functions that could go on without what they refuse."""
    raise error


def read_samples(
    folder: Path, split: str, exclude: Collection[str] = (), refuse: Callable[[InputError], None] = raise_refusal
) -> list[Sample]:
    """The samples of a folder, sorted by name. `split` is "Training" or "Validation"; a plain folder has no splits.

    Images that only the label file lists are ignored, since reduced copies of a data set keep the whole file. `exclude`
    has names or ISIC ids. Raises InputError for a folder without images; calls `refuse` for one without both masks and
    labels, or whose masks or labels are all those of other images.
    """
    paths = find_paths(folder, split)
    files = [path for path in sorted(paths.images.iterdir()) if is_image_file(path)]
    samples = [Sample(name_of_file(path.name), path, None) for path in files]
    samples = [sample for sample in samples if not {sample.name, sample.image_id} & {*exclude}]
    if not samples:
        raise InputError(f"{paths.images}: no images ({', '.join(supported_suffixes())})")
    masks: Mapping[str, Path] = {}
    rows: Mapping[str, Sample] = {}
    try:
        masks = _find_masks(paths.masks, samples)
    except InputError as error:
        refuse(error)
    try:
        rows = _read_rows(paths.labels, samples) if paths.labels.exists() else {}
    except InputError as error:
        refuse(error)
    samples = [replace(rows.get(sample.name, sample), mask=masks.get(sample.name)) for sample in samples]
    if not any(sample.mask or sample.is_labelled for sample in samples):
        places = f"masks belong in {paths.masks}, labels in {paths.labels}"
        refuse(InputError(f"{folder}: no image has a mask or a label; {places}"))
    return samples


def share_labels(samples: Sequence[Sample], refuse: Callable[[InputError], None] = raise_refusal) -> list[Sample]:
    """The samples, with what one rendering of an image lacks in labels and ids taken from the others.

    Calls `refuse` if renderings of one image contradict each other.
    """
    known: dict[tuple[str, str], tuple[Any, Path]] = {}  # by image and column
    for sample in samples:
        for column, value in _known_values(sample).items():
            first, image = known.setdefault((sample.image_id, column), (value, sample.image))
            if first != value:
                refuse(InputError(f"{sample.image}: {column} is {value}, but {first} for {image}, the same image"))

    def value_of(sample: Sample, column: str, default: Any) -> Any:
        return known.get((sample.image_id, column), (default, None))[0]

    return [
        replace(
            sample,
            labels=tuple(value_of(sample, column, nan) for column in LABEL_COLUMNS),
            **{name: value_of(sample, column, "") for name, column in GROUP_COLUMNS.items()},
        )
        for sample in samples
    ]


def _known_values(sample: Sample) -> dict[str, Any]:
    labels = dict(zip(LABEL_COLUMNS, sample.labels, strict=True))
    ids = {column: getattr(sample, name) for name, column in GROUP_COLUMNS.items()}
    return {column: value for column, value in (labels | ids).items() if value == value and value != ""}


def check_mask_sizes(samples: Sequence[Sample]) -> None:
    """Raise InputError for the first mask of another size than its image, as far as the headers of the files tell."""
    for sample in samples:
        if sample.mask is None or None in (sizes := [_header_size(sample.mask), _header_size(sample.image)]):
            continue  # whoever reads the pixels names the fault
        if sizes[0] != sizes[1]:
            raise InputError(size_fault(sample.mask, *sizes))


def _header_size(path: Path) -> tuple[int, int] | None:
    """Height and width as a file's header says; None if it is not readable."""
    try:
        with Image.open(path, formats=HEADER_FORMATS) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def size_fault(mask: Path, size_hw: Any, image_hw: Any) -> str:
    """Return the message about a mask of another (height, width) than its image as stored."""
    height, width = image_hw
    return f"{mask}: {size_hw[1]} x {size_hw[0]} pixels, but its image has {width} x {height}; save it at that size"


def has_split(folder: Path, split: str) -> bool:
    """Whether the folder is in the challenge's layout and has that split."""
    return find_isic_split(folder, split) is not None


def fingerprint(samples: Sequence[Sample]) -> str:
    """SHA-256 of names, file sizes and labels: whether two runs have the same data, without reading it all."""
    digest = hashlib.sha256()
    for sample in samples:
        sizes = (sample.image.stat().st_size, sample.mask.stat().st_size if sample.mask else 0)
        values = (sample.name, sizes, sample.labels, sample.lesion, sample.patient, sample.diagnosis)
        digest.update(repr(values).encode())
    return digest.hexdigest()


def read_sample_image(sample: Sample, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode a sample's image; InputError names one that cannot be read."""
    try:
        return decode(sample.image, at_least_hw)
    except ImageError as error:
        raise InputError(f"{sample.image}: {error.reason}") from error


def read_sample_mask(path: Path, stored_hw: tuple[int, int]) -> UInt8:
    """The mask (H, W) of a sample as 0 or 255, read as strictly as by `evaluate`.

    Raises InputError if it is not a 0/255 mask, or not of the size at which its image is stored.
    """
    try:
        mask = read_mask(path, MaskRole.GROUND_TRUTH).lesion
    except ImageError as error:
        raise InputError(f"{path}: {error.reason}") from error
    if mask.shape != stored_hw:
        raise InputError(size_fault(path, mask.shape, stored_hw))
    return mask * np.uint8(255)


def find_paths(folder: Path, split: str) -> SplitPaths:
    """Where the images, masks and labels of a split are, or would be; InputError if there are no images."""
    if paths := find_isic_split(folder, split):
        return paths
    images = folder / "images"
    if not images.is_dir():
        raise InputError(f"{folder}: has no images/, and no {split} split of ISIC-2017; see docs/training.md")
    if (folder / "labels").is_dir():
        return SplitPaths(images, folder / "labels", folder / "labels" / "labels.csv")
    return SplitPaths(images, folder / "masks", folder / "labels.csv")


def _find_masks(folder: Path, samples: Sequence[Sample]) -> dict[str, Path]:
    """Masks by sample name; InputError if the folder has masks, but only of other images."""
    if not folder.is_dir():
        return {}
    files = {path.name: path for path in folder.iterdir()}
    masks = {
        sample.name: files[name]
        for sample in samples
        for ending, suffix in itertools.product(("", isic.MASK_ENDING), MASK_SUFFIXES)
        if (name := f"{sample.name}{ending}{suffix}") in files
    }
    others = sorted(name for name in files if name.lower().endswith(MASK_SUFFIXES) and not name.startswith("."))
    if others and not masks:
        raise InputError(
            f"{folder}: none of its masks, for example {others[0]}, belongs to an image, for example {samples[0].name};"
            f" a mask is named {samples[0].name}{isic.MASK_ENDING}.png or {samples[0].name}.png"
        )
    return masks


def _read_rows(path: Path, samples: Sequence[Sample]) -> dict[str, Sample]:
    """Labels and ids by sample name; InputError if the table is that of other images, or spells their names otherwise.

    Rows of images that are not in the folder are ignored, since reduced copies of a data set keep the whole table.
    """
    labels, columns = read_labels(path), read_columns(path, (*GROUP_COLUMNS.values(), DIAGNOSIS))
    if missing := [name for name in LABEL_COLUMNS if name not in labels.classes]:
        raise InputError(f"{path}: no column {', '.join(missing)}; it needs image, {', '.join(LABEL_COLUMNS)}")
    by_name = match_names([sample.name for sample in samples], labels.ids)
    by_image = match_names({sample.image_id for sample in samples}, labels.ids)  # renderings share a row
    matches = {sample.name: by_name[sample.name] or by_image[sample.image_id] for sample in samples}
    _check_matches(path, matches, labels.ids)
    rows = {}
    for sample in (sample for sample in samples if matches[sample.name]):
        (name,) = matches[sample.name]
        values = dict(zip(labels.classes, labels.by_id[name], strict=True))
        lesion, patient = (columns.get(column, {}).get(name, "") for column in GROUP_COLUMNS.values())
        chosen = tuple(values[column] for column in LABEL_COLUMNS)
        diagnosis = columns.get(DIAGNOSIS, {}).get(name, "").lower()
        rows[sample.name] = replace(sample, labels=chosen, lesion=lesion, patient=patient, diagnosis=diagnosis)
    return rows


def _check_matches(path: Path, matches: Mapping[str, tuple[str, ...]], ids: Collection[str]) -> None:
    """Raise InputError if a row probably belongs to an image but has another name, or few images have a row."""
    if several := [f"{name}: {', '.join(rows)}" for name, rows in matches.items() if len(rows) > 1]:
        raise InputError(f"{path}: several rows for one image, {several[0]}; keep one of them")
    without = [name for name, rows in matches.items() if not rows]
    unused = set(ids) - {row for rows in matches.values() for row in rows}
    if not without or not unused:
        return
    similar: dict[str, str] = {loose_key(row): row for row in unused}
    pairs = [f"{similar[key]} for {name}" for name in without if (key := loose_key(name)) in similar]
    is_other_table = len(without) == len(matches) or len(unused) >= len(without) > len(matches) / 2
    if not pairs and not is_other_table:
        return
    shown = ", ".join(pairs[:3]) or f"{min(unused)}, but no row for {without[0]}"
    raise InputError(
        f"{path}: {len(without)} of {len(matches)} images have no row, and {len(unused)} rows no image: {shown}; name"
        " each image in the table as its file, with or without suffix"
    )
