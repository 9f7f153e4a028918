"""evaluate() with other predictions: which images are compared, and with which files."""

import re
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.evaluation_data import (
    IMAGES,
    block,
    image_name,
    is_class,
    jaccards,
    save_mask,
    write_lines,
    write_predictions,
)

from lesioncli.errors import InputError
from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.result import Evaluation
from lesioncli.evaluation.statistics.comparison import Comparison
from lesioncli.options import EvaluationOptions, ProtocolName


def evaluated(folder: Path, compare: Path, **options: Any) -> Evaluation:
    return evaluate(folder / "labels", folder / "masks", EvaluationOptions(compare=compare, **options))


def compared(folder: Path, compare: Path, **options: Any) -> Comparison:
    comparison = evaluated(folder, compare, **options).comparison
    assert comparison
    return comparison


def test_only_images_evaluated_in_both_are_compared(data_set: Path) -> None:
    (data_set / "other" / f"{image_name(3)}.png").unlink()
    save_mask(data_set / "masks" / f"{image_name(5)}.png", block(3, 3, (9, 20)))
    found = compared(data_set, data_set / "other")
    assert (found.only_ours, found.only_other) == ((image_name(3),), (image_name(5),))
    assert len(found.per_image) == IMAGES - 2
    alone = evaluate(data_set / "labels", data_set / "other")
    values = {case.name: case.metrics["jaccard"] for case in alone.masks.evaluated}
    assert found.differences["jaccard"].other == pytest.approx(np.mean([values[name] for name in found.per_image]))
    assert found.differences["melanoma"].other == pytest.approx(alone.scores.auc["melanoma"])
    assert found.differences["melanoma"].images == IMAGES


def test_predictions_do_not_differ_from_themselves(data_set: Path) -> None:
    found = compared(data_set, data_set / "masks")
    assert {astuple(each)[2:6] for each in found.differences.values()} == {(0, 0, 0, 1)}
    assert found.only_ours == found.only_other == ()


def test_a_table_of_scores_is_compared_by_scores_alone(data_set: Path) -> None:
    rows = (f"{image_name(number)},{is_class(number)[0]}" for number in range(IMAGES))
    labels = write_lines(data_set / "gt.csv", "image,melanoma", *rows)
    options = EvaluationOptions(compare=data_set / "other" / "scores.csv")
    comparison = evaluate(labels, data_set / "masks", options).comparison
    assert comparison
    assert set(comparison.differences) == {"melanoma"}


@pytest.mark.parametrize("protocol", [ProtocolName.PLAIN, ProtocolName.ISIC2017])
def test_a_table_of_scores_is_compared_by_scores_even_if_there_are_masks(
    protocol: ProtocolName, data_set: Path
) -> None:
    table = data_set / "other" / "scores.csv"
    write_lines(table, *table.read_text().splitlines()[:-1])
    evaluation = evaluated(data_set, table, protocol=protocol)
    assert evaluation.comparison
    comparison = evaluation.comparison
    assert (comparison.only_ours, comparison.only_other) == ((image_name(IMAGES - 1),), ())
    assert comparison.per_image == {}
    folder = compared(data_set, data_set / "other", protocol=protocol).differences
    assert comparison.differences == {name: each for name, each in folder.items() if name not in evaluation.masks.means}
    assert jaccards(evaluation) == jaccards(evaluate(data_set / "labels", data_set / "masks"))


def test_a_table_of_pairs_is_compared_with_a_folder(data_set: Path) -> None:
    rows = [f"labels/{image_name(n)}_segmentation.png,masks/{image_name(n)}.png" for n in range(IMAGES)]
    pairs = write_lines(data_set / "pairs.csv", "truth,prediction", *rows)
    found = evaluate(pairs, data_set / "nowhere", EvaluationOptions(compare=data_set / "other"))
    assert found.comparison
    jaccard = found.comparison.differences["jaccard"]
    other = evaluate(data_set / "labels", data_set / "other").masks.means["jaccard"]
    assert jaccard.images == IMAGES
    assert jaccard.other == pytest.approx(other) != found.masks.means["jaccard"]


def test_a_table_of_scores_needs_labels(data_set: Path) -> None:
    (data_set / "labels" / "labels.csv").unlink()
    table = data_set / "other" / "scores.csv"
    with pytest.raises(InputError, match=rf"{re.escape(str(table))}.*--labels"):
        evaluated(data_set, table)


@pytest.mark.parametrize("other", ["nowhere", "strangers", "narrower"])
def test_predictions_that_cannot_be_compared_are_refused(other: str, data_set: Path) -> None:
    write_predictions(data_set / "strangers", 3, 0.5, range(100, 103))
    save_mask(data_set / "narrower" / f"{image_name(1)}.png", block(3, 3, (9, 20)))
    with pytest.raises(InputError, match=rf"{other}(: |/{image_name(100)}\.png: )"):
        evaluated(data_set, data_set / other)
