"""The same digits as isic-challenge-scoring 5.8.0: by its recorded answers, and by the scorer where it is there."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.official_cases import (
    DOCUMENTS,
    OTHER,
    SAME,
    SEVEN,
    TWO,
    ids,
    masks,
    rows,
    score_officially,
    tables,
    write_cases,
)

from lesioncli.errors import InputError
from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.result import Evaluation
from lesioncli.options import EvaluationOptions, ProtocolName

OFFICIAL = Path(sys.prefix) / "official" / "bin" / "python"
RECORDED: Mapping[str, Any] = json.loads(DOCUMENTS.read_text(encoding="utf-8"))
DIGITS = 1e-9
FEW = "intervals of fewer than 20 images"  # a note that every small case has


def ours(case: Path) -> Evaluation:
    if (case / "truth").is_dir():
        return evaluate(case / "truth", case / "prediction", EvaluationOptions(protocol=ProtocolName.ISIC2018))
    protocol = {"auc": "isic2017", "balanced_accuracy": "isic2018"}[(case / "metric.txt").read_text()]
    return evaluate(
        case / "truth.csv", case, EvaluationOptions(scores=case / "prediction.csv", protocol=ProtocolName(protocol))
    )


def document(evaluation: Evaluation) -> Mapping[str, Any]:
    """The official part of our document, as `evaluate --json` prints it."""
    whole = evaluation.official.joined()
    return {key: value for key, value in whole.items() if key != "classification"}


def flat(content: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def assert_same(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    assert dict(flat(mine)) == pytest.approx(dict(flat(theirs)), abs=DIGITS, rel=0)


@pytest.mark.parametrize("name", SAME)
def test_same_digits_as_recorded(name: str, tmp_path: Path) -> None:
    SAME[name](tmp_path)
    evaluation = ours(tmp_path)
    assert not evaluation.failed
    assert_same(document(evaluation), RECORDED[name])


def large_cases() -> dict[str, Any]:
    """Cases as large as the challenges' own, of random masks and of scores with and without ties."""
    rng = np.random.default_rng(11)
    shapes = [(int(rng.integers(50, 400)), int(rng.integers(50, 400))) for _ in range(30)]
    pairs = [tuple((rng.random((2, *shape)) < rng.random()).astype(np.uint8) * 255) for shape in shapes]
    soft = [tuple(rng.integers(0, 256, (2, 60, 90), np.uint8)) for _ in range(10)]
    labels = (rng.random((600, 2)) < (0.2, 0.15)).astype(float)
    scores = 0.3 * labels + 0.7 * rng.random((600, 2))
    scores[::2] = scores[::2].round(2)
    weights = rng.integers(0, 3, (600, 2)) / 2
    weighted = f"{TWO},score_weight,validation_weight"
    seven = np.eye(7)[rng.integers(0, 7, 300)]
    return {
        "masks": masks(*pairs, *soft),
        "one bit": masks(*pairs, one_bit=True),
        "scores": tables(rows(TWO, ids(600), *labels.T), rows(TWO, ids(600), *scores.T)),
        "weights": tables(rows(weighted, ids(600), *labels.T, *weights.T), rows(TWO, ids(600), *scores.T)),
        "seven": tables(
            rows(SEVEN, ids(300), *seven.T),
            rows(SEVEN, ids(300), *(seven + rng.random((300, 7))).T.round(1) / 2),
            "balanced_accuracy",
        ),
    }


@pytest.mark.skipif(
    not OFFICIAL.exists(), reason="needs the official scorer, which make test sets up where there is a Python 3.13"
)
def test_same_digits_as_the_scorer_itself(tmp_path: Path) -> None:
    large = {f"large {name}": case for name, case in large_cases().items()}
    write_cases(tmp_path, {**SAME, **OTHER, **large})
    theirs = score_officially(OFFICIAL, tmp_path)
    assert {name: theirs[name] for name in RECORDED} == RECORDED
    for name in (*SAME, *large):
        assert_same(document(ours(tmp_path / name)), theirs[name])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("two classes", ()),
        ("the image that never counts", ("weight 0, excluded from official figures of scores: ISIC_0035068",)),
    ],
)
def test_images_that_do_not_count_are_named(name: str, said: tuple[str, ...], tmp_path: Path) -> None:
    SAME[name](tmp_path)
    assert tuple(note for note in ours(tmp_path).notes if not note.startswith(FEW)) == said


# Where the official scorer is wrong or brittle: its answer, and ours. A figure is macro_average's jaccard or auc.
GOOD_AUC = RECORDED["two classes"]["macro_average"]["auc"]
DIFFERENT: Mapping[str, tuple[str, float, str]] = {
    "a stray file": ("Unknown ground truth file", 0.8, ""),
    "a superpixel file": ("0.9", 0.8, ""),
    "a longer number": ("Multiple matching submissions", 0.8, "extra: ISIC_10000001"),
    "a mask in colour": ("not single-channel", 0.8, "note: ISIC_0000001: prediction is stored as RGB"),
    "a mask of 16 bits": ("not single-channel", 0.8, "note: ISIC_0000001: prediction is stored as I;16"),
    "a mask of 0 and 1": ("0.0", math.nan, "problem: ISIC_0000001: prediction is a 0/1 mask, not 0/255"),
    "a mask without its end": ("0.8", math.nan, "problem: ISIC_0000001: prediction unreadable"),
    "half a mask": ("0.0", math.nan, "problem: ISIC_0000001: prediction unreadable"),
    "a grey JPEG": ("0.8", math.nan, "problem: ISIC_0000001: no prediction: ISIC_0000001.jpg is not a PNG"),
    "another size": ("has dimensions", math.nan, "problem: ISIC_0000001: sizes differ: ground truth 20 x 10, prediction 10 x 20"),
    "no mask": (
        "No matching submission",
        math.nan,
        "error: no predicted mask has the name of a ground truth mask",
    ),
    "an empty file": ("Could not decode", math.nan, "problem: ISIC_0000001: prediction unreadable"),
    "ISIC-2017's own column": ("Missing column", GOOD_AUC, ""),
    "integers": ("non-floating-point", 1.0, ""),
    "a blank in the header": ("Missing columns", GOOD_AUC, ""),
    "ids with .png": ("Missing images", GOOD_AUC, ""),
    "a column more": ("Extra columns", GOOD_AUC, ""),
    "a row more": ("Extra images", GOOD_AUC, "extra score: ISIC_0000099"),
    "a row less": ("Missing images", math.nan, "problem: ISIC_0000040: no row of scores"),
    "a row twice": ("Duplicate image rows", math.nan, "error: image 'ISIC_0000001' is there twice"),
    "a missing score": ("Missing value(s)", math.nan, "problem: ISIC_0000040: melanoma not a number from 0 to 1"),
    "a score above 1": ("outside the interval", math.nan, "problem: ISIC_0000040: melanoma not a number from 0 to 1"),
    "one label only": ("ValueError", math.nan, "note: seborrheic_keratosis: all 40 labels are 0"),
    "weights in another order": ("0.557", RECORDED["weights"]["macro_average"]["auc"], "note: weight 0"),
}


def answer(case: Path) -> tuple[float, str]:
    """Our figure, nan where there is none, and all that we say."""
    try:
        evaluation = ours(case)
    except InputError as error:
        return math.nan, f"error: {error}"
    said = [f"problem: {each.name}: {each.problem}" for each in evaluation.masks.cases if each.problem]
    said += [f"problem: {each}" for each in evaluation.scores.labelled.problems]
    said += [f"note: {each.name}: {each.note}" for each in evaluation.masks.cases if each.note]
    said += [f"note: {each}" for each in evaluation.notes if not each.startswith(FEW)]
    said += [f"extra: {each}" for each in evaluation.masks.extra] + [
        f"extra score: {each}" for each in evaluation.scores.labelled.extra
    ]
    figures = document(evaluation).get("macro_average", {})
    return figures.get("jaccard", figures.get("auc", math.nan)), "\n".join(said)


@pytest.mark.parametrize("name", OTHER)
def test_where_the_official_scorer_is_wrong_or_brittle(name: str, tmp_path: Path) -> None:
    OTHER[name](tmp_path)
    theirs, figure, said = DIFFERENT[name]
    assert theirs in RECORDED[name].get("error", str(RECORDED[name].get("overall")))
    mine, telling = answer(tmp_path)
    assert mine == pytest.approx(figure, abs=DIGITS, nan_ok=True)
    assert said.partition(": ")[0] in telling
    assert said.partition(": ")[2] in telling
    assert bool(telling) == bool(said)
