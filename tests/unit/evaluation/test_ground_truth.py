"""Ground truth in data sets laid out as they are published, in tables and in folders."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from helpers.evaluation_data import block, save_mask, write_lines
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lesioncli.errors import InputError, MissingPackageError
from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.reading.ground_truth import GROUND_TRUTH_READERS, GroundTruth, read_ground_truth
from lesioncli.evaluation.reading.isic_layout import SplitPaths, find_isic_split
from lesioncli.evaluation.reading.tables import read_scores
from lesioncli.evaluation.result import Evaluation
from lesioncli.options import EvaluationOptions, ProtocolName

WIDER = block(4, 10)


def jaccards(evaluation: Evaluation) -> dict[str, float]:
    return {case.name: case.metrics.get("jaccard", -1) for case in evaluation.masks.cases}


# ISIC


@pytest.mark.parametrize(
    ("folder", "ending"),
    [
        ("ISBI2016_ISIC_Part1_Test_GroundTruth", "_Segmentation"),
        ("ISIC-2017_Test_v2_Part1_GroundTruth", "_segmentation"),
        ("ISIC2018_Task1_Validation_GroundTruth", "_segmentation"),
    ],
)
@pytest.mark.parametrize("given", ["root", "masks"])
def test_isic_layouts(folder: str, ending: str, given: str, tmp_path: Path) -> None:
    save_mask(tmp_path / folder / f"ISIC_0000001{ending}.png")
    write_lines(tmp_path / folder / "LICENSE.txt", "CC0")
    write_lines(tmp_path / folder / "ATTRIBUTION.txt", "ISIC")
    save_mask(tmp_path / "ISIC2018_Task2_Validation_GroundTruth_v3" / "ISIC_0000001_attribute_streaks.png")
    save_mask(tmp_path / "ISIC-2017_Test_v2_Part2_GroundTruth" / "ISIC_0000001_features.png")
    save_mask(tmp_path / "ISIC-2017_Test_v2_Data" / "ISIC_0000001.jpg")
    save_mask(tmp_path / "ISIC-2017_Test_v2_Data" / "ISIC_0000001_superpixels.png")
    save_mask(tmp_path / "masks" / "ISIC_0000001.png", WIDER)
    ground_truth = tmp_path if given == "root" else tmp_path / folder
    evaluation = evaluate(ground_truth, tmp_path / "masks")
    assert jaccards(evaluation) == {"ISIC_0000001": 0.5}
    assert evaluation.notes[:-1] == evaluation.masks.extra == ()  # the last note is on an interval of one image


def test_a_split_of_isic_2017_by_name(tmp_path: Path) -> None:
    (tmp_path / "ISIC-2017_Training_Data").mkdir()
    names = (
        "ISIC-2017_Training_Data",
        "ISIC-2017_Training_Part1_GroundTruth",
        "ISIC-2017_Training_Part3_GroundTruth.csv",
    )
    assert find_isic_split(tmp_path, "Training") == SplitPaths(*(tmp_path / name for name in names))
    assert find_isic_split(tmp_path, "Validation") is None


def test_labels_of_isic_2017_lie_beside_the_masks(tmp_path: Path) -> None:
    save_mask(tmp_path / "ISIC-2017_Validation_Part1_GroundTruth" / "ISIC_0000001_segmentation.png")
    write_lines(
        tmp_path / "ISIC-2017_Validation_Part3_GroundTruth.csv",
        "image_id,melanoma,seborrheic_keratosis",
        "ISIC_0000001,0.0,1.0",
    )
    labels = read_ground_truth(tmp_path).labels
    assert labels.classes == ("melanoma", "seborrheic_keratosis")
    assert labels.by_id == {"ISIC_0000001": (False, True)}


@pytest.mark.parametrize(("benign", "malignant"), [("benign", "malignant"), ("0.0", "1.0")])
def test_labels_of_isic_2016_have_no_header(benign: str, malignant: str, tmp_path: Path) -> None:
    save_mask(tmp_path / "ISBI2016_ISIC_Part1_Test_GroundTruth" / "ISIC_0000001_Segmentation.png")
    lines = [f"ISIC_0000001,{benign}", f"ISIC_0000002,{malignant}"]
    write_lines(tmp_path / "ISBI2016_ISIC_Part3_Test_GroundTruth.csv", *lines)
    table = tmp_path / "ISBI2016_ISIC_Part3_Test_GroundTruth.csv"
    for labels in (
        read_ground_truth(tmp_path).labels,
        read_ground_truth(tmp_path, table).labels,
        read_ground_truth(table).labels,
    ):
        assert labels.classes == ("melanoma",)
        assert labels.by_id == {"ISIC_0000001": (False,), "ISIC_0000002": (True,)}


@pytest.mark.parametrize(
    "wrong", ["ISIC_0000001,benign", "ISIC_0000002,unsure", "ISIC_0000002,0.0,1.0", "ISIC_0000002"]
)
def test_invalid_labels_of_isic_2016_are_refused_by_line(wrong: str, tmp_path: Path) -> None:
    save_mask(tmp_path / "ISBI2016_ISIC_Part1_Test_GroundTruth" / "ISIC_0000001_Segmentation.png")
    write_lines(tmp_path / "ISBI2016_ISIC_Part3_Test_GroundTruth.csv", "ISIC_0000001,benign", wrong)
    with pytest.raises(InputError, match=r"Part3_Test_GroundTruth\.csv, line 2: "):
        read_ground_truth(tmp_path)


def test_several_splits_are_refused_by_name(tmp_path: Path) -> None:
    for split in ("Training", "Validation"):
        save_mask(tmp_path / f"ISIC-2017_{split}_Part1_GroundTruth" / "ISIC_0000001_segmentation.png")
    with pytest.raises(InputError, match=r"Training_Part1_GroundTruth.*Validation_Part1"):
        read_ground_truth(tmp_path)


def test_ham10000(tmp_path: Path) -> None:
    folder = tmp_path / "HAM10000_segmentations_lesion_tschandl"
    save_mask(folder / "ISIC_0024306_segmentation.png")
    save_mask(folder / "._ISIC_0024306_segmentation.png")
    save_mask(tmp_path / "masks" / "ISIC_0024306.png", WIDER)
    assert jaccards(evaluate(folder, tmp_path / "masks")) == {"ISIC_0024306": 0.5}


def test_two_masks_for_one_isic_image_are_refused(tmp_path: Path) -> None:
    for name in ("ISIC_0000001_expert1.png", "ISIC_0000001_expert2.png"):
        save_mask(tmp_path / "labels" / name)
        save_mask(tmp_path / "masks" / name)
    with pytest.raises(InputError, match=r"expert2\.png.*ISIC_0000001.*expert1\.png"):
        evaluate(tmp_path / "labels", tmp_path / "masks", EvaluationOptions(protocol=ProtocolName.ISIC2018))
    assert len(evaluate(tmp_path / "labels", tmp_path / "masks").masks.cases) == 2


@pytest.mark.parametrize(
    ("name", "protocol", "found"),
    [
        ("0000001.png", "isic2017", True),
        ("mymodel_ISIC_0000001_v2.png", "isic2018", True),
        ("sub/ISIC_0000001_mask.png", "isic2018", True),
        ("ISIC_10000001.png", "isic2018", False),
        ("ISIC_00000012.png", "isic2018", False),
        ("ISIC_0000001_0000002.png", "isic2018", False),
        ("0000001.png", "plain", False),
    ],
)
def test_seven_digits_name_an_isic_image(name: str, protocol: str, found: bool, tmp_path: Path) -> None:
    save_mask(tmp_path / "labels" / "ISIC_0000001_segmentation.png")
    save_mask(tmp_path / "masks" / name)
    for folder in ("labels", "masks"):
        save_mask(tmp_path / folder / "ISIC_0000009.png")
    evaluation = evaluate(tmp_path / "labels", tmp_path / "masks", EvaluationOptions(protocol=ProtocolName(protocol)))
    assert jaccards(evaluation) == {"ISIC_0000001": 1.0 if found else -1, "ISIC_0000009": 1.0}
    assert bool(evaluation.masks.extra) == evaluation.failed == (not found)


# PH2

PH2_ROW = "|| {name} || {histology} || {diagnosis} || 0 || T || A || A || A || A || 4 5 ||"


@pytest.fixture
def ph2(tmp_path: Path) -> Path:
    for number, diagnosis in ((2, 0), (4, 1), (58, 2)):
        case = tmp_path / "PH2Dataset" / "PH2 Dataset images" / f"IMD{number:03}"
        save_mask(case / f"{case.name}_Dermoscopic_Image" / f"{case.name}.bmp", WIDER + diagnosis)
        save_mask(case / f"{case.name}_lesion" / f"{case.name}_lesion.bmp")
        save_mask(case / f"{case.name}_roi" / f"{case.name}_R1_Label3.bmp", WIDER)
    rows = [
        PH2_ROW.format(name="Name  ", histology="Histological Diagnosis", diagnosis="Clinical Diagnosis"),
        PH2_ROW.format(name="IMD002", histology="   ", diagnosis="  0  "),
        PH2_ROW.format(name="IMD004", histology=" Atypical Nevus ", diagnosis="1"),
        PH2_ROW.format(name="IMD058", histology=" Melanoma ", diagnosis="2"),
        "Legends:",
        "0 - Common Nevus; 1 - Atypical Nevus; 2 - Melanoma.",
    ]
    write_lines(tmp_path / "PH2Dataset" / "PH2_dataset.txt", *rows)
    return tmp_path / "PH2Dataset"


@pytest.mark.parametrize("given", ["", "PH2 Dataset images"])
def test_ph2(given: str, ph2: Path, tmp_path: Path) -> None:
    for name in ("IMD002", "IMD004", "IMD058"):
        save_mask(tmp_path / "masks" / name / f"{name}_Dermoscopic_Image" / f"{name}.png", WIDER)
    scores = write_lines(tmp_path / "s.csv", "image,melanoma", "IMD002,.1", "IMD004,.6", "IMD058,.5")
    evaluation = evaluate(ph2 / given, tmp_path / "masks", EvaluationOptions(protocol=ProtocolName.PH2, scores=scores))
    assert jaccards(evaluation) == {"IMD002": 0.5, "IMD004": 0.5, "IMD058": 0.5}
    assert evaluation.scores.auc == {"melanoma": 0.5}
    assert evaluation.official.ranking == {
        "masks": ("macro_average.jaccard", 0.5),
        "scores": ("macro_average.auc", 0.5),
    }
    assert not evaluation.failed


@pytest.mark.parametrize("name", ["PH2_Dataset_images", "ph2-dataset-images", "PH2", "Images"])
def test_ph2_in_any_spelling(name: str, ph2: Path) -> None:
    masks = read_ground_truth(ph2).masks
    (ph2 / "PH2 Dataset images").rename(ph2 / name)
    for folder in (ph2, ph2 / name):
        renamed = read_ground_truth(folder)
        assert renamed.masks.keys() == masks.keys()
        assert all(path.is_relative_to(ph2 / name) and "_lesion" in path.name for path in renamed.masks.values())
        assert len(renamed.labels.by_id) == 3


def test_a_folder_of_ph2_may_be_in_one_of_its_name(ph2: Path) -> None:
    """As programs that unpack an archive leave it."""
    masks = read_ground_truth(ph2).masks
    outer = ph2 / "PH2_Dataset_images"
    outer.mkdir()
    (ph2 / "PH2 Dataset images").rename(outer / "PH2_Dataset_images")
    assert read_ground_truth(outer).masks.keys() == masks.keys()


def test_photographs_of_ph2_are_not_ground_truth(ph2: Path, tmp_path: Path) -> None:
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    ph2.rename(tmp_path / "outer" / "inner" / "PH2Dataset")
    with pytest.raises(InputError, match=r"IMD\d+_Dermoscopic_Image.*PH2 Dataset images"):
        read_ground_truth(tmp_path / "outer")


def test_labels_that_are_replaced_are_not_read(ph2: Path, tmp_path: Path) -> None:
    given = write_lines(tmp_path / "l.csv", "image,melanoma", "IMD002,1")
    write_lines(ph2 / "PH2_dataset.txt", "damaged")
    assert read_ground_truth(ph2, given).labels.by_id == {"IMD002": (True,)}
    save_mask(tmp_path / "plain" / "a.png")
    write_lines(tmp_path / "plain" / "labels.csv", "image,melanoma", "a,?")
    write_lines(tmp_path / "plain" / "more.csv", "image,melanoma", '"')
    assert read_ground_truth(tmp_path / "plain", given).labels.by_id == {"IMD002": (True,)}
    table = write_lines(tmp_path / "truth.csv", "image,melanoma", "a,?")
    assert read_ground_truth(table, given).labels.by_id == {"IMD002": (True,)}


def test_a_ph2_case_without_its_mask_is_named(ph2: Path, tmp_path: Path) -> None:
    (ph2 / "PH2 Dataset images" / "IMD004" / "IMD004_lesion" / "IMD004_lesion.bmp").unlink()
    for name in ("IMD002", "IMD004", "IMD058"):
        save_mask(tmp_path / "masks" / f"{name}.png")
    evaluation = evaluate(ph2, tmp_path / "masks")
    assert jaccards(evaluation) == {"IMD002": 1.0, "IMD004": -1, "IMD058": 1.0}
    assert evaluation.masks.cases[1].problem.startswith("ground truth unreadable: No such file")


def spreadsheet(path: Path, *rows: tuple[object, ...]) -> None:
    """Write PH2_dataset.xlsx: 12 lines of legend, the header, then the images."""
    book = openpyxl.Workbook()
    for _ in range(12):
        book.active.append(["Legends", "0 - Common Nevus"])
    book.active.append(
        ["Image Name", "Histological\nDiagnosis", "Common Nevus", "Atypical\nNevus", "Melanoma", "Colors"]
    )
    for row in rows:
        book.active.append(row)
    book.save(path)


PH2_ROWS = (("IMD002", None, "X", None, None, 3), ("IMD004", None, None, "X"), ("IMD058", "Melanoma", None, None, "X"))


def test_ph2_with_the_spreadsheet_alone_has_the_same_labels(ph2: Path) -> None:
    spreadsheet(ph2 / "PH2_dataset.xlsx", *PH2_ROWS, (None,) * 6)
    by_text = read_ground_truth(ph2).labels
    (ph2 / "PH2_dataset.txt").unlink()
    assert read_ground_truth(ph2).labels == by_text
    assert by_text.by_id == {"IMD002": (False,), "IMD004": (False,), "IMD058": (True,)}


def test_ph2_without_a_table_has_no_labels_and_a_note_if_there_are_scores(ph2: Path, tmp_path: Path) -> None:
    table = (ph2 / "PH2_dataset.txt").rename(ph2 / "elsewhere.txt")
    assert read_ground_truth(ph2).labels.by_id == {}
    save_mask(tmp_path / "masks" / "IMD002.png")
    assert not any(table.name in note for note in evaluate(ph2, tmp_path / "masks").notes)
    scores = write_lines(tmp_path / "s.csv", "image,melanoma", "IMD002,.1", "IMD004,.6", "IMD058,.5")
    assert "PH2_dataset.txt" in evaluate(ph2, tmp_path / "masks", EvaluationOptions(scores=scores)).notes[0]
    labels = write_lines(tmp_path / "l.csv", "image,melanoma", "IMD002,0", "IMD004,0", "IMD058,1")
    labelled = evaluate(ph2, tmp_path / "masks", EvaluationOptions(scores=scores, labels=labels))
    assert not any("PH2_dataset.txt" in note for note in labelled.notes)


def test_ph2_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "PH2 Dataset images").mkdir()
    with pytest.raises(InputError, match="PH2 Dataset images: "):
        read_ground_truth(tmp_path)


def test_ph2_spreadsheet_without_its_library_names_the_extra(ph2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ph2 / "PH2_dataset.txt").unlink()
    spreadsheet(ph2 / "PH2_dataset.xlsx", *PH2_ROWS)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(MissingPackageError, match=r"openpyxl.*\[xlsx\]"):
        read_ground_truth(ph2)


@pytest.mark.parametrize(
    ("rows", "location"),
    [
        ([("IMD002", None, "X", "X", None)], ", line 14: .*'01' of IMD002"),
        ([("IMD002", None, None, None, None)], ", line 14: .*'' of IMD002"),
        ([PH2_ROWS[0]] * 2, ", line 15: .*IMD002"),
        ([], ": "),
    ],
)
def test_a_ph2_spreadsheet_with_invalid_rows_is_refused_by_line(
    rows: list[tuple[object, ...]], location: str, ph2: Path
) -> None:
    (ph2 / "PH2_dataset.txt").unlink()
    spreadsheet(ph2 / "PH2_dataset.xlsx", *rows)
    with pytest.raises(InputError, match=rf"PH2_dataset\.xlsx{location}"):
        read_ground_truth(ph2)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"name,melanoma"])
def test_a_damaged_ph2_spreadsheet_is_refused(content: bytes, ph2: Path) -> None:
    (ph2 / "PH2_dataset.txt").unlink()
    (ph2 / "PH2_dataset.xlsx").write_bytes(content)
    with pytest.raises(InputError, match=r"PH2_dataset\.xlsx"):
        read_ground_truth(ph2)


@pytest.mark.parametrize(
    ("rows", "location"),
    [
        ([PH2_ROW.format(name="IMD002", histology="", diagnosis="3")], ", line 1: .*'3' of IMD002"),
        ([PH2_ROW.format(name="IMD002", histology="", diagnosis="")], ", line 1: .*'' of IMD002"),
        ([PH2_ROW.format(name="IMD002", histology="", diagnosis="1")] * 2, ", line 2: .*IMD002"),
        (["IMD002 1"], ": "),
    ],
)
def test_a_ph2_table_with_invalid_rows_is_refused_by_line(rows: list[str], location: str, ph2: Path) -> None:
    write_lines(ph2 / "PH2_dataset.txt", *rows)
    with pytest.raises(InputError, match=rf"PH2_dataset\.txt{location}"):
        read_ground_truth(ph2)


# Tables


def test_a_table_of_pairs(tmp_path: Path) -> None:
    save_mask(tmp_path / "data" / "t" / "a_segmentation.png")
    save_mask(tmp_path / "data" / "p" / "first.png", WIDER)
    save_mask(tmp_path / "data" / "t" / "b.bmp")
    absolute = save_mask(tmp_path / "elsewhere" / "b.tif")
    lines = ["Prediction,truth,image,site", "p/first.png,t/a_segmentation.png,,x", f"{absolute},t/b.bmp,second,y"]
    table = write_lines(tmp_path / "data" / "pairs.csv", *lines, "p/gone.png,t/b.bmp,third,z")
    evaluation = evaluate(table, tmp_path / "nowhere")
    assert jaccards(evaluation) == {"a": 0.5, "second": 1.0, "third": -1}
    assert evaluation.masks.cases[2].problem.startswith("prediction unreadable: No such file")


@pytest.mark.parametrize(
    ("lines", "location"),
    [
        (["a.png,b.png,x", "c.png,d.png,x"], "line 3: .*image x"),
        (["a.png,b.png,", "sub/a.png,b.png,"], "line 3: .*image a"),
        (["a.png,,x"], "line 2: column prediction"),
        ([",b.png,x"], "line 2: column truth"),
        (["a.png,b.png"], "line 2: 2 fields.* 3"),
    ],
)
def test_a_table_of_pairs_with_invalid_rows_is_refused_by_line(lines: list[str], location: str, tmp_path: Path) -> None:
    table = write_lines(tmp_path / "pairs.csv", "truth,prediction,image", *lines)
    with pytest.raises(InputError, match=rf"pairs\.csv, {location}"):
        read_ground_truth(table)


def test_a_table_of_labels_evaluates_scores_without_masks(tmp_path: Path) -> None:
    others = "BCC,AKIEC,BKL,DF,VASC"
    rows = [f"ISIC_000000{row}{',0' * 5}" for row in ("1,1,0", "2,0,1", "3,0,1")]
    labels = write_lines(tmp_path / "gt.csv", f"image,MEL,NV,{others}", *rows)
    rows = [f"ISIC_000000{row}{',0' * 5}" for row in ("1,.1,.9", "2,.6,.3", "3,.2,.8")]
    scores = write_lines(tmp_path / "s.csv", f"image,NV,MEL,{others}", *rows)
    evaluation = evaluate(
        labels, tmp_path / "nowhere", EvaluationOptions(scores=scores, protocol=ProtocolName.ISIC2018)
    )
    assert evaluation.masks.cases == ()
    assert (evaluation.scores.auc["MEL"], evaluation.scores.auc["NV"]) == (1, 1)
    assert evaluation.official.ranking == {"scores": ("aggregate.balanced_accuracy", 0.75)}


def test_given_labels_and_scores_replace_those_in_the_folders(tmp_path: Path) -> None:
    for folder in ("labels", "masks"):
        save_mask(tmp_path / folder / "a.png")
    write_lines(tmp_path / "labels" / "labels.csv", "image,melanoma", "a,1", "b,0")
    write_lines(tmp_path / "masks" / "scores.csv", "image,status,reason,melanoma", "a.jpg,ok,,.1", "b.jpg,ok,,.9")
    other = write_lines(tmp_path / "other.csv", "image,melanoma", "a,0", "b,1")
    scores = write_lines(tmp_path / "s.csv", "image,melanoma", "a,.8", "b,.2")

    def auc(labels: Path | None = None, scores: Path | None = None) -> float:
        return evaluate(
            tmp_path / "labels", tmp_path / "masks", EvaluationOptions(labels=labels, scores=scores)
        ).scores.auc["melanoma"]

    assert [auc(), auc(labels=other), auc(scores=scores), auc(other, scores)] == [0, 1, 1, 0]
    write_lines(tmp_path / "labels" / "labels.csv", "image,melanoma", "a,perhaps")
    assert auc(labels=other) == 1, "what is replaced is not read"
    with pytest.raises(InputError, match="perhaps"):
        auc()


def evaluate_table(folder: Path, *lines: str) -> Evaluation:
    return evaluate(write_lines(folder / "x.csv", *lines), folder)


def evaluate_scores(folder: Path, *lines: str) -> Evaluation:
    scores = write_lines(folder / "x.csv", *lines)
    return evaluate(folder / "labels.csv", folder, EvaluationOptions(scores=scores))


# What is called in a folder with labels.csv, and what the message must name.
REFUSED: dict[str, tuple[Callable[[Path], Evaluation], str]] = {
    "no scores": (lambda folder: evaluate(folder / "labels.csv", folder), "scores.csv"),
    "missing scores": (
        lambda folder: evaluate(folder / "labels.csv", folder, EvaluationOptions(scores=folder / "x.csv")),
        "x.csv: no such file",
    ),
    "missing labels": (
        lambda folder: evaluate(folder / "labels.csv", folder, EvaluationOptions(labels=folder / "x.csv")),
        "x.csv",
    ),
    "no class": (lambda folder: evaluate_table(folder, "image", "a"), "x.csv: no column of a class"),
    "no ids": (lambda folder: evaluate_table(folder, "MEL", "1"), "x.csv: no column of image ids"),
    "no rows": (lambda folder: evaluate_table(folder, "image,MEL"), "x.csv: no labels"),
    "duplicate column": (lambda folder: evaluate_table(folder, "id,MEL,image,mel", "1,1,a,1"), "duplicate column mel"),
    "duplicate id": (
        lambda folder: evaluate_table(folder, "image,MEL", "a.jpg,1", "a,0"),
        "x.csv, line 3: duplicate image id a",
    ),
    "empty id": (lambda folder: evaluate_table(folder, "image,MEL", ",1"), "x.csv, line 2: empty image id"),
    "words": (lambda folder: evaluate_table(folder, "image,sex", "a,male"), "x.csv, line 2: sex is 'male'"),
    "negative weight": (
        lambda folder: evaluate_table(folder, "image,MEL,score_weight", "a,1,-1"),
        "x.csv, line 2: score_weight is '-1'",
    ),
    "scores without ids": (lambda folder: evaluate_scores(folder, "melanoma", ".1"), "x.csv: no column of image ids"),
    "scores without a class": (lambda folder: evaluate_scores(folder, "image", "a"), "x.csv: no column melanoma"),
    "duplicate scores": (
        lambda folder: evaluate_scores(folder, "image,melanoma", "a,.1", "a,.2"),
        "x.csv, line 3: duplicate image id a",
    ),
    "unequal names": (lambda folder: evaluate_scores(folder, "image,melanoma", "c,.1"), "labels.csv"),
}


@pytest.mark.parametrize(("call", "named"), REFUSED.values(), ids=REFUSED)
def test_invalid_tables_are_refused_by_name(call: Callable[[Path], Evaluation], named: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "labels.csv", "image,melanoma", "a,1", "b,0")
    with pytest.raises(InputError, match=re.escape(named)):
        call(tmp_path)


HEADERS = [
    "image,melanoma",
    "image,MEL,NV,score_weight",
    "truth,prediction,image",
    "ISIC_0000001,benign",
    "",
    "\ufeffimage",
]
CELLS = st.sampled_from(
    ["0", "1", "1.0", "nan", "-1", "inf", "ISIC_0000001", "a.jpg", "benign", "", " ", '"', "\0", "ä"]
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.sampled_from(HEADERS),
    cells=st.lists(st.lists(CELLS, max_size=4), max_size=4),
    tail=st.binary(max_size=9),
)
def test_any_table_is_read_or_refused_with_its_name(
    header: str, cells: list[list[str]], tail: bytes, tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    table.write_bytes("\n".join([header, *map(",".join, cells)]).encode() + tail)
    for read in (read_ground_truth, lambda path: read_scores(path, ("melanoma",))):
        try:
            read(table)
        except InputError as error:
            assert "table.csv" in str(error)  # noqa: PT017  # most tables are valid, so pytest.raises cannot be used


def test_unsupported_images_are_named(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b.jpg", "c.png"):
        save_mask(tmp_path / "labels" / name)
    for name in ("a.gif", "b.gif", "c.png"):
        save_mask(tmp_path / "masks" / name)
    evaluation = evaluate(tmp_path / "labels", tmp_path / "masks")
    case, _ = evaluation.masks.cases
    assert "a.gif" in case.problem
    assert str(tmp_path / "labels" / "b.jpg") in evaluation.notes[0]


def test_soft_masks_are_thresholded_and_noted(tmp_path: Path) -> None:
    save_mask(tmp_path / "labels" / "a.png")
    save_mask(tmp_path / "masks" / "a.png", (WIDER // 255) * np.linspace(120, 255, 10).round().astype(np.uint8))
    (case,) = evaluate(tmp_path / "labels", tmp_path / "masks").masks.cases
    assert re.fullmatch("prediction is soft: 36 pixels .*", case.note)
    assert case.metrics["jaccard"] == 16 / 40  # nine of ten columns are above 128, four of them in the ground truth


def test_a_layout_in_the_table_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_nested(folder: Path) -> GroundTruth | None:
        found = {path.parent.name: path for path in folder.glob("case*/truth.png")}
        return GroundTruth(found) if found else None

    monkeypatch.setitem(GROUND_TRUTH_READERS, "nested", read_nested)
    save_mask(tmp_path / "data" / "case1" / "truth.png")
    save_mask(tmp_path / "masks" / "case1.png", WIDER)
    assert jaccards(evaluate(tmp_path / "data", tmp_path / "masks")) == {"case1": 0.5}
    save_mask(tmp_path / "plain" / "case1.png")
    assert jaccards(evaluate(tmp_path / "plain", tmp_path / "masks")) == {"case1": 0.5}
