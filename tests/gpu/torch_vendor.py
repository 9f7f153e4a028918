"""A module that takes the place of `tensorrt` where TensorRT is not installed: torch computes the plans.

A plan is a true header, and the name of a shipped checkpoint. Its contexts read and write the addresses of the program
in the stream of the program, like those of TensorRT; parser and compiler are missing. torch launches each kernel by
itself, so its speed is not that of TensorRT.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from gpu.cards import Card, DeviceArray
from numpy.typing import NDArray
from torch import Tensor

from lesioncli.backends.base import Engine, Layout
from lesioncli.backends.manifest import Manifest, manifest_path, write_manifest
from lesioncli.backends.tensorrt.vendors import HEADER_BYTES, TENSORRT
from lesioncli.files import PRETRAINED, sha256_of
from lesioncli.options import Backend, Precision
from lesioncli.shipped import SHIPPED_MODEL
from lesioncli.spec import ModelSpec
from lesioncli.training.checkpoint import load_checkpoint
from lesioncli.training.graph import Graph, make_graph

VERSION = "10.16.0.0"
IMAGE = "image"
DTYPES = {"image": np.dtype(np.uint8), "mask": np.dtype(np.uint8)}  # else float32


@cache
def load_graph(device: str) -> Graph:
    """Return the shipped network on a device of torch, with sums that do not depend on the run."""
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    network, spec = load_checkpoint(PRETRAINED / f"{SHIPPED_MODEL}.safetensors")
    return make_graph(network, spec).requires_grad_(False).to(device)


def read_spec() -> ModelSpec:
    """Return the description of the shipped network."""
    return load_checkpoint(PRETRAINED / f"{SHIPPED_MODEL}.safetensors")[1]


def write_engine(folder: Path, card: Card, batch: int) -> Path:
    """Write the plan of the shipped network and its manifest; return the path of the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = read_spec()
    path = manifest_path(folder, spec.name, Backend.TENSORRT)
    plan = path.with_suffix(".plan")
    numbers = bytes(int(part) for part in VERSION.split("."))
    header = (TENSORRT.magic + bytes(20) + numbers).ljust(HEADER_BYTES, b"\0")
    plan.write_bytes(header + json.dumps({"batch": batch}).encode())
    manifest = Manifest(
        spec=spec,
        backend=Backend.TENSORRT,
        backend_version=VERSION,
        precision_asked=Precision.FP32,
        precision=Precision.FP32,
        batch=batch,
        device=str(card.gpu),
        files={plan.name: sha256_of(plan)},
        source_sha256=sha256_of(PRETRAINED / f"{SHIPPED_MODEL}.safetensors"),
        parity=None,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        targets=(card.gpu.target,),
    )
    write_manifest(path, manifest)
    return path


class TorchVendor(ModuleType):
    """The module; `ILogger`, `Runtime` and what it returns are all that runs a plan."""

    __version__ = VERSION

    class ILogger:
        ERROR, INTERNAL_ERROR = "error", "internal error"

    def __init__(self, card: Card) -> None:
        super().__init__("tensorrt")
        self.__spec__ = ModuleSpec("tensorrt", None)  # importlib.util.find_spec() reads it
        self.card = card

    def Runtime(self, log: Any) -> SimpleNamespace:  # noqa: N802 - TensorRT's name
        def load(plan: bytes) -> "PlanOnTorch":
            return PlanOnTorch(self.card, log, **json.loads(plan[HEADER_BYTES:]))

        return SimpleNamespace(deserialize_cuda_engine=load)


class PlanOnTorch:
    """What TensorRT calls an engine."""

    device_memory_size_v2 = 0

    def __init__(self, card: Card, log: Any, batch: int) -> None:
        self.card, self.log = card, log
        self.graph = load_graph(card.torch_device)
        spec = read_spec()
        columns = dict.fromkeys(self.graph.columns, (batch,))
        self._shapes: dict[str, tuple[int, ...]] = {
            IMAGE: (batch, spec.height, spec.width, 3),
            "mask": (batch, spec.height, spec.width),
            "scores": (batch, len(spec.classes)),
            **columns,
        }
        self.num_io_tensors = len(self._shapes)

    def get_tensor_name(self, index: int) -> str:
        return list(self._shapes)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name="UINT8" if name in DTYPES else "FLOAT")

    def create_execution_context(self) -> "ContextOnTorch":
        return ContextOnTorch(self)


class ContextOnTorch:
    """Computes a plan on the addresses that it was given."""

    def __init__(self, plan: PlanOnTorch) -> None:
        self._plan = plan
        self._arrays: dict[str, DeviceArray] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        dtype = DTYPES.get(name, np.dtype(np.float32))
        self._arrays[name] = DeviceArray(address, self._plan.get_tensor_shape(name), dtype)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return shape == self._plan.get_tensor_shape(name)

    def execute_async_v3(self, stream: int) -> bool:
        problem = self._plan.card.compute(stream, self._arrays, _computation(self._plan.graph))
        if problem:
            self._plan.log.log(TorchVendor.ILogger.ERROR, problem)
        return not problem


def _computation(graph: Graph) -> Any:
    """Return a function of arrays by name that fills the outputs. It refers to no context, which must die in time."""

    def compute(arrays: Mapping[str, Tensor]) -> None:
        with torch.inference_mode():
            for name, value in zip(graph.outputs, graph(arrays[IMAGE]), strict=True):
                arrays[name].copy_(value)

    return compute


class HostEngine(Engine):
    """The shipped network by torch on the CPU: what a GPU is compared with."""

    def __init__(self, manifest: Manifest, ahead: int) -> None:
        layout = Layout.for_batches(manifest.spec, manifest.batch)
        self._graph = load_graph("cpu")
        super().__init__(manifest, layout, layout.allocate(1 + ahead), 1, self._graph.outputs)

    @property
    def device(self) -> str:
        return "CPU, by torch"

    def _start(self, number: int) -> None:
        with torch.inference_mode():
            outputs = self._graph(torch.from_numpy(self._slots[number]))
        self._outputs: dict[str, NDArray[Any]] = {
            name: value.numpy() for name, value in zip(self._graph.outputs, outputs, strict=True)
        }

    def _finish(self, number: int) -> dict[str, NDArray[Any]]:
        return self._outputs

    def close(self) -> None:
        """Nothing is held."""
