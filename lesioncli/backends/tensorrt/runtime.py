"""Plans run: the runtime of TensorRT, or of TensorRT for RTX, on the lanes of cuda.py.

The manifest, its hashes and the plan's header were checked before (vendors.find_problem). Here the vendor's library
sees the plan, and what it says of it is compared with the manifest.
"""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lesioncli.backends.base import Engine, Layout, Manifest, Span, UInt8
from lesioncli.backends.tensorrt import cuda
from lesioncli.backends.tensorrt.vendors import VENDORS, load, make_log, matching_gpus
from lesioncli.errors import EngineError

DEPTH = 3  # batches on their way: one is copied in, one computed, one copied out
INPUT = "image"
TYPES: Mapping[str, np.dtype[Any]] = {"UINT8": np.dtype(np.uint8), "FLOAT": np.dtype(np.float32)}  # the vendor's names
LOST = "; rows that are finished are kept, and the same command goes on from there"
SPARE = 0.9  # of the memory that is free: what to count on


class PlanEngine(Engine):
    """One execution context a lane, its addresses set once. Slots are pinned memory, which decoders write directly."""

    def __init__(
        self, manifest: Manifest, folder: Path, ahead: int, layout: Layout | None = None, traced: bool = False
    ) -> None:
        layout = layout or Layout.of_batches(manifest.spec, manifest.batch)
        _check_layout(layout, manifest)
        number, gpu = matching_gpus(manifest)[0]  # find_problem() has made sure that there is one
        self._gpu, self._what = gpu, f"{manifest.stem} on {gpu}"
        self._device = cuda.Device(number, traced)
        try:
            slots, outputs = self._open(manifest, folder, ahead, layout)
        except BaseException:
            self._device.close()
            raise
        self._started = self._finished = 0
        super().__init__(manifest, layout, slots, DEPTH, outputs)

    def _open(self, manifest: Manifest, folder: Path, ahead: int, layout: Layout) -> tuple[list[UInt8], list[str]]:
        """Load the plan and take the memory; returns the slots and the names of the outputs."""
        self._plan = plan = _Plan(manifest, folder, self._device)
        self._device.on_close(plan.release)
        outputs = plan.outputs()
        free, needed = self._device.free_bytes(), DEPTH * (plan.scratch_bytes() + _lane_bytes(manifest, outputs))
        try:
            with cuda.named_errors(self._what):
                slots = layout.make_ring(DEPTH + ahead, self._device.pinned)
                self._lanes = [cuda.Lane(self._device, _image_bytes(manifest), outputs) for _ in range(DEPTH)]
            for lane in self._lanes:
                plan.add_context(lane)
        except cuda.OutOfMemoryError as error:
            raise EngineError(f"{error}; {_what_fits(manifest, free, needed)}") from error
        return slots, list(outputs)

    @property
    def device(self) -> str:
        return str(self._gpu)

    def _start(self, slot: int) -> None:
        number, images = self._started % DEPTH, self.slots[slot]
        with cuda.named_errors(self._what, LOST):
            self._lanes[number].start(images, lambda stream: self._plan.execute(number, len(images), stream))
        self._started += 1

    def _finish(self, slot: int) -> dict[str, NDArray[Any]]:
        self._latest = self._lanes[self._finished % DEPTH]
        self._finished += 1
        with cuda.named_errors(self._what, LOST):
            self._latest.finish()
        return {name: array[: len(self.slots[slot])] for name, array in self._latest.host.items()}

    def _spans(self, slot: int) -> Sequence[Span]:
        return self._latest.spans()

    def close(self) -> None:
        self._device.close()


class _Plan:
    """A plan in the vendor's hands: deserialised, compared with its manifest, and made into contexts.

    Contexts stay in their list: a variable that held one would outlive the device with the traceback of an error.
    """

    def __init__(self, manifest: Manifest, folder: Path, device: cuda.Device) -> None:
        vendor = VENDORS[manifest.backend]
        trt = load(vendor)
        (name,) = (name for name in manifest.files if Path(name).suffix == ".plan")
        self._manifest, self._what, self._log = manifest, f"{folder / name}: {vendor.title}", make_log(trt)
        self._contexts: list[Any] = []
        self._device = device
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine((folder / name).read_bytes())
        if self._engine is None:
            raise EngineError(
                f"{self._what} does not load it ({self._said()}); run: lesioncli build-engine --backend"
                f" {manifest.backend}"
            )

    def outputs(self) -> dict[str, cuda.Shaped]:
        """Shape and type of each output for a whole batch; EngineError where the plan is not what its manifest says."""
        engine, spec, batch = self._engine, self._manifest.spec, self._manifest.batch
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        expected = {
            INPUT: ((batch, spec.height, spec.width, 3), "UINT8"),
            "mask": ((batch, spec.height, spec.width), "UINT8"),
            "scores": ((batch, len(spec.classes)), "FLOAT"),
        }
        expected = {**dict.fromkeys(names, ((batch,), "FLOAT")), **expected}
        for name, (shape, kind) in expected.items():
            found = tuple(engine.get_tensor_shape(name)) if name in names else ()
            got = engine.get_tensor_dtype(name).name if name in names else "missing"
            if got != kind or len(found) != len(shape) or not _fits(found, shape):
                raise EngineError(
                    f"{self._what} finds {name!r} to be {got} {found}, not {kind} {shape}; run: lesioncli build-engine"
                )
        return {name: (shape, TYPES[kind]) for name, (shape, kind) in expected.items() if name != INPUT}

    def scratch_bytes(self) -> int:
        """Memory of the GPU that one context works in."""
        return int(self._engine.device_memory_size_v2)

    def add_context(self, lane: cuda.Lane) -> None:
        """A context for batches in this lane's memory."""
        self._contexts.append(self._engine.create_execution_context())
        if self._contexts[-1] is None:
            raise cuda.OutOfMemoryError(f"{self._what} makes no execution context ({self._said()})")
        for name, memory in {INPUT: lane.input, **lane.outputs}.items():
            if not self._contexts[-1].set_tensor_address(name, int(memory)):
                raise EngineError(f"{self._what} takes no address for {name!r} ({self._said()})")
        self._set_rows(len(self._contexts) - 1, self._manifest.batch)

    def execute(self, number: int, rows: int, stream: int) -> None:
        """Enqueue the batch in the lane of that number."""
        if self._manifest.dynamic:
            self._set_rows(number, rows)
        if not self._contexts[number].execute_async_v3(stream):
            self._device.wait()  # raises the reason where it is a batch before this one that lost the device
            raise EngineError(f"{self._what} does not start a batch ({self._said()}); see: lesioncli doctor")

    def release(self) -> None:
        self._contexts.clear()
        del self._engine, self._runtime

    def _set_rows(self, number: int, rows: int) -> None:
        spec = self._manifest.spec
        if not self._contexts[number].set_input_shape(INPUT, (rows, spec.height, spec.width, 3)):
            raise EngineError(f"{self._what} takes no batch of {rows} ({self._said()}); run: lesioncli build-engine")

    def _said(self) -> str:
        return self._log.errors[-1] if self._log.errors else "it gives no reason"


def _fits(found: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a tensor of the plan can have this shape: what the graph leaves free may be -1 in the plan."""
    return all(a in (b, -1) for a, b in zip(found, shape, strict=True))


def _check_layout(layout: Layout, manifest: Manifest) -> None:
    """A plan takes its own size of picture, and any number of rows up to its batch: those beyond are not looked at."""
    own = (manifest.spec.height, manifest.spec.width)
    for rows, height, width in layout.shapes:
        if (height, width) != own or rows > manifest.batch:
            raise EngineError(
                f"{manifest.stem}: takes up to {manifest.batch} pictures of {own[0]}x{own[1]}, not {rows} of"
                f" {height}x{width}; --tta full runs with --backend openvino"
            )


def _image_bytes(manifest: Manifest) -> int:
    return prod((manifest.batch, manifest.spec.height, manifest.spec.width, 3))


def _lane_bytes(manifest: Manifest, outputs: dict[str, cuda.Shaped]) -> int:
    return _image_bytes(manifest) + sum(prod(shape) * dtype.itemsize for shape, dtype in outputs.values())


def _what_fits(manifest: Manifest, free: int, needed: int) -> str:
    """The next step where memory ran out; `free` and `needed` are bytes of the GPU, before the first was taken."""
    asked = f"batches of {manifest.batch} need {needed / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free"
    fits = int(manifest.batch * free * SPARE / needed)
    if fits >= manifest.batch:
        return f"{asked}, so it is the host's memory that is short: lower --workers or build with a smaller --batch"
    if fits == 0:
        return f"{asked}; not even one image fits: free the GPU, or run with --backend openvino"
    return f"{asked}; run: lesioncli build-engine --backend {manifest.backend} --batch {fits}"
