"""The training loop.

A run has one folder: recipe.json with everything that the run depends on, one folder per stage, and at the end
best.safetensors. A stage's folder holds last.pt (the state to resume from), best.safetensors (the whole network, with
this stage's part at its best), history.csv and curves.png. An epoch depends on nothing but recipe, seed,
stage, epoch number and the state before it: a run that was stopped and resumed ends with the same weights.

Lightning Fabric handles device, precision and processes, so the same loop runs on a CPU, on a GPU, and in every process
that torchrun starts.
"""

import copy
import math
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from lesioncli.errors import InputError
from lesioncli.files import atomic_write
from lesioncli.models.network import Stage
from lesioncli.models.registry import find_network, find_stage
from lesioncli.training.checkpoint import save_checkpoint
from lesioncli.training.datasets import (
    AugmentedSamples,
    Batch,
    EpochSampler,
    make_loader,
    read_batches,
    shared_memory_errors,
)
from lesioncli.training.groups import group_samples
from lesioncli.training.history import Row, write_history
from lesioncli.training.initialize import initialize_stage
from lesioncli.training.losses import auxiliary_loss, total_loss
from lesioncli.training.recipe import LossWeights
from lesioncli.training.run import BEST, LAST, Progress, TrainingRun, check_or_write_record
from lesioncli.training.samples import check_mask_sizes
from lesioncli.training.state import TrainingState, prepare_state
from lesioncli.training.summary import check_targets
from lesioncli.training.teachers import Teachers, teacher_path
from lesioncli.training.validation import validate


def train(run: TrainingRun, fabric: Fabric, only: str | None = None) -> Path:
    """Train all stages in order, or the stage `only`; a run that was stopped continues. Returns the last checkpoint.

    Raises InputError if the folder holds a run with another recipe, seed or data, or cannot be written; if a
    checkpoint that a stage builds on is missing or unreadable; and if a loss is not finite.
    """
    kind = run.recipe.model.network
    for name in [*run.recipe.stages, *([only] if only else [])]:
        find_stage(kind, name)
    all_stages = find_network(kind).stages
    stages = [stage for stage in all_stages if only in (None, stage.name)]
    _check_keep_start(run, stages)
    for stage in stages:
        has_teachers = bool(run.recipe.for_stage(stage.name).train.teachers)
        for note in check_targets(stage, run.training, run.validation, has_teachers):
            run.on_note(note)
    check_mask_sizes([*run.training, *run.validation])
    if fabric.is_global_zero:
        check_or_write_record(run)
    fabric.barrier()
    for number, stage in enumerate(stages):
        with shared_memory_errors():
            _train_stage(run, stage, fabric, later=stages[number + 1 :])
    best = run.folder / stages[-1].name / BEST
    if stages[-1] != all_stages[-1]:
        return best
    if fabric.is_global_zero:
        with atomic_write(run.folder / BEST) as temporary:
            shutil.copyfile(best, temporary)
    return run.folder / BEST


def _check_keep_start(run: TrainingRun, stages: Sequence[Stage]) -> None:
    """Raise InputError, before the first epoch, if a stage cannot keep a share of the weights of --start."""
    for stage in stages:
        if not run.recipe.for_stage(stage.name).train.keep_start:
            continue
        if run.start is None:
            raise InputError(
                "[train] keep_start keeps a share of a checkpoint's weights; name the checkpoint with --start"
            )
        if stage.starts_from:
            raise InputError(
                f"{stage.name}: starts from the weights of {stage.starts_from}, so it can keep none of --start; set"
                f" keep_start = 0 in [stages.{stage.name}.train]"
            )


def _train_stage(run: TrainingRun, stage: Stage, fabric: Fabric, later: Sequence[Stage]) -> None:
    """Train one stage from its first epoch, or from the one after the last that is complete.

    `later`: stages that follow, for the time left.
    """
    spec, settings = run.recipe.model, run.recipe.for_stage(stage.name)
    number = find_network(spec.network).stages.index(stage)
    folder = run.folder / stage.name

    torch.manual_seed(run.seed + number)
    network = initialize_stage(run, stage, fabric.device)
    start = copy.deepcopy(network.part.state_dict())
    groups = group_samples(run.training, settings.train.balance)
    sampler = EpochSampler(groups, settings.train.batch, run.seed, fabric.global_rank, fabric.world_size)
    state = prepare_state(network, settings.train, fabric, steps=settings.train.epochs * len(sampler))
    history = state.resume(folder / LAST)
    if history:
        run.on_note(f"{stage.name}: {len(history)} of {settings.train.epochs} epochs are complete in {folder / LAST}")
    teachers = _make_teachers(settings.train.teachers, fabric)
    samples = AugmentedSamples(run.training, (spec.height, spec.width), settings.augment, run.seed)
    loader = make_loader(samples, sampler, settings.train.workers, fabric)

    per_epoch, images_later = len(sampler) * sampler.batch, _count_images(run, later, len(groups))
    for epoch in range(len(history), settings.train.epochs):
        started = time.monotonic()
        # The same dropout whether the run was resumed or not.
        _seed_torch(run.seed, number, epoch, fabric.global_rank)
        sampler.epoch = epoch
        images_left = (settings.train.epochs - epoch - 1) * per_epoch + images_later
        progress = Progress(stage.name, epoch, settings.train.epochs, len(sampler), sampler.batch, images_left)
        loss = _train_epoch(run, state, loader, teachers, settings.loss, progress, fabric)
        if fabric.is_global_zero:
            averaged = network.with_part(blend(state.average.module, start, settings.train.keep_start))
            metrics = validate(averaged, spec, run.validation, fabric.device)
            row: Row = {"epoch": epoch + 1.0, "loss": loss, **metrics, "seconds": time.monotonic() - started}
            history.append(row)
            if row["choice"] >= max(other["choice"] for other in history):
                save_checkpoint(folder / BEST, averaged.network, spec)
            write_history(folder, history)
            # Last, since an epoch in this file counts as complete.
            state.save(folder / LAST, history)
            run.on_epoch(stage.name, row)
        fabric.barrier()


def _train_epoch(
    run: TrainingRun,
    state: TrainingState,
    loader: Iterable[Batch | InputError],
    teachers: Teachers | None,
    weights: LossWeights,
    progress: Progress,
    fabric: Fabric,
) -> float:
    """Take one step per batch; returns the mean loss. Raises InputError if a loss is not finite."""
    losses = []
    state.network.train()
    for step, batch in enumerate(read_batches(loader)):
        loss = _take_step(state, batch, teachers, weights, fabric)
        if not math.isfinite(loss):
            raise InputError(
                f"{progress.stage}: the loss is {loss} in epoch {progress.epoch + 1}, step {step + 1};"
                " lower the learning rates of the recipe"
            )
        losses.append(loss)
        run.on_step(progress.at(step, loss))
    return float(np.mean(losses))


def _take_step(
    state: TrainingState, batch: Batch, teachers: Teachers | None, weights: LossWeights, fabric: Fabric
) -> float:
    """Update the weights by one batch, unless its loss is not finite; returns the loss."""
    images, masks, labels, diagnoses = batch
    images = images.contiguous(memory_format=torch.channels_last)
    if teachers is not None:
        with fabric.autocast():
            masks, labels = teachers.mix_into(weights.teachers, images, masks, labels)
    outputs = state.network(images)
    loss = total_loss(outputs.mask_logits, outputs.class_logits, masks, labels, weights)
    if outputs.auxiliary_logits is not None:
        loss = loss + auxiliary_loss(outputs.auxiliary_logits, diagnoses, weights)
    if torch.isfinite(loss):
        state.optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        state.optimizer.step()
        state.schedule.step()
        state.average.update_parameters(state.part)
    return loss.item()


def blend(part: nn.Module, start: Mapping[str, Tensor], share: float) -> nn.Module:
    """A copy of `part` with weights (1 - share) * part + share * start; `start` is a state dict of the same part.

    WiSE-FT (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", section 3).
    """
    blended = copy.deepcopy(part)
    for name, value in blended.state_dict().items():
        if value.is_floating_point():  # not the counters of batch norms
            value.lerp_(start[name], share)
    return blended


def _count_images(run: TrainingRun, stages: Sequence[Stage], groups: int) -> int:
    """Images of all epochs of these stages."""
    settings = [run.recipe.for_stage(stage.name).train for stage in stages]
    return sum(each.epochs * (groups - groups % min(each.batch, groups)) for each in settings)


def _make_teachers(names: tuple[str, ...], fabric: Fabric) -> Teachers | None:
    if not names:
        return None
    return Teachers([teacher_path(name) for name in names]).eval().to(fabric.device)


def _seed_torch(*numbers: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
