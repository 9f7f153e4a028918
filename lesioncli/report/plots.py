"""The plots of a report, as SVG to stand in an HTML page: its fonts, its colours, light and dark.

matplotlib is asked for colours that nobody uses, which then become the page's CSS variables. Nothing carries a `style`,
which the page's content security policy forbids, or an id that another plot has.
"""

import io
import re
from collections.abc import Callable, Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lesioncli.errors import MissingPackageError
from lesioncli.evaluation.metrics.pixels import MINIMUM_JACCARD
from lesioncli.evaluation.metrics.scores import CALIBRATION_BINS, CalibrationBins, RocCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

SIZE_IN = (3.9, 2.9)  # an inch is 72 units of the SVG, which the page scales to its columns
TENTHS = 10  # bins of confidence, of as many images each

INK, FAINT = "#000001", "#000002"
SERIES = ("#000011", "#000012", "#000013", "#000014", "#000015", "#000016", "#000017")  # as ISIC-2018 has classes
_VARIABLES = {INK: "currentColor", FAINT: "var(--rule)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, 1)
}
# For the colour-blind; six beside seven colours, so that 42 classes are drawn before one is drawn as another.
_LINES = ("solid", (0, (6, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 3)), (0, (9, 3)))


def histogram(name: str, values: Floats, label: str, alt: str, mark: float | None = None) -> str:
    """Images by a figure from 0 to 1, in steps of .05, with their median and perhaps a `mark`."""

    def draw(axes: "Axes") -> None:
        axes.hist(values, np.linspace(0, 1, 21).tolist(), color=SERIES[0], rwidth=0.9)
        _line(axes, float(np.median(values)), "median", "solid")
        if mark is not None:
            _line(axes, mark, f"{mark:.2f}", "dotted")
        axes.set(xlabel=label, ylabel="images", xlim=(0, 1))
        axes.locator_params(axis="y", integer=True)

    return _svg(name, draw, alt)


def jaccard_histogram(values: Floats, alt: str) -> str:
    """How the Jaccard index is distributed, and from where on the challenge of 2018 counts a mask."""
    return histogram("jaccard", values, "Jaccard index", alt, mark=MINIMUM_JACCARD)


def _line(axes: "Axes", at: float, label: str, style: str) -> None:
    axes.axvline(at, color=INK, linewidth=1, linestyle=style)
    axes.annotate(
        label,
        (at, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color=INK,
    )


def roc_curves(curves: Mapping[str, RocCurve], alt: str) -> str:
    """The ROC curve of each class; its legend says the class alone, the figures stand in the table."""

    def draw(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
        for (name, curve), colour, line in zip(curves.items(), cycle(SERIES), cycle(_LINES), strict=False):
            axes.plot(curve.false_positive_rate, curve.sensitivity, color=colour, linestyle=line, label=name)
        _unit_square(axes, "1 - specificity", "sensitivity")

    return _svg("roc", draw, alt)


def precision_recall_curves(curves: Mapping[str, RocCurve], shares: Mapping[str, float], alt: str) -> str:
    """Precision over sensitivity of each class; faint lines are the share of positives, which chance would reach."""

    def draw(axes: "Axes") -> None:
        for (name, curve), colour, line in zip(curves.items(), cycle(SERIES), cycle(_LINES), strict=False):
            axes.axhline(shares[name], color=FAINT, linewidth=1)
            # a step, as average precision sums it: between two thresholds nothing is interpolated
            precision = np.append(curve.precision[1], curve.precision[1:])
            axes.step(curve.sensitivity, precision, color=colour, linestyle=line, label=name, where="pre")
        _unit_square(axes, "sensitivity (recall)", "precision", "lower left")

    return _svg("precision-recall", draw, alt)


def calibration(bins: Mapping[str, CalibrationBins], alt: str) -> str:
    """Share of positives over mean score, in the bins of the calibration error; a dot's area is its images."""

    def draw(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
        for (name, each), colour, line in zip(bins.items(), cycle(SERIES), cycle(_LINES), strict=False):
            filled = each.weights > 0
            x, y, weights = each.scores[filled], each.positives[filled], each.weights[filled]
            axes.plot(x, y, color=colour, linewidth=1, linestyle=line, label=name)
            axes.scatter(x, y, 90 * weights / weights.max() + 6, color=colour, linewidths=0)
        _unit_square(axes, f"mean score in each of {CALIBRATION_BINS} bins", "share of positives", "upper left")

    return _svg("calibration", draw, alt)


def confidence_against_jaccard(confidence: Floats, jaccard: Floats, alt: str) -> str:
    """What confidence is worth: Jaccard of the images, in tenths by confidence, with median and the middle 80 %."""

    def draw(axes: "Axes") -> None:
        tenths = [each for each in np.array_split(np.argsort(confidence, kind="stable"), TENTHS) if each.size]
        x = np.array([confidence[each].mean() for each in tenths])
        low, middle, high = np.array([np.percentile(jaccard[each], (10, 50, 90)) for each in tenths]).T
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
        axes.vlines(x, low, high, color=SERIES[0], linewidth=2.5, alpha=0.45)
        axes.plot(x, middle, color=SERIES[0], marker="o", markersize=4, linewidth=1)
        _unit_square(axes, "confidence (mean of each tenth of the images)", "Jaccard index")

    return _svg("confidence", draw, alt)


def _unit_square(axes: "Axes", x: str, y: str, free: Any = "lower right") -> None:
    """Both axes from 0 to 1; the legend, if there is one, in the corner that is `free`."""
    axes.set(xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.03))
    if axes.get_legend_handles_labels()[1]:
        legend = axes.legend(loc=free, handlelength=2.6, frameon=False)
        legend.set_in_layout(False)  # of dozens of classes, it would leave the plot no room


def _svg(name: str, draw: "Callable[[Axes], None]", alt: str) -> str:
    """One plot. The same data give the same bytes."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingPackageError(str(error.name), "report") from error
    with mpl.rc_context(_settings(name)):
        figure = Figure(figsize=SIZE_IN, layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(file.getvalue(), name, alt)


def _settings(name: str) -> Any:
    coloured = ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color", "legend.labelcolor")
    return {
        "svg.fonttype": "none",  # text stays text, in the page's font
        "svg.hashsalt": name,  # ids that are not drawn by chance
        "text.parse_math": False,  # a class may be called $
        "font.size": 9,
        "lines.linewidth": 1.8,
        **dict.fromkeys(coloured, INK),
    }


def _for_page(svg: str, name: str, alt: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r' style="([^"]*)"', lambda found: _attributes(found[1]), svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    view_box = re.search(r'viewBox="[^"]*"', svg)
    start = f'<svg class="plot" role="img" aria-label="{_escaped(alt)}" {view_box[0] if view_box else ""}'
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return re.sub(r"\n\s*", "\n", re.sub(r"<svg[^>]*>", lambda _: f"{start} {names}>", svg, count=1)).strip()


def _attributes(style: str) -> str:
    """What a style says, as SVG's own attributes; of fonts the size alone."""
    pairs: list[tuple[str, str]] = []
    for declaration in filter(None, map(str.strip, style.split(";"))):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font" and (size := re.search(r"[\d.]+px", value)):
            pairs.append(("font-size", size[0]))
        elif key not in ("font", "font-family"):
            pairs.append((key, value))
    return "".join(f' {key}="{_escaped(value)}"' for key, value in pairs)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
