"""Several runs and several annotators: the same figures as `evaluate` has, over the images that all have."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import markdown
import numpy as np
import pytest
from helpers.command import call
from helpers.evaluation_data import IMAGES, block, image_name, save_mask, write_predictions

from lesioncli.cli.tables import add_row, make_table, print_table, render_latex, render_markdown
from lesioncli.errors import ExitCode, InputError
from lesioncli.evaluation import runs
from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.runs import RunComparison, compare_runs, list_metrics, read_ground_truths
from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN
from lesioncli.options import EvaluationOptions, TableFormat

LABELS, FIRST, SECOND = Path("labels"), Path("masks"), Path("other")


def compare(*runs: Path, truths: tuple[Path, ...] = (LABELS,), **options: object) -> RunComparison:
    chosen = EvaluationOptions(**options)  # type: ignore[arg-type] # options of any kind
    return compare_runs(read_ground_truths(truths, chosen), runs, chosen)


def test_figures_are_those_of_evaluate(data_set: Path) -> None:
    (compared,) = compare(FIRST, SECOND).by_ground_truth
    assert compared.left_out == ()
    for run, path in zip(compared.runs, (FIRST, SECOND), strict=True):
        alone = evaluate(LABELS, path)
        assert {name: estimate.value for name, estimate in run.estimates.items()} == pytest.approx(
            {**alone.masks.means, **alone.scores.auc, AUC_MEAN: alone.scores.auc_mean}
        )
        intervals = {name: (estimate.low, estimate.high) for name, estimate in run.estimates.items()}
        assert intervals == {**alone.masks.intervals, **alone.scores.intervals}
        assert {estimate.images for estimate in run.estimates.values()} == {IMAGES}
    comparison = evaluate(LABELS, SECOND, EvaluationOptions(compare=FIRST)).comparison
    assert comparison is not None
    assert compared.runs[0].differences == {}
    assert compared.runs[1].differences == comparison.differences


def test_only_images_of_all_runs_count(data_set: Path) -> None:
    write_predictions(data_set / "third", 4, 0.6, range(40))
    (data_set / "other" / f"{image_name(3)}.png").unlink()
    result = compare(FIRST, SECOND, Path("third"))
    (compared,) = result.by_ground_truth
    common = [number for number in range(40) if number != 3]
    cases = {case.name: case.metrics["jaccard"] for case in evaluate(LABELS, FIRST).masks.cases}
    want = np.mean([cases[image_name(number)] for number in common])
    assert compared.runs[0].estimates["jaccard"].value == pytest.approx(want)
    assert [run.estimates["jaccard"].images for run in compared.runs] == [len(common)] * 3
    assert [run.estimates[AUC_MEAN].images for run in compared.runs] == [40] * 3
    assert set(compared.left_out) == {image_name(3), *map(image_name, range(40, IMAGES))}
    assert result.incomplete


def test_an_unknown_label_counts_in_no_estimate_of_its_class(data_set: Path) -> None:
    (table,) = LABELS.glob("*.csv")
    header, *rows = table.read_text().splitlines()
    column = header.split(",").index("melanoma")
    fields = [row.split(",") for row in rows]
    for row in fields[:12]:
        row[column] = ""
    table.write_text("\n".join([header, *map(",".join, fields), ""]))
    (compared,) = compare(FIRST, SECOND).by_ground_truth
    for run, path in zip(compared.runs, (FIRST, SECOND), strict=True):
        alone = evaluate(LABELS, path)
        assert run.estimates["melanoma"].images == alone.scores.labelled.counts["melanoma"] == IMAGES - 12
        assert run.estimates["melanoma"].value == pytest.approx(alone.scores.auc["melanoma"])
        assert run.estimates[AUC_MEAN].images == IMAGES
    assert compared.runs[1].differences["melanoma"].images == IMAGES - 12


def test_ground_truth_of_another_data_set_is_refused_under_a_protocol(data_set: Path) -> None:
    with pytest.raises(InputError, match=r"labels: not ground truth of ph2.*looked for"):
        compare(FIRST, SECOND, protocol="ph2")


def test_clusters_are_resampled_together(data_set: Path) -> None:
    alone, together = (compare(FIRST, SECOND, cluster=cluster) for cluster in ("", "site"))
    first, second = (result.by_ground_truth[0].runs[0].estimates["jaccard"] for result in (alone, together))
    assert first.value == second.value
    assert (first.low, first.high) != (second.low, second.high)


def annotators(folder: Path) -> tuple[Path, Path, Path, Path]:
    """Write a run and three annotators: b draws half of what a does, c less, and only of the first image."""
    run, a, b, c = (folder / name for name in ("run", "a", "b", "c"))
    for name in ("x", "y"):
        save_mask(run / f"{name}.png", block(4, 5))
        save_mask(a / f"{name}_segmentation.png", block(4, 5))
        save_mask(b / f"{name}.png", block(2, 5))
    save_mask(c / "x.png", block(1, 5))
    save_mask(run / "x.png", block(8, 5))
    return run, a, b, c


def test_annotators_agree_as_computed_by_hand(tmp_path: Path) -> None:
    run, *truths = annotators(tmp_path)
    result = compare(run, truths=tuple(truths))
    values = {(Path(it.name).name, Path(it.annotator).name): it.estimate.value for it in result.agreements}
    run_values = {"a": (0.5 + 1) / 2, "b": (0.25 + 0.5) / 2, "c": 0.125}
    assert values == pytest.approx(
        {("run", name): value for name, value in run_values.items()}
        | {("a", "b"): 0.5, ("b", "a"): 0.5, ("a", "c"): 0.25, ("c", "a"): 0.25, ("b", "c"): 0.5, ("c", "b"): 0.5}
    )
    assert [len(compared.runs) for compared in result.by_ground_truth] == [1, 1, 1]


def test_annotators_of_other_images_are_refused(tmp_path: Path) -> None:
    run, a, b, _ = annotators(tmp_path)
    save_mask(run / "z.png", block(4, 5))
    save_mask(tmp_path / "d" / "z.png", block(4, 5))
    with pytest.raises(InputError, match=r"no image in common"):
        compare(run, truths=(a, tmp_path / "d"))
    for name in ("x", "y"):
        save_mask(tmp_path / f"only {name}" / f"{name}.png", block(4, 5))
    with pytest.raises(InputError, match=r"all of"):
        compare(tmp_path / "only x", tmp_path / "only y", truths=(b,))


def test_the_command(data_set: Path) -> None:
    done = call("compare", FIRST, SECOND, "--gt", LABELS)
    assert done.exit_code == ExitCode.OK, done.stderr
    (data_set / "other" / f"{image_name(3)}.png").unlink()
    printed = call("compare", FIRST, SECOND, "--gt", LABELS, "--json")
    assert printed.exit_code == ExitCode.SOME_FAILED
    assert image_name(3) in printed.stderr
    document = json.loads(printed.stdout)
    (compared,) = document["by_ground_truth"]
    assert [run["name"] for run in compared["runs"]] == ["masks", "other"]
    assert compared["left_out"] == [image_name(3)]


def test_an_unknown_metric_is_refused_before_anything_is_evaluated(
    data_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate_predictions(*args: object, **options: object) -> None:
        raise AssertionError("evaluated")

    monkeypatch.setattr(runs, "evaluate_predictions", evaluate_predictions)
    done = call("compare", FIRST, "--gt", LABELS, "--metric", "jacard")
    assert done.exit_code == ExitCode.USAGE
    assert "jacard is not one of jaccard, " in done.stderr
    assert "melanoma, seborrheic_keratosis, auc_mean" in done.stderr


def test_metrics_that_are_known_can_be_chosen(data_set: Path) -> None:
    for truth in (LABELS, LABELS / "labels.csv"):
        known = list_metrics(read_ground_truths([truth], EvaluationOptions()).values())
        (compared,) = compare(FIRST, truths=(truth,)).by_ground_truth
        assert known == list(compared.runs[0].estimates)
    shutil.move(FIRST / "scores.csv", "elsewhere.csv")
    assert call("compare", FIRST, "--gt", LABELS, "--metric", "melanoma").exit_code == ExitCode.USAGE


class Cells(HTMLParser):
    """Collects the text of the cells of HTML tables, row by row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if data.strip() and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


SPECIAL = [("model", "a_b"), ("x|y *z*", "-0.5 (-1.0 to 2.0)"), ("50 % & more", r"p<0.01 [1] #2 C:\x")]


def test_markdown_shows_every_cell_as_it_is() -> None:
    html = markdown.markdown(render_markdown("", SPECIAL), extensions=["tables"])
    assert Cells(html).rows == [list(row) for row in SPECIAL]


def test_latex_has_a_line_per_row_and_no_bare_special_characters() -> None:
    lines = render_latex("50 % of masks", SPECIAL).strip().split("\n")
    assert lines[0] == "% 50 % of masks"
    assert lines[1] == r"\begin{tabular}{lr}"
    assert [lines[number] for number in (2, 4, 7, 8)] == [r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"]
    assert lines[3] == r"model & a\_b \\"
    assert lines[5] == r"x|y *z* & $-$0.5 ($-$1.0 to 2.0) \\"
    assert lines[6] == r"50 \% \& more & p<0.01 [1] \#2 C:/x \\"


def test_every_format_prints_the_same_numbers(data_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = make_table("metric", "value")
    add_row(table, "[red]x[/]", 0.25)
    for table_format in (TableFormat.MARKDOWN, TableFormat.LATEX):
        print_table(table, table_format)
        out = capsys.readouterr().out
        assert "red" in out
        assert "0.25" in out
    jaccard = f"{evaluate(LABELS, FIRST).masks.means['jaccard']:.4f}"
    for command in (("evaluate", "--gt", LABELS), ("compare", FIRST, SECOND, "--gt", LABELS)):
        texts = {name.value: call(*command, "--format", name.value).stdout for name in TableFormat}
        assert all(jaccard in text for text in texts.values())
        assert texts["latex"].startswith((r"\begin{tabular}", "% "))
        assert texts["latex"].count(r"\begin{tabular}") == texts["latex"].count(r"\end{tabular}") >= 1
        html = markdown.markdown(texts["markdown"], extensions=["tables"])
        assert jaccard in " ".join(cell for row in Cells(html).rows for cell in row if row)
