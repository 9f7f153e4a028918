"""The state of a stage between epochs: weights, their running average, optimizer and learning-rate schedule."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, PolynomialLR
from torch.optim.swa_utils import AveragedModel

from lesioncli.errors import InputError
from lesioncli.files import atomic_write
from lesioncli.training.history import Row
from lesioncli.training.recipe import Schedule, TrainSettings
from lesioncli.training.stages import StageNetwork

SAVED = ("part", "auxiliary", "average", "optimizer", "schedule")  # `auxiliary` may be None


@dataclass
class TrainingState:
    """All that a resumed stage needs. `network` may be wrapped for several devices, `part` and `auxiliary` are not."""

    network: nn.Module
    part: nn.Module
    auxiliary: nn.Module | None
    average: AveragedModel
    optimizer: Optimizer
    schedule: LRScheduler

    def save(self, path: Path, history: list[Row]) -> None:
        content = {name: part.state_dict() for name, part in self._saved_parts()}
        with atomic_write(path) as temporary:
            torch.save({**content, "history": history}, temporary)

    def resume(self, path: Path) -> list[Row]:
        """Load the file that save() wrote, if it exists; returns the history, one row per complete epoch."""
        if not path.exists():
            return []
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            for name, part in self._saved_parts():
                part.load_state_dict(content[name])
            history: list[Row] = content["history"]
        except Exception as error:  # torch has no error class of its own for a damaged file
            raise InputError(
                f"{path}: damaged, or written by another version; delete it to train the stage again"
            ) from error
        return history

    def _saved_parts(self) -> Iterator[tuple[str, Any]]:
        return ((name, part) for name in SAVED if (part := getattr(self, name)) is not None)


def prepare_state(network: StageNetwork, settings: TrainSettings, fabric: Fabric, steps: int) -> TrainingState:
    """The state before the first of `steps` steps."""
    average = AveragedModel(network.part, multi_avg_fn=_moving_average(settings.ema), use_buffers=True)
    optimizer = _make_optimizer(network, settings)
    schedule = _make_schedule(optimizer, settings, steps)
    wrapped, wrapped_optimizer = fabric.setup(network, optimizer)
    return TrainingState(wrapped, network.part, network.auxiliary, average, wrapped_optimizer, schedule)


def _moving_average(highest_decay: float) -> Callable[[Any, Any, Any], None]:
    """Exponential moving average with a rising decay: a constant one would remember the initial weights for long."""

    @torch.no_grad()
    def average(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        decay = min(highest_decay, (1 + int(count)) / (10 + int(count)))
        for mean, value in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value.to(mean.dtype), 1 - decay)
            else:  # counters of batch norms
                mean.copy_(value)

    return average


def _make_optimizer(network: StageNetwork, settings: TrainSettings) -> AdamW:
    part = network.part
    encoder = list(part.get_submodule("encoder").parameters())
    encoder_ids = {id(parameter) for parameter in encoder}
    head = [parameter for parameter in part.parameters() if id(parameter) not in encoder_ids]
    head += network.auxiliary.parameters() if network.auxiliary else []
    groups = [{"params": encoder, "lr": settings.encoder_lr}, {"params": head, "lr": settings.head_lr}]
    return AdamW(groups, weight_decay=settings.weight_decay)


def _make_schedule(optimizer: Optimizer, settings: TrainSettings, steps: int) -> LRScheduler:
    if settings.schedule == Schedule.POLY:
        return PolynomialLR(optimizer, total_iters=steps, power=0.9)
    return OneCycleLR(optimizer, [settings.encoder_lr, settings.head_lr], total_steps=steps, pct_start=0.15)
