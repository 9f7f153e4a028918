"""The way to a GPU and back: pinned host memory, three streams, and events between them. pycuda is used here only.

A batch takes a lane: it is copied in on one stream, computed on the next and copied out on the third, while the batches
before and after it are on the other two. The thread that opens a device makes, uses and frees everything of it; other
threads may read and write the arrays in pinned memory, and nothing else.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lesioncli.backends.base import Span
from lesioncli.errors import EngineError, MissingPackageError

try:
    import pycuda.driver as driver
except ModuleNotFoundError as missing:
    if missing.name is None or missing.name.split(".")[0] != "pycuda":
        raise
    raise MissingPackageError("pycuda", "cuda") from missing
except ImportError as broken:
    raise EngineError(f"pycuda does not load: {broken}; install it again, on this machine") from broken

TRACKS = ("copy in", "compute", "copy out")
Shaped = tuple[tuple[int, ...], np.dtype[Any]]  # shape and type of an array


class OutOfMemoryError(EngineError):
    """The GPU, or the host's pinned memory, has not what was asked for."""


@contextmanager
def named_errors(what: str, advice: str = "") -> Iterator[None]:
    """pycuda's errors as EngineErrors that say what was being done, and perhaps what to do now."""
    try:
        yield
    except driver.MemoryError as error:
        raise OutOfMemoryError(f"{what}: {error}") from error
    except driver.Error as error:
        raise EngineError(f"{what}: {error}{advice}") from error


class Device:
    """One GPU's primary context, current in the thread that opens it; close() frees what was made, the last first.

    The primary context is the one that NVIDIA's libraries use: with another, their calls fail.
    """

    def __init__(self, number: int, traced: bool = False) -> None:
        self.traced = traced
        self._made = ExitStack()
        with named_errors(f"GPU {number} cannot be opened"), ExitStack() as made:
            driver.init()
            context = driver.Device(number).retain_primary_context()
            made.callback(context.detach)
            context.push()
            made.callback(context.pop)
            self._context = context
            self.copy_in, self.compute, self.copy_out = (driver.Stream() for _ in range(3))
            self._zero, self._zero_s = self._set_clock()
            self._made = made.pop_all()

    def on_close(self, release: Callable[[], object]) -> None:
        """Have something released before everything that was made before it."""
        self._made.callback(release)

    def event(self) -> Any:
        """An event, which has a time only on a device that is traced."""
        return driver.Event(driver.event_flags.DEFAULT if self.traced else driver.event_flags.DISABLE_TIMING)

    def time_of(self, event: Any) -> float:
        """When an event came to pass, in seconds of time.monotonic(); the device must be traced."""
        return self._zero_s + float(self._zero.time_till(event)) / 1000

    def _set_clock(self) -> tuple[Any, float]:
        """An event, and when it came to pass by the host's clock."""
        zero = self.event()
        zero.record(self.copy_in)
        zero.synchronize()
        return zero, time.monotonic()

    def free_bytes(self) -> int:
        """Memory of the GPU that nothing uses."""
        free, _ = driver.mem_get_info()
        return int(free)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """A zeroed array in host memory that the GPU reads and writes by itself, while the host does something else."""
        array: NDArray[Any] = driver.pagelocked_zeros(shape, dtype)
        self.on_close(array.base.free)  # type: ignore[union-attr]  # pycuda's, unknown to numpy's stubs
        return array

    def allocate(self, nbytes: int) -> Any:
        """Memory of the GPU; int() of it is its address."""
        memory = driver.mem_alloc(nbytes)
        self.on_close(memory.free)
        return memory

    def wait(self) -> None:
        """Wait for what is on its way; raises what a device was lost by."""
        self._context.synchronize()

    def close(self) -> None:
        """Wait for what is on its way, then free; a lost device has nothing to wait for."""
        with suppress(driver.Error):  # who waited for a batch was told
            self.wait()
        del self.copy_in, self.compute, self.copy_out, self._zero
        self._made.close()


class Lane:
    """Room for one batch on a device, and the batch's way through its streams.

    `host` are the outputs by name, in pinned memory: valid from finish() until the next start().
    """

    def __init__(self, device: Device, input_bytes: int, outputs: Mapping[str, Shaped]) -> None:
        self._device = device
        self.input = device.allocate(input_bytes)
        self.host = {name: device.pinned(shape, dtype) for name, (shape, dtype) in outputs.items()}
        self.outputs = {name: device.allocate(array.nbytes) for name, array in self.host.items()}
        self._copied, self._computed, self._done = (device.event() for _ in range(3))
        self._began = [device.event() for _ in range(3)] if device.traced else []
        device.on_close(self._drop_events)

    def start(self, images: NDArray[np.uint8], execute: Callable[[int], None]) -> None:
        """Send a batch (rows, H, W, 3) on its way; `execute` is given the handle of the stream to compute on.

        Nothing waits. The images, in pinned memory, are read later: they must stay as they are until finish().
        """
        device, rows = self._device, len(images)
        self._note_begin(0, device.copy_in)
        driver.memcpy_htod_async(self.input, images, device.copy_in)
        self._copied.record(device.copy_in)
        device.compute.wait_for_event(self._copied)
        self._note_begin(1, device.compute)
        execute(int(device.compute.handle))
        self._computed.record(device.compute)
        device.copy_out.wait_for_event(self._computed)
        self._note_begin(2, device.copy_out)
        for name, host in self.host.items():
            driver.memcpy_dtoh_async(host[:rows], self.outputs[name], device.copy_out)
        self._done.record(device.copy_out)

    def finish(self) -> None:
        """Wait until the batch is out again."""
        self._done.synchronize()

    def spans(self) -> list[Span]:
        """When the batch was on which stream, on a device that is traced."""
        ends = (self._copied, self._computed, self._done)
        return [
            Span(track, self._device.time_of(begin), self._device.time_of(end))
            for track, begin, end in zip(TRACKS, self._began, ends, strict=False)
        ]

    def _note_begin(self, number: int, stream: Any) -> None:
        if self._began:
            self._began[number].record(stream)

    def _drop_events(self) -> None:
        del self._copied, self._computed, self._done, self._began
