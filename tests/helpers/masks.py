"""Masks and tables that the tests of evaluation write."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

UInt8 = NDArray[np.uint8]


def rectangle(height: int, width: int, shape: tuple[int, int] = (8, 10)) -> UInt8:
    """Return a 0/255 mask with a lesion of height x width pixels in its upper left corner."""
    mask = np.zeros(shape, np.uint8)
    mask[:height, :width] = 255
    return mask


def save_mask(path: Path, mask: UInt8 | Image.Image | None = None) -> Path:
    """Write a mask, by default rectangle(4, 5), in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = mask if isinstance(mask, Image.Image) else Image.fromarray(rectangle(4, 5) if mask is None else mask)
    image.save(path)
    return path


def write_lines(path: Path, *lines: str) -> Path:
    """Write a text file of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path
