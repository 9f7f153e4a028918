"""The outlines of a mask as polygons, whose inside holds the centres of exactly the lesion pixels.

Coordinates are (x, y) in pixels; the image covers 0 to its width and 0 to its height, so the centre of the first pixel
is at (0.5, 0.5).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray

from lesioncli.images.geometry import UInt8

Points = NDArray[np.float64]  # (N, 2)


@dataclass(frozen=True, eq=False)
class Polygon:
    """One region: its outer ring and those of its holes. The last point of a ring is not the first one again."""

    outer: Points
    holes: tuple[Points, ...] = ()

    @property
    def rings(self) -> tuple[Points, ...]:
        """The outer ring, then the holes."""
        return (self.outer, *self.holes)


def trace_outlines(mask: UInt8, tolerance_px: float = 0.0) -> list[Polygon]:
    """Return the regions of a mask (H, W) of 0 and another value.

    Lines run from edge to edge through the sides of border pixels, half-way between pixels inside and outside, so that
    they neither touch nor cross. With a tolerance, points are left out as long as the outline stays that close to them.
    """
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return []
    box = np.pad(mask[top : top + height, left : left + width] > 0, 1).astype(np.float64)
    filled = contour_generator(z=box, fill_type=FillType.OuterOffset).filled(0.5, np.inf)
    points, offsets = cast(tuple[list[Points], list[NDArray[np.uint32]]], filled)  # as for this type
    origin = np.array([left, top]) - 0.5  # from the centre of the padding's first pixel to the corner of the image
    return [
        _to_polygon([part + origin for part in np.split(region, bounds[1:-1])], tolerance_px)
        for region, bounds in zip(points, offsets, strict=True)
    ]


def _to_polygon(rings: Sequence[Points], tolerance_px: float) -> Polygon:
    outer, *holes = (_simplify(ring[:-1], tolerance_px) for ring in rings)
    return Polygon(outer, tuple(holes))


def _simplify(ring: Points, tolerance_px: float) -> Points:
    """Return a ring without the points on straight lines or, with a tolerance, fewer; at least a triangle is kept."""
    steps = ring - np.roll(ring, 1, axis=0)
    next_steps = np.roll(steps, -1, axis=0)
    corners: Points = ring[steps[:, 0] * next_steps[:, 1] != steps[:, 1] * next_steps[:, 0]]
    if not tolerance_px:
        return corners
    simplified = np.asarray(cv2.approxPolyDP(corners.astype(np.float32), tolerance_px, True)[:, 0], np.float64)
    return simplified if len(simplified) > 2 else corners


def join_holes(polygon: Polygon) -> Points:
    """Return one ring with the same inside, for formats without holes.

    A line leads from the outer ring to each hole and back again, at the point that is nearest to the hole's first one.
    """
    nearest = [int(((polygon.outer - hole[0]) ** 2).sum(axis=1).argmin()) for hole in polygon.holes]
    parts, start = [], 0
    for index, hole in sorted(zip(nearest, polygon.holes, strict=True), key=lambda item: item[0]):
        parts += [polygon.outer[start : index + 1], hole, hole[:1]]
        start = index
    return np.concatenate([*parts, polygon.outer[start:]])
