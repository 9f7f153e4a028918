"""Plots of the report: their SVG, and their values."""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.drawn_run import DrawnRun
from helpers.report_page import write_page

from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.labelled_scores import LabelledScores
from lesioncli.evaluation.metrics.scores import area_under_curve, calibration_bins, calibration_error
from lesioncli.evaluation.metrics.thresholds import THRESHOLDS
from lesioncli.evaluation.result import Evaluation, MaskEvaluation, ScoreEvaluation
from lesioncli.evaluation.threshold_curve import ThresholdCurve
from lesioncli.options import ProtocolName
from lesioncli.report import svg
from lesioncli.report.cases import Case, CaseState, list_cases
from lesioncli.report.data import ReportData
from lesioncli.report.page import TEMPLATES
from lesioncli.report.plots import PLOTS, Plot, plots_of
from lesioncli.segmented import SegmentedFolder, read_segmented_folder

HOSTILE_NAMES = ["melanoma", '"><script>alert(1)</script>&amp;', "$a^_$", "\\frac{"]


def data_of_classes(classes: list[str], images: int = 80) -> ReportData:
    """Return data with random scores of these classes and random metrics of the masks."""
    rng = np.random.default_rng(0)
    labels = rng.random((images, 1)) < 0.3
    labels[:2] = [[True], [False]]
    scores = np.clip(rng.random((images, 1)) * 0.7 + labels * 0.3, 0, 1)
    names = tuple(str(number) for number in range(images))
    labelled = LabelledScores(
        tuple(classes),
        names,
        names,
        np.repeat(labels, len(classes), axis=1),
        np.repeat(scores, len(classes), axis=1),
        np.ones((images, 2)),
    )
    cases = [
        Case(
            name,
            name,
            CaseState.EVALUATED,
            values={"confidence": score},
            metrics={"jaccard": score**2, "area_log_ratio": 4 * score - 2},
        )
        for name, score in zip(names, scores[:, 0].tolist(), strict=True)
    ]
    scored = ScoreEvaluation(labelled, auc=dict.fromkeys(classes, 0.5))
    means = tuple(0.8 - abs(threshold - 0.4) for threshold in THRESHOLDS)
    intervals = tuple((mean - 0.02, mean + 0.02) for mean in means)
    masks = MaskEvaluation(
        means={"area_log_ratio": math.log(0.9)},
        intervals={"area_log_ratio": (math.log(0.8), math.log(1.1))},
        thresholds=ThresholdCurve(THRESHOLDS, means, intervals, images, 0, 0.4, (0.3, 0.45)),
    )
    evaluation = Evaluation(ProtocolName.PLAIN, masks, scored)
    return ReportData(SegmentedFolder(Path("masks")), cases, evaluation)


def all_plots(data: ReportData) -> list[Plot]:
    return [plot for section in PLOTS for plot in plots_of(section, data)]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_plots_stand_in_one_page(name: str) -> None:
    """They are well-formed, share no ids, obey the security policy and use the colours of the page."""
    plots = all_plots(data_of_classes([name]))
    expected = ["jaccard", "confidence", "area", "thresholds", "roc", "precision-recall", "calibration"]
    assert [plot.name for plot in plots] == expected
    trees = [ElementTree.fromstring(plot.svg) for plot in plots]  # noqa: S314 - made by this test
    ids = [element.get("id") for tree in trees for element in tree.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for tree, plot in zip(trees, plots, strict=True):
        assert tree.get("aria-label") == plot.caption
        elements = [*tree.iter()]
        assert not any("style" in element.tag or "style" in element.attrib for element in elements)
        values = " ".join(value for element in elements for key, value in element.attrib.items() if key != "aria-label")
        references = set(re.findall(r"#([\w-]+)", values))
        assert references
        assert references <= set(ids), "every reference stays in the page"
        assert not any(re.search("script|^on", key) for element in elements for key in (element.tag, *element.attrib))
    text = "".join(plot.svg for plot in plots)
    assert {"currentColor", "var(--rule)", "var(--series-1)"} <= set(re.findall(r'"(currentColor|var\([^)]*\))"', text))
    assert not re.search(r'"#[0-9a-f]{6}"', text)


def test_captions_have_the_bias_of_the_area_and_the_best_threshold() -> None:
    plots = {plot.name: plot for plot in all_plots(data_of_classes(["a"]))}
    assert "0.900 (0.800 to 1.100)" in plots["area"].caption
    assert "outer bins: " in plots["area"].caption
    assert "0.40 (95 %: 0.30 to 0.45)" in plots["thresholds"].caption


def line_styles(plot: Plot) -> set[tuple[str, str]]:
    """Return the colours and dashes of the lines of classes."""
    elements = ElementTree.fromstring(plot.svg).iter()  # noqa: S314 - made by this test
    lines = [element.attrib for element in elements if element.get("stroke", "").startswith("var(--series-")]
    return {(line["stroke"], line.get("stroke-dasharray", "")) for line in lines}


@pytest.mark.parametrize("count", [1, 9, 42])
def test_every_class_has_a_line_of_its_own(count: int) -> None:
    classes = [f"class {number}" for number in range(count)]
    for plot in plots_of("classes", data_of_classes(classes, images=3)):
        assert all(f">{name}<" in plot.svg for name in classes)
        assert len(line_styles(plot)) == count


def test_every_colour_of_a_plot_is_one_of_the_page() -> None:
    style = (TEMPLATES / "page.css").read_text()
    names = {f"--series-{number}" for number, _ in enumerate(svg.SERIES, 1)}
    assert {name: style.count(f"{name}:") for name in names} == dict.fromkeys(names, 3), "light, dark and print"


def test_same_data_give_the_same_bytes() -> None:
    assert all_plots(data_of_classes(["a"])) == all_plots(data_of_classes(["a"]))


def test_calibration_bins_of_the_plot_give_the_calibration_error() -> None:
    labels, scores = np.array([True, False, False, True]), np.array([0.9, 0.92, 0.1, 0.1])
    weights = np.array([1.0, 2.0, 1.0, 0.0])
    bins = calibration_bins(labels, scores, weights)
    assert bins.weights.tolist() == [0, 1, *[0] * 11, 3, 0]
    assert bins.scores[13] == pytest.approx((0.9 + 2 * 0.92) / 3)
    assert bins.positives[13] == pytest.approx(1 / 3)
    by_hand = (1 * abs(0.1 - 0) + 3 * abs((0.9 + 2 * 0.92) / 3 - 1 / 3)) / 4
    assert calibration_error(labels, scores, weights) == pytest.approx(by_hand)


def test_roc_curve_has_the_auc_of_the_table_whatever_the_weights(run: DrawnRun) -> None:
    rows = [line for line in (run.labels / "labels.csv").read_text().splitlines() if line]
    weights = ["score_weight", *(number % 3 for number in range(len(rows) - 1))]
    (run.labels / "labels.csv").write_text("".join(f"{row},{w}\n" for row, w in zip(rows, weights, strict=True)))
    evaluation = evaluate(run.labels, run.masks)
    segmented = read_segmented_folder(run.masks)
    data = ReportData(segmented, list_cases(segmented, {}, evaluation), evaluation)
    aucs = {name: float(area_under_curve(curve)) for name, curve in data.roc_curves.items()}
    assert aucs == pytest.approx(evaluation.scores.auc)
    assert len(aucs) == 2


def test_a_new_plot_is_one_function_and_one_line_of_the_table(run: DrawnRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def plot_number_of_cases(data: ReportData) -> Iterator[Plot]:
        yield Plot("cases", "<svg><!-- fake --></svg>", f"There are {len(data.cases)} cases.")

    monkeypatch.setitem(PLOTS, "results", (*PLOTS["results"], plot_number_of_cases))
    _, page = write_page(run)
    assert "There are 12 cases." in page.text
