"""evaluation.csv and comparison.csv: their digits, which files they may replace, and files of other versions."""

import csv
import math
import re
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
from helpers.evaluation_data import save_mask, write_lines

from lesioncli.errors import InputError
from lesioncli.evaluation.cases import CaseResult
from lesioncli.evaluation.csv_files import comparison_path, refuse_foreign_files, write_cases, write_csv_files
from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.metrics.pixels import PIXEL_METRICS, Counts
from lesioncli.evaluation.result import Evaluation, MaskEvaluation
from lesioncli.options import EvaluationOptions, ProtocolName

METRICS = ("jaccard", "dice", "accuracy", "sensitivity", "specificity", "threshold_jaccard", "area_log_ratio")


def test_cases_are_written_with_all_their_digits(tmp_path: Path) -> None:
    metrics = dict(zip(PIXEL_METRICS, (1 / 3, 0.5, 1.0, 0.0, 2 / 3, 0.75, math.nan), strict=True))
    cases = (
        CaseResult("a", metrics, note="prediction is stored as RGB"),
        CaseResult("sub/b", {}, 'no prediction: "odd", quoted'),
    )
    path = tmp_path / "new" / "cases.csv"
    write_cases(cases, path)
    assert list(csv.reader(path.read_text().splitlines())) == [
        ["image", *METRICS, "problem", "note"],
        ["a", repr(1 / 3), "0.5", "1.0", "0.0", repr(2 / 3), "0.75", "", "", "prediction is stored as RGB"],
        ["sub/b", "", "", "", "", "", "", "", 'no prediction: "odd", quoted', ""],
    ]
    assert list(path.parent.iterdir()) == [path]


def test_an_older_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    class Broken(dict[str, float]):
        def get(self, *_: object) -> float:
            raise KeyboardInterrupt

    path = write_lines(tmp_path / "cases.csv", "old")
    with pytest.raises(KeyboardInterrupt):
        write_cases((CaseResult("a", Broken()),), path)
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_both_files_are_written_where_they_have_rows(data_set: Path) -> None:
    compared = evaluate(data_set / "labels", data_set / "masks", EvaluationOptions(compare=data_set / "other"))
    path = data_set / "out" / "cases.csv"
    assert list(write_csv_files(compared, path)) == [path, path.with_name("comparison.csv")]
    with (data_set / "out" / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert list(rows[0]) == ["image", *compared.masks.means]
    nothing = Evaluation(ProtocolName.PLAIN, MaskEvaluation((CaseResult("a", {}, "no prediction"),)))
    assert list(write_csv_files(nothing, data_set / "none.csv")) == []
    assert not (data_set / "none.csv").exists()


@pytest.mark.parametrize("header", ["", ",".join(("image", *METRICS, "problem", "note"))])
def test_files_of_evaluate_may_be_replaced(header: str, tmp_path: Path) -> None:
    path = tmp_path / "evaluation.csv"
    path.write_text(header)
    comparison_path(path).write_text(header and ",".join(("image", *METRICS)))
    refuse_foreign_files(path, comparing=True)


@pytest.mark.parametrize("change", ["metric added", "metric removed"])
def test_files_of_another_version_may_be_replaced(change: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "evaluation.csv", ",".join(("image", *METRICS, "problem", "note")))
    write_lines(comparison_path(path), ",".join(("image", *METRICS)))

    def area(counts: Counts) -> float:
        return counts.true_positive

    with patch.dict(PIXEL_METRICS):  # monkeypatch.delitem would put the metric back at the end of the table
        if change == "metric added":
            PIXEL_METRICS["area"] = area
        else:
            del PIXEL_METRICS["jaccard"]
        refuse_foreign_files(path, comparing=True)


@pytest.mark.parametrize(
    "header",
    [
        "image,melanoma,seborrheic_keratosis",  # labels
        "image,mask,width,height,status,reason,melanoma,note",  # scores.csv of segment
        "image,model,jaccard",  # a table of the user
        "image,jaccard,problem,note",
        "id," + ",".join((*METRICS, "problem", "note")),
        ",".join(("image", *METRICS)),  # comparison.csv
    ],
)
def test_other_files_are_refused(header: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "cases.csv", header)
    with pytest.raises(InputError, match=re.escape(str(path))):
        refuse_foreign_files(path, comparing=False)


def test_links_and_folders_are_refused(tmp_path: Path) -> None:
    link = tmp_path / "link.csv"
    link.symlink_to("/dev/null")
    for path in (link, tmp_path):
        with pytest.raises(InputError, match=re.escape(str(path))):
            refuse_foreign_files(path, comparing=False)


def test_a_foreign_comparison_file_is_refused_only_if_it_would_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    write_lines(tmp_path / "comparison.csv", "image,model,jaccard")
    refuse_foreign_files(path, comparing=False)
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "comparison.csv"))):
        refuse_foreign_files(path, comparing=True)


def test_cases_and_differences_need_two_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"comparison\.csv"):
        refuse_foreign_files(tmp_path / "comparison.csv", comparing=True)


def test_images_are_named_as_in_scores_csv(tmp_path: Path) -> None:
    for number in range(25):
        save_mask(tmp_path / "labels" / f"ISIC_{number:07}_segmentation.png")
        for folder in ("masks", "other"):
            save_mask(tmp_path / folder / "P01" / f"ISIC_{number:07}.png")
    (tmp_path / "masks" / "P01" / "ISIC_0000003.png").unlink()
    rows = [f"P01/ISIC_{number:07}.jpg,P01/ISIC_{number:07}.png,ok," for number in range(25) if number != 3]
    write_lines(
        tmp_path / "masks" / "scores.csv", "image,mask,status,reason", *rows, "P01/ISIC_0000003.jpg,,failed,cut"
    )
    evaluation = evaluate(tmp_path / "labels", tmp_path / "masks", EvaluationOptions(compare=tmp_path / "other"))
    list(write_csv_files(evaluation, tmp_path / "evaluation.csv"))
    scores = pd.read_csv(tmp_path / "masks" / "scores.csv")
    joined = scores.merge(pd.read_csv(tmp_path / "evaluation.csv"), on="image")
    assert len(joined) == 25
    assert len(joined.merge(pd.read_csv(tmp_path / "comparison.csv"), on="image")) == 24
    assert joined[joined.problem.notna()].image.to_list() == ["P01/ISIC_0000003.jpg"]
