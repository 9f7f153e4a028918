"""Outlines: shapely and OpenCV fill them to the pixel, whatever the mask."""

import importlib
import time

import cv2
import numpy as np
import pytest
from helpers.pictures import UInt8, jaccard
from hypothesis import example, given
from hypothesis import strategies as st

from lesioncli.export.outlines import Points, Polygon, join_holes, trace_outlines


@st.composite
def masks(draw: st.DrawFn) -> UInt8:
    """Masks of noise, smooth or not, of any density and up to the borders."""
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    noise = np.random.default_rng(draw(st.integers(0, 999))).random((height, width))
    smooth = np.asarray(cv2.blur(noise, (3, 3))) if draw(st.booleans()) else noise
    return (smooth < draw(st.sampled_from([0.1, 0.45, 0.5, 0.9, 2.0]))).astype(np.uint8)


def fill(rings: list[Points], shape: tuple[int, int]) -> UInt8:
    """Return the pixels whose centres are inside, by the even-odd rule: crossings of a ray to the left are odd."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.zeros(shape, bool)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if y0 != y1:
                is_between = (y >= min(y0, y1)) & (y < max(y0, y1))
                inside ^= is_between & (x0 + (y - y0) / (y1 - y0) * (x1 - x0) < x)
    return inside.astype(np.uint8)


@given(masks())
def test_the_inside_of_outlines_is_the_mask(mask: UInt8) -> None:
    polygons = trace_outlines(mask)
    rings = [ring for polygon in polygons for ring in polygon.rings]
    assert np.array_equal(fill(rings, mask.shape), mask)
    joined = [join_holes(polygon) for polygon in polygons]
    assert np.array_equal(fill(joined, mask.shape), mask)


@given(masks())
@example(np.pad(np.tile(np.array([[0, 1], [1, 1]], np.uint8), (7, 7)), 1, constant_values=1))  # 49 holes of one pixel
def test_regions_and_holes_are_those_of_shapely(mask: UInt8) -> None:
    geometry = importlib.import_module("shapely.geometry")
    polygons = [geometry.Polygon(polygon.outer, polygon.holes) for polygon in trace_outlines(mask)]
    assert all(polygon.is_valid for polygon in polygons)
    whole = geometry.MultiPolygon(polygons)
    assert whole.is_valid  # regions neither touch nor overlap
    assert all(polygon.exterior.is_ccw and not any(hole.is_ccw for hole in polygon.interiors) for polygon in polygons)
    centres = geometry.MultiPoint([(x + 0.5, y + 0.5) for y, x in np.argwhere(mask)])
    assert whole.covers(centres) or not mask.any()
    rings = [ring for polygon in polygons for ring in (polygon.exterior, *polygon.interiors)]
    assert whole.area == pytest.approx(mask.sum(), abs=0.5 * sum(len(ring.coords) for ring in rings))


def draw_disc(radius: int) -> UInt8:
    mask = np.zeros((2 * radius + 9, 2 * radius + 9), np.uint8)
    cv2.circle(mask, (radius + 4, radius + 4), radius, 255, -1)
    return mask


def test_a_tolerance_leaves_out_points() -> None:
    mask = draw_disc(100)
    ((exact,), (simple,)) = trace_outlines(mask), trace_outlines(mask, 1.0)
    assert len(simple.outer) < len(exact.outer) / 8
    assert jaccard(fill([simple.outer], mask.shape), mask) > 0.98


def test_a_tolerance_keeps_every_region() -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[1, 1] = mask[5, 4:7] = 255
    polygons = trace_outlines(mask, 50.0)
    assert [len(polygon.outer) >= 3 for polygon in polygons] == [True, True]


def test_points_on_straight_lines_are_left_out() -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[2:7, 3:8] = 255
    (polygon,) = trace_outlines(mask)
    assert len(polygon.outer) == 8  # the corners are cut off


def test_the_line_to_a_hole_is_short() -> None:
    ring = np.array([[0.0, 0.0], [100.0, 0.0], [100.0, 100.0], [0.0, 100.0]])
    holes = np.array([[90.0, 80.0], [90.0, 90.0], [80.0, 90.0]]), np.array([[5.0, 5.0], [5.0, 9.0], [9.0, 5.0]])
    joined = join_holes(Polygon(ring, holes))
    assert len(joined) == 4 + 2 * (3 + 2)
    lengths = np.hypot(*(joined - np.roll(joined, 1, axis=0)).T)
    assert sorted(lengths)[-4:] == [100.0] * 4


def test_a_hostile_outline_takes_seconds() -> None:
    """Outlines of noise have 100,000 points and more."""
    mask = np.where(np.random.default_rng(0).random((360, 480)) < 0.5, 255, 0).astype(np.uint8)
    started = time.process_time()
    polygons = trace_outlines(mask)
    assert sum(len(ring) for polygon in polygons for ring in polygon.rings) > 100_000
    joined = [join_holes(polygon) for polygon in polygons]
    simple = trace_outlines(mask, 2.0)
    assert len(joined) == len(simple) == len(polygons)
    assert time.process_time() - started < 20
