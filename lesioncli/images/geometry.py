"""Geometry between an image and a network: downsample on the way in, upsample on the way back.

Training and inference both use to_network(): networks are sensitive to the resampling kernel, so there is one
function, and ModelSpec.reduction names its kernel.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lesioncli import spec

UInt8 = NDArray[np.uint8]

# Pillow antialiases: the support of each kernel widens with the downsampling factor.
KERNELS = {name: Image.Resampling[name.upper()] for name in spec.KERNELS}


def to_network(rgb: UInt8, height: int, width: int, kernel: str = "bilinear") -> UInt8:
    """Resize an image (H, W, 3) to a network's input (height, width, 3), without keeping the aspect ratio."""
    if rgb.shape[:2] == (height, width):
        return rgb
    return np.asarray(Image.fromarray(rgb).resize((width, height), KERNELS[kernel]))


def to_full_size(probability: UInt8, stored_hw: tuple[int, int], orientation: int = 1) -> UInt8:
    """Upsample a probability map (h, w), in 1/255, to the stored size (H, W) of its image.

    The map is upright; `orientation` is the EXIF orientation of the stored image. Apply the threshold to the result:
    thresholding before upsampling costs up to .24 of Jaccard on thin shapes.
    """
    stored = from_upright(probability, orientation)
    height, width = stored_hw
    return np.asarray(cv2.resize(stored, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def to_upright(stored: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn stored pixels (H, W, ...) upright, given their EXIF orientation (1 to 8)."""
    if orientation >= 5:
        stored = stored.swapaxes(0, 1)
    return _flip(stored, orientation)


def from_upright(upright: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn upright pixels (h, w, ...) back to their stored EXIF orientation (1 to 8): the inverse of to_upright()."""
    flipped = _flip(upright, orientation)
    return np.ascontiguousarray(flipped.swapaxes(0, 1)) if orientation >= 5 else flipped


def _flip(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    row_step = -1 if orientation in (3, 4, 7, 8) else 1
    column_step = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::row_step, ::column_step])
