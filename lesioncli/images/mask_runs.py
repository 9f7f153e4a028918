"""The runs of lesion pixels in the rows of a mask: a short form, from which files and measures are made."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lesioncli.images.geometry import UInt8

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MaskRuns:
    """The runs of nonzero pixels of a mask (height, width), from top to bottom and from left to right.

    `starts` and `ends`, int64 (N,), are positions in rows of `stride` places, the first of which is empty, as in the
    filtered rows of a PNG: pixel (y, x) is at y * stride + 1 + x. So runs of different rows never touch.
    """

    height: int
    width: int
    starts: Ints
    ends: Ints

    @property
    def stride(self) -> int:
        """The number of places in a row."""
        return self.width + 1

    @property
    def lengths(self) -> Ints:
        """The number of pixels of each run (N,)."""
        return self.ends - self.starts

    @property
    def area_px(self) -> int:
        """The number of lesion pixels."""
        return int(self.lengths.sum())


def find_runs(mask: UInt8) -> MaskRuns:
    """Find the runs of a mask (H, W) of 0 and one other value."""
    height, width = mask.shape
    left, top, box_width, box_height = cv2.boundingRect(mask)
    if not box_width:
        none = np.zeros(0, np.int64)
        return MaskRuns(height, width, none, none)
    box = cv2.copyMakeBorder(
        mask[top : top + box_height, left : left + box_width], 0, 0, 1, 1, cv2.BORDER_CONSTANT, value=0
    )
    pixels = np.asarray(box, np.uint8).reshape(-1)
    edges = np.flatnonzero(pixels[1:] != pixels[:-1])
    rows, columns = np.divmod(edges, box_width + 2)
    places = (top + rows) * (width + 1) + 1 + left + columns
    return MaskRuns(height, width, places[::2], places[1::2])
