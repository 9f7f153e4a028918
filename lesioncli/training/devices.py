"""Device, precision and processes of a training run, with the reasons."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric

from lesioncli.errors import EngineError
from lesioncli.options import Decision, TrainingDevice
from lesioncli.process import count_cores


def choose_device(asked: TrainingDevice) -> Decision[TrainingDevice]:
    """Resolve `auto`; EngineError if a GPU was asked for and there is none."""
    has_gpu = torch.cuda.is_available()
    if asked == TrainingDevice.CUDA and not has_gpu:
        raise EngineError("torch finds no CUDA device; train with --device cpu, or run: lesioncli doctor")
    if asked != TrainingDevice.AUTO:
        return Decision(TrainingDevice(asked), "as asked")
    if has_gpu:
        return Decision(TrainingDevice.CUDA, torch.cuda.get_device_name())
    return Decision(TrainingDevice.CPU, "torch finds no CUDA device")


def choose_threads(asked: int | None, workers: int) -> Decision[int]:
    """The threads of torch on a CPU. A thread that shares its core with a worker keeps all others waiting."""
    if asked:
        return Decision(asked, "as asked")
    if os.environ.get("OMP_NUM_THREADS"):
        return Decision(torch.get_num_threads(), "OMP_NUM_THREADS is set")
    cores = count_cores()
    return Decision(max(1, cores - workers), f"cores: {cores}, workers: {workers}")


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use this number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_fabric(device: TrainingDevice) -> Decision[Fabric]:
    """The Fabric of one device, or of one device per process if torchrun started this one; with its precision."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    precision = _choose_precision(device)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if torch.distributed.is_torchelastic_launched() else 1
    with warnings.catch_warnings():
        # Where Slurm is installed, Fabric recommends srun, which neither one process nor torchrun needs.
        warnings.filterwarnings("ignore", message="The `srun` command is available")
        fabric = Fabric(
            accelerator=str(device),
            devices=processes,
            strategy="ddp" if processes > 1 else "auto",
            num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")) if processes > 1 else 1,
            precision=precision.value,
        )
    fabric.launch()
    return Decision(fabric, precision.reason)


def _choose_precision(device: TrainingDevice) -> Decision[Any]:
    if device == TrainingDevice.CUDA:
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Decision("bf16-mixed", "mixed bf16: this GPU has native bf16")
        return Decision("16-mixed", "mixed fp16 with loss scaling: this GPU has no native bf16")
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return Decision("bf16-mixed", "mixed bf16: this processor has native bf16")
    return Decision("32-true", "fp32: this processor has no native bf16")
