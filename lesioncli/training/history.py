"""history.csv and curves.png of a training stage."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

from lesioncli.files import atomic_write

Row = dict[str, float]  # epoch, loss, validation metrics, seconds


def write_history(folder: Path, history: Sequence[Row]) -> None:
    """Write history.csv, one row per epoch, and curves.png."""
    with atomic_write(folder / "history.csv") as temporary:
        pandas.DataFrame(history).round(6).to_csv(temporary, index=False)
    with atomic_write(folder / "curves.png") as temporary:
        plot_history(history).savefig(temporary, format="png")


def plot_history(history: Sequence[Row]) -> "Figure":
    """Plot the training loss and the validation metrics over epochs."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4), layout="constrained")
    loss, metrics = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    loss.plot(epochs, [row["loss"] for row in history], marker=".")
    loss.set(title="training loss", xlabel="epoch")
    for name in [key for key in history[0] if key.startswith(("jaccard", "auc"))]:
        metrics.plot(epochs, [row[name] for row in history], marker=".", label=name.replace("_", " "))
    metrics.set(title="validation", xlabel="epoch", ylim=(0, 1.02))
    metrics.legend(loc="lower right")
    for plot in (loss, metrics):
        plot.set_xlim(0.5, epochs[-1] + 0.5)  # with ticks inside, also for one epoch
        plot.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure
