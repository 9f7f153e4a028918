"""The measures of a lesion: counted pixel by pixel, and known for simple shapes."""

import importlib
from math import hypot, pi

import cv2
import numpy as np
import pytest
from helpers.pictures import UInt8
from hypothesis import given
from hypothesis import strategies as st

from lesioncli.images.mask_runs import find_runs
from lesioncli.inference.outcome import SHAPE_COLUMNS
from lesioncli.inference.shape import MM_COLUMNS, PIXEL_COLUMNS, measure_shape


@st.composite
def masks(draw: st.DrawFn) -> UInt8:
    """Masks of noise, of any density and up to the borders."""
    shape = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    noise = np.random.default_rng(draw(st.integers(0, 999))).random(shape)
    return np.where(noise < draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])), 255, 0).astype(np.uint8)


def count_borders(mask: UInt8, step: tuple[int, int]) -> int:
    """Count the pairs of a lesion pixel and one without lesion, `step` rows and columns further on or back."""
    dy, dx = step
    outside = np.pad(mask, 1)
    return int((outside != np.roll(outside, (dy, dx), (0, 1))).sum())


def measure_by_pixels(mask: UInt8) -> dict[str, float]:
    straight = count_borders(mask, (0, 1)) + count_borders(mask, (1, 0))
    diagonal = count_borders(mask, (1, 1)) + count_borders(mask, (1, -1))
    y, x = np.nonzero(mask)
    covariance = np.cov(np.stack([x, y]), bias=True) if len(x) else np.zeros((2, 2))
    short, long = 4 * np.sqrt(np.maximum(np.linalg.eigvalsh(covariance), 0))
    perimeter = pi / 8 * (straight + diagonal / hypot(1, 1))
    return dict(zip(PIXEL_COLUMNS, (len(x), perimeter, long, short), strict=True))


@given(masks())
def test_runs_give_the_measures_that_pixels_give(mask: UInt8) -> None:
    assert measure_shape(find_runs(mask)) == pytest.approx(measure_by_pixels(mask), abs=1e-6)


def draw_ellipse(long: float, short: float, degrees: float) -> UInt8:
    """Return a mask of the pixels whose centres are in an ellipse of these axes."""
    y, x = np.mgrid[-150:150, -200:200] + 0.3  # the centre is at no special place
    angle = np.radians(degrees)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return np.where((2 * u / long) ** 2 + (2 * v / short) ** 2 <= 1, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("degrees", [0, 22.5, 45, 70, 90])
def test_an_ellipse_has_its_own_axes_area_and_perimeter(degrees: float) -> None:
    long, short = 240.0, 160.0
    area, perimeter, *axes = measure_shape(find_runs(draw_ellipse(long, short, degrees))).values()
    assert area == pytest.approx(pi / 4 * long * short, rel=2e-3)
    assert axes == pytest.approx([long, short], rel=2e-3)
    ramanujan = pi / 2 * (3 * (long + short) - np.sqrt((3 * long + short) * (long + 3 * short)))
    assert perimeter == pytest.approx(ramanujan, rel=0.015)


@pytest.mark.parametrize("radius", [10, 40, 140])
def test_the_perimeter_of_a_disc_is_within_one_per_cent(radius: int) -> None:
    assert measure_shape(find_runs(draw_ellipse(2 * radius, 2 * radius, 0)))["perimeter_px"] == pytest.approx(
        2 * pi * radius, rel=0.01
    )


def test_a_scale_gives_millimetres() -> None:
    mask = np.zeros((30, 40), np.uint8)
    cv2.rectangle(mask, (5, 5), (24, 14), 255, -1)
    values = measure_shape(find_runs(mask), 0.5)
    assert values["area_px"] == 200
    assert values["area_mm2"] == 50
    assert [values[name] for name in MM_COLUMNS[1:]] == [values[name] / 2 for name in PIXEL_COLUMNS[1:]]


def test_every_measure_has_a_column() -> None:
    assert tuple(column.name for column in SHAPE_COLUMNS) == PIXEL_COLUMNS + MM_COLUMNS


def test_measures_are_those_of_scikit_image() -> None:
    measure = importlib.import_module("skimage.measure")
    for seed in range(20):
        noise = np.random.default_rng(seed).random((6, 7)).astype(np.float32)
        mask = np.where(cv2.resize(noise, (131, 97), interpolation=cv2.INTER_CUBIC) > 0.5, 255, 0).astype(np.uint8)
        (region,) = measure.regionprops((mask > 0).astype(np.uint8))
        expected = (
            region.area,
            measure.perimeter_crofton(mask > 0, 4),
            region.axis_major_length,
            region.axis_minor_length,
        )
        assert list(measure_shape(find_runs(mask)).values()) == pytest.approx(expected)
