"""Distances of outlines drawn by hand, and against scipy's distance transform."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, center_of_mass, distance_transform_edt

from lesioncli.evaluation.metrics.distances import DISTANCE_METRICS, measure_distances

Mask = NDArray[np.bool_]


def block(top: int, left: int, height: int, width: int, shape: tuple[int, int] = (30, 40)) -> Mask:
    mask = np.zeros(shape, np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


def test_a_shifted_block() -> None:
    distances = measure_distances(block(5, 5, 4, 6), block(5, 8, 4, 6))
    assert distances["area_error"] == 0
    assert distances["centroid_error_px"] == 3
    assert distances["hausdorff95_px"] == 3
    assert distances["centroid_error_diagonal"] == 3 / 50  # 30 x 40 pixels
    assert distances["hausdorff95_diagonal"] == 3 / 50


def test_two_pixels() -> None:
    distances = measure_distances(block(0, 0, 1, 1), block(3, 4, 1, 1))
    assert (distances["hausdorff95_px"], distances["surface_distance_px"], distances["centroid_error_px"]) == (5, 5, 5)


@pytest.mark.parametrize(("height", "expected"), [(6, 0.5), (4, 0), (2, -0.5)])
def test_area_error_is_the_relative_excess(height: int, expected: float) -> None:
    assert measure_distances(block(5, 5, 4, 6), block(5, 5, height, 6))["area_error"] == expected


def test_a_hole_has_a_border_too() -> None:
    ring = block(5, 5, 9, 9) & ~block(9, 9, 1, 1)
    # Four pixels around the hole are 4 away from the outer border of 32 pixels; the other way all are at 0.
    assert measure_distances(ring, block(5, 5, 9, 9))["surface_distance_px"] == pytest.approx(4 * 3 / (32 + 4 + 32))


def test_the_95th_percentile_ignores_a_speck() -> None:
    lesion = block(2, 2, 12, 12)
    assert measure_distances(lesion, lesion | block(29, 39, 1, 1))["hausdorff95_px"] == 0


def test_both_empty_have_distance_zero_and_one_empty_none() -> None:
    empty, lesion = block(0, 0, 0, 0), block(5, 5, 4, 6)
    both = measure_distances(empty, empty)
    assert math.isnan(both.pop("area_error"))
    assert set(both.values()) == {0.0}
    missed, excess = measure_distances(lesion, empty), measure_distances(empty, lesion)
    assert missed.pop("area_error") == -1
    assert all(math.isnan(value) for value in (*missed.values(), *excess.values()))


def by_scipy(truth: Mask, prediction: Mask) -> tuple[float, float, float]:
    borders = [mask & ~binary_erosion(mask) for mask in (truth, prediction)]
    there, back = (distance_transform_edt(~other)[border] for border, other in (borders, borders[::-1]))
    robust = max(np.percentile(there, 95), np.percentile(back, 95))
    centres = math.dist(center_of_mass(truth), center_of_mass(prediction))
    return robust, np.concatenate([there, back]).mean(), centres


@settings(deadline=None)
@given(st.data(), array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))
def test_distances_equal_scipy(data: st.DataObject, shape: tuple[int, ...]) -> None:
    truth, prediction = (data.draw(arrays(np.bool_, shape, fill=st.just(False))) for _ in range(2))
    if truth.any() and prediction.any():
        distances = measure_distances(truth, prediction)
        ours = [distances[f"{name}_px"] for name in ("hausdorff95", "surface_distance", "centroid_error")]
        assert ours == pytest.approx(by_scipy(truth, prediction), abs=1e-5)


def test_distances_of_large_masks_equal_scipy() -> None:
    rows, columns = np.ogrid[:900, :1200]
    truth = (rows - 450) ** 2 / 4 + (columns - 500) ** 2 < 200**2
    prediction = (rows - 400) ** 2 + (columns - 560) ** 2 / 3 < 230**2
    distances = measure_distances(truth, prediction)
    ours = [distances[f"{name}_px"] for name in ("hausdorff95", "surface_distance", "centroid_error")]
    assert ours == pytest.approx(by_scipy(truth, prediction), rel=1e-5)


def test_a_distance_in_the_table_becomes_two_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DISTANCE_METRICS, "border", lambda outlines: len(outlines.from_truth_px))
    lesion = block(5, 5, 4, 6)
    distances = measure_distances(lesion, lesion)
    assert (distances["border_px"], distances["border_diagonal"]) == (16, 16 / 50)
    assert math.isnan(measure_distances(lesion, block(0, 0, 0, 0))["border_px"])
