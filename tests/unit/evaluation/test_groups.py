"""Groups: estimates are those of the group's images, and chance rarely puts a group behind."""

import math
from dataclasses import astuple, replace

import numpy as np
import pytest
from helpers.statistics_data import NO_MASKS, labelled_scores, mask_metrics, numbered
from sklearn.metrics import roc_auc_score

from lesioncli.evaluation.cases import MaskMetrics
from lesioncli.evaluation.labelled_scores import LabelledScores
from lesioncli.evaluation.reading.metadata import Grouping
from lesioncli.evaluation.statistics import groups, resampling
from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN
from lesioncli.evaluation.statistics.groups import Estimate, GroupResult, evaluate_groups
from lesioncli.evaluation.statistics.resampling import ResamplingPlan

NO_SCORES = LabelledScores()


def grouping_of(*group_names: str) -> Grouping:
    """Return the grouping of images i0000, i0001, ... into these groups."""
    order = tuple(dict.fromkeys(group_names))
    return Grouping("kind", order, dict(zip(numbered(len(group_names)), group_names, strict=True)))


def evaluated(
    grouping: Grouping,
    masks: MaskMetrics = NO_MASKS,
    labelled: LabelledScores = NO_SCORES,
    tested: tuple[str, ...] = ("jaccard",),
    seed: int = 3,
) -> dict[str, GroupResult]:
    found = evaluate_groups(grouping, masks, labelled, tested, ResamplingPlan(seed))
    return {group.group: group for group in found}


def test_estimates_of_a_group_are_those_of_its_images() -> None:
    values = np.arange(60.0)
    grouping = grouping_of(*["a"] * 25, *["b"] * 30, *["few"] * 5)
    found = evaluated(grouping, mask_metrics(jaccard=values))
    assert {name: group.images for name, group in found.items()} == {"a": 25, "b": 30, "few": 5}
    assert found["a"].estimates["jaccard"].value == 12
    assert found["b"].estimates["jaccard"].value == 39.5
    drawn = np.random.default_rng(3).integers(60, size=(2000, 60))
    means = [values[rows[rows < 25]].mean() for rows in drawn]
    assert astuple(found["a"].estimates["jaccard"])[1:] == pytest.approx((*np.percentile(means, (2.5, 97.5)), 25))
    few = found["few"].estimates["jaccard"]
    assert few.value == 57
    assert math.isnan(few.low)
    assert math.isnan(few.high)


def three_groups() -> Grouping:
    return grouping_of(*["a"] * 30, *["b"] * 30, *["c"] * 30)


def resampled_differences(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[float]:
    """Return group a minus rest in 2000 bootstrap samples with seed 3, by hand."""
    drawn = np.random.default_rng(3).integers(90, size=(2000, 90))
    return [float(values[rows[rows < 30]].mean() - values[rows[rows >= 30]].mean()) for rows in drawn]


def test_a_difference_is_group_minus_rest_with_an_interval_for_all_groups() -> None:
    values = np.random.default_rng(0).random(90)
    found = evaluated(three_groups(), mask_metrics(jaccard=values))
    interval = np.percentile(resampled_differences(values), (2.5 / 3, 100 - 2.5 / 3))
    expected = (values[:30].mean() - values[30:].mean(), *interval, 30)
    assert astuple(found["a"].differences["jaccard"]) == pytest.approx(expected, abs=1e-9)


def test_intervals_are_wider_if_more_metrics_are_tested() -> None:
    jaccard, dice = np.random.default_rng(0).random((2, 90))
    masks = mask_metrics(jaccard=jaccard, dice=dice)
    found = evaluated(three_groups(), masks, tested=("jaccard", "dice"))["a"].differences["jaccard"]
    expected = np.percentile(resampled_differences(jaccard), (2.5 / 6, 100 - 2.5 / 6))
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_aucs_of_a_group_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    labels = rng.random((200, 2)) < 0.4
    scores = (0.3 * labels + 0.7 * rng.random((200, 2))).round(2)
    grouping = grouping_of(*["a"] * 120, *["b"] * 80)
    found = evaluated(grouping, labelled=labelled_scores(labels, scores), tested=("jaccard", "mel", "sk"), seed=0)
    for name, rows in (("a", slice(120)), ("b", slice(120, 200))):
        expected = [roc_auc_score(labels[rows, k], scores[rows, k]) for k in (0, 1)]
        estimates = found[name].estimates
        assert [estimates["mel"].value, estimates["sk"].value] == pytest.approx(expected)
        assert estimates[AUC_MEAN].value == pytest.approx(sum(expected) / 2)
        assert estimates["mel"].low < estimates["mel"].value < estimates["mel"].high
        assert estimates["mel"].images == found[name].images
        assert set(found[name].differences) == {"mel", "sk"}


def test_unknown_labels_do_not_count_in_the_aucs_of_a_group() -> None:
    rng = np.random.default_rng(1)
    labels, scores = rng.random((200, 1)) < 0.4, rng.random((200, 1))
    known = np.arange(200) % 3 > 0
    in_part = replace(labelled_scores(labels, scores), labels=np.where(known[:, None], labels, np.nan))
    found = evaluated(grouping_of(*["a"] * 120, *["b"] * 80), labelled=in_part, tested=("mel",), seed=0)
    for name, start, end in (("a", 0, 120), ("b", 120, 200)):
        rows = np.flatnonzero(known[:end])
        rows = rows[rows >= start]
        estimate = found[name].estimates["mel"]
        assert (estimate.images, found[name].images) == (rows.size, end - start)
        assert estimate.value == pytest.approx(roc_auc_score(labels[rows, 0], scores[rows, 0]))
        assert estimate.low < estimate.value < estimate.high


def test_an_auc_with_few_images_of_a_label_has_no_interval_and_is_not_tested() -> None:
    labels = np.zeros((100, 1), bool)
    labels[:30] = True
    scores = np.random.default_rng(0).random((100, 1))
    grouping = grouping_of(*["a"] * 15, *["b"] * 6, *["a"] * 20, *["b"] * 59)  # b has 6 of 30 positives
    found = evaluated(grouping, labelled=labelled_scores(labels, scores), tested=("mel",))
    assert not math.isnan(found["a"].estimates["mel"].low)
    assert not found["a"].differences
    assert math.isnan(found["b"].estimates["mel"].low)
    assert not found["b"].differences


def test_groups_without_masks_or_without_scores_are_listed() -> None:
    ids = (*numbered(19), "only scores")
    grouping = Grouping("kind", ("a", "b"), {**dict.fromkeys(numbered(20), "a"), "only scores": "b"})
    labelled = labelled_scores(np.array([[True], [False]] * 10), np.linspace(0, 1, 20)[:, None], ids)
    found = evaluated(grouping, labelled=labelled, tested=("mel",))
    assert (found["a"].images, found["b"].images) == (19, 1)
    assert math.isnan(found["b"].estimates["mel"].value)
    with_masks = evaluated(grouping, mask_metrics(jaccard=np.ones(20)), labelled, ("mel",))
    assert (with_masks["a"].images, with_masks["b"].images) == (20, 1)
    assert math.isnan(with_masks["b"].estimates["jaccard"].value)


def test_groups_without_an_evaluated_image_are_left_out() -> None:
    grouping = Grouping("lesion_size", ("a", "unknown"), {**dict.fromkeys(numbered(20), "a"), "failed": "unknown"})
    assert list(evaluated(grouping, mask_metrics(jaccard=np.ones(20)))) == ["a"]


def test_a_single_group_has_no_rest() -> None:
    group = evaluated(grouping_of(*["a"] * 40), mask_metrics(jaccard=np.random.default_rng(0).random(40)))["a"]
    assert group.differences == {}
    assert group.behind == ()


def test_nan_values_are_ignored_and_not_counted() -> None:
    values = np.where(np.arange(50) % 2, np.arange(50.0), math.nan)
    group = evaluated(grouping_of(*["a"] * 50), mask_metrics(hausdorff95_px=values))["a"]
    assert group.estimates["hausdorff95_px"].value == 25
    assert group.estimates["hausdorff95_px"].images == 25


@pytest.mark.parametrize(("high", "behind"), [(-0.001, ("jaccard",)), (0.0, ()), (0.001, ()), (math.nan, ())])
def test_a_group_is_behind_if_the_interval_lies_below_zero(high: float, behind: tuple[str, ...]) -> None:
    group = GroupResult("sex", "f", 30, {}, {"jaccard": Estimate(-0.1, -0.2, high, 30)})
    assert group.behind == behind
    assert replace(group, differences={}).behind == ()


def groups_behind(shift: float, tries: int, metrics: int = 1) -> list[tuple[str, ...]]:
    """Return the groups behind in columns of four groups with skewed metrics, the last `shift` below the others."""
    names = tuple(f"metric_{number}" for number in range(metrics))
    result: list[tuple[str, ...]] = []
    for seed in range(tries):
        rng = np.random.default_rng(seed)
        kinds = rng.permutation(["a"] * 20 + ["b"] * 40 + ["c"] * 60 + ["last"] * 80)
        values = {name: rng.beta(6, 1.5, 200) - shift * (kinds == "last") for name in names}
        found = evaluated(grouping_of(*kinds), mask_metrics(**values), tested=names, seed=seed)
        result.append(tuple(name for name, group in found.items() if group.behind))
    return result


def test_chance_rarely_puts_a_group_behind_and_a_real_gap_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "BOOTSTRAP_SAMPLES", 800)
    assert sum(map(bool, groups_behind(0, 200))) <= 16  # 5 of 200 expected: the lower half of 5 %; 20 images are few
    assert sum(names == ("last",) for names in groups_behind(0.15, 40)) >= 36


@pytest.mark.parametrize("samples", [800, 1400])  # a tail has less than one sample, and more
def test_chance_rarely_puts_a_group_behind_in_many_metrics(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "BOOTSTRAP_SAMPLES", samples)
    assert sum(map(bool, groups_behind(0, 40, metrics=8))) <= 4


def test_the_minimum_sizes_are_those_of_the_documentation() -> None:
    assert (groups.MIN_IMAGES, groups.MIN_PER_LABEL) == (20, 10)
