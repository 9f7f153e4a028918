"""The tables, the notes and the JSON document of an evaluation."""

import json
import math
from dataclasses import replace

import pytest

from lesioncli.cli.show_evaluation import print_evaluation, print_evaluation_notes
from lesioncli.evaluation.cases import CaseResult
from lesioncli.evaluation.document import evaluation_document
from lesioncli.evaluation.result import Evaluation, MaskEvaluation, ScoreEvaluation
from lesioncli.evaluation.statistics.comparison import Comparison, Difference
from lesioncli.evaluation.statistics.groups import Estimate, GroupResult
from lesioncli.options import ProtocolName

MASKS = MaskEvaluation(
    cases=(
        CaseResult("a", {"jaccard": 0.5, "hausdorff95_px": math.nan}),
        CaseResult("b", {}, problem="no prediction"),
        CaseResult("c", {"jaccard": 0.7, "hausdorff95_px": math.nan}, note="prediction is soft"),
    ),
    extra=("stray",),
    means={"jaccard": 0.6, "hausdorff95_px": math.nan},
    intervals={"jaccard": (0.5, 0.7)},
)
GROUP = GroupResult(
    "[red]site",
    "[bold]back",
    images=2,
    estimates={"jaccard": Estimate(0.6, 0.5, 0.7, 2)},
    differences={"jaccard": Estimate(-0.2, -0.3, -0.1, 2)},
)
COMPARISON = Comparison(
    name="a/masks",
    other="b/masks",
    differences={"jaccard": Difference(0.6, 0.5, 0.1, 0.05, 0.15, 0.01, images=2, clusters=2)},
    per_image={},
    only_ours=("a",),
    only_other=(),
)


def test_names_in_tables_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation(Evaluation(ProtocolName.PLAIN, MASKS, groups=(GROUP,)))
    printed = capsys.readouterr().out
    assert "[red]site" in printed
    assert "[bold]back" in printed
    assert "-0.200 (-0.300 to -0.100)" in printed


def test_tables_have_values_intervals_and_numbers_of_images(capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation(Evaluation(ProtocolName.PLAIN, MASKS, comparison=COMPARISON))
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if "│" in line]
    assert ["jaccard", "0.6000", "0.500 to 0.700", "2"] in cells
    assert ["hausdorff95_px", "undefined", "", "0"] in cells
    assert ["jaccard", "0.600", "0.500", "+0.1000", "0.050 to 0.150", "0.0100"] in cells
    assert max(len(line) for line in lines if "│" in line) <= 80


def test_notes_name_every_file_that_was_not_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation_notes(Evaluation(ProtocolName.PH2, MASKS, comparison=COMPARISON, notes=("a note",)))
    printed = capsys.readouterr()
    assert printed.out == ""
    for text in ("b: no prediction", "stray", "a note", "c: prediction is soft", "ph2", "a"):
        assert text in printed.err


def test_document_is_json_without_nan() -> None:
    scores = ScoreEvaluation(auc={"melanoma": math.nan})
    evaluation = Evaluation(ProtocolName.PLAIN, MASKS, scores, groups=(GROUP,), comparison=COMPARISON)
    document = json.loads(json.dumps(evaluation_document(evaluation), allow_nan=False))["lesioncli"]
    assert (document["truths"], document["scored"]) == (3, 2)
    assert document["means"] == {"jaccard": 0.6, "hausdorff95_px": None}
    assert document["auc"] == {"melanoma": None}
    assert document["problems"] == ["b: no prediction"]
    assert document["groups"][0]["behind"] == ["jaccard"]
    assert document["comparison"]["differences"]["jaccard"]["interval"] == [0.05, 0.15]
    assert list(document)[:3] == ["protocol", "ranking", "truths"]


def test_compared_predictions_are_named_by_their_folders(capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation(Evaluation(ProtocolName.PLAIN, MASKS, comparison=COMPARISON))
    printed = capsys.readouterr().out
    assert "a/masks" in printed
    assert "b/masks" in printed
    named = replace(COMPARISON, name="runs/7/lite", other="runs/7/full")
    print_evaluation(Evaluation(ProtocolName.PLAIN, MASKS, comparison=named))
    printed = capsys.readouterr().out
    assert " lite " in printed
    assert "runs" not in printed
