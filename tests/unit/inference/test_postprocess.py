"""Postprocessing: threshold, largest region, expected Jaccard, and all of it together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from lesioncli.inference.postprocess import apply_threshold, expected_jaccard, keep_largest_region, make_mask
from lesioncli.options import Regions

MAPS = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12))


@given(MAPS, st.integers(0, 255))
def test_the_threshold_itself_is_lesion(probability: np.ndarray, minimum: int) -> None:
    assert np.array_equal(apply_threshold(probability.copy(), minimum), np.where(probability >= minimum, 255, 0))


@given(MAPS, st.integers(1, 255))
def test_the_largest_region_is_one_of_scipys_and_none_is_larger(probability: np.ndarray, minimum: int) -> None:
    lesion = probability >= minimum
    labels, count = ndimage.label(lesion, np.ones((3, 3)))
    kept, removed = keep_largest_region(lesion)
    assert removed == max(count - 1, 0)
    assert kept.sum() == max(np.bincount(labels.ravel())[1:], default=0)
    assert any(np.array_equal(kept, labels == label) for label in range(1, count + 1)) or not count


@pytest.mark.parametrize(
    ("probability", "minimum", "expected"),
    [
        ([0, 0, 0, 0], 128, 1),  # empty, without doubt
        ([255, 255, 0, 0], 128, 1),
        ([255, 255, 255, 255], 128, 1),
        ([102, 0, 0, 0], 128, 1 - 0.4),  # empty: one minus its likeliest pixel
        ([204, 204, 51, 51], 128, 1.6 / (2 + 0.4)),
        ([204, 204, 51, 51], 51, 2 / 4),
        ([204, 102, 0, 0], 102, 1.2 / 2),  # the threshold itself is lesion
    ],
)
def test_expected_jaccard(probability: list[int], minimum: int, expected: float) -> None:
    values = np.array(probability, np.uint8).reshape(2, 2)
    assert expected_jaccard(values, values >= minimum) == pytest.approx(expected)


@given(MAPS, st.sampled_from(Regions))
def test_the_map_of_the_caller_is_not_changed(probability: np.ndarray, regions: Regions) -> None:
    before = probability.copy()
    make_mask(probability, probability.shape, 1, 0.5, regions)
    assert np.array_equal(probability, before)


TWO_REGIONS = np.array([[200, 0, 150], [200, 0, 0], [200, 0, 0]], np.uint8)


@pytest.mark.parametrize(("regions", "removed"), [(Regions.LARGEST, 1), (Regions.ALL, 0)])
def test_a_mask_has_the_size_and_orientation_of_the_stored_image(regions: Regions, removed: int) -> None:
    """Orientation 6: the image is stored a quarter turn anticlockwise, so its left column is the bottom row."""
    lesion = make_mask(TWO_REGIONS, (3, 3), 6, 0.5, regions)
    expected = np.rot90(np.where(TWO_REGIONS >= 128, 255, 0))
    if removed:
        expected[0, 0] = 0
    assert np.array_equal(lesion.mask, expected)
    assert (lesion.min_probability, lesion.removed_regions) == (128, removed)
    kept, doubtful = 600 + 150 * (not removed), 150 * removed
    assert lesion.confidence == pytest.approx(kept / 255 / (3 + (not removed) + doubtful / 255))


def test_a_removed_region_does_not_return_by_upsampling() -> None:
    lesion = make_mask(TWO_REGIONS, (30, 30), 1, 0.5, Regions.LARGEST)
    assert not lesion.mask[:, 20:].any()
    assert lesion.mask[:, 0].all()


def test_a_threshold_is_rounded_up_to_a_whole_value() -> None:
    assert [make_mask(TWO_REGIONS, (3, 3), 1, value, Regions.ALL).min_probability for value in (0.004, 0.5, 1.0)] == [
        2,
        128,
        255,
    ]
