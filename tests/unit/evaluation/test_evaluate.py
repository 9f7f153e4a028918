"""Means, intervals and progress of evaluate(), on masks whose metrics are known by hand."""

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation_data import PERFECT, block, jaccards, only_case, save_mask

from lesioncli.evaluation import cases
from lesioncli.evaluation.cases import CaseResult
from lesioncli.evaluation.csv_files import write_cases
from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.metrics.pixels import PIXEL_METRICS
from lesioncli.evaluation.statistics.bootstrap import bootstrap_means
from lesioncli.evaluation.statistics.resampling import Resampling, percentile_interval
from lesioncli.options import EvaluationOptions

DISTANCES = EvaluationOptions(distances=True)


def save_nine_widths(truth: Path, masks: Path) -> None:
    """Save nine pairs of masks whose Jaccard indices are 0.1 to 0.9."""
    for width in range(1, 10):
        save_mask(truth / f"{width}.png", block(4, 10))
        save_mask(masks / f"{width}.png", block(4, width))


def test_metrics_by_hand(truth: Path, masks: Path) -> None:
    save_mask(truth / "b_segmentation.png", block(4, 5))
    save_mask(masks / "b.png", block(4, 10))  # of 40 predicted pixels 20 are lesion; 40 more are background
    save_mask(truth / "a_segmentation.png", block(2, 5))
    save_mask(masks / "a.png", block(2, 5))
    evaluation = evaluate(truth, masks)
    first, second = evaluation.masks.cases
    assert (first.name, second.name) == ("a", "b")
    assert first.metrics == PERFECT
    expected = {"jaccard": 1 / 2, "dice": 2 / 3, "accuracy": 3 / 4, "sensitivity": 1, "specificity": 2 / 3}
    expected |= {"threshold_jaccard": 0, "area_log_ratio": math.log(2)}
    assert second.metrics == pytest.approx(expected)
    means = {name: (PERFECT[name] + value) / 2 for name, value in expected.items()}
    assert evaluation.masks.means == pytest.approx(means)
    assert (evaluation.masks.extra, evaluation.scores.labelled.problems, evaluation.failed) == ((), (), False)


def test_means_ignore_cases_with_a_problem(truth: Path, masks: Path) -> None:
    for name in ("a", "b", "c"):
        save_mask(truth / f"{name}.png", block(4, 5))
    save_mask(masks / "a.png", block(4, 10))
    save_mask(masks / "c.png")
    evaluation = evaluate(truth, masks)
    assert evaluation.masks.means["jaccard"] == 3 / 4
    assert evaluation.masks.intervals["jaccard"] == (1 / 2, 1)
    assert [case.name for case in evaluation.masks.cases if case.problem] == ["b"]
    assert (evaluation.incomplete, evaluation.failed) == (("masks",), True)


def test_without_evaluated_cases_there_are_no_means(truth: Path, masks: Path) -> None:
    save_mask(truth / "a.png")
    save_mask(masks / "a.png", block(4, 5, (9, 9)))
    save_mask(masks / "b.png")
    evaluation = evaluate(truth, masks)
    assert (evaluation.masks.means, evaluation.masks.intervals, evaluation.scores.auc) == ({}, {}, {})
    assert math.isnan(evaluation.scores.auc_mean)
    assert (evaluation.masks.extra, evaluation.failed) == (("b",), True)


def test_intervals_are_the_bootstrap_of_the_cases(truth: Path, masks: Path) -> None:
    save_nine_widths(truth, masks)
    values = np.array([[width / 10] for width in range(1, 10)])
    by_hand = percentile_interval(bootstrap_means(values, Resampling(5))[:, 0])
    first, again, other_seed = (evaluate(truth, masks, EvaluationOptions(seed=seed)) for seed in (5, 5, 6))
    assert first.masks.intervals["jaccard"] == pytest.approx(by_hand)
    assert first == again
    assert first.masks.intervals != other_seed.masks.intervals


def test_distances_are_averaged_where_they_are_defined(truth: Path, masks: Path) -> None:
    for name, prediction in (("a", block(4, 5)), ("b", block(4, 8)), ("c", block(0, 0))):
        save_mask(truth / f"{name}.png", block(4, 5))
        save_mask(masks / f"{name}.png", prediction)
    found = evaluate(truth, masks, DISTANCES).masks
    assert found.means["hausdorff95_px"] == pytest.approx((0 + 3) / 2)
    assert found.means["area_error"] == pytest.approx((0 + 3 / 5 - 1) / 3)
    assert found.intervals["hausdorff95_px"] == pytest.approx((0, 3))


def test_a_distance_that_is_never_defined_has_no_interval(truth: Path, masks: Path) -> None:
    save_mask(truth / "a.png", block(4, 5))
    save_mask(masks / "a.png", block(0, 0))
    found = evaluate(truth, masks, DISTANCES).masks
    assert math.isnan(found.means["surface_distance_px"])
    assert "surface_distance_px" not in found.intervals
    assert "area_error" in found.intervals
    assert set(evaluate(truth, masks).masks.means) == set(PIXEL_METRICS)


def test_threads_and_queue_length_do_not_change_the_result(
    truth: Path, masks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_nine_widths(truth, masks)
    one_thread = evaluate(truth, masks, EvaluationOptions(workers=1))
    monkeypatch.setattr(cases, "_QUEUE_LENGTH", 2)
    assert evaluate(truth, masks, EvaluationOptions(workers=4)) == one_thread
    assert jaccards(one_thread) == {str(width): width / 10 for width in range(1, 10)}


@pytest.mark.parametrize(("workers", "threads"), [(0, 7), (3, 3)])
def test_there_is_one_thread_per_core_by_default(
    workers: int, threads: int, truth: Path, masks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Recorder(ThreadPoolExecutor):
        def __init__(self, max_workers: int) -> None:
            requested.append(max_workers)
            super().__init__(max_workers)

    requested: list[int] = []
    monkeypatch.setattr(cases, "count_cores", lambda: 7)
    monkeypatch.setattr(cases, "ThreadPoolExecutor", Recorder)
    save_mask(truth / "x.png")
    save_mask(masks / "x.png")
    evaluate(truth, masks, EvaluationOptions(workers=workers))
    assert requested == [threads]


def test_progress_is_reported_after_each_case(truth: Path, masks: Path) -> None:
    for name in ("a", "b", "c"):
        save_mask(truth / f"{name}.png")
    save_mask(masks / "b.png")
    reports: list[tuple[int, int]] = []
    evaluate(truth, masks, on_progress=lambda done, total: reports.append((done, total)))
    assert reports == [(1, 3), (2, 3), (3, 3)]


def test_empty_masks_agree(truth: Path, masks: Path) -> None:
    save_mask(truth / "x.png", block(0, 0))
    save_mask(masks / "x.png", block(0, 0))
    assert only_case(evaluate(truth, masks)) == CaseResult("x", {**PERFECT, "area_log_ratio": math.nan})


def test_sizes_must_be_equal(truth: Path, masks: Path) -> None:
    save_mask(truth / "x.png", block(4, 5, (8, 10)))
    save_mask(masks / "x.png", block(4, 5, (10, 8)))
    case = only_case(evaluate(truth, masks))
    assert case.metrics == {}
    assert "10 x 8" in case.problem
    assert "8 x 10" in case.problem


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux may a file name be any bytes")
def test_names_that_are_not_utf_8_survive(truth: Path, masks: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    save_mask(truth / f"{name}.png")
    save_mask(masks / f"{name}.png")
    (truth / "labels.csv").write_bytes(b"image,melanoma\ncaf\xe9,1\n")
    (masks / "scores.csv").write_bytes(b"image,status,reason,melanoma\ncaf\xe9.jpg,ok,,.5\n")
    evaluation = evaluate(truth, masks)
    assert (only_case(evaluation).name, evaluation.scores.labelled.count) == (name, 1)
    write_cases(evaluation.masks.cases, tmp_path / "cases.csv")
    assert b"\ncaf\xe9.jpg,1.0," in (tmp_path / "cases.csv").read_bytes()


def test_evaluation_starts_without_torch_pandas_and_scipy() -> None:
    code = "import sys, lesioncli.evaluation.evaluate; print({'torch', 'pandas', 'scipy', 'sklearn'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
