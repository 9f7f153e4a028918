"""Labels and scores of images: which columns and rows are read, how they are joined, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation_data import SCORES_HEADER, problems, save_mask, segment_scores, write_lines

from lesioncli.errors import InputError
from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.labelled_scores import LabelledScores
from lesioncli.evaluation.metrics.scores import class_metrics
from lesioncli.evaluation.result import Evaluation
from lesioncli.options import EvaluationOptions, ProtocolName

P_AND_Q = segment_scores({"p.jpg": (0.9, 0, 0), "q.jpg": (0.1, 0, 0)})


@pytest.fixture(autouse=True)
def one_pair_of_masks(truth: Path, masks: Path) -> None:
    """Every test adds labels and scores to a data set of one mask."""
    save_mask(truth / "a.png")
    save_mask(masks / "a.png")


def notes(evaluation: Evaluation) -> tuple[str, ...]:
    """Return the notes without the one on intervals of few images, which every small data set has."""
    return tuple(note for note in evaluation.notes if not note.startswith("intervals"))


def test_labelled_scores_without_data_have_no_classes() -> None:
    labelled = LabelledScores()
    assert (labelled.count, labelled.by_class(), labelled.labels.shape) == (0, {}, (0, 0))


def test_equal_weights_replace_those_of_the_labels() -> None:
    labels, scores = np.array([[True], [False]]), np.array([[0.3], [0.2]])
    labelled = LabelledScores(("mel",), ("a", "b"), ("a", "b"), labels, scores, np.array([[2.0, 0], [0, 1]]))
    assert (labelled.with_equal_weights().weights == 1).all()
    assert labelled.with_equal_weights().by_class()["mel"][1].tolist() == [0.3, 0.2]


def test_each_class_has_its_own_column(truth: Path, masks: Path) -> None:
    write_lines(truth / "labels.csv", "nevus,image,melanoma", "0,p,1", "1,q,0", "1,r,0")
    rows = {"p.jpg": (0.9, 0, 0.5), "q.jpg": (0.1, 0, 0.4), "r.jpg": (0.2, 0, 0.6)}
    write_lines(masks / "scores.csv", *segment_scores(rows))
    scores = evaluate(truth, masks).scores
    assert scores.auc == {"melanoma": 1.0, "nevus": 0.5}
    assert scores.auc_mean == 0.75


@pytest.mark.parametrize("header", ["image,Melanoma", "IMAGE_ID,melanoma", "isic_id, melanoma ", "\ufeffname,melanoma"])
@pytest.mark.parametrize("name", ["p", "p.jpg", "p.JPG", " p "])
def test_spellings_of_labels(header: str, name: str, truth: Path, masks: Path) -> None:
    write_lines(truth / "labels.csv", header, "", f"{name},1.0", "q,0")
    write_lines(masks / "scores.csv", *segment_scores({"p.jpg": (0.9, 0, 0), "q.png": (0.1, 0, 0)}))
    scores = evaluate(truth, masks).scores
    assert (scores.auc, scores.labelled.count) == ({"melanoma": 1.0}, 2)


@pytest.mark.parametrize("header", ["Seborrheic keratosis,Melanoma", "seborrheic-keratosis,melanoma"])
def test_a_blank_or_hyphen_in_a_header_is_an_underscore(header: str, truth: Path, masks: Path) -> None:
    write_lines(truth / "labels.csv", f"Image ID,{header}", "p,0,1", "q,1,0")
    write_lines(masks / "scores.csv", *segment_scores({"p.jpg": (0.9, 0, 0), "q.jpg": (0.1, 1, 0)}))
    options = EvaluationOptions(by=("seborrheic keratosis",))
    evaluation = evaluate(truth, masks, options)
    assert evaluation.scores.auc == {"melanoma": 1.0, "seborrheic_keratosis": 1.0}
    assert [group.group for group in evaluation.groups] == ["0", "1", "unknown"]


def test_ignored_columns_of_labels_are_noted(truth: Path, masks: Path) -> None:
    labels = write_lines(truth / "labels.csv", "image,name,melanoma,sk,score_weight", "p,x,1,0,1", "q,y,0,1,1")
    assert notes(evaluate(truth, masks)) == ()
    write_lines(masks / "scores.csv", *P_AND_Q)
    (note,) = notes(evaluate(truth, masks))
    assert note.startswith(f"{labels}: ")
    assert note.endswith(": sk")


@pytest.mark.parametrize(
    ("header", "protocol", "named"),
    [
        ("melanoma", ProtocolName.ISIC2017, "seborrheic_keratosis"),
        ("melanoma,seborrheic_keratosis", ProtocolName.ISIC2017, ""),
        ("melanoma,seborrheic_keratosis,nevus", ProtocolName.ISIC2017, "nevus"),
        ("melanoma,nevus", ProtocolName.PLAIN, ""),
    ],
)
def test_scores_are_ranked_for_all_classes_of_a_challenge_or_not_at_all(
    header: str, protocol: ProtocolName, named: str, truth: Path, masks: Path
) -> None:
    names = ("ISIC_0000001", "ISIC_0000002")
    rows = [f"{name},{','.join(label * (1 + header.count(',')))}" for name, label in zip(names, "10", strict=True)]
    labels = write_lines(truth / "labels.csv", f"image,{header}", *rows)
    scores = {f"{name}.jpg": (score,) * 3 for name, score in zip(names, (0.9, 0.1), strict=True)}
    write_lines(masks / "scores.csv", *segment_scores(scores))
    evaluation = evaluate(labels, masks, EvaluationOptions(protocol=protocol))
    assert [note.split()[-1] for note in notes(evaluation)] == ([named] if named else [])
    assert ("scores" in evaluation.official.ranking) is not bool(named)
    assert evaluation.official.score_document["macro_average"]["auc"] == 1


def test_labels_find_scores_in_sub_folders_as_masks_do(truth: Path, masks: Path) -> None:
    write_lines(truth / "labels.csv", "image,melanoma", "p,1", "q,0", "r,0")
    rows = {"s/p.jpg": (0.9, 0, 0), "t/q.jpg": (0.1, 0, 0), "s/r.jpg": (0.1, 0, 0), "t/r.jpg": (0.1, 0, 0)}
    write_lines(masks / "scores.csv", *segment_scores(rows))
    scores = evaluate(truth, masks).scores
    assert (scores.auc, scores.labelled.count) == ({"melanoma": 1.0}, 2)
    (problem,) = scores.labelled.problems
    assert problem.startswith("r: ")
    assert problem.endswith("s/r, t/r")


@pytest.mark.parametrize("name", [" p ", "p.v2", "p.jpg"])
def test_an_image_is_named_by_its_file_without_the_suffix(name: str, truth: Path, masks: Path) -> None:
    save_mask(truth / f"{name}.png")
    write_lines(masks / "scores.csv", SCORES_HEADER, f"{name}.tif,,,,failed,cut short,,,,,")
    assert "cut short" in problems(evaluate(truth, masks))[name]


@pytest.mark.parametrize("value", ["", "nan", "n/a", "1.01", "-0.01", "inf"])
def test_a_labelled_image_without_a_usable_score_is_a_problem(value: str, truth: Path, masks: Path) -> None:
    rows = {"p.jpg": (0.9, 0, 0), "q.jpg": (0.1, 0, 1), "r.jpg": (value, 0, 0), "s.jpg": (value, 0, value)}
    write_lines(masks / "scores.csv", *segment_scores(rows), "u.jpg,,,,failed,decode: cut short,,,,,")
    write_lines(truth / "labels.csv", "image,melanoma,nevus", "u,0,0", "t,0,1", "s,1,0", "r,1,0", "q,0,1", "p,1,0")
    evaluation = evaluate(truth, masks)
    labelled = evaluation.scores.labelled
    named = {"r": "melanoma", "s": "melanoma and nevus", "t": "", "u": "decode: cut short"}
    assert [problem[:2] for problem in labelled.problems] == [f"{name}:" for name in named]
    assert all(part in problem for part, problem in zip(named.values(), labelled.problems, strict=True))
    assert (evaluation.scores.auc, labelled.count) == ({"melanoma": 1.0, "nevus": 1.0}, 2)
    assert not any(problems(evaluation).values())
    assert (evaluation.incomplete, evaluation.failed) == (("scores",), True)


def test_scores_without_rows_lack_every_labelled_image(truth: Path, masks: Path) -> None:
    write_lines(truth / "labels.csv", "image,melanoma", "a,1")
    write_lines(masks / "scores.csv", SCORES_HEADER)
    scores = evaluate(truth, masks).scores
    assert [problem[:2] for problem in scores.labelled.problems] == ["a:"]
    assert (list(scores.auc), scores.labelled.count) == (["melanoma"], 0)
    assert np.isnan(scores.auc["melanoma"])


def test_a_row_without_a_label_is_named(truth: Path, masks: Path) -> None:
    write_lines(truth / "labels.csv", "image,melanoma", "p,1", "q,0")
    write_lines(masks / "scores.csv", *P_AND_Q, "unlabelled.jpg,x.png,10,8,ok,,1,1,1,.3,.9")
    evaluation = evaluate(truth, masks)
    assert (evaluation.scores.labelled.extra, evaluation.failed) == (("unlabelled",), False)


def test_csv_files_without_labels_are_ignored(truth: Path, masks: Path) -> None:
    write_lines(truth / "labels.csv", "image,melanoma", "p,1", "q,0")
    write_lines(truth / "metadata.csv", "image_id,sex", "p,female")
    write_lines(truth / "counts.csv", "melanoma,nevus", "374,1372")
    write_lines(truth / "empty.csv")
    write_lines(masks / "scores.csv", *P_AND_Q)
    assert evaluate(truth, masks).scores.auc == {"melanoma": 1.0}


def test_fields_may_be_separated_by_semicolons(truth: Path, masks: Path) -> None:
    write_lines(truth / "labels.csv", "image;melanoma;site", "p;1;arm, left", "q;0;leg")
    write_lines(masks / "scores.csv", "image;melanoma;seborrheic_keratosis", "p;.9;0", "q;.1;0")
    evaluation = evaluate(truth, masks, EvaluationOptions(by=("site",)))
    assert evaluation.scores.auc == {"melanoma": 1.0}
    assert [group.group for group in evaluation.groups] == ["arm, left", "leg", "unknown"]


# Refused tables


def test_if_no_id_has_a_row_of_scores_one_of_each_is_shown(tmp_path: Path) -> None:
    labels = write_lines(tmp_path / "gt.csv", "image,melanoma", "case 1,1", "case 2,0")
    scores = write_lines(tmp_path / "s.csv", "image,melanoma", "case-1,.9", "case-2,.1")
    with pytest.raises(InputError, match=r"gt\.csv: .*case 1 .*case-1"):
        evaluate(labels, tmp_path, EvaluationOptions(scores=scores))


def test_classes_that_segment_does_not_write_are_named(truth: Path, masks: Path) -> None:
    write_lines(masks / "scores.csv", *segment_scores({"p.jpg": (0.9, 0, 0)}))
    labels = write_lines(truth.parent / "gt.csv", "image,mel,sk", "p,1,0")
    with pytest.raises(InputError, match=r"scores\.csv: .*mel, sk.*gt\.csv"):
        evaluate(truth, masks, EvaluationOptions(labels=labels))


def test_several_label_files_are_refused(truth: Path, masks: Path) -> None:
    for name in ("one.csv", "two.CSV"):
        write_lines(truth / name, "image,melanoma", "a,1")
    with pytest.raises(InputError, match=r"one\.csv, .*two\.CSV"):
        evaluate(truth, masks)


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["p,1", "q,0.5"], "line 3: melanoma"),
        (["p,1", "", "q,x"], "line 4: melanoma"),
        (["p,yes"], "'yes'"),
        (["p,nan"], "'nan'"),
        (["p,1", "q,0", "p.jpg,0"], "line 4"),
        ([",1"], "line 2"),
        (["p"], "line 2: 1 field"),
        (["p,1,0"], "line 2: 3 fields"),
        (['"p,1'], "CSV"),
        ([], "label"),
    ],
)
def test_invalid_labels_are_refused(lines: list[str], named: str, truth: Path, masks: Path) -> None:
    write_lines(truth / "labels.csv", "image,melanoma", *lines)
    with pytest.raises(InputError, match=rf"labels\.csv.*{re.escape(named)}"):
        evaluate(truth, masks)


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ([], "melanoma"),
        (["image,status,nevus", "a.jpg,ok,.5"], "reason, melanoma"),
        (["image,status,reason,melanoma", "a.jpg,ok,,.5", "a.png,ok,,.5"], "line 3"),
        (["image,status,reason,melanoma", ",ok,,.5"], "line 2"),
        (["image,status,reason,melanoma", "a.jpg,ok"], "line 2: 2 fields"),
    ],
)
def test_invalid_scores_are_refused(lines: list[str], named: str, truth: Path, masks: Path) -> None:
    write_lines(truth / "labels.csv", "image,melanoma", "a,1")
    write_lines(masks / "scores.csv", *lines)
    with pytest.raises(InputError, match=rf"scores\.csv.*{re.escape(named)}"):
        evaluate(truth, masks)


LABELS_IN_PART = {"1": "1,0", "2": "0,1", "3": ",1", "4": "0,", "5": ",", "6": "1,0", "7": ","}
SCORES_IN_PART = {"1": (0.4, 0.1), "2": (0.3, 0.6), "3": (0.9, 0.05), "4": (0.5, 0.9), "5": (0.9, 0.9), "6": (0.6, 0.2)}


@pytest.mark.parametrize("protocol", ["plain", "isic2017"])
def test_an_unknown_label_is_unknown_for_its_class_alone(protocol: str, truth: Path, masks: Path) -> None:
    """The sixth image has its label in both classes, the seventh has no label and no scores."""
    for folder in (truth, masks):
        (folder / "a.png").rename(folder / "ISIC_0000001.png")
    rows = [f"ISIC_000000{number},{labels}" for number, labels in LABELS_IN_PART.items()]
    write_lines(truth / "labels.csv", "image,melanoma,seborrheic_keratosis", *rows)
    scores = {f"ISIC_000000{number}.jpg": (*values, "") for number, values in SCORES_IN_PART.items()}
    write_lines(masks / "scores.csv", *segment_scores(scores))
    evaluation = evaluate(truth, masks, EvaluationOptions(protocol=ProtocolName(protocol)))
    found, labelled = evaluation.scores, evaluation.scores.labelled
    assert (labelled.count, labelled.counts) == (5, {"melanoma": 4, "seborrheic_keratosis": 4})
    assert labelled.unknown == {"melanoma": 2, "seborrheic_keratosis": 2}
    assert found.auc == {"melanoma": 0.75, "seborrheic_keratosis": 0.5}
    melanoma = np.array([True, False, False, True]), np.array([0.4, 0.3, 0.5, 0.6])
    assert found.per_class["melanoma"] == class_metrics(*melanoma, np.ones(4))
    for name in found.auc:
        assert sum(found.confusion[name]) == sum(row.images for row in found.reliability[name]) == 4
    assert found.matrix is not None
    assert found.matrix.counts == ((2, 0, 0), (0, 1, 0)), "of the images with both labels"
    assert evaluation.official.score_document == {}
    if protocol == "plain":
        assert labelled.problems == ()
        assert any("labels.csv" in note and "melanoma 2 images" in note for note in notes(evaluation))
    else:
        named = {problem.split(":")[0]: problem.split(": ")[1] for problem in labelled.problems}
        assert list(named) == [f"ISIC_000000{number}" for number in (3, 4, 5, 7)]
        assert named["ISIC_0000003"].endswith("unknown label of melanoma")


def test_a_class_without_any_known_label_has_no_figures(truth: Path, masks: Path) -> None:
    write_lines(truth / "labels.csv", "image,melanoma,seborrheic_keratosis", "p,1,", "q,0,", "r,0,")
    write_lines(masks / "scores.csv", *segment_scores({f"{name}.jpg": (0.5, 0.1, 0.2) for name in "pqr"}))
    evaluation = evaluate(truth, masks)
    assert (evaluation.scores.auc, evaluation.scores.auc_mean) == ({"melanoma": 0.5}, 0.5)
    assert any("seborrheic_keratosis 3 images" in note for note in notes(evaluation))


def test_labels_that_are_all_unknown_are_noted(truth: Path, masks: Path) -> None:
    write_lines(truth / "labels.csv", "image,melanoma", "p,", "q,")
    write_lines(masks / "scores.csv", *P_AND_Q)
    evaluation = evaluate(truth, masks)
    assert (evaluation.scores.labelled.count, evaluation.failed) == (0, False)
    assert any("melanoma 2 images" in note for note in notes(evaluation))


def test_the_confusion_matrix_is_that_of_the_images_whose_labels_are_known(truth: Path, masks: Path) -> None:
    write_lines(truth / "labels.csv", "image,melanoma,nevus", "p,1,0", "q,0,1", "r,0,", "s,,1")
    write_lines(masks / "scores.csv", *segment_scores({f"{name}.jpg": (0.9, 0, 0.1) for name in "pqrs"}))
    matrix = evaluate(truth, masks).scores.matrix
    assert matrix is not None
    assert matrix.counts == ((1, 0, 0), (1, 0, 0))


def test_a_score_is_not_needed_where_the_label_is_unknown(truth: Path, masks: Path) -> None:
    write_lines(truth / "labels.csv", "image,melanoma,nevus", "p,1,0", "q,0,", "r,,1")
    scores = segment_scores({"p.jpg": (0.9, 0, 0.1), "q.jpg": (0.1, 0, ""), "r.jpg": (0.1, 0, "")})
    write_lines(masks / "scores.csv", *scores)
    labelled = evaluate(truth, masks).scores.labelled
    assert labelled.counts == {"melanoma": 2, "nevus": 1}
    assert labelled.problems == ("r: nevus not a number from 0 to 1",)


def test_ids_of_labels_match_as_names_of_masks_do(truth: Path, masks: Path) -> None:
    decomposed, composed = "e\u0301", "\u00e9"
    write_lines(truth / "labels.csv", "image,melanoma", f"images/{composed}.jpg,1", "images/ISIC_0000001_small.jpg,0")
    scores = segment_scores({f"{decomposed}.jpg": (0.9, 0, 0), "ISIC_0000001.jpg": (0.1, 0, 0)})
    write_lines(masks / "scores.csv", *scores)
    labelled = evaluate(truth, masks).scores.labelled
    assert (labelled.count, set(labelled.rows)) == (2, {decomposed, "ISIC_0000001"})
