"""The training loop, read top to bottom in the order it happens.

A run lives in one folder: recipe.json (everything it depends on), one folder a stage, and at the end best.safetensors.
A stage's folder holds last.pt (where to resume), best.safetensors (the whole network, this stage's part at its best),
history.csv and curves.png. Each epoch depends on (recipe, seed, stage, epoch) and the state before it, so a run that
was killed and resumed ends with the same weights as one that was not.

Device, precision and several processes are Lightning Fabric's business: the same loop runs on a CPU, on a GPU, and in
every process that torchrun starts.
"""

import copy
import json
import math
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from lesioncli import __version__
from lesioncli.errors import InputError
from lesioncli.files import PRETRAINED, atomic_output, atomic_write, sha256_of
from lesioncli.training.checkpoint import make_network, save_checkpoint
from lesioncli.training.datasets import AugmentedSamples, EpochSampler, Sample, balance_weights, fingerprint
from lesioncli.training.initial import imagenet_file, load_initial
from lesioncli.training.losses import total_loss
from lesioncli.training.recipe import LossWeights, Recipe, TrainSettings
from lesioncli.training.stages import STAGES, Stage, StageNetwork, find_stage, take_over, take_parts
from lesioncli.training.teachers import Teachers, teacher_path
from lesioncli.training.validation import validate

BEST = "best.safetensors"
SAVED = ("part", "average", "optimizer", "schedule")


@dataclass(frozen=True)
class Progress:
    """Where the run stands, after a step."""

    stage: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float


@dataclass(frozen=True)
class Task:
    """What a run is about, the same for all its stages. `start` is a checkpoint whose networks are taken first."""

    recipe: Recipe
    training: Sequence[Sample]
    validation: Sequence[Sample]
    run: Path
    seed: int = 0
    start: Path | None = None
    on_step: Callable[[Progress], None] = lambda progress: None
    on_epoch: Callable[[str, dict[str, float]], None] = lambda stage, row: None
    on_note: Callable[[str], None] = lambda text: None


def train(task: Task, fabric: Fabric, only: str | None = None) -> Path:
    """Train stage after stage, or go on where the run stopped; returns the checkpoint that the last one left.

    `only` names one stage; what it builds on must then be there, in the run or as `start`. Raises InputError where the
    folder holds another recipe, seed or data, or cannot be written when the run begins, where `start` cannot be read,
    and where a loss is no longer finite.
    """
    network = task.recipe.model.network
    for name in [*task.recipe.stages, *([only] if only else [])]:
        find_stage(network, name)
    stages = [each for each in STAGES[network] if only in (None, each.name)]
    if task.start is None and any(task.recipe.for_stage(each.name).train.keep_start for each in stages):
        raise InputError("[train] keep_start keeps a share of a checkpoint's weights: name it with --start")
    if fabric.is_global_zero:
        _start_or_check(task)
    fabric.barrier()
    for stage in stages:
        _train_stage(task, stage, fabric)
    best = task.run / stages[-1].name / BEST
    if stages[-1] != STAGES[network][-1]:
        return best
    if fabric.is_global_zero:
        with atomic_write(task.run / BEST) as aside:
            shutil.copyfile(best, aside)
    return task.run / BEST


def _train_stage(task: Task, stage: Stage, fabric: Fabric) -> None:
    """One stage from its first epoch, or from the one after the last that was finished, to its end."""
    spec, settings = task.recipe.model, task.recipe.for_stage(stage.name)
    number, folder = STAGES[spec.network].index(stage), task.run / stage.name
    torch.manual_seed(task.seed + number)
    network = _network_for(task, stage, fabric)
    start = copy.deepcopy(network.part.state_dict())
    share = (fabric.global_rank, fabric.world_size)
    weights = balance_weights(task.training, settings.train.balance)
    sampler = EpochSampler(weights, settings.train.batch, task.seed, share)
    state = _prepare(network, settings.train, fabric, steps=settings.train.epochs * len(sampler))
    history = state.resume(folder / "last.pt")
    teachers = _make_teachers(settings.train, fabric)
    samples = AugmentedSamples(task.training, (spec.height, spec.width), settings.augment, task.seed)
    loader = _make_loader(samples, sampler, settings.train.workers, fabric)
    for epoch in range(len(history), settings.train.epochs):
        started = time.monotonic()
        _seed(task.seed, number, epoch, fabric.global_rank)  # dropout after a resume as without one
        sampler.epoch = epoch
        losses = []
        state.network.train()
        for step, batch in enumerate(loader):
            loss = _step(state, batch, teachers, settings.loss, fabric)
            if not math.isfinite(loss):
                raise InputError(
                    f"{stage.name}: loss is {loss} in epoch {epoch + 1}, step {step + 1}; lower the learning rates"
                )
            losses.append(loss)
            task.on_step(Progress(stage.name, epoch, settings.train.epochs, step, len(sampler), loss))
        if fabric.is_global_zero:
            averaged = network.with_part(blend(state.average.module, start, settings.train.keep_start))
            scores = validate(averaged, spec, task.validation, fabric.device)
            seconds = time.monotonic() - started
            history.append({"epoch": epoch + 1.0, "loss": float(np.mean(losses)), **scores, "seconds": seconds})
            if scores["choice"] >= max(each["choice"] for each in history):
                save_checkpoint(folder / BEST, averaged.network, spec)
            _write_history(folder, history)
            state.save(folder / "last.pt", history)  # last, so that an epoch it holds is done in every respect
            task.on_epoch(stage.name, history[-1])
        fabric.barrier()


def blend(part: nn.Module, start: Mapping[str, Tensor], share: float) -> nn.Module:
    """A copy of a part, its weights moved by `share` of the way back to `start`, a state dict of the same part.

    Where a training goes on from trained weights, a mean of both ends can be as good as the better one, and steadier
    (WiSE-FT; Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", section 3).
    """
    blended = copy.deepcopy(part)
    for name, value in blended.state_dict().items():
        if value.is_floating_point():  # all but counters
            value.lerp_(start[name], share)
    return blended


def _step(
    state: "State",
    batch: tuple[Tensor, Tensor, Tensor],
    teachers: Teachers | None,
    weights: LossWeights,
    fabric: Fabric,
) -> float:
    """Learn from one batch, unless its loss is not finite; returns the loss."""
    images, masks, labels = batch
    images = images.contiguous(memory_format=torch.channels_last)
    if teachers is not None:
        with fabric.autocast():
            masks, labels = teachers.mix_into(weights.teachers, images, masks, labels)
    outputs = state.network(images)
    loss = total_loss(outputs.mask_logits, outputs.class_logits, masks, labels, weights)
    if torch.isfinite(loss):
        state.optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        state.optimizer.step()
        state.schedule.step()
        state.average.update_parameters(state.part)
    return loss.item()


def _network_for(task: Task, stage: Stage, fabric: Fabric) -> StageNetwork:
    """The network as the stages before left it, on its device, the stage's part with its initial weights."""
    spec, settings = task.recipe.model, task.recipe.for_stage(stage.name).train
    before = _made_before(task, stage)
    network = make_network(spec)
    taken = take_parts(network, stage, spec.network, before) if before else set()
    if settings.keep_start and (stage.follows or stage.name not in taken):
        raise InputError(
            f"{stage.name}: [train] keep_start has nothing to keep: this stage takes no weights of --start"
        )
    part = StageNetwork(network, stage)
    if stage.follows:
        fresh = take_over(network, stage)
        notes = [f"initial weights: {stage.follows}, but for {len(fresh)} tensors of the layer that takes the map"]
    else:
        notes = _initialise(part.part, settings.initial)
    for note in notes:
        task.on_note(f"{stage.name}: {note}")
    part.to(fabric.device)
    part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return part


def _made_before(task: Task, stage: Stage) -> Path | None:
    """The checkpoint that a stage builds on: of the nearest stage before it in this run, else `start`."""
    stages = STAGES[task.recipe.model.network]
    earlier = stages[: stages.index(stage)]
    for each in reversed(earlier):
        if (task.run / each.name / BEST).exists():
            return task.run / each.name / BEST
    if earlier and task.start is None:
        raise InputError(
            f"{task.run}: {stage.name} builds on {earlier[-1].name}, which is not trained here;"
            " train it first, or name a checkpoint with --start"
        )
    return task.start


def _make_teachers(settings: TrainSettings, fabric: Fabric) -> Teachers | None:
    if not settings.teachers:
        return None
    teachers = Teachers([teacher_path(each) for each in settings.teachers]).eval()
    return teachers.to(fabric.device)


@dataclass
class State:
    """All that a resumed stage needs, in one file. `network` may be wrapped for several devices, `part` never is."""

    network: nn.Module
    part: nn.Module
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler

    def save(self, path: Path, history: list[dict[str, float]]) -> None:
        with atomic_write(path) as aside:
            torch.save({**{name: getattr(self, name).state_dict() for name in SAVED}, "history": history}, aside)

    def resume(self, path: Path) -> list[dict[str, float]]:
        """Load what save() wrote, if anything; returns the history so far, one row an epoch."""
        if not path.exists():
            return []
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            for name in SAVED:
                getattr(self, name).load_state_dict(content[name])
            history: list[dict[str, float]] = content["history"]
        except Exception as error:  # torch has no error class of its own for any of this
            raise InputError(
                f"{path}: damaged, or of another version; delete it, and the stage starts again"
            ) from error
        return history


def _prepare(network: StageNetwork, settings: TrainSettings, fabric: Fabric, steps: int) -> State:
    """What moves the weights and what averages them, before the first of `steps` steps."""
    average = AveragedModel(network.part, multi_avg_fn=_ema(settings.ema), use_buffers=True)
    optimizer = _make_optimizer(network.part, settings)
    schedule = _make_schedule(optimizer, settings, steps)
    wrapped, wrapped_optimizer = fabric.setup(network, optimizer)
    return State(wrapped, network.part, average, wrapped_optimizer, schedule)


def _ema(highest: float) -> Callable[[Any, Any, Any], None]:
    """Running average with a decay that rises to `highest`: early on it would only remember the random start."""

    @torch.no_grad()
    def average(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        decay = min(highest, (1 + int(count)) / (10 + int(count)))
        for mean, value in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value.to(mean.dtype), 1 - decay)
            else:  # counters
                mean.copy_(value)

    return average


def _make_optimizer(part: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    encoder = list(part.get_submodule("encoder").parameters())
    inside = {id(each) for each in encoder}
    heads = [each for each in part.parameters() if id(each) not in inside]
    groups = [{"params": encoder, "lr": settings.encoder_lr}, {"params": heads, "lr": settings.head_lr}]
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay)


def _make_schedule(
    optimizer: torch.optim.Optimizer, settings: TrainSettings, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if settings.schedule == "poly":
        return torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=steps, power=0.9)
    peaks = [settings.encoder_lr, settings.head_lr]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=0.15)


def _make_loader(samples: AugmentedSamples, sampler: EpochSampler, workers: int, fabric: Fabric) -> Any:
    """Fabric's loader of (images, masks, labels) on its device; see AugmentedSamples."""
    loader = DataLoader(
        samples,
        batch_sampler=sampler,
        num_workers=workers,
        # Workers are seeded when they start; from torch's own generator that would shift dropout after a resume.
        generator=torch.Generator(),
        worker_init_fn=_one_thread,
        # A forked worker inherits opencv's locks but not the threads that hold them, and hangs.
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
        pin_memory=fabric.device.type != "cpu",
    )
    return fabric.setup_dataloaders(loader, use_distributed_sampler=False)  # the sampler shares batches out itself


def _start_or_check(task: Task) -> None:
    """Save what the run depends on; a folder that holds another run is refused, not overwritten.

    Before its first epoch is done a run holds nothing: one that failed there can be put right in the same folder.
    """
    depends = {
        "recipe": task.recipe.as_dict(),
        "seed": task.seed,
        "data": {"training": fingerprint(task.training), "validation": fingerprint(task.validation)},
        "counts": {"training": len(task.training), "validation": len(task.validation)},
        "start": _hash_of_start(task.start) if task.start else None,
        "teachers": _hashes_of_teachers(task.recipe),
    }
    versions = {"lesioncli": __version__, "torch": torch.__version__, "python": platform.python_version()}
    path = task.run / "recipe.json"
    if any(task.run.glob("*/last.pt")):
        saved, depends = _read_json(path), json.loads(json.dumps(depends))
        if changed := [key for key in depends if saved.get(key) != depends[key]]:
            raise InputError(f"{task.run}: holds a run with another {' and '.join(changed)}; choose another --out")
        return
    with atomic_output(path, "--out") as aside:
        aside.write_text(json.dumps({**depends, "versions": versions}, indent=1) + "\n", encoding="utf-8")


def _hash_of_start(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name another checkpoint with --start") from error


def _hashes_of_teachers(recipe: Recipe) -> dict[str, str]:
    names = {name for stage in STAGES[recipe.model.network] for name in recipe.for_stage(stage.name).train.teachers}
    return {name: sha256_of(teacher_path(name)) for name in sorted(names)}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable, so what the run beside it was is not known ({error})") from error


def _initialise(part: nn.Module, initial: str) -> list[str]:
    """Give a part the recipe's initial weights; returns what became of them, in lines."""
    if initial == "none":
        return ["initial weights: none"]
    shipped = PRETRAINED / f"{initial}.safetensors"
    path = imagenet_file(part) if initial == "imagenet" else shipped if shipped.is_file() else Path(initial)
    return load_initial(part, path).lines()


def _seed(*numbers: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)


def _write_history(folder: Path, history: list[dict[str, float]]) -> None:
    """history.csv, one row an epoch, and curves.png."""
    with atomic_write(folder / "history.csv") as aside:
        pandas.DataFrame(history).round(6).to_csv(aside, index=False)
    with atomic_write(folder / "curves.png") as aside:
        _plot_history(aside, history)


def _plot_history(path: Path, history: list[dict[str, float]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    loss, scores = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    loss.plot(epochs, [row["loss"] for row in history], marker=".")
    loss.set(title="training loss", xlabel="epoch")
    for name in [key for key in history[0] if key.startswith(("jaccard", "auc"))]:
        scores.plot(epochs, [row[name] for row in history], marker=".", label=name.replace("_", " "))
    scores.set(title="validation", xlabel="epoch", ylim=(0, 1.02))
    scores.legend(loc="lower right")
    figure.savefig(path, format="png")
