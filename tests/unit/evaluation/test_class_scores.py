"""Evaluation of class scores: AUC against scikit-learn, intervals by hand, confusion, official figures."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.evaluation_data import IMAGES, class_scores, image_name, is_class, save_mask, segment_scores, write_lines
from sklearn.metrics import roc_auc_score

from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.metrics.scores import class_metrics
from lesioncli.evaluation.result import Evaluation
from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN, bootstrap_aucs
from lesioncli.evaluation.statistics.resampling import Resampling, percentile_interval
from lesioncli.options import EvaluationOptions, ProtocolName
from lesioncli.spec import CLASSES

NAMES = [image_name(number) for number in range(IMAGES)]
IS_MELANOMA = [is_class(number)[0] for number in range(IMAGES)]


def evaluated(folder: Path, **options: Any) -> Evaluation:
    return evaluate(folder / "labels", folder / "masks", EvaluationOptions(**options))


def test_auc_is_that_of_scikit_learn_in_any_order_of_the_rows(truth: Path, masks: Path) -> None:
    save_mask(truth / "a.png")
    save_mask(masks / "a.png")
    rng = np.random.default_rng(2)
    labels, scores = rng.random((40, 2)) < 0.4, rng.random((40, 2)).round(1)
    ids = [image_name(number) for number in range(40)]
    rows = [f"{name},{mel:.1f},{sk:.1f}" for name, (mel, sk) in zip(ids, labels.astype(float), strict=True)]
    write_lines(truth / "ISIC-2017_Test_v2_Part3_GroundTruth.csv", "image_id,melanoma,seborrheic_keratosis", *rows)
    by_image = {f"{name}.jpg": (mel, sk, 0) for name, (mel, sk) in zip(ids, scores, strict=True)}
    shuffled = dict(sorted(by_image.items(), key=lambda _: rng.random()))
    write_lines(masks / "scores.csv", *segment_scores(shuffled))
    found = evaluate(truth, masks, EvaluationOptions(seed=4)).scores
    expected = {name: roc_auc_score(labels[:, k], scores[:, k]) for k, name in enumerate(CLASSES[:2])}
    assert found.auc == pytest.approx(expected)
    assert found.auc_mean == pytest.approx(sum(expected.values()) / 2)
    resampled = bootstrap_aucs(labels, scores, Resampling(4))
    columns = {**dict(zip(expected, resampled.T, strict=True)), AUC_MEAN: resampled.mean(axis=1)}
    for name, column in columns.items():
        assert found.intervals[name] == pytest.approx(percentile_interval(column))


def test_auc_is_nan_where_only_one_label_occurs_and_so_is_the_mean(tmp_path: Path) -> None:
    labels = write_lines(tmp_path / "gt.csv", "image,melanoma,nevus", "p,1,0", "q,0,0")
    write_lines(tmp_path / "scores.csv", *segment_scores({"p.jpg": (0.9, 0, 0), "q.jpg": (0.1, 0, 0)}))
    scores = evaluate(labels, tmp_path).scores
    assert scores.auc["melanoma"] == 1.0
    assert math.isnan(scores.auc["nevus"])
    assert math.isnan(scores.auc_mean)
    assert set(scores.intervals) == {"melanoma"}


def test_without_labels_or_without_scores_there_is_no_auc(truth: Path, masks: Path) -> None:
    save_mask(truth / "a.png")
    save_mask(masks / "a.png")
    scores = write_lines(masks / "scores.csv", *segment_scores({"a.jpg": (0.9, 0, 0)}))
    unlabelled = evaluate(truth, masks)
    scores.unlink()
    write_lines(truth / "labels.csv", "image,melanoma", "a,1")
    for evaluation in (unlabelled, evaluate(truth, masks)):
        found = evaluation.scores
        assert (found.auc, found.intervals, found.labelled.count, found.labelled.problems) == ({}, {}, 0, ())
        assert math.isnan(found.auc_mean)
        assert not evaluation.failed


def test_every_metric_has_an_interval_that_contains_it(data_set: Path) -> None:
    found = evaluated(data_set, distances=True)
    assert set(found.masks.intervals) == set(found.masks.means)
    assert set(found.scores.intervals) == {*found.scores.auc, AUC_MEAN}
    for name, values in found.scores.per_class.items():
        intervals = found.scores.per_class_intervals[name]
        assert set(intervals) == set(values)
        for metric in set(values) - {"calibration_error"}:  # which resampling increases
            assert intervals[metric][0] <= values[metric] <= intervals[metric][1]


def test_intervals_of_a_class_come_from_the_resampled_images(data_set: Path) -> None:
    found = evaluated(data_set, seed=4).scores
    labels, scores = found.labelled.by_class()["seborrheic_keratosis"]
    drawn = np.random.default_rng(4).integers(IMAGES, size=(2000, IMAGES))
    samples = [class_metrics(labels[rows], scores[rows], np.ones(IMAGES)) for rows in drawn]
    for metric, interval in found.per_class_intervals["seborrheic_keratosis"].items():
        by_hand = percentile_interval(np.array([sample[metric] for sample in samples]))
        assert interval == pytest.approx(by_hand, abs=1e-9), metric


def test_without_evaluated_scores_classes_have_no_metrics(data_set: Path) -> None:
    write_lines(data_set / "masks" / "scores.csv", "image,status,reason,melanoma,seborrheic_keratosis,nevus")
    found = evaluated(data_set).scores
    assert (len(found.labelled.problems), found.labelled.count) == (IMAGES, 0)
    assert (found.per_class, found.per_class_intervals, found.confusion) == ({}, {}, {})


@pytest.mark.parametrize(
    ("labels", "scores", "named"),
    [
        ((0, 0), (0.1, 0.9), "sensitivity"),
        ((0, 0), (0.1, 0.2), "sensitivity, dice, ppv"),
        ((1, 1), (0.9, 0.8), "specificity, npv"),
        ((1, 0), (0.1, 0.2), "ppv"),
        ((1, 0), (0.9, 0.2), ""),
    ],
)
@pytest.mark.parametrize("protocol", [ProtocolName.PLAIN, ProtocolName.ISIC2017])
def test_zero_by_zero_is_one_and_noted_where_it_is_printed(
    protocol: ProtocolName, labels: tuple[int, int], scores: tuple[float, float], named: str, tmp_path: Path
) -> None:
    truth = write_lines(
        tmp_path / "gt.csv", "image,melanoma", *(f"{image_name(n)},{label}" for n, label in enumerate(labels))
    )
    table = write_lines(
        tmp_path / "s.csv", "image,melanoma", *(f"{image_name(n)},{score}" for n, score in enumerate(scores))
    )
    found = evaluate(truth, tmp_path, EvaluationOptions(scores=table, protocol=protocol))
    notes = [note for note in found.notes if "0/0" in note]
    assert [note.rpartition(": ")[2] for note in notes] == (
        [f"melanoma ({named})"] if named and protocol == ProtocolName.ISIC2017 else []
    )
    assert all(found.scores.per_class["melanoma"][metric] == 1 for metric in filter(None, named.split(", ")))


# Official figures


def test_official_figures_have_intervals_by_path(data_set: Path) -> None:
    found = evaluated(data_set, protocol=ProtocolName.ISIC2018)
    masks, scores = found.official.intervals["masks"], found.official.intervals["scores"]
    assert masks["overall"] == masks["validation"] == found.masks.intervals["threshold_jaccard"]
    assert masks["macro_average.jaccard"] == found.masks.intervals["jaccard"]
    assert scores["macro_average.auc"] == pytest.approx(found.scores.intervals[AUC_MEAN])
    assert scores["per_category.ap.melanoma"] == pytest.approx(found.scores.per_class_intervals["melanoma"]["ap"])
    assert scores["overall"] == scores["validation"] == scores["aggregate.balanced_accuracy"]
    low, high = scores["aggregate.balanced_accuracy"]
    assert low <= found.official.score_document["aggregate"]["balanced_accuracy"] <= high
    assert {f"macro_average.{name}" for name in found.official.score_document["macro_average"]} <= set(scores)


def test_without_official_figures_there_are_no_intervals_of_them(data_set: Path) -> None:
    (data_set / "masks" / f"{NAMES[0]}.png").unlink()
    assert set(evaluated(data_set, protocol=ProtocolName.ISIC2018).official.intervals) == {"scores"}


def write_labels(folder: Path, weights: bool) -> Path:
    """Write melanoma labels, with or without different weights for score and validation."""
    if not weights:
        rows = [f"{name},{label}" for name, label in zip(NAMES, IS_MELANOMA, strict=True)]
        return write_lines(folder / "equal.csv", "image,melanoma", *rows)
    rows = [f"{name},{IS_MELANOMA[number]},{number % 4},{number % 2}" for number, name in enumerate(NAMES)]
    return write_lines(folder / "weighted.csv", "image,melanoma,score_weight,validation_weight", *rows)


def test_official_intervals_use_the_weights(data_set: Path) -> None:
    weighted, equal = (
        evaluated(data_set, protocol=ProtocolName.ISIC2017, labels=write_labels(data_set, weights)).official.intervals
        for weights in (True, False)
    )
    assert weighted["scores"]["overall"] != weighted["scores"]["validation"]
    assert equal["scores"]["overall"] == equal["scores"]["validation"]


@pytest.mark.parametrize("protocol", [ProtocolName.PLAIN, ProtocolName.ISIC2017])
def test_weights_only_affect_official_figures(protocol: ProtocolName, data_set: Path) -> None:
    weighted, equal = (
        evaluated(data_set, protocol=protocol, labels=write_labels(data_set, weights), by=("lesion_size",))
        for weights in (True, False)
    )
    assert (weighted.scores, weighted.groups, weighted.masks) == (equal.scores, equal.groups, equal.masks)
    assert weighted.scores.per_class["melanoma"]["auc"] == pytest.approx(weighted.scores.auc["melanoma"])
    is_plain = protocol == ProtocolName.PLAIN
    assert (weighted.official.score_document == equal.official.score_document) is is_plain
    assert (weighted.official.intervals == equal.official.intervals) is is_plain
    excluded = [name for name in NAMES[::4] if any(name in note for note in weighted.notes)]
    assert excluded == ([] if is_plain else NAMES[::4])


# Confusion


@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_confusion_is_counted_above_the_threshold(threshold: float, data_set: Path) -> None:
    found = evaluated(data_set, score_threshold=threshold)
    predicted = np.array([class_scores(number, 0.5)[0] > threshold for number in range(IMAGES)])
    label = np.array(IS_MELANOMA) == 1
    hits = label & predicted
    counts = hits.sum(), (~label & predicted).sum(), (label & ~predicted).sum(), (~label & ~predicted).sum()
    assert found.scores.confusion["melanoma"] == counts
    assert found.scores.per_class["melanoma"]["sensitivity"] == counts[0] / 20
    drawn = np.random.default_rng(0).integers(IMAGES, size=(2000, IMAGES))
    by_hand = percentile_interval(hits[drawn].sum(axis=1) / label[drawn].sum(axis=1))
    assert found.scores.per_class_intervals["melanoma"]["sensitivity"] == pytest.approx(by_hand)
    official = found.official.score_document["per_category"]["sensitivity"]["melanoma"]
    assert official == evaluated(data_set).scores.per_class["melanoma"]["sensitivity"]


def test_the_confusion_matrix_includes_the_class_without_a_column(data_set: Path) -> None:
    matrix = evaluated(data_set).scores.matrix
    assert matrix
    assert matrix.classes == ("melanoma", "seborrheic_keratosis", "nevus")
    by_hand = np.zeros((3, 4), int)
    for number in range(IMAGES):
        by_hand[number % 3, int(np.argmax(class_scores(number, 0.5)))] += 1
    assert matrix.counts == tuple(map(tuple, by_hand.tolist()))


@pytest.mark.parametrize(
    ("label_header", "score_header", "expected"),
    [
        ("image,A,B", "image,A,B", ((2, 0, 1), (1, 1, 0))),
        ("image,melanoma,seborrheic_keratosis", "image,melanoma,seborrheic_keratosis", ((2, 0, 1), (1, 1, 0))),
        ("image,melanoma", "image,melanoma,B", None),
    ],
)
def test_the_confusion_matrix_of_other_classes(
    label_header: str, score_header: str, expected: Any, tmp_path: Path
) -> None:
    label_rows = [row[: 2 * label_header.count(",") - 1] for row in ("1,0", "1,0", "1,0", "0,1", "0,1")]
    score_rows = ["0.9,0.2", "0.3,0.2", "0.5,0.5", "0.4,0.3", "0.1,0.2"]
    labels = write_lines(tmp_path / "gt.csv", label_header, *(f"{n},{row}" for n, row in enumerate(label_rows)))
    scores = write_lines(tmp_path / "s.csv", score_header, *(f"{n},{row}" for n, row in enumerate(score_rows)))
    matrix = evaluate(labels, tmp_path, EvaluationOptions(scores=scores)).scores.matrix
    assert (matrix and matrix.counts) == expected


@pytest.mark.parametrize("row", ["1,0,0", "1,1,1"])
def test_images_of_no_class_or_two_have_no_confusion_matrix(row: str, tmp_path: Path) -> None:
    scores = write_lines(tmp_path / "s.csv", "image,A,B", "0,.1,.2", "1,.3,.2")
    labels = write_lines(tmp_path / "gt.csv", "image,A,B", "0,0,1", row)
    assert evaluate(labels, tmp_path, EvaluationOptions(scores=scores)).scores.matrix is None
