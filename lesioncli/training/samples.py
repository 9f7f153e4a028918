"""Read training data: folders in the layout of the ISIC 2017 challenge, or plain ones.

DIR/ISIC-2017_Training_Data/ISIC_0000000.jpg                               DIR/images/x.jpg
DIR/ISIC-2017_Training_Part1_GroundTruth/ISIC_0000000_segmentation.png     DIR/masks/x.png (or x_segmentation.png)
DIR/ISIC-2017_Training_Part3_GroundTruth.csv                               DIR/labels.csv

The same with Validation instead of Training; or, as `evaluate` reads them, masks and labels.csv both in DIR/labels/.
"""

import hashlib
import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path

import numpy as np

from lesioncli.errors import ImageError, InputError
from lesioncli.evaluation.reading.isic_layout import SplitPaths, find_isic_split
from lesioncli.evaluation.reading.masks import MASK_SUFFIXES, MaskRole, read_mask
from lesioncli.evaluation.reading.tables import read_columns
from lesioncli.images.decode import decode
from lesioncli.images.formats import has_supported_suffix, supported_suffixes
from lesioncli.images.geometry import UInt8
from lesioncli.images.pixels import DecodedImage

LABEL_COLUMNS = ("melanoma", "seborrheic_keratosis")  # a sample with neither is a nevus
UNKNOWN = (nan,) * len(LABEL_COLUMNS)


@dataclass(frozen=True)
class Sample:
    """An image, its mask, and its labels in the order of LABEL_COLUMNS; nan is unknown."""

    name: str
    image: Path
    mask: Path
    labels: tuple[float, ...]

    @property
    def is_labelled(self) -> bool:
        return not all(map(isnan, self.labels))


@dataclass(frozen=True)
class TrainingData:
    """Samples to train on and samples to choose the best epoch by."""

    training: list[Sample]
    validation: list[Sample]


def read_training_data(
    training: Sequence[Path], validation: Sequence[Path], exclude: Iterable[str] = ()
) -> TrainingData:
    """Samples of the folders in `training` without those named in `exclude`, and of the folders in `validation`.

    Raises InputError if a plain folder is in both, since it has no split of its own, or if an image is in both.
    """
    training_samples = [sample for folder in training for sample in read_samples(folder, "Training", exclude)]
    for folder in validation:
        if folder in training and not has_split(folder, "Validation"):
            raise InputError(f"{folder}: has no validation split; give other images with --val")
    validation_samples = [sample for folder in validation for sample in read_samples(folder, "Validation")]
    shared = {sample.name for sample in training_samples} & {sample.name for sample in validation_samples}
    if shared:
        raise InputError(f"{len(shared)} images are in both training and validation, for example {min(shared)}")
    return TrainingData(training_samples, validation_samples)


def read_samples(folder: Path, split: str, exclude: Iterable[str] = ()) -> list[Sample]:
    """The samples of a folder, sorted by name. `split` is "Training" or "Validation"; a plain folder has no splits.

    Images that only the label file lists are ignored, since reduced copies of a data set keep the whole file. Raises
    InputError for an image without a mask, and for a folder without images.
    """
    split_paths, excluded = _find_paths(folder, split), set(exclude)
    paths = sorted(path for path in split_paths.images.iterdir() if _is_image(path) and path.stem not in excluded)
    if not paths:
        raise InputError(f"{split_paths.images}: no images ({', '.join(supported_suffixes())})")
    has_labels = split_paths.labels.exists()
    labels = _read_labels(split_paths.labels, {path.stem for path in paths}) if has_labels else {}
    return [
        Sample(path.stem, path, _find_mask(path.stem, split_paths.masks), labels.get(path.stem, UNKNOWN))
        for path in paths
    ]


def has_split(folder: Path, split: str) -> bool:
    """Whether the folder is in the challenge's layout and has that split."""
    return find_isic_split(folder, split) is not None


def fingerprint(samples: Sequence[Sample]) -> str:
    """SHA-256 of names, file sizes and labels: whether two runs have the same data, without reading it all."""
    digest = hashlib.sha256()
    for sample in samples:
        sizes = (sample.image.stat().st_size, sample.mask.stat().st_size)
        digest.update(repr((sample.name, sizes, sample.labels)).encode())
    return digest.hexdigest()


def read_sample_image(sample: Sample, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode a sample's image; InputError names one that cannot be read."""
    try:
        return decode(sample.image, at_least_hw)
    except ImageError as error:
        raise InputError(f"{sample.image}: {error.reason}") from error


def read_sample_mask(sample: Sample, stored_hw: tuple[int, int]) -> UInt8:
    """A sample's mask (H, W) as 0 or 255, read as strictly as by `evaluate`.

    Raises InputError if it is not a 0/255 mask, or not of the size at which its image is stored.
    """
    try:
        mask = read_mask(sample.mask, MaskRole.GROUND_TRUTH).lesion
    except ImageError as error:
        raise InputError(f"{sample.mask}: {error.reason}") from error
    if mask.shape != stored_hw:
        raise InputError(f"{sample.mask}: size {mask.shape} differs from that of its image, {stored_hw}")
    return mask * np.uint8(255)


def _find_paths(folder: Path, split: str) -> SplitPaths:
    if paths := find_isic_split(folder, split):
        return paths
    images = folder / "images"
    if not images.is_dir():
        raise InputError(f"{folder}: has no images/, and no {split} split of ISIC-2017; see docs/training.md")
    if (folder / "labels").is_dir():
        return SplitPaths(images, folder / "labels", folder / "labels" / "labels.csv")
    return SplitPaths(images, folder / "masks", folder / "labels.csv")


def _is_image(path: Path) -> bool:
    is_hidden = path.name.startswith(".")  # macOS writes ._x.jpg beside x.jpg
    return has_supported_suffix(path) and not path.stem.endswith("_superpixels") and not is_hidden


def _find_mask(name: str, masks: Path) -> Path:
    for stem, suffix in itertools.product((f"{name}_segmentation", name), MASK_SUFFIXES):
        if (path := masks / f"{stem}{suffix}").exists():
            return path
    raise InputError(f"{masks}: no mask {name}_segmentation.png or {name}.png for image {name}")


def _read_labels(path: Path, names: Collection[str]) -> dict[str, tuple[float, ...]]:
    """Labels by image name; InputError if none of the images in `names` has any."""
    columns = read_columns(path, LABEL_COLUMNS)
    if missing := [name for name in LABEL_COLUMNS if name not in columns]:
        raise InputError(f"{path}: no column {', '.join(missing)}; it needs image, {', '.join(LABEL_COLUMNS)}")
    labels = {
        name: tuple(_parse_label(columns[column][name], f"{path}: {column} of {name}") for column in LABEL_COLUMNS)
        for name in columns[LABEL_COLUMNS[0]]
    }
    if not labels.keys() & names:
        raise InputError(
            f"{path}: none of its images, for example {next(iter(labels), 'none')}, is in the folder, for example"
            f" {min(names)}"
        )
    return labels


def _parse_label(text: str, where: str) -> float:
    if text not in ("0", "1", "0.0", "1.0", ""):
        raise InputError(f"{where} is {text!r}; it must be 0, 1 or empty")
    return float(text or "nan")
