"""Drawn pictures and masks, written and read."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lesioncli.images.find import ImageFile

SIDE = 32  # pixels of the tiny graph
UInt8 = NDArray[np.uint8]


def draw(seed: int, height: int = SIDE, width: int = SIDE) -> UInt8:
    """Return a smooth picture (height, width, 3) of all values, another one for each seed."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def save(path: Path, picture: UInt8, orientation: int = 1) -> Path:
    """Write a picture in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(path, exif=exif)
    return path


def read(path: Path) -> UInt8:
    """Return the pixels of a mask or picture, by Pillow."""
    with Image.open(path) as picture:
        return np.asarray(picture)


def save_many(folder: Path, count: int) -> list[ImageFile]:
    """Write drawn JPEGs 000.jpg, 001.jpg, ...; return them as find_images() would list them."""
    paths = [save(folder / f"{number:03d}.jpg", draw(number, 40, 60)) for number in range(count)]
    return [ImageFile(path, path.stem) for path in paths]


def jaccard(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the Jaccard index of two masks, in which nonzero is lesion."""
    return float(np.logical_and(a, b).sum() / np.logical_or(a, b).sum())
