"""What the tests in this folder do to a GPU: a real one or, to try the tests themselves, the CUDA stand-in."""

import ctypes
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any
from unittest.mock import patch

import cuda_standin
import numpy as np
import torch
from gpu import kernels
from torch import Tensor

from lesioncli.backends.tensorrt import driver as driver_module
from lesioncli.backends.tensorrt.driver import Gpu, find_gpus
from lesioncli.process import count_cores

ILLEGAL_ADDRESS = 700  # code of the CUDA driver
IMAGE_BYTES = 224 * 224 * 3  # of the shipped network
MEMORY = 1 << 30  # of the stand-in
Compute = Callable[[Mapping[str, Tensor]], None]


@dataclass(frozen=True)
class DeviceArray:
    """An array in the memory of a GPU, for torch.as_tensor()."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        data = (self.address, False)
        return {"shape": self.shape, "typestr": self.dtype.str, "data": data, "strides": None, "version": 3}


@dataclass(frozen=True)
class Delays:
    """Seconds that each batch takes longer on the three streams."""

    copy_in: float = 0
    compute: float = 0
    copy_out: float = 0


@dataclass(frozen=True)
class Amounts:
    """How much is measured: images per run, their megapixels, decoding threads, batch sizes, bytes of a copy."""

    images: int
    megapixels: tuple[float, ...]
    workers: tuple[int, ...]
    batches: tuple[int, ...]
    copy_bytes: tuple[int, ...]


class Card(ABC):
    """A GPU under test. `torch_device` is where torch computes on its memory."""

    is_real: bool
    torch_device: str
    amounts: Amounts

    @property
    def gpu(self) -> Gpu:
        return find_gpus().gpus[0]

    @abstractmethod
    def compute(self, stream: int, arrays: Mapping[str, DeviceArray], function: Compute) -> str:
        """Enqueue a computation on a stream; return why it cannot start, or ""."""

    @abstractmethod
    def delays(self, delays: Delays) -> AbstractContextManager[None]:
        """Return a context in which batches are delayed."""

    @abstractmethod
    def trespass(self, nth: int) -> AbstractContextManager[None]:
        """Return a context in which the nth batch writes to an illegal address. Afterwards the process has no GPU."""

    @abstractmethod
    def short_memory(self, nbytes: int) -> AbstractContextManager[None]:
        """Return a context in which the GPU has about `nbytes` of free memory."""

    @abstractmethod
    def current_context(self) -> int:
        """Return the CUDA context that is current in this thread; 0: none is."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Return the free memory of the GPU."""

    @abstractmethod
    def mistakes(self) -> list[str]:
        """Return what went wrong unnoticed so far, and forget it."""


class RealCard(Card):
    """The first GPU of this machine. torch keeps the primary context alive, and the kernels in it."""

    is_real = True
    torch_device = "cuda:0"

    def __init__(self) -> None:
        cores = count_cores()
        workers = tuple(sorted({1, 2, 4, 8, 16, 32, cores} & set(range(1, cores + 1))))
        sizes = tuple(1 << power for power in (16, 20, 22, 24, 26))
        self.amounts = Amounts(400, (0.3, 1, 3, 12), workers, (1, 4, 16, 64), sizes)
        torch.zeros(1, device=self.torch_device)

    def compute(self, stream: int, arrays: Mapping[str, DeviceArray], function: Compute) -> str:
        try:
            with torch.cuda.stream(torch.cuda.ExternalStream(stream)):  # type: ignore[no-untyped-call]  # torch's
                function({name: torch.as_tensor(array, device=self.torch_device) for name, array in arrays.items()})
        except RuntimeError as error:
            return str(error).splitlines()[0]
        return ""

    @contextmanager
    def delays(self, delays: Delays) -> Iterator[None]:
        import pycuda.driver as cuda

        from lesioncli.backends.tensorrt import runtime

        with (
            patch.object(cuda, "memcpy_htod_async", _late_copy(cuda.memcpy_htod_async, delays.copy_in)),
            patch.object(cuda, "memcpy_dtoh_async", _late_copy(cuda.memcpy_dtoh_async, delays.copy_out)),
            _before_each_batch(runtime._Plan, lambda stream: kernels.spin(stream, delays.compute)),
        ):
            yield

    @contextmanager
    def trespass(self, nth: int) -> Iterator[None]:
        from lesioncli.backends.tensorrt import runtime

        batches = count(1)

        def enqueue(stream: int) -> None:
            if next(batches) == nth:
                kernels.trespass(stream)

        with _before_each_batch(runtime._Plan, enqueue):
            yield

    @contextmanager
    def short_memory(self, nbytes: int) -> Iterator[None]:
        rest = [torch.empty(self.free_bytes() - nbytes, dtype=torch.uint8, device=self.torch_device)]
        try:
            yield
        finally:
            rest.clear()
            torch.cuda.empty_cache()

    def current_context(self) -> int:
        return kernels.current_context()

    def free_bytes(self) -> int:
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self.torch_device)[0])

    def mistakes(self) -> list[str]:
        return []


def _late_copy(copy: Callable[..., None], seconds: float) -> Callable[..., None]:
    """Return pycuda's asynchronous copy `copy`, in a stream that is busy for some time before."""

    def late(to: Any, source: Any, stream: Any) -> None:
        if seconds:
            kernels.spin(int(stream.handle), seconds)
        copy(to, source, stream)

    return late


@contextmanager
def _before_each_batch(plan: Any, enqueue: Callable[[int], None]) -> Iterator[None]:
    """Inside, call `enqueue` with the handle of the compute stream before a plan computes a batch."""
    execute = plan.execute

    def with_more(self: Any, number: int, rows: int, stream: int) -> None:
        enqueue(stream)
        execute(self, number, rows, stream)

    with patch.object(plan, "execute", with_more):
        yield


class StandinCard(Card):
    """The CUDA stand-in. torch computes on the CPU, in the memory that stands for that of a GPU."""

    is_real = False
    torch_device = "cpu"
    amounts = Amounts(4, (0.3, 3), (1, 2), (1, 4), (1 << 16, 1 << 20))

    def __init__(self, driver: cuda_standin.Driver) -> None:
        self.driver = driver
        self._launched: list[Any] = []  # kept alive, because the driver calls them later
        self._failures: list[str] = []

    def compute(self, stream: int, arrays: Mapping[str, DeviceArray], function: Compute) -> str:
        def kernel(_: Any) -> None:  # in the thread of the stream, where nothing can be raised
            try:
                function({name: torch.from_numpy(self._view(array)) for name, array in arrays.items()})
            except Exception as error:
                self._failures.append(repr(error))

        self._launched.append(cuda_standin.Function(kernel))
        status = self.driver.launch(stream, self._launched[-1])
        return f"CUDA error {status}" if status else ""

    def _view(self, array: DeviceArray) -> Any:
        host_address = self.driver.device_memory(array.address, array.nbytes)
        if host_address is None:
            raise RuntimeError("no memory of the device")
        view = (ctypes.c_uint8 * array.nbytes).from_address(host_address)
        return np.ctypeslib.as_array(view).view(array.dtype).reshape(array.shape)

    @contextmanager
    def delays(self, delays: Delays) -> Iterator[None]:
        in_rate, out_rate = (IMAGE_BYTES / s if s else 0 for s in (delays.copy_in, delays.copy_out))
        self.driver.set_costs(in_rate, out_rate, delays.compute)
        yield
        self.driver.set_costs()

    @contextmanager
    def trespass(self, nth: int) -> Iterator[None]:
        self.driver.fail("kernel", nth, ILLEGAL_ADDRESS)
        yield

    @contextmanager
    def short_memory(self, nbytes: int) -> Iterator[None]:
        self.driver.limit_memory(nbytes)
        yield
        self.driver.limit_memory(MEMORY)

    def current_context(self) -> int:
        current = ctypes.c_uint64()
        self.driver.library.cuCtxGetCurrent(ctypes.byref(current))
        return current.value

    def free_bytes(self) -> int:
        return MEMORY - self.driver.memory_used()

    def mistakes(self) -> list[str]:
        found = [*self.driver.violations(), *self._failures, *(f"{kind} left" for kind in self.driver.live())]
        self.driver.reset()
        self._failures.clear()
        return found


@contextmanager
def standin_card() -> Iterator[StandinCard]:
    """Inside, the CUDA stand-in is the only GPU of this machine."""
    with (
        cuda_standin.installed() as driver,
        patch.dict(driver_module.DRIVERS, {platform.system(): str(driver.path)}),
    ):
        driver.set_costs()
        yield StandinCard(driver)
