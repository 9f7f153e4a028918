"""Turn matplotlib plots into SVG that stands in the HTML page: its font, and its colours for light and dark.

matplotlib draws with marker colours, which then become CSS variables of the page. The SVG has no `style` attribute,
which the page's content security policy forbids, and no id that another plot has.
"""

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SIZE_IN = (3.9, 2.9)  # an inch is 72 units of the SVG, which the page scales to its columns

INK, FAINT, PAPER = "#000001", "#000002", "#000003"
SERIES = ("#000011", "#000012", "#000013", "#000014", "#000015", "#000016", "#000017")  # ISIC-2018 has seven classes
_VARIABLES = {INK: "currentColor", FAINT: "var(--rule)", PAPER: "var(--paper)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, 1)
}


def render(name: str, draw: Callable[[Axes], None], alt: str) -> str:
    """Return the SVG of a plot that `draw` draws; the same data give the same bytes.

    `name` is unique in the page, and `alt` describes the plot for readers who cannot see it.
    """
    with mpl.rc_context(_settings(name)):
        figure = Figure(figsize=SIZE_IN, layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _adapt(file.getvalue(), name, alt)


def _settings(name: str) -> Any:
    coloured = ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color", "legend.labelcolor")
    return {
        "svg.fonttype": "none",  # text stays text, in the page's font
        "svg.hashsalt": name,  # ids without a random part
        "text.parse_math": False,  # a class may be called $
        "font.size": 9,
        "lines.linewidth": 1.8,
        **dict.fromkeys(coloured, INK),
    }


def _adapt(svg: str, name: str, alt: str) -> str:
    """Adapt matplotlib's SVG to the page: attributes in place of styles, unique ids, CSS variables as colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r' style="([^"]*)"', lambda match: _style_to_attributes(match[1]), svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    view_box = re.search(r'viewBox="[^"]*"', svg)
    start = f'<svg class="plot" role="img" aria-label="{_escape(alt)}" {view_box[0] if view_box else ""}'
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return re.sub(r"\n\s*", "\n", re.sub(r"<svg[^>]*>", lambda _: f"{start} {namespaces}>", svg, count=1)).strip()


def _style_to_attributes(style: str) -> str:
    """Return a CSS style as SVG attributes; of a font only its size."""
    attributes: list[tuple[str, str]] = []
    for declaration in filter(None, map(str.strip, style.split(";"))):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font" and (size := re.search(r"[\d.]+px", value)):
            attributes.append(("font-size", size[0]))
        elif key not in ("font", "font-family"):
            attributes.append((key, value))
    return "".join(f' {key}="{_escape(value)}"' for key, value in attributes)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
