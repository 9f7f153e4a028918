"""Reliability of scores and confidence: by hand, in the evaluation of a folder, and in its JSON document."""

import math
from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation_data import block, save_mask, write_data_set, write_lines

from lesioncli.evaluation.document import evaluation_document
from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.reliability import evaluate_confidence, reliability_tables
from lesioncli.evaluation.statistics.resampling import Resampling


def test_a_table_by_hand() -> None:
    scores = np.array([0.0, 0.05, 0.5, 0.52, 1.0])
    labels = np.array([False, True, True, True, True])
    ((first, middle, last),) = reliability_tables(labels[:, None], scores[:, None], Resampling(0))
    assert (first.low, first.high, first.images) == pytest.approx((0, 1 / 15, 2))
    assert (first.mean, first.observed) == pytest.approx((0.025, 0.5))
    assert (first.interval, middle.interval) == ((0, 1), (1, 1))
    assert (middle.images, middle.mean) == pytest.approx((2, 0.51))
    assert (last.high, last.mean, last.images) == (1, 1, 1)


def test_confidence_against_jaccard_by_hand() -> None:
    jaccard, confidence = np.array([0.5, 0.7, 0.9, 0.2]), np.array([0.9, 0.91, 0.92, math.nan])
    found = evaluate_confidence(jaccard, confidence, Resampling(0))
    assert (found.images, found.missing) == (3, 1)
    assert found.means == pytest.approx({"confidence": 0.91, "jaccard": 0.7})
    squared = (0.4**2 + 0.21**2 + 0.02**2) / 3
    assert found.metrics == pytest.approx({"calibration_error": 0.21, "squared_error": squared, "bias": 0.21})
    low, high = found.intervals["bias"]
    assert low < 0.21 < high
    assert [row.images for row in found.reliability] == [3]


def test_images_of_a_cluster_are_resampled_together_without_those_that_are_left_out() -> None:
    """Two clusters of equal images: a resample has the bias of one of them, or that of both."""
    jaccard, confidence = np.array([0.5, 0.5, 0.9, 0.9, 0.1]), np.array([0.8, 0.8, 0.9, 0.9, math.nan])
    found = evaluate_confidence(jaccard, confidence, Resampling(0, np.array([3, 3, 1, 1, 2])))
    assert found.intervals["bias"] == pytest.approx((0, 0.3))


def test_without_any_confidence_there_are_no_figures() -> None:
    found = evaluate_confidence(np.array([0.5]), np.array([math.nan]), Resampling(0))
    assert (found.images, found.missing, found.metrics, found.reliability) == (0, 1, {}, ())


def write_run(folder: Path, confidences: dict[str, str]) -> None:
    """Write masks with a Jaccard of 0.5, and scores.csv with a confidence of each."""
    rows = ["image,mask,width,height,status,reason,melanoma,confidence"]
    for mask, confidence in confidences.items():
        save_mask(folder / "labels" / mask, block(4, 4))
        save_mask(folder / "masks" / mask, block(4, 2))
        rows.append(f"photo {mask}.jpg,{mask},10,8,ok,,.5,{confidence}")
    write_lines(folder / "masks" / "scores.csv", *rows)


def test_a_confidence_belongs_to_the_mask_of_its_row(tmp_path: Path) -> None:
    """With --isic, the image and its mask have different names."""
    write_run(tmp_path, {"ISIC_0000001_segmentation.png": "0.9", "sub/x.png": "0.7"})
    found = evaluate(tmp_path / "labels", tmp_path / "masks").masks.confidence
    assert (found.images, found.missing) == (2, 0)
    assert found.means == pytest.approx({"confidence": 0.8, "jaccard": 0.5})


@pytest.mark.parametrize("text", ["nan", "", "1.2", "-0.1", "much", "inf"])
def test_a_confidence_that_is_none_is_left_out_with_a_note(text: str, tmp_path: Path) -> None:
    write_run(tmp_path, {"x.png": "0.9", "y.png": text})
    found = evaluate(tmp_path / "labels", tmp_path / "masks")
    assert (found.masks.confidence.images, found.masks.confidence.missing) == (1, 1)
    assert any("confidence" in note and "1" in note for note in found.notes)
    assert not found.failed


def test_a_table_without_confidence_is_not_noted(tmp_path: Path) -> None:
    write_data_set(tmp_path)
    found = evaluate(tmp_path / "labels", tmp_path / "masks")
    assert found.masks.confidence.images == 0
    assert not any("confidence" in note for note in found.notes)
    document = evaluation_document(found)["lesioncli"]
    assert document["confidence"] is None
    assert list(document["reliability"]) == ["melanoma", "seborrheic_keratosis"]
    for table in document["reliability"].values():
        assert sum(row["images"] for row in table) == 60
        error = sum(row["images"] * abs(row["mean"] - row["observed"]) for row in table) / 60
        assert error > 0
    error = document["per_class"]["melanoma"]["calibration_error"]
    table = document["reliability"]["melanoma"]
    assert error == pytest.approx(sum(row["images"] * abs(row["mean"] - row["observed"]) for row in table) / 60)


def test_the_document_has_the_confidence(tmp_path: Path) -> None:
    write_run(tmp_path, {"x.png": "0.9", "y.png": "0.7"})
    document = evaluation_document(evaluate(tmp_path / "labels", tmp_path / "masks"))["lesioncli"]["confidence"]
    assert document["images"] == 2
    assert document["metrics"]["bias"] == pytest.approx(0.3)
    assert [row["images"] for row in document["reliability"]] == [1, 1]
