"""Cluster bootstrap: images of one patient or lesion are resampled together.

Three identical images of each patient must give what one image gives with the same draws: the same means, AUCs and
p-values in every bootstrap sample. Resampled one by one, they look like three times as many images, and intervals are
too narrow.
"""

import math
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from helpers.statistics_data import Bools, Floats, labelled_scores, mask_metrics, numbered, predictions

from lesioncli.evaluation.labelled_scores import LabelledScores
from lesioncli.evaluation.predictions import EvaluatedPredictions
from lesioncli.evaluation.reading.metadata import Grouping
from lesioncli.evaluation.statistics.bootstrap import bootstrap_aucs, bootstrap_means, bootstrap_metrics
from lesioncli.evaluation.statistics.comparison import compare_predictions, sign_flip_p_values
from lesioncli.evaluation.statistics.groups import MIN_IMAGES, evaluate_groups
from lesioncli.evaluation.statistics.resampling import Resampling, ResamplingPlan, bootstrap_weights

PATIENTS, REPEATS = 40, 3
ALONE = Resampling(3)
IN_THREES = Resampling(3, np.repeat(np.arange(PATIENTS), REPEATS))


def patient_scores() -> tuple[Bools, Floats]:
    """Return labels and scores (PATIENTS, 2)."""
    rng = np.random.default_rng(1)
    labels = rng.random((PATIENTS, 2)) < 0.4
    return labels, rng.normal(labels, 1.0).round(1)


def tripled(table: Any) -> Any:
    return np.repeat(table, REPEATS, axis=0)


def test_a_cluster_is_drawn_as_a_whole_and_as_often_as_any_other() -> None:
    clusters = np.array([0, 1, 0, 2, 1, 0])
    (weights,) = bootstrap_weights(6, Resampling(0, clusters))
    assert weights.shape == (2000, 6)
    for cluster in range(3):
        assert (weights[:, clusters == cluster] == weights[:, [list(clusters).index(cluster)]]).all()
    counts = weights[:, [0, 1, 3]]
    assert (counts.sum(axis=1) == 3).all()
    assert counts.mean(axis=0) == pytest.approx(1, abs=0.06)


def test_clusters_of_one_image_are_images() -> None:
    values = np.random.default_rng(0).random((50, 2))
    alone = bootstrap_means(values, Resampling(4))
    assert (bootstrap_means(values, Resampling(4, np.arange(50))) == alone).all()
    assert (bootstrap_means(values, ResamplingPlan(4, "patient").for_images(numbered(50))) == alone).all()


def test_three_identical_images_carry_the_information_of_one() -> None:
    labels, scores = patient_scores()
    assert bootstrap_means(tripled(scores), IN_THREES) == pytest.approx(bootstrap_means(scores, ALONE), abs=1e-12)
    aucs = bootstrap_aucs(labels, scores, ALONE)
    assert bootstrap_aucs(tripled(labels), tripled(scores), IN_THREES) == pytest.approx(aucs, abs=1e-12)
    weights = np.ones(PATIENTS)
    expected = bootstrap_metrics(labels, scores, weights, ALONE)[0]
    for name, values in bootstrap_metrics(tripled(labels), tripled(scores), tripled(weights), IN_THREES)[0].items():
        assert values == pytest.approx(expected[name], abs=1e-9, nan_ok=True), name


def test_signs_of_a_cluster_flip_together() -> None:
    paired = np.random.default_rng(2).normal(0.3, 1, (PATIENTS, 1))
    assert sign_flip_p_values(tripled(paired), IN_THREES) == sign_flip_p_values(paired, ALONE)
    assert sign_flip_p_values(tripled(paired), ALONE)[0] < sign_flip_p_values(paired, ALONE)[0]


def test_an_image_without_a_cluster_is_resampled_alone() -> None:
    plan = ResamplingPlan(5, "patient", {"a": "x", "b": "y", "c": "x", "x": "y"})
    resampling = plan.for_images(["c", "y", "a", "b", "x", "z"])  # images y and z have no patient; patient y is another
    assert resampling.seed == 5
    assert resampling.clusters is not None
    assert resampling.clusters.tolist() == [0, 1, 0, 2, 2, 3]
    assert resampling.count_clusters(np.array([0, 2])) == 1
    assert resampling.count_clusters(np.arange(6)) == 4
    assert Resampling(5).count_clusters(np.array([0, 2, 5])) == 3


def test_a_comparison_counts_clusters() -> None:
    names = tuple(f"{patient}-{image}" for patient in range(PATIENTS) for image in range(REPEATS))
    labels, scores = patient_scores()
    worse = scores + np.random.default_rng(8).normal(0, 1, scores.shape)

    def evaluated(images: tuple[str, ...], labels: Bools, scores: Floats) -> EvaluatedPredictions:
        masks = mask_metrics(images, jaccard=scores[:, 0], dice=scores[:, 1])
        return predictions(masks, labelled_scores(labels, scores, images))

    plan = ResamplingPlan(3, "patient", {name: name.split("-")[0] for name in names})
    ours, other = (evaluated(names, tripled(labels), tripled(each)) for each in (scores, worse))
    our_first, other_first = (evaluated(names[::REPEATS], labels, each) for each in (scores, worse))
    clustered = compare_predictions(ours, other, ("ours", "other"), plan).differences
    alone = compare_predictions(our_first, other_first, ("ours", "other"), ResamplingPlan(3)).differences
    assert set(clustered) == set(alone) == {"jaccard", "dice", "mel", "sk", "auc_mean"}
    for name, single in alone.items():
        assert astuple(clustered[name])[:6] == pytest.approx(astuple(single)[:6], abs=1e-9), name
        assert (clustered[name].images, clustered[name].clusters) == (PATIENTS * REPEATS, PATIENTS)


def test_a_group_needs_enough_clusters() -> None:
    images = numbered(60)
    grouping = Grouping("sex", ("f", "m"), dict(zip(images, ["f"] * 30 + ["m"] * 30, strict=True)))
    masks = mask_metrics(images, jaccard=np.concatenate([np.linspace(0.8, 0.9, 30), np.linspace(0.2, 0.3, 30)]))
    pairs = ResamplingPlan(0, "patient", {image: str(number // 2) for number, image in enumerate(images)})
    alone, in_pairs = (
        evaluate_groups(grouping, masks, LabelledScores(), ["jaccard"], plan) for plan in (ResamplingPlan(), pairs)
    )
    assert 30 // 2 < MIN_IMAGES <= 30
    assert [group.behind for group in alone] == [(), ("jaccard",)]
    assert [group.behind for group in in_pairs] == [(), ()]
    assert math.isnan(in_pairs[0].estimates["jaccard"].low)
    assert in_pairs[0].estimates["jaccard"].images == 30
