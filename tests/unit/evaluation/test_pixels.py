"""Pixel metrics of hand-drawn masks with exact fractions, and against scikit-learn."""

import csv
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation_data import block, save_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, recall_score

from lesioncli.evaluation.csv_files import write_cases
from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.metrics import pixels as metrics
from lesioncli.evaluation.metrics.pixels import PIXEL_METRICS, Counts, count_pixels

Bools = NDArray[np.bool_]


def draw(rows: str) -> Bools:
    """Return a mask from rows of `#` (lesion) and `.`, separated by spaces."""
    return np.array([[pixel == "#" for pixel in row] for row in rows.split()])


EMPTY, FULL = draw(".... .... ...."), draw("#### #### ####")
LEFT, TOP, CORNER = draw("##.. ##.. ##.."), draw("#### .... ...."), draw("#... .... ....")


# Ground truth, prediction, then jaccard, dice, accuracy, sensitivity, specificity and threshold_jaccard, and the ratio
# of the areas, "" if one is 0
DRAWN = {
    "same": (LEFT, LEFT, "1 1 1 1 1 1", "1"),
    "almost same": (LEFT, draw("##.. ##.. #..."), "5/6 10/11 11/12 5/6 1 5/6", "5/6"),
    "crossing": (LEFT, TOP, "2/8 4/10 6/12 2/6 4/6 0", "4/6"),
    "crossing, swapped": (TOP, LEFT, "2/8 4/10 6/12 2/4 4/8 0", "6/4"),
    "too small": (LEFT, CORNER, "1/6 2/7 7/12 1/6 1 0", "1/6"),
    "too large": (CORNER, LEFT, "1/6 2/7 7/12 1 6/11 0", "6"),
    "apart": (LEFT, ~LEFT, "0 0 0 0 0 0", "1"),
    "both empty": (EMPTY, EMPTY, "1 1 1 1 1 1", ""),
    "both full": (FULL, FULL, "1 1 1 1 1 1", "1"),
    "truth empty": (EMPTY, CORNER, "0 0 11/12 1 11/12 0", ""),
    "prediction empty": (CORNER, EMPTY, "0 0 11/12 0 1 0", ""),
    "truth full": (FULL, CORNER, "1/12 2/13 1/12 1/12 1 0", "1/12"),
    "prediction full": (CORNER, FULL, "1/12 2/13 1/12 1 0 0", "12"),
}


@pytest.mark.parametrize(("truth", "prediction", "expected", "areas"), DRAWN.values(), ids=DRAWN)
def test_hand_drawn_masks(truth: Bools, prediction: Bools, expected: str, areas: str) -> None:
    counts = count_pixels(truth, prediction)
    *values, log_ratio = (metric(counts) for metric in PIXEL_METRICS.values())
    assert values == [float(Fraction(value)) for value in expected.split()]
    expected_log = math.log(Fraction(areas)) if areas else math.nan
    assert log_ratio == pytest.approx(expected_log, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize(("agreed", "expected"), [(64, 0.0), (65, 0.65), (66, 0.66)])
def test_threshold_jaccard_is_zero_below_65_of_100(agreed: int, expected: float) -> None:
    assert metrics.threshold_jaccard(Counts(agreed, 0, 100 - agreed, 50)) == expected


@pytest.mark.parametrize(
    ("counts", "ppv", "npv"),
    [(Counts(1, 3, 2, 6), 1 / 4, 6 / 8), (Counts(0, 0, 2, 6), 1, 6 / 8), (Counts(1, 3, 0, 0), 1 / 4, 1)],
)
def test_predictive_values_by_hand(counts: Counts, ppv: float, npv: float) -> None:
    assert (metrics.ppv(counts), metrics.npv(counts)) == (ppv, npv)


def test_accuracy_without_pixels_is_nan() -> None:
    assert math.isnan(metrics.accuracy(Counts(0, 0, 0, 0)))


def test_counts_are_in_order() -> None:
    assert count_pixels(draw("##.. ...."), draw("#.## #...")) == Counts(1, 3, 1, 3)


def test_masks_of_two_shapes_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(4, 3\)"):
        count_pixels(LEFT, LEFT.T)


@settings(deadline=None)
@given(st.data(), array_shapes(min_dims=2, max_dims=2, max_side=6))
def test_pixel_metrics_equal_scikit_learn(data: st.DataObject, shape: tuple[int, ...]) -> None:
    truth, prediction = (data.draw(arrays(np.bool_, shape)) for _ in range(2))
    y, p = truth.ravel(), prediction.ravel()
    counts = count_pixels(truth, prediction)
    expected = {
        "jaccard": jaccard_score(y, p, zero_division=1.0),
        "dice": f1_score(y, p, zero_division=1.0),
        "accuracy": accuracy_score(y, p),
        "sensitivity": recall_score(y, p, zero_division=1.0),
        "specificity": recall_score(~y, ~p, zero_division=1.0),
    }
    assert {name: PIXEL_METRICS[name](counts) for name in expected} == pytest.approx(expected, abs=1e-12)


def test_a_metric_in_the_table_is_evaluated_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PIXEL_METRICS, "missed_px", lambda counts: counts.false_negative)
    for name, width in (("a", 5), ("b", 4)):
        save_mask(tmp_path / "labels" / f"{name}.png")
        save_mask(tmp_path / "masks" / f"{name}.png", block(4, width))
    evaluation = evaluate(tmp_path / "labels", tmp_path / "masks")
    assert evaluation.masks.means["missed_px"] == 2
    assert evaluation.masks.intervals["missed_px"] == (0, 4)
    write_cases(evaluation.masks.cases, tmp_path / "evaluation.csv")
    with (tmp_path / "evaluation.csv").open(newline="") as file:
        assert [row["missed_px"] for row in csv.DictReader(file)] == ["0", "4"]
