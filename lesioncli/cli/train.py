"""The command `train`."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesioncli.cli.console import print_line, progress_bars, say, stderr
from lesioncli.errors import MissingPackageError
from lesioncli.options import TrainingDevice
from lesioncli.progress import describe_duration

if TYPE_CHECKING:
    from lesioncli.training.run import Progress

COLUMNS = (
    "figures per epoch: loss: mean over the training; jaccard, auc: on the validation images; choice: jaccard plus mean"
    " AUC, highest in the epoch that is kept; seconds: with validation"
)


def train(
    recipe: Annotated[str, typer.Option(metavar="NAME", help="Name of a recipe, or path of a .toml file.")],
    data: Annotated[list[Path], typer.Option(metavar="DIR", help="Folder of training data. Repeatable.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the run; a run that is there continues.")
    ],
    validation: Annotated[
        list[Path] | None,
        typer.Option(
            "--val",
            metavar="DIR",
            help="Folder of validation data. Repeatable.",
            show_default="the --data folders' own",
        ),
    ] = None,
    fold: Annotated[
        str | None,
        typer.Option(
            metavar="K/N",
            help="Instead of --val: validate on the K-th of N parts of --data, train on the others.",
            show_default=False,
        ),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(metavar="NAME", help="Train only this stage.", show_default="all, in order")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Shipped model, or path of a checkpoint, to start from as far as its networks fit."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Random seed of initial weights, order of images and augmentation.")
    ] = 0,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Threads of torch on a CPU.", show_default="cores without those of the workers"
        ),
    ] = None,
    device: Annotated[TrainingDevice, typer.Option(help="Device to train on.")] = TrainingDevice.AUTO,
) -> None:
    """Train a network from a recipe, stage by stage.

    If the command is stopped, run it again: it continues, and ends with the same weights.
    A full training takes hours on a CPU.
    """
    try:
        from lesioncli.training.devices import choose_device, choose_threads, make_fabric, torch_threads
        from lesioncli.training.groups import Fold, split_fold
        from lesioncli.training.run import TrainingRun
        from lesioncli.training.samples import read_training_data, read_training_samples
        from lesioncli.training.summary import describe_samples, note_undefined_aucs
        from lesioncli.training.trainer import train as run_training
    except ModuleNotFoundError as error:
        raise MissingPackageError(str(error.name), "train") from error
    from lesioncli.process import keep_freed_memory, quiet_decoders
    from lesioncli.progress import Reporter
    from lesioncli.shipped import find_model
    from lesioncli.training.recipe import find_recipe, load_recipe

    if fold and validation:
        raise typer.BadParameter("--fold takes the validation images from --data; leave --val out")
    try:
        held_out = Fold.parse(fold) if fold else None
    except ValueError as error:
        raise typer.BadParameter(f"--fold: {error}") from error
    quiet_decoders()
    loaded = load_recipe(find_recipe(recipe))
    if held_out:
        samples = split_fold(read_training_samples(data, loaded.train.exclude), held_out)
    else:
        samples = read_training_data(data, validation or data, loaded.train.exclude)
    chosen = choose_device(device)
    if chosen.value == TrainingDevice.CPU:
        keep_freed_memory()
    made, torch_count = make_fabric(chosen.value), choose_threads(threads, loaded.most_workers)
    fabric = made.value
    prints = fabric.is_global_zero  # only one of several processes
    if prints:
        say(f"training: {describe_samples(samples.training)}")
        say(f"validation: {describe_samples(samples.validation)}")
        for note in note_undefined_aucs(samples.validation):
            say(note)
        say(f"device {chosen.value}: {chosen.reason}; {made.reason}; threads {torch_count.value}: {torch_count.reason}")
        say(COLUMNS)
    pace = _Pace()
    with torch_threads(torch_count.value), progress_bars() if prints else Reporter() as progress:
        run = TrainingRun(
            recipe=loaded,
            training=samples.training,
            validation=samples.validation,
            folder=out,
            seed=seed,
            start=find_model(start, "--start") if start else None,
            on_step=lambda at: progress.train(_name_epoch(at), at.step + 1, at.steps, pace.describe(at)),
            on_epoch=pace.print_epoch if prints else lambda stage, row: None,
            on_note=say if prints else lambda text: None,
        )
        best = run_training(run, fabric, stage)
    if prints:
        print_line(f"best checkpoint: {best}; next: lesioncli build-engine {best}")


class _Pace:
    """Images per second, with validation, and the time left for the whole run."""

    def __init__(self) -> None:
        self._started: float | None = None
        self._images = 0
        self._rate = ""

    def describe(self, at: "Progress") -> str:
        """Count a step; return its loss, the speed and the time left."""
        now = time.monotonic()
        if self._started is None:  # the first step is not timed: workers start before it
            self._started = now
        else:
            self._images += at.batch
            rate = self._images / (now - self._started)
            self._rate = f", {rate:.3g} images/s, {describe_duration(at.images_left / rate)} left"
        return f"loss {at.loss:.3f}{self._rate}"

    def print_epoch(self, stage: str, row: Mapping[str, float]) -> None:
        metrics = ", ".join(f"{key} {value:.4g}" for key, value in row.items() if key != "epoch")
        stderr.print(f"{stage}, epoch {row['epoch']:.0f}: {metrics}{self._rate}", soft_wrap=True)


def _name_epoch(progress: "Progress") -> str:
    return f"{progress.stage} {progress.epoch + 1}/{progress.epochs}"
