"""What a training runs on: device, precision and processes, each with its reason."""

import logging
import os
from typing import Any

import torch
from lightning_fabric import Fabric

from lesioncli.errors import EngineError


def choose_device(asked: str) -> tuple[str, str]:
    """(device, reason) for "auto", "cpu" or "cuda"; EngineError where there is no GPU to take."""
    has_gpu = torch.cuda.is_available()
    if asked == "cuda" and not has_gpu:
        raise EngineError("torch finds no CUDA device; train with --device cpu, or see: lesioncli doctor")
    if asked != "auto":
        return asked, "as asked"
    return ("cuda", torch.cuda.get_device_name()) if has_gpu else ("cpu", "torch finds no CUDA device")


def make_fabric(device: str) -> tuple[Fabric, str]:
    """(Fabric, precision and why) for "cpu" or "cuda": one device, or one a process where torchrun started several."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    precision, reason = _choose_precision(device)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if torch.distributed.is_torchelastic_launched() else 1
    strategy = "ddp" if processes > 1 else "auto"
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", "1")) if processes > 1 else 1
    fabric = Fabric(accelerator=device, devices=processes, strategy=strategy, num_nodes=nodes, precision=precision)
    fabric.launch()
    return fabric, reason


def _choose_precision(device: str) -> tuple[Any, str]:
    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", "bf16 beside fp32: this GPU multiplies it natively"
        return "16-mixed", "fp16 beside fp32, with loss scaling: this GPU has no native bf16"
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "bf16-mixed", "bf16 beside fp32: this processor can"
    return "32-true", "fp32: this processor has no bf16"
