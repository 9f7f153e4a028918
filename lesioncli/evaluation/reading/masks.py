"""Masks as people have them: found in a folder by name, read strictly."""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lesioncli.errors import ImageError, InputError
from lesioncli.evaluation.metrics.pixels import MASK_THRESHOLD
from lesioncli.evaluation.reading.png import read_grey
from lesioncli.files import walk
from lesioncli.options import FailureStage

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
OTHER_SUFFIXES = (".jpg", ".jpeg", ".gif", ".webp")  # pictures, and so perhaps meant as masks
MASK_FORMATS = ("PNG", "BMP", "TIFF")  # by content: left to choose, Pillow runs Ghostscript on an EPS named x.png

ROWS_AT_ONCE = 32

UInt8 = NDArray[np.uint8]


class MaskRole(StrEnum):
    """What a mask is in a comparison; messages about it begin with this word."""

    GROUND_TRUTH = "ground truth"
    PREDICTION = "prediction"


@dataclass(frozen=True)
class MaskListing:
    """Masks by name, and images in unsupported formats whose name no mask has."""

    masks: Mapping[str, Path] = field(default_factory=dict)
    unsupported: Mapping[str, Path] = field(default_factory=dict)


def find_masks(folder: Path, skip: str = "") -> MaskListing:
    """Masks and other pictures by the posix path below `folder`, without suffix and `_segmentation`.

    Other pictures in sub-folder `skip` are left out. InputError where the folder cannot be listed, or two masks have
    one name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    masks: dict[str, Path] = {}
    others: dict[str, Path] = {}
    for path in _walk(folder):
        if path.stem.endswith("_superpixels"):
            continue
        name = path.relative_to(folder).with_name(image_stem(path)).as_posix()
        if path.suffix.lower() in OTHER_SUFFIXES:
            if not name.startswith(f"{skip}/"):
                others[name] = path
        elif path.suffix.lower() in MASK_SUFFIXES:
            if name in masks:
                raise InputError(f"two masks for {name}: {masks[name]} and {path}; keep one of them")
            masks[name] = path
    return MaskListing(masks, {name: path for name, path in others.items() if name not in masks})


def image_stem(path: PurePath) -> str:
    """The image's name in that of its mask: without suffix and `_segmentation`, or ISIC-2016's `_Segmentation`."""
    return path.stem.removesuffix("_segmentation").removesuffix("_Segmentation") or path.stem


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below `folder` except hidden ones, in sorted order."""
    try:
        for here, _, files in walk(folder):
            yield from (here / file for file in files)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be listed ({error.strerror})") from error


@dataclass(frozen=True)
class Mask:
    """A binary mask (H, W), and a note on anything unusual about its file."""

    lesion: NDArray[np.bool_]
    note: str


def read_mask(path: Path, role: MaskRole) -> Mask:
    """Read one mask; ImageError, its reason beginning with `role`, where it cannot be told what is lesion."""
    with _unreadable(role):
        data = path.read_bytes()
        grey, white, mode = _read_grey(data, role)
    # A 0/1 mask would be all background. A prediction above that may be a probability map that never reached 1/2.
    too_dark = MASK_THRESHOLD if role is MaskRole.GROUND_TRUTH else 1
    if 0 < (brightest := int(grey.max())) <= too_dark * white // 255:
        raise ImageError(FailureStage.DECODE, f"{role} is a 0/{brightest} mask, not 0/{white}")
    odd = [] if mode in ("1", "L") else [f"{role} is stored as {mode}"]
    if brightest > 1 and (soft := int(np.count_nonzero(grey)) - _count_of(grey, brightest)):
        odd.append(f"{role} is soft: {soft} pixels are neither 0 nor {brightest}")
    cut = MASK_THRESHOLD * white // 255
    if 0 < brightest < white:
        nothing = f": no pixel is above {cut}" if brightest <= cut else ""
        odd.append(f"{role}'s brightest level is {brightest}, not {white}{nothing}")
    return Mask(np.asarray(grey > cut), "; ".join(odd))


def _count_of(grey: NDArray[np.integer[Any]], level: int) -> int:
    """How many pixels have this level, in blocks that stay in the processor's cache: twice as fast as at once."""
    blocks = (grey[start : start + ROWS_AT_ONCE] for start in range(0, len(grey), ROWS_AT_ONCE))
    return sum(int(np.count_nonzero(block == level)) for block in blocks)


def _read_grey(data: bytes, role: MaskRole) -> tuple[NDArray[np.integer[Any]], int, str]:
    """Values (H, W), which value is white, and how they are stored, in Pillow's words."""
    if ordinary := read_grey(data):
        return *ordinary, "L"
    image = _open(data)
    return *_grey(image, data, role), image.mode


@contextmanager
def _unreadable(role: MaskRole) -> Iterator[None]:
    """What goes wrong while a file is decoded is said of it, with its role."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            FailureStage.DECODE, f"{role} unreadable: not a PNG, BMP or TIFF picture, or cut short"
        ) from error
    except Exception as error:  # damaged bytes make Pillow raise OSError, SyntaxError, struct.error and more
        raise ImageError(FailureStage.DECODE, f"{role} unreadable: {str(error) or type(error).__name__}") from error


def _open(data: bytes) -> Image.Image:
    """The picture, not yet decoded.

    Decoding stops once it has its pixels; verify() goes through all of a PNG's chunks and their checksums. It leaves
    the picture unusable, hence the second open().
    """
    Image.open(io.BytesIO(data), formats=MASK_FORMATS).verify()
    return Image.open(io.BytesIO(data), formats=MASK_FORMATS)


def _grey(image: Image.Image, data: bytes, role: MaskRole) -> tuple[NDArray[np.integer[Any]], int]:
    """Values (H, W) of a picture that is grey in effect, and which value is white; ImageError for any other picture."""
    if (pages := getattr(image, "n_frames", 1)) > 1:
        raise ImageError(FailureStage.DECODE, f"{role} has {pages} pages, not one")
    if image.mode.startswith("I;16"):
        return np.asarray(image), 65535
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return _grey_png(data) if image.format == "PNG" else np.asarray(image.convert("L")), 255
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise ImageError(FailureStage.DECODE, f"{role} is not a single-channel mask: its mode is {image.mode}")
    rgba = np.asarray(image.convert("RGBA"))
    if (rgba[..., 3] != 255).any():
        raise ImageError(FailureStage.DECODE, f"{role} is not a single-channel mask: it is transparent in places")
    if (rgba[..., :3] != rgba[..., :1]).any():
        raise ImageError(FailureStage.DECODE, f"{role} is not a single-channel mask: it has colours")
    return rgba[..., 0], 255


def _grey_png(data: bytes) -> UInt8:
    """Values (H, W) of a PNG of at most 8 bits: opencv hands over its array, Pillow a copy of a copy of it."""
    grey = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if grey is None:
        raise OSError("broken data stream")
    return np.asarray(grey, np.uint8)
