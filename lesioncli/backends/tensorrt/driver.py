"""Calls of the NVIDIA driver without pycuda: find GPUs, and leave a context.

Without a driver, the vendor libraries print, raise or crash.
"""

import ctypes
import platform
from dataclasses import dataclass
from typing import Any

DRIVERS = {"Linux": "libcuda.so.1", "Windows": "nvcuda.dll"}
# cuda.h: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """The name of a GPU and its compute capability as a compiler target: sm86 is 8.6."""

    name: str
    target: str

    def __str__(self) -> str:
        return f"{self.name} ({self.target})"


@dataclass(frozen=True)
class GpuListing:
    """The GPUs of this machine in the driver's order, and why there are none, or "".

    `cuda_version` is the newest CUDA that the driver supports, as (major, minor); None without GPUs.
    """

    gpus: tuple[Gpu, ...] = ()
    problem: str = ""
    cuda_version: tuple[int, int] | None = None


def find_gpus() -> GpuListing:
    """Return the GPUs that the NVIDIA driver reports."""
    try:
        driver = _load()
    except (KeyError, OSError):
        return GpuListing(problem="no NVIDIA driver found")
    count = ctypes.c_int(0)
    if (status := driver.cuInit(0)) or (status := driver.cuDeviceGetCount(ctypes.byref(count))):
        return GpuListing(problem=f"the NVIDIA driver does not start: CUDA error {status}")
    if not count.value:
        return GpuListing(problem="the NVIDIA driver finds no GPU")
    version = ctypes.c_int(0)
    driver.cuDriverGetVersion(ctypes.byref(version))  # 13020 is 13.2
    cuda_version = (version.value // 1000, version.value % 1000 // 10)
    return GpuListing(tuple(_describe(driver, number) for number in range(count.value)), cuda_version=cuda_version)


def pop_context() -> None:
    """Take the current context from the stack of this thread; the one below it, if any, is current again."""
    _load().cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def _load() -> ctypes.CDLL:
    """Load the driver; KeyError or OSError if this machine has none."""
    return ctypes.CDLL(DRIVERS[platform.system()])


def _describe(driver: Any, number: int) -> Gpu:
    device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), number)
    driver.cuDeviceGetName(name, len(name), device)
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    driver.cuDeviceGetAttribute(ctypes.byref(major), CAPABILITY_MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), CAPABILITY_MINOR, device)
    return Gpu(name.value.decode(errors="replace"), f"sm{major.value}{minor.value}")
