"""Test-time augmentation (TTA): the views of an image that the network sees, and the mean of their outputs.

`none` is one view. `flips` is four views. `full` is the test procedure of MB-DCNN: masks from six views at three sizes,
scores from nine centre crops. The means are over probabilities, because graphs have no logits among their outputs.

A view is an EXIF orientation: geometry.to_upright() makes it and geometry.from_upright() undoes it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lesioncli.backends.base import Cycle, Layout, Prediction
from lesioncli.errors import EngineError
from lesioncli.images.geometry import UInt8, from_upright, to_network, to_upright
from lesioncli.options import TTA
from lesioncli.spec import ModelSpec

SIZE_STEP = 32  # the sides of network inputs are multiples of it
IDENTITY, MIRRORED, HALF_TURN, UPSIDE_DOWN, QUARTER_TURN, THREE_QUARTER_TURN = 1, 2, 3, 4, 6, 8


@dataclass(frozen=True)
class Crop:
    """A centre crop: `fifths` of both sides, or of the shorter side if it is square."""

    fifths: int
    is_square: bool = False

    def cut(self, rgb: UInt8) -> UInt8:
        """Return the crop of an image (H, W, 3), at least one pixel, without a copy."""
        full_height, full_width = rgb.shape[:2]
        shorter = min(full_height, full_width)
        sides = (shorter, shorter) if self.is_square else (full_height, full_width)
        height, width = (max(1, round(side * self.fifths / 5)) for side in sides)
        top, left = (full_height - height) // 2, (full_width - width) // 2
        return rgb[top : top + height, left : left + width]


@dataclass(frozen=True, eq=False)
class ImagePrediction:
    """The network outputs for one image, means over its views.

    probability: uint8 (h, w) in 1/255. scores: float32 (K,). is_finite: False if a score or further output of any view
    is nan or infinite.
    """

    probability: UInt8
    scores: NDArray[np.float32]
    extra: Mapping[str, float]
    is_finite: bool


@dataclass(frozen=True)
class Procedure:
    """The views of a TTA procedure.

    Masks come from every view at every size; `size_eighths` are fractions of the network's own size, in rising order.
    Scores come from the crops or, if there are none, from the views. Further outputs come from the views. An image has
    one row for each view of each size, then one for each crop; the slots of its cycle hold them in that order.
    """

    size_eighths: tuple[int, ...] = (8,)
    views: tuple[int, ...] = (IDENTITY,)
    crops: tuple[Crop, ...] = ()

    @property
    def rows(self) -> int:
        """Return the number of rows of one image."""
        return len(self.size_eighths) * len(self.views) + len(self.crops)

    def layout(self, spec: ModelSpec, batch: int) -> Layout:
        """Return the layout of a cycle: as many images as fit in a batch, or one image of many rows.

        No slot has more than `batch` rows, because the batch size is chosen for the device: on two cores a row costs
        15 to 30 % more in a slot of six or nine rows than alone. Images share a slot only if all their rows have the
        network's own size.

        Raises EngineError if the network's input is not square and a view turns the image by 90 degrees.
        """
        if self.rows == 1:
            return Layout.for_batches(spec, batch)
        if spec.height != spec.width and {QUARTER_TURN, THREE_QUARTER_TURN} & set(self.views):
            raise EngineError(
                f"--tta full turns images by 90 degrees, which needs a square input; {spec.name} has"
                f" {spec.height}x{spec.width}; use --tta flips"
            )
        if self.size_eighths == (8,) and not self.crops and batch >= self.rows:
            images = batch // self.rows
            return Layout(images, ((images * self.rows, spec.height, spec.width),))
        groups = [
            (len(self.views), _scale_side(spec.height, eighths), _scale_side(spec.width, eighths))
            for eighths in self.size_eighths
        ]
        groups.append((len(self.crops), spec.height, spec.width))
        shapes = [
            (min(batch, rows - start), height, width)
            for rows, height, width in groups
            for start in range(0, rows, batch)
        ]
        return Layout(1, tuple(shapes))

    def at_least_hw(self, spec: ModelSpec) -> tuple[int, int]:
        """Return the size that a decoded image needs for its smallest crop to fill the network's input."""
        fifths = min((crop.fifths for crop in self.crops), default=5)
        return spec.height * 5 // fifths, spec.width * 5 // fifths

    def fill(self, rgb: UInt8, cycle: Cycle, index: int, kernel: str) -> None:
        """Write the views of an image (H, W, 3) to the rows of the `index`-th image of a cycle."""
        rows = self._rows_of(cycle.slots, index)
        for same_size_rows in self._split_by_size(rows):
            height, width, _ = same_size_rows[0].shape
            resized = to_network(rgb, height, width, kernel)
            for row, view in zip(same_size_rows, self.views, strict=True):
                row[:] = to_upright(resized, view)
        for row, crop in zip(self._crops_of(rows), self.crops, strict=True):
            height, width, _ = row.shape
            row[:] = to_network(crop.cut(rgb), height, width, kernel)

    def merge(self, prediction: Prediction, index: int) -> ImagePrediction:
        """Return the mean outputs of the `index`-th image of a batch; its map has the largest of the sizes."""
        slots = prediction.slots
        scores = self._rows_of((slot.scores for slot in slots), index)
        extra = {name: self._rows_of((slot.extra[name] for slot in slots), index) for name in slots[0].extra}
        view_rows = self.rows - len(self.crops)
        with np.errstate(invalid="ignore"):  # infinity minus infinity; `is_finite` reports it
            return ImagePrediction(
                probability=self._merge_maps(self._rows_of((slot.probability for slot in slots), index)),
                scores=np.mean(self._crops_of(scores) or scores, axis=0),
                extra={name: float(np.mean(values[:view_rows])) for name, values in extra.items()},
                is_finite=all(self._rows_of((slot.is_finite for slot in slots), index)),
            )

    def _merge_maps(self, maps: Sequence[UInt8]) -> UInt8:
        if self.rows == 1:
            return maps[0]
        means: list[NDArray[np.float32]] = [
            np.mean([from_upright(row, view) for row, view in zip(rows, self.views, strict=True)], 0, np.float32)
            for rows in self._split_by_size(maps)
        ]
        height, width = means[-1].shape
        upsampled = [cv2.resize(mean, (width, height), interpolation=cv2.INTER_LINEAR) for mean in means]
        return np.asarray(np.rint(np.mean(upsampled, axis=0)), np.uint8)

    def _rows_of(self, arrays: Iterable[NDArray[Any]], index: int) -> list[NDArray[Any]]:
        """Return the rows of the `index`-th image, given one array for each slot of a cycle."""
        rows = [row for array in arrays for row in array]
        return rows[index * self.rows : (index + 1) * self.rows]

    def _split_by_size(self, rows: Sequence[NDArray[Any]]) -> list[Sequence[NDArray[Any]]]:
        """Return the rows of an image's views, one sequence for each size."""
        count = len(self.views)
        return [rows[number * count : (number + 1) * count] for number in range(len(self.size_eighths))]

    def _crops_of(self, rows: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        return rows[self.rows - len(self.crops) :]


def _scale_side(side: int, eighths: int) -> int:
    """Return a fraction of a network's side or, if that is not a multiple of 32, the next multiple of 32 beside it."""
    if side * eighths % (8 * SIZE_STEP) == 0:
        return side * eighths // 8
    return max(SIZE_STEP, side - SIZE_STEP) if eighths < 8 else side + SIZE_STEP


PROCEDURES: Mapping[TTA, Procedure] = {
    TTA.NONE: Procedure(),
    TTA.FLIPS: Procedure(views=(IDENTITY, MIRRORED, UPSIDE_DOWN, HALF_TURN)),
    TTA.FULL: Procedure(
        size_eighths=(7, 8, 9),
        views=(IDENTITY, QUARTER_TURN, HALF_TURN, THREE_QUARTER_TURN, MIRRORED, UPSIDE_DOWN),
        crops=(Crop(5), *(Crop(fifths, is_square) for is_square in (False, True) for fifths in (4, 3, 2, 1))),
    ),
}
