"""The Jaccard over thresholds: of maps by hand, of real maps against masks of `segment`, and what is missing or bad."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation_data import block, only_case, save_mask
from numpy.typing import NDArray
from PIL import Image

from lesioncli.evaluation.cases import CaseResult
from lesioncli.evaluation.document import evaluation_document
from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.metrics.thresholds import THRESHOLDS, threshold_jaccards
from lesioncli.evaluation.reading.masks import find_predicted_masks
from lesioncli.evaluation.statistics.resampling import ResamplingPlan
from lesioncli.evaluation.submission import write_submission
from lesioncli.evaluation.threshold_curve import propose_threshold
from lesioncli.options import Challenge, Regions

UInt8 = NDArray[np.uint8]


def ramp() -> UInt8:
    """Return probabilities (20, 100) that rise from 0.005 in the left column to 0.995 in the right one."""
    return np.tile(np.rint(255 * (np.arange(100) + 0.5) / 100).astype(np.uint8), (20, 1))


@pytest.mark.parametrize("regions", Regions)
def test_a_ramp_by_hand(regions: Regions) -> None:
    """At threshold t, the columns from 100 t on are lesion; the ground truth has those from 40 on."""
    truth = np.tile(np.arange(100) >= 40, (20, 1))
    for threshold, found in zip(THRESHOLDS, threshold_jaccards(truth, ramp(), regions), strict=True):
        predicted = 100 * (1 - threshold)
        assert found == pytest.approx(min(60, predicted) / max(60, predicted), abs=1e-6)


def test_every_threshold_is_that_of_a_mask() -> None:
    rng = np.random.default_rng(0)
    probability, truth = rng.integers(256, size=(30, 40)).astype(np.uint8), rng.random((30, 40)) < 0.5
    for threshold, found in zip(THRESHOLDS, threshold_jaccards(truth, probability, Regions.ALL), strict=True):
        mask = probability >= math.ceil(threshold * 255)
        assert found == pytest.approx((mask & truth).sum() / (mask | truth).sum(), abs=1e-6)


def test_only_the_largest_region_counts_unless_all_do() -> None:
    """A second region of probability 0.6 is there up to a threshold of 0.6; the first one has 0.9."""
    probability = np.zeros((100, 100), np.uint8)
    probability[10:50, 10:50], probability[70:90, 70:90] = 230, 153
    truth = probability == 230
    largest, everything = (
        threshold_jaccards(truth, probability, regions) for regions in (Regions.LARGEST, Regions.ALL)
    )
    assert largest.tolist() == [1 if threshold <= 0.9 else 0 for threshold in THRESHOLDS]
    assert everything == pytest.approx(
        [0.8 if threshold <= 0.6 else 1 if threshold <= 0.9 else 0 for threshold in THRESHOLDS]
    )


def test_thresholds_are_steps_of_a_twentieth() -> None:
    assert [round(100 * threshold) for threshold in THRESHOLDS] == list(range(5, 100, 5))


def test_the_largest_region_may_be_any() -> None:
    """Three regions, numbered from the top: the largest is the first, the second or the third."""
    for largest in range(3):
        probability = np.zeros((90, 40), np.uint8)
        for number in range(3):
            probability[30 * number :, 10:30][: 15 if number == largest else 8] = 230
        truth = np.zeros_like(probability, np.bool_)
        truth[30 * largest : 30 * largest + 15, 10:30] = True
        assert threshold_jaccards(truth, probability, Regions.LARGEST)[0] == 1, largest


@pytest.mark.parametrize("turned", [False, True])
def test_regions_are_those_at_the_size_of_the_network(turned: bool) -> None:
    """In a quarter of the width and height, a gap of two pixels has half of the probability beside it, 115 of 255.

    The largest region keeps its left column, which is part of no downsampled region; the right one, column 500, is
    beside the other region.
    """
    probability = np.zeros((512, 1024), np.uint8)
    probability[100:400, 99:501] = probability[100:400, 503:700] = 230
    probability = probability.T.copy() if turned else probability
    found = threshold_jaccards(probability > 0, probability, Regions.LARGEST)
    one = np.array([threshold < 0.45 for threshold in THRESHOLDS])
    two = np.array([0.45 < threshold < 0.9 for threshold in THRESHOLDS])
    assert (found[one] == 1).all()
    assert found[two] == pytest.approx(401 / (402 + 197), abs=1e-6)


def test_empty_masks() -> None:
    nothing = np.zeros((5, 5), np.uint8)
    assert threshold_jaccards(nothing > 0, nothing, Regions.LARGEST).tolist() == [1] * len(THRESHOLDS)
    assert threshold_jaccards(nothing == 0, nothing, Regions.LARGEST).tolist() == [0] * len(THRESHOLDS)


# A folder of masks and maps


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a folder of three masks with ramps as maps; the ground truth has the columns from 30, 40 and 50 on."""
    for name, column in (("a", 30), ("sub/b", 40), ("c", 50)):
        truth = np.tile(np.where(np.arange(100) >= column, 255, 0).astype(np.uint8), (20, 1))
        mask = np.where(ramp() >= 128, 255, 0).astype(np.uint8)
        save_mask(tmp_path / "labels" / f"{name}.png", Image.fromarray(truth))
        save_mask(tmp_path / "masks" / f"{name}.png", Image.fromarray(mask))
        save_mask(tmp_path / "masks" / "probabilities" / f"{name}.png", Image.fromarray(ramp()))
    return tmp_path


def test_the_curve_of_a_folder(run: Path) -> None:
    evaluation = evaluate(run / "labels", run / "masks")
    assert not evaluation.failed
    assert len(evaluation.masks.cases) == 3
    assert evaluation.masks.extra == ()
    curve = evaluation.masks.thresholds
    assert curve
    assert (curve.images, curve.missing, curve.best) == (3, 0, 0.4)
    at_best = curve.means[THRESHOLDS.index(0.4)]
    assert at_best == pytest.approx((60 / 70 + 1 + 50 / 60) / 3, abs=1e-6)
    assert curve.best_interval[0] == pytest.approx(0.3)
    assert curve.best_interval[1] == pytest.approx(0.5)
    low, high = curve.intervals[THRESHOLDS.index(0.4)]
    assert low < at_best < high
    assert evaluation.masks.means["jaccard"] == pytest.approx(curve.means[THRESHOLDS.index(0.5)], abs=1e-6)
    document = evaluation_document(evaluation)["lesioncli"]["thresholds"]
    assert document["best"] == 0.4
    assert len(document["means"]) == len(document["intervals"]) == len(THRESHOLDS)


def test_without_maps_there_is_no_curve(run: Path) -> None:
    shutil.rmtree(run / "masks" / "probabilities")
    evaluation = evaluate(run / "labels", run / "masks")
    assert evaluation.masks.thresholds is None
    assert not any("probability" in note for note in evaluation.notes)
    assert evaluation_document(evaluation)["lesioncli"]["thresholds"] is None


def test_a_missing_map_is_noted(run: Path) -> None:
    (run / "masks" / "probabilities" / "a.png").unlink()
    evaluation = evaluate(run / "labels", run / "masks")
    assert evaluation.masks.thresholds
    assert (evaluation.masks.thresholds.images, evaluation.masks.thresholds.missing) == (2, 1)
    assert any("probability map" in note and "1" in note for note in evaluation.notes)


@pytest.mark.parametrize("damage", ["truncated", "colour", "16 bit", "another size", "empty"])
def test_a_map_that_cannot_be_read_is_noted_for_its_image(run: Path, damage: str) -> None:
    path = run / "masks" / "probabilities" / "c.png"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        pictures = {
            "colour": Image.new("RGB", (100, 20), (9, 8, 7)),
            "16 bit": Image.fromarray(np.zeros((20, 100), np.uint16)),
            "another size": Image.fromarray(ramp()[:10]),
        }
        pictures[damage].save(path)
    evaluation = evaluate(run / "labels", run / "masks")
    (noted,) = [case for case in evaluation.masks.cases if case.note]
    assert noted.name == "c"
    assert "probability map" in noted.note
    assert noted.metrics["jaccard"] == 1
    assert evaluation.masks.thresholds
    assert evaluation.masks.thresholds.images == 2


def test_a_data_set_may_have_a_folder_of_that_name(tmp_path: Path) -> None:
    for folder in ("labels", "masks"):
        save_mask(tmp_path / folder / "probabilities" / "x.png")
    assert only_case(evaluate(tmp_path / "labels", tmp_path / "masks")).metrics["jaccard"] == 1
    assert list(find_predicted_masks(tmp_path / "masks").masks) == ["probabilities/x"]
    save_mask(tmp_path / "masks" / "y.png", block(2, 2))
    assert list(find_predicted_masks(tmp_path / "masks").maps) == []


def test_a_submission_has_no_maps(tmp_path: Path) -> None:
    name = "ISIC_0000001_segmentation.png"
    save_mask(tmp_path / "masks" / name)
    save_mask(tmp_path / "masks" / "probabilities" / name)
    written = write_submission(tmp_path / "masks", tmp_path / "out", Challenge.ISIC2018)
    assert list(written.files.values()) == [1]
    assert not written.problems


# The proposal of calibrate


def cases_with(values: NDArray[np.float64], of_masks: NDArray[np.float64]) -> list[CaseResult]:
    """Return cases with the Jaccards (N, T) of their maps and those of their masks (N,)."""
    return [
        CaseResult(f"{number:03}", {"jaccard": jaccard}, threshold_jaccards=row.astype(np.float32))
        for number, (row, jaccard) in enumerate(zip(values, of_masks.tolist(), strict=True))
    ]


def test_a_threshold_is_proposed_where_annotators_are_wide() -> None:
    rng = np.random.default_rng(0)
    best_of_each = rng.normal(0.3, 0.05, 120)[:, None]
    values = 0.9 - np.abs(np.array(THRESHOLDS) - best_of_each)
    at_half = values[:, THRESHOLDS.index(0.5)]
    proposal = propose_threshold(cases_with(values, at_half), 0.5, ResamplingPlan())
    assert proposal
    assert (proposal.now, proposal.best, proposal.images, proposal.is_better) == (0.5, 0.3, 120, True)
    assert proposal.best_interval == (0.3, 0.3)
    assert proposal.gain == pytest.approx(values[:, THRESHOLDS.index(0.3)].mean() - at_half.mean(), abs=1e-6)
    assert proposal.gain_interval[0] < proposal.gain < proposal.gain_interval[1]


def test_noise_is_no_reason_for_another_threshold() -> None:
    """On the same images, the best of 19 thresholds looks better than the masks; on others it does not."""
    values = np.random.default_rng(1).normal(0.8, 0.1, (120, len(THRESHOLDS)))
    at_half = values[:, THRESHOLDS.index(0.5)]
    proposal = propose_threshold(cases_with(values, at_half), 0.5, ResamplingPlan())
    assert proposal
    assert values[:, THRESHOLDS.index(proposal.best)].mean() > at_half.mean()
    assert not proposal.is_better
    low, high = proposal.best_interval
    assert high - low > 0.3


def test_without_maps_nothing_is_proposed() -> None:
    assert propose_threshold([CaseResult("a", {"jaccard": 1.0})], 0.5, ResamplingPlan()) is None
