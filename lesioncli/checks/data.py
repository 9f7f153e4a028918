"""Read the data to check: folders of images, and folders of training data as `train` reads them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lesioncli.errors import InputError
from lesioncli.images.find import describe_ignored, describe_unreadable, list_images
from lesioncli.training.samples import Sample, find_paths, has_split, read_samples, share_labels


class Side(StrEnum):
    """Sides of a split. Without validation data, all images are on the first."""

    TRAINING = "training"
    VALIDATION = "validation"


SPLITS = {Side.TRAINING: "Training", Side.VALIDATION: "Validation"}  # in the names of ISIC-2017's folders


@dataclass(frozen=True)
class CheckedSample:
    """An image of the data, with its mask and labels if it has them, and the side of the split that it is on."""

    sample: Sample
    side: Side


@dataclass(frozen=True)
class CheckedData:
    """The images of all folders. refused: why `train` would refuse their masks or labels. notes: ignored files."""

    samples: list[CheckedSample]
    refused: list[str]
    notes: list[str]

    def on(self, side: Side) -> list[Sample]:
        """Return the images on one side of the split."""
        return [checked.sample for checked in self.samples if checked.side == side]


def read_checked_data(folders: Sequence[Path], validation: Sequence[Path] = ()) -> CheckedData:
    """Read folders of training data or images. The validation data are those of `validation`, else of ISIC's split.

    Raises InputError if a folder does not exist, or holds no images.
    """
    refused: list[str] = []
    notes: list[str] = []
    samples: list[CheckedSample] = []
    for side, folder in _parts(folders, validation):
        read = _read_folder(folder, side, refused, notes)
        if side == Side.TRAINING or has_split(folder, SPLITS[side]) or folder not in folders:
            samples += [CheckedSample(sample, side) for sample in read]
    training = [checked.sample for checked in samples if checked.side == Side.TRAINING]
    share_labels(training, refuse=lambda error: refused.append(str(error)))
    return CheckedData(samples, refused, notes)


def _parts(folders: Sequence[Path], validation: Sequence[Path]) -> Iterator[tuple[Side, Path]]:
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; check the path")
        if validation or has_split(folder, SPLITS[Side.TRAINING]) or not has_split(folder, SPLITS[Side.VALIDATION]):
            yield Side.TRAINING, folder
    chosen = validation or [folder for folder in folders if has_split(folder, SPLITS[Side.VALIDATION])]
    for folder in chosen:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; check the path")
        yield Side.VALIDATION, folder


def _read_folder(folder: Path, side: Side, refused: list[str], notes: list[str]) -> list[Sample]:
    split = SPLITS[side]
    if has_split(folder, split) or (folder / "images").is_dir():
        paths = find_paths(folder, split)
        if paths.masks.is_dir() or paths.labels.exists():
            return read_samples(folder, split, refuse=lambda error: refused.append(str(error)))
    listing = list_images([folder])
    notes += [line for line in (describe_ignored(listing.ignored), *describe_unreadable(listing.unreadable)) if line]
    return [Sample(image.name, image.local_path, None) for image in listing.images]
