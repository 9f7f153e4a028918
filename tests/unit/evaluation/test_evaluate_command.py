"""`lesioncli evaluate`: exit codes, tables in 80 columns, JSON, and the CSV files."""

import json
from pathlib import Path

import pytest
from helpers.evaluation_data import IMAGES, image_name, write_lines, write_predictions
from typer.testing import CliRunner, Result

from lesioncli.cli.app import app
from lesioncli.errors import ExitCode

ENVIRONMENT = {"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}


def call(*words: str) -> Result:
    return CliRunner(env=ENVIRONMENT).invoke(app, ["evaluate", "--gt", "labels", *words])


@pytest.fixture(autouse=True)
def in_data_set(data_set: Path) -> None:
    """Every test runs in a copy of the data set."""


def test_groups_and_differences_fit_into_80_columns(data_set: Path) -> None:
    words = ("--by", "sex", "--by", "lesion_size", "--metadata", "metadata.csv", "--compare", "other")
    done = call(*words, "--protocol", "isic2017")
    assert done.exit_code == ExitCode.OK, done.output
    assert any("male" in line and "jaccard -0." in line for line in done.stdout.splitlines())
    tables = [line for line in done.stdout.splitlines() if line[:1] in "┏┃┡│└"]
    assert len(tables) > 40
    assert all(len(line) <= 80 and "…" not in line for line in tables)


def test_the_default_output_is_short(data_set: Path) -> None:
    done = call()
    assert len(done.stdout.splitlines()) == 18
    assert not (data_set / "masks" / "comparison.csv").exists()


def test_json_has_every_part() -> None:
    done = call("--by", "sex", "--metadata", "metadata.csv", "--compare", "other", "--json")
    ours = json.loads(done.stdout)["lesioncli"]
    assert ours["confusion_matrix"]["classes"] == ["melanoma", "seborrheic_keratosis", "nevus"]
    assert set(ours["confusion"]["melanoma"]) == {"true_positive", "false_positive", "false_negative", "true_negative"}
    assert ours["per_class_intervals"]["melanoma"]["auc"] == pytest.approx(ours["intervals"]["melanoma"])
    assert [group["group"] for group in ours["groups"]] == ["female", "male", "unknown"]
    assert ours["groups"][1]["behind"] == ["jaccard"]
    assert ours["groups"][2]["figures"]["jaccard"]["interval"] is None
    assert ours["groups"][2]["figures"]["melanoma"]["value"] is None
    jaccard = ours["comparison"]["differences"]["jaccard"]
    assert set(jaccard) == {"ours", "other", "difference", "interval", "p", "images"}
    assert ours["comparison"]["other"] == "other"
    assert "NaN" not in done.stdout


@pytest.mark.parametrize(
    ("words", "method", "cluster"),
    [
        ((), "percentile bootstrap over images", None),
        (("--cluster", "sex", "--metadata", "metadata.csv"), "percentile bootstrap over clusters of images", "sex"),
    ],
)
def test_json_describes_the_intervals(words: tuple[str, ...], method: str, cluster: str | None) -> None:
    ours = json.loads(call("--seed", "7", "--json", *words).stdout)["lesioncli"]
    assert ours["interval_method"] == {
        "method": method,
        "cluster": cluster,
        "level": 0.95,
        "resamples": {"masks": 2000, "scores": 2000},
        "seed": 7,
    }


def test_images_that_are_not_compared_are_named(data_set: Path) -> None:
    (data_set / "other" / f"{image_name(3)}.png").unlink()
    (data_set / "masks" / f"{image_name(5)}.png").unlink()
    done = call("--compare", "other")
    assert done.exit_code == ExitCode.SOME_FAILED
    assert all(image_name(number) in done.stderr for number in (3, 5))


# CSV files


def test_the_written_files_are_named() -> None:
    done = call("--csv", "sub/cases.csv", "--compare", "other")
    first, second = done.stdout.splitlines()[-2:]
    assert first.endswith("sub/cases.csv")
    assert second.endswith("sub/comparison.csv")


def test_files_of_evaluate_are_replaced(data_set: Path) -> None:
    (data_set / "masks" / "evaluation.csv").touch()  # as mktemp leaves a file
    for words in (("--compare", "other"), ("--compare", "other", "--distances"), ("--compare", "other")):
        assert call(*words).exit_code == ExitCode.OK


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (("--csv", "labels/labels.csv"), "labels/labels.csv"),
        (("--csv", "masks/scores.csv"), "masks/scores.csv"),
        (("--csv", "masks"), "masks"),
        (("--csv", "theirs/cases.csv", "--compare", "other"), "theirs/comparison.csv"),
        (("--csv", "comparison.csv", "--compare", "other"), "comparison.csv"),
    ],
)
def test_other_files_are_not_replaced(words: tuple[str, ...], kept: str, data_set: Path) -> None:
    write_lines(data_set / "theirs" / "comparison.csv", "image,model,jaccard")
    before = Path(kept).read_text() if Path(kept).is_file() else ""
    done = call(*words)
    assert (done.exit_code, done.stdout) == (ExitCode.INPUT, "")
    assert f"{kept}: " in done.stderr
    assert (Path(kept).read_text() if Path(kept).is_file() else "") == before


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_figures_are_printed_even_if_the_csv_cannot_be_written(words: tuple[str, ...]) -> None:
    done = call("--csv", "metadata.csv/cases.csv", *words)
    assert done.exit_code == ExitCode.INPUT
    assert "threshold_jaccard" in done.stdout
    assert "cases.csv" not in done.stdout
    assert "metadata.csv/cases.csv: " in done.stderr


def test_without_evaluated_cases_no_csv_is_written(data_set: Path) -> None:
    for path in (data_set / "masks").glob("*.png"):
        path.write_bytes(b"")
    done = call()
    assert done.exit_code == ExitCode.SOME_FAILED
    assert not (data_set / "masks" / "evaluation.csv").exists()


# Bad input


def test_without_evaluated_scores_classes_are_not_printed(data_set: Path) -> None:
    write_lines(data_set / "masks" / "scores.csv", "image,status,reason,melanoma,seborrheic_keratosis,nevus")
    done = call("--protocol", "isic2017")
    assert done.exit_code == ExitCode.SOME_FAILED
    assert "ppv" not in done.stdout


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--by", "eyes", "--metadata", "metadata.csv"), "metadata.csv"),
        (("--by", "sex", "--metadata", "gone.csv"), "gone.csv"),
        (("--cluster", "lesion_size"), "lesion_size"),
        (("--compare", "nowhere"), "nowhere"),
        (("--compare", "strangers"), f"strangers/{image_name(100)}.png"),
    ],
)
def test_bad_input_has_its_exit_code(words: tuple[str, ...], named: str, data_set: Path) -> None:
    write_predictions(data_set / "strangers", 3, 0.5, range(100, 103))
    done = call(*words)
    assert (done.exit_code, done.stdout) == (ExitCode.INPUT, "")
    assert named in " ".join(done.stderr.split())


def test_all_images_are_in_the_csv(data_set: Path) -> None:
    assert call("--csv", "cases.csv").exit_code == ExitCode.OK
    assert len((data_set / "cases.csv").read_text().splitlines()) == IMAGES + 1


def test_report_takes_a_cluster_column_only_with_ground_truth() -> None:
    done = CliRunner(env=ENVIRONMENT).invoke(app, ["report", "--cluster", "sex"])
    assert done.exit_code == ExitCode.USAGE
    assert "--gt" in done.stderr
