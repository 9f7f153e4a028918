"""Lesion cut-outs: the part of the full-size, upright image around the mask, as JPEG."""

from math import ceil
from pathlib import Path

import cv2
import numpy as np

from lesioncli.images.decode import DecodedImage, OpenedImage, peak_bytes
from lesioncli.images.geometry import UInt8, to_upright
from lesioncli.images.stored import ImagePath
from lesioncli.inference.pictures import write_picture

BYTES_PER_PIXEL = 8  # RGB, its rotated copy, and the file
CROP_JPEG_OPTIONS = (cv2.IMWRITE_JPEG_QUALITY, 95)


def crop_bytes(image: ImagePath, decoded: DecodedImage) -> int:
    """Return an estimate of the memory that write_crop() takes; one in a store is not read again for it."""
    if isinstance(image, Path):
        return peak_bytes(image, _upright_hw(decoded))
    height, width = decoded.stored_hw
    return BYTES_PER_PIXEL * height * width


def write_crop(
    path: Path, image: ImagePath, decoded: DecodedImage, mask: UInt8, margin_percent: float, top: Path
) -> None:
    """Write the cut-out of an image file, given its mask (H, W) as stored; write_picture() tells about `top`.

    The image is decoded again, because `decoded` may be downsampled. Its mask must not depend on whether a cut-out is
    asked for, and the network's input depends on the size of the decoded image.

    Raises ImageError if the file cannot be decoded any more, and OSError as write_picture().
    """
    with OpenedImage(image) as opened:  # the caller has reserved the memory
        rgb = opened.decode(_upright_hw(decoded)).rgb
    left, upper, right, lower = crop_box(np.asarray(to_upright(mask, decoded.orientation)), margin_percent)
    bgr = np.asarray(cv2.cvtColor(rgb[upper:lower, left:right], cv2.COLOR_RGB2BGR), np.uint8)
    write_picture(path, bgr, CROP_JPEG_OPTIONS, top)


def crop_box(mask: UInt8, margin_percent: float) -> tuple[int, int, int, int]:
    """Return the box (left, upper, right, lower) of a mask with a margin on each side, inside the image.

    The margin is a percentage of the longer side of the mask's own box. An empty mask has the box of the whole image.
    """
    height, width = mask.shape
    left, upper, box_width, box_height = cv2.boundingRect(mask)
    if not box_width:
        return 0, 0, width, height
    margin = ceil(margin_percent / 100 * max(box_width, box_height))
    right, lower = left + box_width + margin, upper + box_height + margin
    return max(0, left - margin), max(0, upper - margin), min(width, right), min(height, lower)


def _upright_hw(decoded: DecodedImage) -> tuple[int, int]:
    height, width = decoded.stored_hw
    return (width, height) if decoded.orientation >= 5 else (height, width)
