"""Find masks in a folder by name, and read a mask strictly."""

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lesioncli.errors import ImageError, InputError
from lesioncli.evaluation.metrics.pixels import MASK_THRESHOLD
from lesioncli.evaluation.reading.archived_masks import find_archived_masks
from lesioncli.evaluation.reading.png import read_grey_png
from lesioncli.files import walk
from lesioncli.images.decode import CANNOT_BE_READ, OpenedImage, describe_damage
from lesioncli.images.find import CROPS, OVERLAYS, PROBABILITIES
from lesioncli.images.formats import FORMATS, supported_suffixes
from lesioncli.images.png import check_rows
from lesioncli.images.stored import ImagePath
from lesioncli.memory import SHARED
from lesioncli.options import FailureStage

_FORMATS = tuple(image_format for image_format in FORMATS if image_format.for_masks)
MASK_SUFFIXES = tuple(suffix for image_format in _FORMATS for suffix in image_format.suffixes)
# Checked by content: Pillow would run Ghostscript on an EPS named x.png.
MASK_FORMATS = tuple(image_format.name for image_format in _FORMATS)
# Images that may be meant as masks.
UNSUPPORTED_SUFFIXES = tuple(suffix for suffix in supported_suffixes() if suffix not in MASK_SUFFIXES)

_MAPS = f"{PROBABILITIES}/"

BLOCK_ROWS = 32
FULL_SIZE = (1, 1)  # no reader of masks reduces its image

UInt8 = NDArray[np.uint8]
Levels = NDArray[np.integer[Any]]  # (H, W)
P = TypeVar("P", bound=ImagePath, covariant=True)


class MaskRole(StrEnum):
    """What a mask is in a comparison; messages about it begin with this word."""

    GROUND_TRUTH = "ground truth"
    PREDICTION = "prediction"
    PROBABILITY_MAP = "probability map"


@dataclass(frozen=True)
class MaskListing(Generic[P]):
    """Masks by name, images in unsupported formats whose name no mask has, and probability maps by name of the mask."""

    masks: Mapping[str, P] = field(default_factory=dict)
    unsupported: Mapping[str, Path] = field(default_factory=dict)
    maps: Mapping[str, ImagePath] = field(default_factory=dict)

    def count_unsupported(self) -> str:
        """Return the number of unsupported images by suffix, as in "1 .gif, 6 .jpg"; "" if there are none."""
        counts = Counter(path.suffix.lower() for path in self.unsupported.values())
        return ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))


@dataclass(frozen=True)
class Mask:
    """A binary mask (H, W), and a note on anything unusual about its file."""

    lesion: NDArray[np.bool_]
    note: str


def find_predicted_masks(folder: Path) -> MaskListing[ImagePath]:
    """Find masks as find_masks() does, in a folder that may be the output of `segment`, also in its archives.

    Its overlays and cut-outs are not listed. A picture in the folder of probability maps is one if there is a mask of
    its name: a data set may have folders of these names, too.
    """
    listing = find_masks(folder, skip=(OVERLAYS, CROPS))
    archived = {mask_name(PurePosixPath(name)): mask for name, mask in find_archived_masks(folder).items()}
    found: dict[str, ImagePath] = {**listing.masks, **archived}
    inside = {name.removeprefix(_MAPS): path for name, path in listing.masks.items() if name.startswith(_MAPS)}
    maps = {name: path for name, path in inside.items() if name in found}
    masks = {name: path for name, path in found.items() if maps.get(name.removeprefix(_MAPS)) != path}
    unsupported = {name: path for name, path in listing.unsupported.items() if name not in archived}
    return MaskListing(masks, unsupported, maps)


def find_masks(folder: Path, skip: Iterable[str] = ()) -> MaskListing[Path]:
    """Find masks and unsupported images by their POSIX path below `folder`, without suffix and `_segmentation`.

    Unsupported images in the sub-folders `skip` are not listed. Raises InputError if a folder cannot be listed, or two
    masks have the same name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    masks: dict[str, Path] = {}
    unsupported: dict[str, Path] = {}
    skipped = tuple(f"{name}/" for name in skip)
    for path in _list_files(folder):
        if path.stem.endswith("_superpixels"):
            continue
        name = mask_name(path.relative_to(folder))
        if path.suffix.lower() in UNSUPPORTED_SUFFIXES and not name.startswith(skipped):
            unsupported[name] = path
        elif path.suffix.lower() in MASK_SUFFIXES:
            if name in masks:
                raise InputError(f"{path}: second mask for {name}, beside {masks[name]}; keep one of them")
            masks[name] = path
    return MaskListing(masks, {name: path for name, path in unsupported.items() if name not in masks})


def mask_name(path: PurePath) -> str:
    """Return the name of a mask, as POSIX path without suffix and `_segmentation`, given its relative path."""
    return path.with_name(image_stem(path)).as_posix()


def image_stem(path: PurePath) -> str:
    """Return the image's name: that of its mask without suffix and `_segmentation` (ISIC-2016: `_Segmentation`)."""
    return path.stem.removesuffix("_segmentation").removesuffix("_Segmentation") or path.stem


def _list_files(folder: Path) -> Iterator[Path]:
    """Yield every file below `folder` except hidden ones, sorted."""
    try:
        for parent, _, names in walk(folder):
            yield from (parent / name for name in names)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be listed ({error.strerror})") from error


@dataclass(frozen=True)
class _Pixels:
    """Decoded levels (H, W), the level that is white, and how the file stores them, as a Pillow mode."""

    levels: Levels
    white: int
    mode: str


def read_mask(path: ImagePath, role: MaskRole) -> Mask:
    """Read one mask; ImageError, whose reason begins with `role`, if it is unreadable or not a 0/255 mask."""
    pixels = _read(path, role)
    levels, white = pixels.levels, pixels.white
    brightest, threshold = int(levels.max()), MASK_THRESHOLD * white // 255
    # A 0/1 mask would be all background. A darker prediction may be a probability map that never reached 1/2.
    too_dark = threshold if role is MaskRole.GROUND_TRUTH else white // 255
    if 0 < brightest <= too_dark:
        raise ImageError(FailureStage.DECODE, f"{role} is a 0/{brightest} mask, not 0/{white}")
    notes = [] if pixels.mode in ("1", "L") else [f"{role} is stored as {pixels.mode}"]
    if brightest > 1 and (soft := int(np.count_nonzero(levels)) - _count_level(levels, brightest)):
        notes.append(f"{role} is soft: {soft} pixels are neither 0 nor {brightest}")
    if 0 < brightest < white:
        empty = f": no pixel is above {threshold}" if brightest <= threshold else ""
        notes.append(f"the maximum of the {role} is {brightest}, not {white}{empty}")
    return Mask(np.asarray(levels > threshold), "; ".join(notes))


def read_probability_map(path: ImagePath) -> UInt8:
    """Read lesion probabilities (H, W) in 1/255; ImageError if it is not an 8-bit grey picture."""
    role = MaskRole.PROBABILITY_MAP
    pixels = _read(path, role)
    if pixels.mode != "L" or pixels.levels.dtype != np.uint8:
        raise ImageError(FailureStage.DECODE, f"{role} is stored as {pixels.mode}, not as 8-bit grey")
    return np.asarray(pixels.levels, np.uint8)


def _read(path: ImagePath, role: MaskRole) -> _Pixels:
    """Decode a file when there is memory for it; ImageError, whose reason begins with `role`, if it is unreadable."""
    with _name_failures(role), OpenedImage(path) as file, SHARED.reserve(file.peak_bytes(FULL_SIZE)):
        return _decode(file.read(), role)


def _count_level(levels: Levels, level: int) -> int:
    """Count the pixels of one level, in blocks that stay in the processor's cache: twice as fast as the whole."""
    blocks = (levels[start : start + BLOCK_ROWS] for start in range(0, len(levels), BLOCK_ROWS))
    return sum(int(np.count_nonzero(block == level)) for block in blocks)


@contextmanager
def _name_failures(role: MaskRole) -> Iterator[None]:
    """Turn any exception of a decoder into an ImageError that begins with `role`."""
    try:
        yield
    except ImageError as error:
        if error.reason.startswith(role):
            raise
        raise ImageError(
            FailureStage.DECODE, f"{role} unreadable: {error.reason.removeprefix(CANNOT_BE_READ)}"
        ) from error
    except UnidentifiedImageError as error:
        reason = f"{role} unreadable: not one of {', '.join(MASK_FORMATS)}, or truncated"
        raise ImageError(FailureStage.DECODE, reason) from error
    except MemoryError as error:
        raise ImageError(FailureStage.DECODE, f"{role} unreadable: not enough memory") from error
    except Exception as error:  # damaged bytes make Pillow raise OSError, SyntaxError, struct.error and more
        reason = (error.strerror if isinstance(error, OSError) else "") or describe_damage("mask", error)
        raise ImageError(FailureStage.DECODE, f"{role} unreadable: {reason}") from error


def _decode(data: bytes, role: MaskRole) -> _Pixels:
    if ordinary := read_grey_png(data):
        return _Pixels(ordinary.levels, ordinary.white, "L")
    image = _open_with_pillow(data)
    if image.format == "PNG":
        check_rows(data)
    if (pages := getattr(image, "n_frames", 1)) > 1:
        raise ImageError(FailureStage.DECODE, f"{role} has {pages} pages, not one")
    if image.mode.startswith("I;16"):
        return _Pixels(np.asarray(image), 65535, image.mode)
    if image.mode in ("1", "L") and not image.has_transparency_data:
        levels = _decode_png(data) if image.format == "PNG" else np.asarray(image.convert("L"))
        return _Pixels(levels, 255, image.mode)
    return _Pixels(_single_channel(image, role), 255, image.mode)


def _open_with_pillow(data: bytes) -> Image.Image:
    """Open an image without decoding it.

    Decoding stops when it has all pixels; verify() reads all chunks of a PNG and their checksums, too. It leaves the
    image unusable, hence the second open().
    """
    Image.open(io.BytesIO(data), formats=MASK_FORMATS).verify()
    return Image.open(io.BytesIO(data), formats=MASK_FORMATS)


def _decode_png(data: bytes) -> UInt8:
    """Decode a grey PNG of at most 8 bits (H, W) by opencv, since Pillow would copy the pixels twice."""
    levels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if levels is None:
        raise OSError("broken data stream")
    return np.asarray(levels, np.uint8)


def _single_channel(image: Image.Image, role: MaskRole) -> Levels:
    """Return the grey levels (H, W) of an opaque image without colours; ImageError for any other image."""
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise ImageError(FailureStage.DECODE, f"{role} is not a single-channel mask: its mode is {image.mode}")
    rgba = np.asarray(image.convert("RGBA"))
    if (rgba[..., 3] != 255).any():
        raise ImageError(FailureStage.DECODE, f"{role} is not a single-channel mask: it has transparent pixels")
    if (rgba[..., :3] != rgba[..., :1]).any():
        raise ImageError(FailureStage.DECODE, f"{role} is not a single-channel mask: it has colours")
    return np.asarray(rgba[..., 0])
