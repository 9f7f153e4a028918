"""Run plans with TensorRT or TensorRT for RTX, in the lanes of cuda.py.

The manifest, the hashes and the header of the plan were checked before (vendors.find_problem). Here the library loads
the plan, and its tensors are compared with the manifest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lesioncli.backends.base import Cycle, Engine, Layout, Span
from lesioncli.backends.manifest import Manifest
from lesioncli.backends.tensorrt import cuda
from lesioncli.backends.tensorrt.vendors import (
    VENDORS,
    NumberedGpu,
    creation_errors,
    load,
    make_log,
    matching_gpus,
)
from lesioncli.errors import EngineError
from lesioncli.options import Backend

DEPTH = 3  # slots at the same time: one is copied in, one computed, one copied out
INPUT = "image"
TYPES: Mapping[str, np.dtype[Any]] = {"UINT8": np.dtype(np.uint8), "FLOAT": np.dtype(np.float32)}  # library's names
RESUME_ADVICE = "; finished rows are kept, and the same command continues from there"
USABLE_SHARE = 0.9  # of the free memory, for the batch size that a message suggests


class PlanEngine(Engine):
    """A plan with one execution context per lane. Its cycles are in pinned memory, which decoders write directly.

    `gpu` is the number of one of matching_gpus(); None is the first of them.
    """

    def __init__(
        self,
        manifest: Manifest,
        plan: Path,
        ahead: int,
        layout: Layout,
        traced: bool = False,
        gpu: int | None = None,
    ) -> None:
        _check_layout(layout, manifest)
        found = _choose_gpu(manifest, gpu)
        self._gpu, self._name = found.gpu, f"{manifest.stem} on {found.gpu}"
        self._device = cuda.Device(found.number, traced)
        try:
            cycles, outputs = self._open(manifest, plan, ahead, layout)
            super().__init__(manifest, layout, cycles, DEPTH, outputs)
        except BaseException:
            self._device.close()
            raise
        self._started = self._finished = 0

    def _open(self, manifest: Manifest, path: Path, ahead: int, layout: Layout) -> tuple[list[Cycle], list[str]]:
        """Load the plan and allocate all memory; return the cycles and the names of the outputs."""
        self._plan = plan = _Plan(manifest, path, self._device)
        self._device.on_close(plan.release)
        outputs = plan.check_tensors()
        free_bytes = self._device.free_bytes()
        needed_bytes = DEPTH * (plan.scratch_bytes() + _lane_bytes(manifest, outputs))
        try:
            with cuda.engine_errors(self._name):
                cycles = layout.allocate(DEPTH + ahead, self._device.pinned)
                self._lanes = [cuda.Lane(self._device, _image_bytes(manifest), outputs) for _ in range(DEPTH)]
            for lane in self._lanes:
                plan.add_context(lane)
        except cuda.OutOfMemoryError as error:
            raise EngineError(f"{error}; {_memory_advice(manifest, free_bytes, needed_bytes)}") from error
        return cycles, list(outputs)

    @property
    def device(self) -> str:
        return str(self._gpu)

    def _start(self, number: int) -> None:
        lane, images = self._started % DEPTH, self._slots[number]
        with cuda.engine_errors(self._name, RESUME_ADVICE):
            self._lanes[lane].start(images, lambda stream: self._plan.execute(lane, len(images), stream))
        self._started += 1

    def _finish(self, number: int) -> dict[str, NDArray[Any]]:
        self._last_lane = self._lanes[self._finished % DEPTH]
        self._finished += 1
        with cuda.engine_errors(self._name, RESUME_ADVICE):
            self._last_lane.finish()
        return {name: array[: len(self._slots[number])] for name, array in self._last_lane.host.items()}

    def _spans(self, number: int) -> Sequence[Span]:
        with cuda.engine_errors(self._name, RESUME_ADVICE):
            return self._last_lane.spans()

    def close(self) -> None:
        self._device.close()


@dataclass(frozen=True)
class _Tensor:
    """Shape and type of a tensor of a plan, with the type name of the vendor's library."""

    shape: tuple[int, ...]
    type_name: str

    def accepts(self, expected: "_Tensor") -> bool:
        """Return whether the tensor can have the expected shape; a dynamic dimension is -1 in a plan."""
        return (
            self.type_name == expected.type_name
            and len(self.shape) == len(expected.shape)
            and all(side in (other, -1) for side, other in zip(self.shape, expected.shape, strict=True))
        )

    def __str__(self) -> str:
        return f"{self.type_name} {self.shape}"


class _Plan:
    """A plan loaded by the vendor's library, and its execution contexts.

    Contexts stay in their list: a variable that holds one would outlive the device in the traceback of an error.
    """

    def __init__(self, manifest: Manifest, path: Path, device: cuda.Device) -> None:
        vendor = VENDORS[manifest.backend]
        self._trt = trt = load(vendor)
        self._manifest, self._name, self._log = manifest, f"{path}: {vendor.title}", make_log(trt)
        self._contexts: list[Any] = []
        self._device = device
        with creation_errors(vendor, self._log):
            self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise EngineError(
                f"{self._name} cannot load it ({self._last_error()}); run lesioncli build-engine --backend"
                f" {manifest.backend}"
            )

    def check_tensors(self) -> dict[str, cuda.ArraySpec]:
        """Return shape and type of each output for a full batch; EngineError if a tensor contradicts the manifest."""
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        expected_tensors = self._expected_tensors(names)
        for name, expected in expected_tensors.items():
            actual = _Tensor((), "missing")
            if name in names:
                actual = _Tensor(tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name).name)
            if not actual.accepts(expected):
                raise EngineError(f"{self._name}: {name!r} is {actual}, not {expected}; run lesioncli build-engine")
        return {
            name: cuda.ArraySpec(tensor.shape, TYPES[tensor.type_name])
            for name, tensor in expected_tensors.items()
            if name != INPUT
        }

    def _expected_tensors(self, names: Sequence[str]) -> dict[str, _Tensor]:
        spec, batch = self._manifest.spec, self._manifest.batch
        return {
            **dict.fromkeys(names, _Tensor((batch,), "FLOAT")),
            INPUT: _Tensor((batch, spec.height, spec.width, 3), "UINT8"),
            "mask": _Tensor((batch, spec.height, spec.width), "UINT8"),
            "scores": _Tensor((batch, len(spec.classes)), "FLOAT"),
        }

    def scratch_bytes(self) -> int:
        """Return the GPU memory that one context needs."""
        return int(self._engine.device_memory_size_v2)

    def add_context(self, lane: cuda.Lane) -> None:
        """Make an execution context that reads and writes the memory of a lane."""
        self._contexts.append(self._engine.create_execution_context(*self._context_settings()))
        if self._contexts[-1] is None:
            raise cuda.OutOfMemoryError(f"{self._name} cannot make an execution context ({self._last_error()})")
        for name, memory in {INPUT: lane.input, **lane.outputs}.items():
            if not self._contexts[-1].set_tensor_address(name, int(memory)):
                raise EngineError(
                    f"{self._name} does not accept an address for {name!r} ({self._last_error()}); run lesioncli"
                    " build-engine"
                )
        self._set_rows(len(self._contexts) - 1, self._manifest.batch)

    def _context_settings(self) -> list[Any]:
        """Return the argument that lets TensorRT for RTX compile a dynamic plan before it runs; else nothing.

        By default it runs general kernels first and replaces them while it runs.
        """
        if self._manifest.backend is not Backend.TENSORRT_RTX or not self._manifest.dynamic:
            return []
        settings = self._engine.create_runtime_config()
        strategies = self._trt.DynamicShapesKernelSpecializationStrategy
        settings.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        return [settings]

    def execute(self, number: int, rows: int, stream: int) -> None:
        """Enqueue the batch of a lane on a CUDA stream."""
        if self._manifest.dynamic:
            self._set_rows(number, rows)
        if not self._contexts[number].execute_async_v3(stream):
            self._device.wait()  # raises the real reason if an earlier batch lost the device
            raise EngineError(f"{self._name} cannot start a batch ({self._last_error()}); run lesioncli doctor")

    def release(self) -> None:
        """Release the contexts, then the plan."""
        self._contexts.clear()
        del self._engine, self._runtime

    def _set_rows(self, number: int, rows: int) -> None:
        spec = self._manifest.spec
        if not self._contexts[number].set_input_shape(INPUT, (rows, spec.height, spec.width, 3)):
            raise EngineError(
                f"{self._name} does not accept a batch of {rows} ({self._last_error()}); run lesioncli build-engine"
            )

    def _last_error(self) -> str:
        return self._log.errors[-1] if self._log.errors else "no reason given"


def _choose_gpu(manifest: Manifest, number: int | None) -> NumberedGpu:
    """Return the GPU with a number, or the first one that fits the plan; find_problem() has made sure of that one."""
    matching = matching_gpus(manifest)
    found = matching[0] if number is None else next((gpu for gpu in matching if gpu.number == number), None)
    if found is None:
        raise EngineError(f"GPU {number} is not one that {manifest.stem} was built for; run lesioncli doctor")
    return found


def _check_layout(layout: Layout, manifest: Manifest) -> None:
    """Raise EngineError if a plan does not accept the slots of a layout: one image size, rows up to its batch size."""
    spec = manifest.spec
    for rows, height, width in layout.shapes:
        if (height, width) != (spec.height, spec.width) or rows > manifest.batch:
            raise EngineError(
                f"{manifest.stem}: accepts up to {manifest.batch} images of {spec.height}x{spec.width}, not {rows} of"
                f" {height}x{width}; use --tta flips, or --backend {Backend.OPENVINO} for --tta full"
            )


def _image_bytes(manifest: Manifest) -> int:
    return prod((manifest.batch, manifest.spec.height, manifest.spec.width, 3))


def _lane_bytes(manifest: Manifest, outputs: dict[str, cuda.ArraySpec]) -> int:
    return _image_bytes(manifest) + sum(output.nbytes for output in outputs.values())


def _memory_advice(manifest: Manifest, free_bytes: int, needed_bytes: int) -> str:
    """Return what to do if memory ran out; both numbers are GPU memory, before the engine allocated any."""
    batch = manifest.batch
    need = f"batches of {batch} need {needed_bytes / 2**20:.0f} MiB, {free_bytes / 2**20:.0f} MiB are free"
    fitting = int(batch * free_bytes * USABLE_SHARE / needed_bytes)
    if fitting >= batch:
        return f"{need}, so the host is out of memory: lower --workers or build with a smaller --batch"
    if fitting == 0:
        return f"{need}; not even one image fits: free the GPU, or use --backend {Backend.OPENVINO}"
    return f"{need}; run lesioncli build-engine --backend {manifest.backend} --batch {fitting}"
