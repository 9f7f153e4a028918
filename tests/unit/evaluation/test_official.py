"""Same digits as isic-challenge-scoring 5.8.0: as recorded, and as the scorer prints them where it is installed."""

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
SMALL_SAMPLE = "intervals of fewer than 20 images"  # every small case has this note


def ours(case: Path) -> Evaluation:
    if (case / "truth").is_dir():
        return evaluate(case / "truth", case / "prediction", EvaluationOptions(protocol=ProtocolName.ISIC2018))
    protocol = {"auc": "isic2017", "balanced_accuracy": "isic2018"}[(case / "metric.txt").read_text()]
    return evaluate(
        case / "truth.csv", case, EvaluationOptions(scores=case / "prediction.csv", protocol=ProtocolName(protocol))
    )


def document(evaluation: Evaluation) -> Mapping[str, Any]:
    """Return the official part of our document, as `evaluate --json` prints it."""
    whole = evaluation.official.joined()
    return {key: value for key, value in whole.items() if key != "classification"}


def flat(content: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def assert_same(our_document: Mapping[str, Any], official: Mapping[str, Any]) -> None:
    assert dict(flat(our_document)) == pytest.approx(dict(flat(official)), abs=DIGITS, rel=0)


@pytest.mark.parametrize("name", SAME)
def test_same_digits_as_recorded(name: str, tmp_path: Path) -> None:
    SAME[name](tmp_path)
    evaluation = ours(tmp_path)
    assert not evaluation.failed
    assert_same(document(evaluation), RECORDED[name])


def large_cases() -> dict[str, Any]:
    """Return cases as large as those of the challenges: random masks, and scores with and without ties."""
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
    not OFFICIAL.exists(), reason="needs the official scorer, which make test installs if there is a Python 3.13"
)
def test_same_digits_as_the_scorer_itself(tmp_path: Path) -> None:
    large = {f"large {name}": case for name, case in large_cases().items()}
    write_cases(tmp_path, {**SAME, **OTHER, **large})
    official = score_officially(OFFICIAL, tmp_path)
    assert {name: official[name] for name in RECORDED} == RECORDED
    for name in (*SAME, *large):
        assert_same(document(ours(tmp_path / name)), official[name])


@pytest.mark.parametrize(("name", "excluded"), [("two classes", ""), ("the image that never counts", "ISIC_0035068")])
def test_images_of_weight_zero_are_named(name: str, excluded: str, tmp_path: Path) -> None:
    SAME[name](tmp_path)
    notes = [note for note in ours(tmp_path).notes if not note.startswith(SMALL_SAMPLE)]
    assert len(notes) == bool(excluded)
    assert excluded in "".join(notes)


# Where the official scorer is wrong or brittle: a part of its output, our macro_average (jaccard or auc), and the kind
# and a part of our message.
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
    "a grey JPEG": ("0.8", math.nan, "error: 1 .jpg"),
    "another size": ("has dimensions", math.nan, "problem: ISIC_0000001: sizes differ: ground truth 20 x 10"),
    "no mask": (
        "No matching submission",
        math.nan,
        "error: ISIC_0000002.png",
    ),
    "an empty file": ("Could not decode", math.nan, "problem: ISIC_0000001: prediction unreadable"),
    "ISIC-2017's own column": ("Missing column", GOOD_AUC, ""),
    "integers": ("non-floating-point", 1.0, ""),
    "a blank in the header": ("Missing columns", GOOD_AUC, ""),
    "ids with .png": ("Missing images", GOOD_AUC, ""),
    "a column more": ("Extra columns", GOOD_AUC, ""),
    "a row more": ("Extra images", GOOD_AUC, "extra score: ISIC_0000099"),
    "a row less": ("Missing images", math.nan, "problem: ISIC_0000040: no row of scores"),
    "a row twice": ("Duplicate image rows", math.nan, "error: duplicate image id ISIC_0000001"),
    "a missing score": ("Missing value(s)", math.nan, "problem: ISIC_0000040: melanoma not a number from 0 to 1"),
    "a score above 1": ("outside the interval", math.nan, "problem: ISIC_0000040: melanoma not a number from 0 to 1"),
    "one label only": ("ValueError", math.nan, "note: seborrheic_keratosis: all 40 labels are 0"),
    "weights in another order": ("0.557", RECORDED["weights"]["macro_average"]["auc"], "note: weight 0"),
}


def our_output(case: Path) -> tuple[float, str]:
    """Return our figure, nan if there is none, and all our messages."""
    try:
        evaluation = ours(case)
    except InputError as error:
        return math.nan, f"error: {error}"
    cases, labelled = evaluation.masks.cases, evaluation.scores.labelled
    messages = [
        *(f"problem: {result.name}: {result.problem}" for result in cases if result.problem),
        *(f"problem: {problem}" for problem in labelled.problems),
        *(f"note: {result.name}: {result.note}" for result in cases if result.note),
        *(f"note: {note}" for note in evaluation.notes if not note.startswith(SMALL_SAMPLE)),
        *(f"extra: {name}" for name in evaluation.masks.extra),
        *(f"extra score: {name}" for name in labelled.extra),
    ]
    figures = document(evaluation).get("macro_average", {})
    return figures.get("jaccard", figures.get("auc", math.nan)), "\n".join(messages)


@pytest.mark.parametrize("name", OTHER)
def test_where_the_official_scorer_is_wrong_or_brittle(name: str, tmp_path: Path) -> None:
    OTHER[name](tmp_path)
    official, expected_figure, expected_message = DIFFERENT[name]
    assert official in RECORDED[name].get("error", str(RECORDED[name].get("overall")))
    figure, messages = our_output(tmp_path)
    assert figure == pytest.approx(expected_figure, abs=DIGITS, nan_ok=True)
    kind, _, text = expected_message.partition(": ")
    assert kind in messages
    assert text in messages
    assert bool(messages) == bool(expected_message)
