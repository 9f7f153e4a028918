"""From probabilities to a mask: the cut, the largest region, the Jaccard to be expected."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from lesioncli.inference.postprocess import cut_at, expected_jaccard, largest_region

MAPS = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12))


@given(MAPS, st.integers(0, 255))
def test_lesion_is_the_cut_and_what_lies_above(probability: np.ndarray, cut: int) -> None:
    assert np.array_equal(cut_at(probability, cut), np.where(probability >= cut, 255, 0))


@given(MAPS, st.integers(1, 255))
def test_the_largest_region_is_one_of_scipys_and_none_is_larger(probability: np.ndarray, cut: int) -> None:
    lesion = probability >= cut
    labels, count = ndimage.label(lesion, np.ones((3, 3)))
    kept, left_out = largest_region(lesion)
    assert left_out == max(count - 1, 0)
    assert kept.sum() == max(np.bincount(labels.ravel())[1:], default=0)
    assert any(np.array_equal(kept, labels == each) for each in range(1, count + 1)) or not count


@pytest.mark.parametrize(
    ("probability", "cut", "expected"),
    [
        ([0, 0, 0, 0], 128, 1),  # nothing there, and sure of it
        ([255, 255, 0, 0], 128, 1),
        ([255, 255, 255, 255], 128, 1),
        ([102, 0, 0, 0], 128, 1 - 0.4),  # empty: as sure as the likeliest pixel is unlikely
        ([204, 204, 51, 51], 128, 1.6 / (2 + 0.4)),
        ([204, 204, 51, 51], 51, 2 / 4),
        ([204, 102, 0, 0], 102, 1.2 / 2),  # the cut itself is lesion
    ],
)
def test_expected_jaccard(probability: list[int], cut: int, expected: float) -> None:
    values = np.array(probability, np.uint8).reshape(2, 2)
    assert expected_jaccard(values, values >= cut) == pytest.approx(expected)
