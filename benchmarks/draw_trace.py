"""Draw part of a timeline written by `segment --trace`: SECONDS (default 0.5) from the middle of the run.

python python benchmarks/draw_trace.py TRACE.json PICTURE [SECONDS]
"""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

COLOURS = {"copy in": "#0072b2", "compute": "#009e73", "copy out": "#d55e00", "decode": "#999999", "write": "#e69f00"}


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    length = float(sys.argv[3]) if len(sys.argv) > 3 else 0.5
    events = json.loads(source.read_text(encoding="utf-8"))
    names = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    bars = [event for event in events if event["ph"] == "X"]
    middle = sorted(bar["ts"] for bar in bars)[len(bars) // 2] / 1e6
    order = {name: number for number, name in enumerate(COLOURS)}
    tracks = sorted(names.values(), key=lambda name: (order.get(name, len(order)), name))
    figure = Figure(figsize=(10, 0.5 + 0.4 * len(tracks)), layout="constrained")
    axes = figure.subplots()
    for bar in bars:
        track, what = names[bar["tid"]], bar["name"].partition(" ")[0]
        across = (bar["ts"] / 1e3 - 1e3 * middle, bar["dur"] / 1e3)
        colour = COLOURS.get(track) or COLOURS.get(what, "#56b4e9")
        axes.broken_barh([across], (tracks.index(track) - 0.4, 0.8), facecolor=colour, edgecolor="white", linewidth=0.5)
    axes.set(xlim=(0, 1e3 * length), ylim=(len(tracks) - 0.5, -0.5), xlabel="milliseconds")
    axes.set_yticks(range(len(tracks)), tracks)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main()
