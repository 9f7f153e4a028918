"""The parity check: figures by hand, and its limits."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from lesioncli.backends.base import Outputs
from lesioncli.backends.manifest import ParityFigures
from lesioncli.backends.parity import compare, describe_disagreement, parity_limits
from lesioncli.options import Precision

SCORES = np.array([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]], np.float32)
GOOD = ParityFigures(images=2, mask_jaccard=1.0, worst_mask_jaccard=1.0, score_difference=0.0)


def outputs(first_row: list[int], scores: np.ndarray = SCORES) -> Outputs:
    """Return outputs of two images of 1x4 pixels; the second is the same in every test."""
    return Outputs(np.array([[first_row], [[255, 255, 0, 0]]], np.uint8), scores)


def test_figures_are_those_of_a_count_by_hand() -> None:
    """Of the first image 2 pixels are lesion in both and 1 in one of them; 127 is not lesion, 128 is."""
    figures = compare(outputs([128, 200, 127, 0]), outputs([255, 130, 128, 0]))
    assert figures == ParityFigures(
        images=2, mask_jaccard=round((2 / 3 + 1) / 2, 5), worst_mask_jaccard=round(2 / 3, 5), score_difference=0.0
    )


def test_the_largest_difference_of_a_score_counts() -> None:
    moved = SCORES.copy()
    moved[1, 2] -= np.float32(0.0125)
    assert compare(outputs([0, 0, 0, 0], moved), outputs([0, 0, 0, 0])).score_difference == 0.0125


@pytest.mark.parametrize(
    ("change", "is_good"),
    [
        ({}, True),
        ({"mask_jaccard": 0.99}, True),
        ({"mask_jaccard": 0.9899}, False),
        ({"worst_mask_jaccard": 0.5}, True),
        ({"score_difference": 0.02}, True),
        ({"score_difference": 0.0201}, False),
        ({"mask_jaccard": float("nan")}, False),
        ({"score_difference": float("nan")}, False),
    ],
)
def test_limits(change: dict[str, float], is_good: bool) -> None:
    assert (
        describe_disagreement(msgspec.structs.replace(GOOD, **change), parity_limits(Precision.BF16)) == ""
    ) == is_good


@pytest.mark.parametrize(
    ("change", "is_good"),
    [
        ({"mask_jaccard": 0.985}, True),
        ({"mask_jaccard": 0.9849}, False),
        ({"score_difference": 0.1}, True),
        ({"score_difference": 0.1001}, False),
    ],
)
def test_limits_of_int8_are_wider(change: dict[str, float], is_good: bool) -> None:
    assert (
        describe_disagreement(msgspec.structs.replace(GOOD, **change), parity_limits(Precision.INT8)) == ""
    ) == is_good


def test_outputs_of_rows_are_finite_one_by_one() -> None:
    scores = SCORES.copy()
    scores[0, 1] = np.nan
    both = replace(outputs([0, 0, 0, 0], scores), extra={"agreement": np.array([0, np.inf], np.float32)})
    assert both.is_finite.tolist() == [False, False]
    assert outputs([0, 0, 0, 0], scores).is_finite.tolist() == [False, True]
