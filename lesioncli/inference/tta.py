"""Test procedures: how a network is shown one picture, once or in many views, and how its answers become one.

`none` is one look. `flips` averages four. `full` is what the authors of MB-DCNN (paper A) did: masks of three sizes by
six turns, scores of nine centred crops. Probabilities are averaged, not logits, since they are what every graph gives.

A view is an EXIF orientation: geometry.to_upright() turns a picture that way, and from_upright() turns the answer back.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lesioncli.backends.base import Layout, Prediction, UInt8
from lesioncli.errors import EngineError
from lesioncli.images.geometry import from_upright, to_network, to_upright
from lesioncli.spec import ModelSpec

STEP = 32  # the sides of a network's input are multiples of it
IDENTITY, MIRRORED, HALF_TURN, UPSIDE_DOWN, QUARTER_TURN, THREE_QUARTER_TURN = 1, 2, 3, 4, 6, 8


@dataclass(frozen=True)
class Crop:
    """The centre of a picture: so many fifths of both sides, or of the shorter side as a square."""

    fifths: int
    is_square: bool = False

    def of(self, picture: UInt8) -> UInt8:
        """That part of (H, W, 3) pixels, not copied; one pixel at least."""
        full_height, full_width = picture.shape[:2]
        shorter = min(full_height, full_width)
        sides = (shorter, shorter) if self.is_square else (full_height, full_width)
        height, width = (max(1, round(side * self.fifths / 5)) for side in sides)
        top, left = (full_height - height) // 2, (full_width - width) // 2
        return picture[top : top + height, left : left + width]


@dataclass(frozen=True)
class Answer:
    """What a network said of one picture, all its views together.

    mask: uint8 (h, w), lesion probability in 1/255. scores: float32 (K,). finite: False where a number of any view is
    nan or infinite.
    """

    mask: UInt8
    scores: NDArray[np.float32]
    extra: dict[str, float]
    finite: bool


@dataclass(frozen=True)
class Procedure:
    """Masks from every view at every size; scores from the crops or, without any, from the views.

    Sizes are in `eighths` of the network's own, and rise. Further outputs of the graph come from the views. An image
    takes one row for each view of each size, then one for each crop; they lie in that order in the slots of its cycle.
    """

    eighths: tuple[int, ...] = (8,)
    views: tuple[int, ...] = (IDENTITY,)
    crops: tuple[Crop, ...] = ()

    @property
    def rows(self) -> int:
        """Rows that one image takes."""
        return len(self.eighths) * len(self.views) + len(self.crops)

    def layout(self, spec: ModelSpec, batch: int) -> Layout:
        """The cycle for a network: `batch` images of one row each, or one image of many rows.

        No slot has more than `batch` rows, since that is what suits the device: on two cores a row costs 15 to 30 %
        more among six or nine than alone. EngineError where a quarter turn does not fit the network.
        """
        if self.rows == 1:
            return Layout.of_batches(spec, batch)
        if spec.height != spec.width and {QUARTER_TURN, THREE_QUARTER_TURN} & set(self.views):
            raise EngineError(
                f"{spec.name} takes {spec.height}x{spec.width} pixels, and turning by 90 degrees needs a square;"
                " use --tta flips"
            )
        groups = [(len(self.views), _part(spec.height, each), _part(spec.width, each)) for each in self.eighths]
        groups.append((len(self.crops), spec.height, spec.width))
        shapes = [
            (min(batch, rows - start), height, width)
            for rows, height, width in groups
            for start in range(0, rows, batch)
        ]
        return Layout(1, tuple(shapes))

    def at_least_hw(self, spec: ModelSpec) -> tuple[int, int]:
        """How large a picture must be for its smallest crop to fill the network's input."""
        fifths = min((crop.fifths for crop in self.crops), default=5)
        return spec.height * 5 // fifths, spec.width * 5 // fifths

    def fill(self, picture: UInt8, slots: Iterable[UInt8], index: int, kernel: str) -> None:
        """Write a picture (H, W, 3) into the rows of a cycle's `index`-th image; `slots` are the cycle's."""
        rows = self._rows_of(slots, index)
        for of_one_size in self._by_size(rows):
            height, width, _ = of_one_size[0].shape
            reduced = to_network(picture, height, width, kernel)
            for row, view in zip(of_one_size, self.views, strict=True):
                row[:] = to_upright(reduced, view)
        for row, crop in zip(self._crops_of(rows), self.crops, strict=True):
            height, width, _ = row.shape
            row[:] = to_network(crop.of(picture), height, width, kernel)

    def merge(self, cycle: Sequence[Prediction], index: int) -> Answer:
        """The answer for a cycle's `index`-th image; its mask is of the largest of the sizes."""
        scores = self._rows_of((each.scores for each in cycle), index)
        extra = {name: self._rows_of((each.extra[name] for each in cycle), index) for name in cycle[0].extra}
        views = self.rows - len(self.crops)
        with np.errstate(invalid="ignore"):  # infinity less infinity: `finite` tells
            return Answer(
                mask=self._merge_masks(self._rows_of((each.mask for each in cycle), index)),
                scores=np.mean(self._crops_of(scores) or scores, axis=0),
                extra={name: float(np.mean(values[:views])) for name, values in extra.items()},
                finite=all(self._rows_of((each.finite for each in cycle), index)),
            )

    def _merge_masks(self, masks: Sequence[UInt8]) -> UInt8:
        if self.rows == 1:
            return masks[0]
        means: list[NDArray[np.float32]] = [
            np.mean([from_upright(mask, view) for mask, view in zip(each, self.views, strict=True)], 0, np.float32)
            for each in self._by_size(masks)
        ]
        height, width = means[-1].shape
        grown = [cv2.resize(each, (width, height), interpolation=cv2.INTER_LINEAR) for each in means]
        return np.asarray(np.rint(np.mean(grown, axis=0)), np.uint8)

    def _rows_of(self, arrays: Iterable[NDArray[Any]], index: int) -> list[NDArray[Any]]:
        """The rows of a cycle's `index`-th image, out of one array a slot."""
        rows = [row for array in arrays for row in array]
        return rows[index * self.rows : (index + 1) * self.rows]

    def _by_size(self, rows: Sequence[NDArray[Any]]) -> list[Sequence[NDArray[Any]]]:
        """An image's rows of views: all those of one size, then of the next."""
        count = len(self.views)
        return [rows[number * count : (number + 1) * count] for number in range(len(self.eighths))]

    def _crops_of(self, rows: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        return rows[self.rows - len(self.crops) :]


def _part(side: int, eighths: int) -> int:
    """That part of a network's side or, where it is no multiple of 32, the next multiple below or above the side."""
    if side * eighths % (8 * STEP) == 0:
        return side * eighths // 8
    return max(STEP, side - STEP) if eighths < 8 else side + STEP


PROCEDURES = {
    "none": Procedure(),
    "flips": Procedure(views=(IDENTITY, MIRRORED, UPSIDE_DOWN, HALF_TURN)),
    "full": Procedure(
        eighths=(7, 8, 9),
        views=(IDENTITY, QUARTER_TURN, HALF_TURN, THREE_QUARTER_TURN, MIRRORED, UPSIDE_DOWN),
        crops=(Crop(5), *(Crop(fifths, is_square) for is_square in (False, True) for fifths in (4, 3, 2, 1))),
    ),
}
