"""Plots of the report. To add one, write a function and add it to PLOTS."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from lesioncli.evaluation.metrics.pixels import AREA_LOG_RATIO, MINIMUM_JACCARD
from lesioncli.evaluation.metrics.scores import CALIBRATION_BINS, calibration_bins
from lesioncli.report.data import Floats, ReportData
from lesioncli.report.svg import FAINT, INK, PAPER, SERIES, render
from lesioncli.report.titles import count_images, title
from lesioncli.segmented import AREA, CONFIDENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TENTHS = 10  # bins of confidence with equal numbers of images
MAX_AREA_RATIO = 4  # of the plot's axis, and its reciprocal
MIN_IMAGES = 2 * TENTHS  # for a plot over confidence

# Line styles for colour-blind readers; six of them and seven colours give 42 classes different lines.
_LINE_STYLES = ("solid", (0, (6, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 3)), (0, (9, 3)))


@dataclass(frozen=True)
class Plot:
    """An SVG and the sentence below it. `name` is unique in the page."""

    name: str
    svg: str
    caption: str


PlotFunction = Callable[[ReportData], Iterator[Plot]]


def plot_jaccard(data: ReportData) -> Iterator[Plot]:
    """Plot the distribution of the Jaccard index."""
    values = data.known("jaccard")
    if data.evaluation is None or not values.size:
        return
    low, median, high = np.percentile(values, (25, 50, 75))
    below = int(np.count_nonzero(values < MINIMUM_JACCARD))
    caption = (
        f"Jaccard index of {count_images(values.size)}: median {median:.3f}, middle half {low:.3f} to {high:.3f}. "
        f"{count_images(below)} below {MINIMUM_JACCARD:.2f}, which the thresholded Jaccard counts as 0."
    )
    yield _histogram("jaccard", values, "Jaccard index", caption, MINIMUM_JACCARD)


def plot_confidence(data: ReportData) -> Iterator[Plot]:
    """Plot the Jaccard index against confidence: median and middle 80 % for each tenth of the images."""
    pairs = np.array([(case.number(CONFIDENCE), case.number("jaccard")) for case in data.cases], np.float64)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    if data.evaluation is None or len(pairs) < MIN_IMAGES:
        return
    confidence, jaccard = pairs.T
    order = np.argsort(confidence, kind="stable")
    tenths = [rows for rows in np.array_split(order, TENTHS) if rows.size]
    x = np.array([confidence[rows].mean() for rows in tenths])
    low, median, high = np.array([np.percentile(jaccard[rows], (10, 50, 90)) for rows in tenths]).T

    def draw(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
        axes.vlines(x, low, high, color=SERIES[0], linewidth=2.5, alpha=0.45)
        axes.plot(x, median, color=SERIES[0], marker="o", markersize=4, linewidth=1)
        start = math.floor(10 * min(x.min(), low.min())) / 10  # values near 1 would fill one corner of the plot
        _square(axes, "mean confidence per tenth of the images", "Jaccard index", start)

    found = data.evaluation.masks.confidence
    caption = (
        f"Jaccard index against confidence, {count_images(len(pairs))} in tenths by confidence: median and middle "
        "80 %. On the diagonal, confidence equals the Jaccard index."
    )
    if found.images:
        caption += (
            f" The mean confidence is {found.means['confidence']:.3f}, the mean Jaccard index"
            f" {found.means['jaccard']:.3f}, the calibration error {found.metrics['calibration_error']:.3f}."
        )
    yield Plot("confidence", render("confidence", draw, caption), caption)


def plot_area(data: ReportData) -> Iterator[Plot]:
    """Plot the distribution of predicted over ground-truth area, on a logarithmic axis."""
    values = data.known(AREA_LOG_RATIO)
    if data.evaluation is None or AREA_LOG_RATIO not in data.evaluation.masks.intervals:
        return
    masks = data.evaluation.masks
    mean, low, high = (math.exp(value) for value in (masks.means[AREA_LOG_RATIO], *masks.intervals[AREA_LOG_RATIO]))
    outside = int(np.count_nonzero(np.abs(values) > math.log(MAX_AREA_RATIO)))

    def draw(axes: "Axes") -> None:
        edges = np.linspace(-math.log(MAX_AREA_RATIO), math.log(MAX_AREA_RATIO), 21)
        axes.hist(np.exp(np.clip(values, edges[0], edges[-1])), np.exp(edges).tolist(), color=SERIES[0], rwidth=0.9)
        axes.set_xscale("log")
        axes.set_xticks([0.25, 0.5, 1, 2, 4], labels=["1/4", "1/2", "1", "2", "4"])
        axes.minorticks_off()
        _vertical_line(axes, mean, "mean", "solid")
        axes.set(xlabel="area of the mask / area of the ground truth", ylabel="images")
        axes.locator_params(axis="y", integer=True)

    caption = (
        f"Area of the masks over that of the ground truth, {count_images(values.size)}: geometric mean {mean:.3f} "
        f"({low:.3f} to {high:.3f}). Below 1, the masks are smaller than the annotators' outlines."
    )
    if outside:
        caption += f" Beyond the axis, counted in the outer bins: {count_images(outside)}."
    yield Plot("area", render("area", draw, caption), caption)


def plot_thresholds(data: ReportData) -> Iterator[Plot]:
    """Plot the mean Jaccard index over mask thresholds, with its interval."""
    curve = data.evaluation.masks.thresholds if data.evaluation else None
    if curve is None:
        return
    low, high = np.array(curve.intervals).T

    def draw(axes: "Axes") -> None:
        axes.fill_between(curve.thresholds, low, high, color=SERIES[0], alpha=0.2, linewidth=0)
        axes.plot(curve.thresholds, curve.means, color=SERIES[0], marker="o", markersize=3)
        _vertical_line(axes, curve.best, f"{curve.best:.2f}", "dotted")
        axes.set(xlabel="minimum lesion probability of a mask pixel", ylabel="mean Jaccard index", xlim=(0, 1))

    first, last = curve.best_interval
    caption = (
        f"Mean Jaccard index over mask thresholds with its 95 % interval, {count_images(curve.images)}: highest at "
        f"{curve.best:.2f} (95 %: {first:.2f} to {last:.2f}). A threshold chosen here looks better than it is."
    )
    yield Plot("thresholds", render("thresholds", draw, caption), caption)


def plot_columns(data: ReportData) -> Iterator[Plot]:
    """Without ground truth, plot the distribution of confidence, lesion area and each class score."""
    if data.evaluation:
        return
    titles = {CONFIDENCE: "Confidence", AREA: "Lesion area as a fraction of the image"}
    titles |= {name: f"Score of {title(name)}" for name in data.segmented.classes}
    for number, (column, heading) in enumerate(titles.items()):
        values = data.known(column)
        if values.size:
            caption = f"{heading}: median {np.median(values):.3f} of {count_images(values.size)}."
            yield _histogram(f"column-{number}", values, title(column), caption)  # a column may have any name


def _histogram(name: str, values: Floats, label: str, caption: str, mark: float | None = None) -> Plot:
    """Count images by a value from 0 to 1 in steps of 0.05; lines show the median and `mark`."""

    def draw(axes: "Axes") -> None:
        axes.hist(values, np.linspace(0, 1, 21).tolist(), color=SERIES[0], rwidth=0.9)
        _vertical_line(axes, float(np.median(values)), "median", "solid")
        if mark is not None:
            _vertical_line(axes, mark, f"{mark:.2f}", "dotted")
        axes.set(xlabel=label, ylabel="images", xlim=(0, 1))
        axes.locator_params(axis="y", integer=True)

    return Plot(name, render(name, draw, caption), caption)


def _vertical_line(axes: "Axes", x: float, label: str, line_style: str) -> None:
    axes.axvline(x, color=INK, linewidth=1, linestyle=line_style)
    axes.annotate(
        label,
        (x, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color=INK,
    )


def plot_roc(data: ReportData) -> Iterator[Plot]:
    """Plot the ROC curve of each class."""
    if data.evaluation is None or not data.roc_curves:
        return

    def draw(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
        for name, colour, line in _styles(data.roc_curves):
            curve = data.roc_curves[name]
            axes.plot(curve.false_positive_rate, curve.sensitivity, color=colour, linestyle=line, label=title(name))
        _unit_square(axes, "1 - specificity", "sensitivity", legend_at="lower right")

    aucs = ", ".join(f"{title(name)} {data.evaluation.scores.auc[name]:.3f}" for name in data.roc_curves)
    caption = f"ROC curves. Area under the curve: {aucs}."
    yield Plot("roc", render("roc", draw, caption), caption)


def plot_precision_recall(data: ReportData) -> Iterator[Plot]:
    """Plot precision over sensitivity of each class; a random score would stay at the fraction of positives."""
    if data.evaluation is None or not data.roc_curves:
        return
    by_class = data.evaluation.scores.labelled.by_class()

    def draw(axes: "Axes") -> None:
        for name, colour, line in _styles(data.roc_curves):
            curve = data.roc_curves[name]
            axes.axhline(float(by_class[name][0].mean()), color=FAINT, linewidth=1)
            # Steps, as average precision sums them: no interpolation between two thresholds.
            precision = np.append(curve.precision[1], curve.precision[1:])
            axes.step(curve.sensitivity, precision, color=colour, linestyle=line, label=title(name), where="pre")
        _unit_square(axes, "sensitivity (recall)", "precision", legend_at="lower left")

    positives = "; ".join(f"{title(name)} {labels.sum()} of {len(labels)}" for name, (labels, _) in by_class.items())
    caption = f"Precision and recall. Faint lines: fraction of positive images ({positives})."
    yield Plot("precision-recall", render("precision-recall", draw, caption), caption)


def plot_calibration(data: ReportData) -> Iterator[Plot]:
    """Plot the fraction of positives over the mean score, in the bins of the calibration error."""
    if data.evaluation is None or not data.roc_curves:
        return
    by_class = data.evaluation.scores.labelled.by_class()

    def draw(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
        for name, colour, line in _styles(data.roc_curves):
            labels, scores = by_class[name]
            bins = calibration_bins(labels, scores, np.ones(len(labels)))
            filled = bins.weights > 0
            x, y, images = bins.scores[filled], bins.positives[filled], bins.weights[filled]
            axes.plot(x, y, color=colour, linewidth=1, linestyle=line, label=title(name))
            axes.scatter(x, y, 90 * images / images.max() + 6, color=colour, linewidths=0)
        _unit_square(axes, f"mean score per bin ({CALIBRATION_BINS} bins)", "fraction of positives", "upper left")

    caption = (
        f"Calibration in {CALIBRATION_BINS} bins by score; a larger dot stands for more images. On the diagonal, a "
        "score is a probability."
    )
    yield Plot("calibration", render("calibration", draw, caption), caption)


def _styles(names: Iterable[str]) -> Iterator[tuple[str, str, Any]]:
    """Yield each name with a colour and a line style of its own."""
    yield from zip(names, cycle(SERIES), cycle(_LINE_STYLES), strict=False)


def _unit_square(axes: "Axes", x_label: str, y_label: str, legend_at: Any) -> None:
    """Set both axes from 0 to 1, and place a legend in the corner `legend_at`, a location of matplotlib."""
    _square(axes, x_label, y_label)
    legend = axes.legend(loc=legend_at, handlelength=2.6, facecolor=PAPER, framealpha=0.75, edgecolor="none")
    legend.set_in_layout(False)  # a legend of dozens of classes would leave no room for the plot


def _square(axes: "Axes", x_label: str, y_label: str, start: float = 0) -> None:
    """Set both axes from `start` to 1, with a margin for the lines."""
    margin = 0.01 * (1 - start)
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(start - margin, 1 + margin), ylim=(start - margin, 1 + 3 * margin))


# Plots of each section, in order; a plot that its data do not allow is left out.
PLOTS: Mapping[str, tuple[PlotFunction, ...]] = {
    "results": (plot_jaccard, plot_confidence, plot_area, plot_thresholds, plot_columns),
    "classes": (plot_roc, plot_precision_recall, plot_calibration),
}


def plots_of(section: str, data: ReportData) -> list[Plot]:
    """Draw the plots of a section."""
    return [plot for plot_function in PLOTS[section] for plot in plot_function(data)]
