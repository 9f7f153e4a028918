"""CUDA through pycuda: pinned host memory, three streams, and the events between them. Only this file uses pycuda.

A batch takes a lane: it is copied in on one stream, computed on the second and copied out on the third, while the
batches before and after it use the other two. The thread that opens a device makes, uses and frees everything of it;
other threads may only read and write the arrays in pinned memory.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lesioncli.backends.base import Span
from lesioncli.backends.tensorrt.driver import pop_context
from lesioncli.errors import EngineError, MissingPackageError

try:
    import pycuda.driver as driver
except ModuleNotFoundError as missing:
    if missing.name is None or missing.name.split(".")[0] != "pycuda":
        raise
    raise MissingPackageError("pycuda", "cuda") from missing
except ImportError as broken:
    raise EngineError(f"pycuda does not load: {broken}; install it again on this machine") from broken

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: work that a library puts on the default stream does not stop the stream
MAX_CLOCK_AGE_MS = 1000  # a float32 is exact to 60 ns there, and to 250 us after an hour
TRACKS = ("copy in", "compute", "copy out")


@dataclass(frozen=True)
class ArraySpec:
    """Shape and type of an array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Return the size of the array in bytes."""
        return prod(self.shape) * self.dtype.itemsize


class OutOfMemoryError(EngineError):
    """The GPU, or the pinned memory of the host, is full."""


@contextmanager
def engine_errors(action: str, advice: str = "") -> Iterator[None]:
    """Turn errors of pycuda into EngineErrors that name the action and give advice."""
    try:
        yield
    except driver.MemoryError as error:
        raise OutOfMemoryError(f"{action}: {error}") from error
    except driver.Error as error:
        raise EngineError(f"{action}: {error}{advice}") from error


class Device:
    """The primary context of one GPU, current in the thread that opens it.

    NVIDIA's libraries use the primary context; with another one their calls fail. close() frees what was made, in
    reverse order, and makes the context current again that was current before.
    """

    def __init__(self, number: int, traced: bool = False) -> None:
        self.traced = traced
        self._cleanup = ExitStack()
        with engine_errors(f"GPU {number} cannot be opened"), ExitStack() as cleanup:
            driver.init()
            context = driver.Device(number).retain_primary_context()
            context.push()
            cleanup.callback(_leave, context)
            self._context = context
            self.copy_in, self.compute, self.copy_out = (driver.Stream(NON_BLOCKING) for _ in range(3))
            self._zero, self._zero_s = self._set_clock()
            self._next_zero: Any = None
            self._cleanup = cleanup.pop_all()

    def on_close(self, release: Callable[[], object]) -> None:
        """Call `release` when the device is closed, before everything that was made earlier."""
        self._cleanup.callback(release)

    def event(self) -> Any:
        """Return an event that sleeps while it is waited for; it has a time only if the device is traced."""
        flags = driver.event_flags
        return driver.Event(flags.BLOCKING_SYNC if self.traced else flags.BLOCKING_SYNC | flags.DISABLE_TIMING)

    def time_of(self, event: Any) -> float:
        """Return the time of an event in seconds of time.monotonic(); the device must be traced."""
        return self._zero_s + float(self._zero.time_till(event)) / 1000

    def renew_clock(self, latest: Any) -> None:
        """Replace the event that times are counted from if it is long before `latest`, without waiting.

        pycuda returns the time between two events as float32 milliseconds.
        """
        if self._next_zero is None:
            if self._zero.time_till(latest) > MAX_CLOCK_AGE_MS:
                self._next_zero = self.event()
                self._next_zero.record(self.copy_out)
        elif self._next_zero.query():
            self._zero_s = self.time_of(self._next_zero)
            self._zero, self._next_zero = self._next_zero, None

    def _set_clock(self) -> tuple[Any, float]:
        """Return an event, and its time by the clock of the host."""
        zero = self.event()
        zero.record(self.copy_in)
        zero.synchronize()
        return zero, time.monotonic()

    def free_bytes(self) -> int:
        """Return the free memory of the GPU."""
        free, _ = driver.mem_get_info()
        return int(free)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return a zeroed array in pinned host memory, which the GPU copies without the host."""
        array: NDArray[Any] = driver.pagelocked_zeros(shape, dtype)
        self.on_close(array.base.free)  # type: ignore[union-attr]  # pycuda's, unknown to numpy's stubs
        return array

    def allocate(self, nbytes: int) -> Any:
        """Return memory of the GPU; int() of it is its address."""
        memory = driver.mem_alloc(nbytes)
        self.on_close(memory.free)
        return memory

    def wait(self) -> None:
        """Wait for all running work; raises the error that a lost device had."""
        self._context.synchronize()

    def close(self) -> None:
        """Wait for all running work, then free everything."""
        with suppress(driver.Error):  # of a lost device; finish() raised it
            self.wait()
        del self.copy_in, self.compute, self.copy_out, self._zero, self._next_zero
        self._cleanup.close()


def _leave(context: Any) -> None:
    """Take a primary context from the stack of this thread, and release it.

    pycuda's detach() takes it from pycuda's own stack only, and after pycuda's pop() it even pushes it again.
    """
    pop_context()
    context.detach()


class Lane:
    """Memory for one batch on a device, and the events that order its copies and its computation.

    `host` holds the outputs by name, in pinned memory: valid from finish() until the next start().
    """

    def __init__(self, device: Device, input_bytes: int, outputs: Mapping[str, ArraySpec]) -> None:
        self._device = device
        self.input = device.allocate(input_bytes)
        self.host = {name: device.pinned(output.shape, output.dtype) for name, output in outputs.items()}
        self.outputs = {name: device.allocate(array.nbytes) for name, array in self.host.items()}
        self._copied, self._computed, self._done = (device.event() for _ in range(3))
        self._begun = [device.event() for _ in range(3)] if device.traced else []
        device.on_close(self._drop_events)

    def start(self, images: NDArray[np.uint8], execute: Callable[[int], None]) -> None:
        """Enqueue a batch (rows, H, W, 3) and return at once; `execute` receives the handle of the compute stream.

        The images are in pinned memory and are read later: they must not change until finish().
        """
        device, rows = self._device, len(images)
        self._record_begin(0, device.copy_in)
        driver.memcpy_htod_async(self.input, images, device.copy_in)
        self._copied.record(device.copy_in)
        device.compute.wait_for_event(self._copied)
        self._record_begin(1, device.compute)
        execute(int(device.compute.handle))
        self._computed.record(device.compute)
        device.copy_out.wait_for_event(self._computed)
        self._record_begin(2, device.copy_out)
        for name, host in self.host.items():
            driver.memcpy_dtoh_async(host[:rows], self.outputs[name], device.copy_out)
        self._done.record(device.copy_out)

    def finish(self) -> None:
        """Wait until the outputs of the batch are in `host`."""
        self._done.synchronize()

    def spans(self) -> list[Span]:
        """Return the time of the batch on each stream; empty if the device is not traced."""
        if not self._begun:
            return []
        ends = (self._copied, self._computed, self._done)
        spans = [
            Span(track, self._device.time_of(begin), self._device.time_of(end))
            for track, begin, end in zip(TRACKS, self._begun, ends, strict=True)
        ]
        self._device.renew_clock(self._done)
        return spans

    def _record_begin(self, number: int, stream: Any) -> None:
        if self._begun:
            self._begun[number].record(stream)

    def _drop_events(self) -> None:
        del self._copied, self._computed, self._done, self._begun
