"""Training data as people have it: the ISIC-2017 challenge's own layout, or a plain folder.

DIR/ISIC-2017_Training_Data/ISIC_0000000.jpg                               DIR/images/x.jpg
DIR/ISIC-2017_Training_Part1_GroundTruth/ISIC_0000000_segmentation.png     DIR/masks/x.png (or x_segmentation.png)
DIR/ISIC-2017_Training_Part3_GroundTruth.csv                               DIR/labels.csv
the same with Validation in place of Training; or, as `evaluate` takes them, masks and labels.csv both in DIR/labels/
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from lesioncli.errors import ImageError, InputError
from lesioncli.evaluation.reading import masks as true_masks
from lesioncli.evaluation.reading.tables import read_columns
from lesioncli.images.decode import DecodedImage, decode
from lesioncli.images.formats import has_supported_suffix, supported_suffixes
from lesioncli.images.geometry import UInt8, to_network, to_upright
from lesioncli.training.augment import augment
from lesioncli.training.recipe import AugmentSettings

LABELS = ("melanoma", "seborrheic_keratosis")  # what a label file says; neither is a nevus

Key = tuple[int, int, int]


@dataclass(frozen=True)
class Sample:
    """A picture, its mask, and its labels in the order of LABELS (nan where unknown)."""

    name: str
    image: Path
    mask: Path
    labels: tuple[float, ...]

    @property
    def is_labelled(self) -> bool:
        return not all(map(isnan, self.labels))


def read_samples(folder: Path, split: str, exclude: Iterable[str] = ()) -> list[Sample]:
    """The samples of a folder in either layout, sorted by name; `split` is "Training" or "Validation".

    A plain folder has no split of its own. An image without a mask, and a layout without images, are InputErrors;
    images that only the label file lists are left out, since reduced copies of a set keep the whole label file.
    """
    images, masks, labels_csv = _locate(folder, split)
    skipped = set(exclude)
    paths = sorted(path for path in images.iterdir() if _is_picture(path) and path.stem not in skipped)
    if not paths:
        raise InputError(f"{images}: no images ({', '.join(supported_suffixes())})")
    labels = _read_labels(labels_csv, {path.stem for path in paths}) if labels_csv.exists() else {}
    unknown = (float("nan"),) * len(LABELS)
    return [Sample(path.stem, path, _mask_of(path.stem, masks), labels.get(path.stem, unknown)) for path in paths]


def collect(
    data: Sequence[Path], validation: Sequence[Path], exclude: Iterable[str] = ()
) -> tuple[list[Sample], list[Sample]]:
    """Training samples of the folders in `data`, and validation samples of those in `validation`.

    A plain folder cannot be both: InputError, as for an image that is in both.
    """
    training = [each for folder in data for each in read_samples(folder, "Training", exclude)]
    for folder in validation:
        if folder in data and not has_split(folder, "Validation"):
            raise InputError(f"{folder}: has no validation split of its own; give other pictures with --val")
    held_out = [each for folder in validation for each in read_samples(folder, "Validation")]
    if shared := {each.name for each in training} & {each.name for each in held_out}:
        raise InputError(f"{len(shared)} images are in training and validation, such as {sorted(shared)[0]}")
    return training, held_out


def has_split(folder: Path, split: str) -> bool:
    """Whether the folder is in the challenge's layout and holds that split."""
    return (folder / f"ISIC-2017_{split}_Data").is_dir()


def fingerprint(samples: Sequence[Sample]) -> str:
    """sha256 over names, file sizes and labels: tells whether two runs saw the same data without reading it all."""
    digest = hashlib.sha256()
    for each in samples:
        sizes = (each.image.stat().st_size, each.mask.stat().st_size)
        digest.update(repr((each.name, sizes, each.labels)).encode())
    return digest.hexdigest()


def _locate(folder: Path, split: str) -> tuple[Path, Path, Path]:
    official = folder / f"ISIC-2017_{split}"
    if has_split(folder, split):
        ending = ("_Data", "_Part1_GroundTruth", "_Part3_GroundTruth.csv")
        images, masks, labels = (official.with_name(official.name + each) for each in ending)
        return images, masks, labels
    if (folder / "images").is_dir() and (folder / "labels").is_dir():
        return folder / "images", folder / "labels", folder / "labels" / "labels.csv"
    if (folder / "images").is_dir():
        return folder / "images", folder / "masks", folder / "labels.csv"
    raise InputError(
        f"{folder}: neither {official.name}_Data/ nor images/ is there; see 'lesioncli train' in the README"
    )


def _is_picture(path: Path) -> bool:
    hidden = path.name.startswith(".")  # macOS leaves ._x.jpg beside x.jpg
    return has_supported_suffix(path) and not path.stem.endswith("_superpixels") and not hidden


def _mask_of(name: str, masks: Path) -> Path:
    for candidate in (masks / f"{name}_segmentation.png", masks / f"{name}.png"):
        if candidate.exists():
            return candidate
    raise InputError(f"{masks}: no mask {name}_segmentation.png or {name}.png for image {name}")


def _read_labels(path: Path, names: Collection[str]) -> dict[str, tuple[float, ...]]:
    """Labels by image, read as `evaluate` reads them; InputError where they are of none of the images in `names`."""
    columns = read_columns(path, LABELS)
    if missing := [name for name in LABELS if name not in columns]:
        raise InputError(f"{path}: no column {', '.join(missing)}; it needs image, {', '.join(LABELS)}")
    found = {
        name: tuple(_label(columns[column][name], f"{path}: {column} of {name}") for column in LABELS)
        for name in columns[LABELS[0]]
    }
    if not found.keys() & names:
        raise InputError(f"{path}: its images, such as {next(iter(found), 'none')}, are none of {min(names)} and so on")
    return found


def _label(text: str, what: str) -> float:
    if text not in ("0", "1", "0.0", "1.0", ""):
        raise InputError(f"{what} is {text!r}; it must be 0, 1 or empty")
    return float(text or "nan")


def read_mask(path: Path) -> UInt8:
    """A mask (H, W) as 0 or 255, read as strictly as `evaluate` reads it; InputError where it is no 0/255 mask."""
    try:
        return true_masks.read_mask(path, true_masks.MaskRole.GROUND_TRUTH).lesion * np.uint8(255)
    except ImageError as error:
        raise InputError(f"{path}: {error.reason}") from error


def read_mask_of(sample: Sample, stored_hw: tuple[int, int]) -> UInt8:
    """A sample's mask; InputError where it has not the size (H, W) at which its image is stored."""
    mask = read_mask(sample.mask)
    if mask.shape != stored_hw:
        raise InputError(f"{sample.mask}: {mask.shape} does not fit its image's {stored_hw}")
    return mask


def read_picture(sample: Sample, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode a sample's image; an unreadable one stops the training with its name."""
    try:
        return decode(sample.image, at_least_hw)
    except ImageError as error:
        raise InputError(f"{sample.image}: {error.reason}") from error


class AugmentedSamples(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Indexed by (epoch, place in it, sample): the same key gives the same pixels in any process, after any restart."""

    def __init__(
        self, samples: Sequence[Sample], size_hw: tuple[int, int], settings: AugmentSettings, seed: int
    ) -> None:
        self.samples = samples
        self.size_hw = size_hw
        self.settings = settings
        self.seed = seed

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, Tensor]:
        """Image (3, H, W) in [0, 1], mask (1, H, W) in [0, 1], labels (2,)."""
        index = key[2]
        sample = self.samples[index]
        height, width = self.size_hw
        decoded = read_picture(sample, (height, width))
        stored_mask = read_mask_of(sample, decoded.stored_hw)
        upright_hw = (decoded.rgb.shape[0], decoded.rgb.shape[1])
        mask = to_network(to_upright(stored_mask, decoded.orientation), *upright_hw, kernel="box")
        rng = np.random.default_rng((self.seed, *key))
        image, mask = augment(decoded.rgb, mask, self.size_hw, self.settings, rng)
        pixels = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255)
        return pixels, torch.from_numpy(mask[None].astype(np.float32) / 255), torch.tensor(sample.labels)


class EpochSampler(Sampler[list[Key]]):
    """Shuffled batches of (epoch, place, index) keys, by seed and epoch alone. A short tail is left out.

    `weights` (one a sample) say how often each is drawn; equal ones draw every sample once an epoch. `share` is (which,
    of how many): each device takes its part of every batch, so that a batch is the same on any number of devices.
    InputError where there are more devices than samples in a batch.
    """

    def __init__(self, weights: Sequence[float], batch: int, seed: int, share: tuple[int, int] = (0, 1)) -> None:
        self.weights = np.asarray(weights, np.float64)
        self.batch = min(batch, len(weights))
        if share[1] > self.batch:
            raise InputError(f"a batch of {self.batch} cannot be shared out between {share[1]} processes; start fewer")
        self.seed = seed
        self.share = share
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.weights) // self.batch

    def __iter__(self) -> Iterator[list[Key]]:
        order = self._draw(np.random.default_rng((self.seed, self.epoch)))
        keys = [(self.epoch, place, index) for place, index in enumerate(order)]
        first, step = self.share
        for start in range(0, len(self) * self.batch, self.batch):
            yield keys[start + first : start + self.batch : step]

    def _draw(self, rng: np.random.Generator) -> list[int]:
        """Indices, as many as there are samples, in random order. Each comes as often as its weight says, or once
        more: at equal steps along the summed weights, so that chance decides on the remainders only."""
        count = len(self.weights)
        shuffled = rng.permutation(count)
        if np.ptp(self.weights) == 0:
            return [int(index) for index in shuffled]
        reach = np.cumsum(self.weights[shuffled])
        steps = (np.arange(count) + rng.random()) * reach[-1] / count
        return [int(index) for index in rng.permutation(shuffled[np.searchsorted(reach, steps, side="right")])]


def balance_weights(samples: Sequence[Sample], balance: Sequence[float]) -> list[float]:
    """How often each sample is drawn, by its class: melanoma, seborrheic keratosis, or neither (also if unknown)."""
    return [balance[each.labels.index(1.0)] if 1.0 in each.labels else balance[-1] for each in samples]
