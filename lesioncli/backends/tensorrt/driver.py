"""Which NVIDIA GPUs there are, asked of the driver: vendor libraries print, raise or crash where there is none."""

import ctypes
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

DRIVERS = {"Linux": "libcuda.so.1", "Windows": "nvcuda.dll"}
COMPUTE_CAPABILITY = (75, 76)  # the driver's numbers of the attributes major and minor


@dataclass(frozen=True)
class Gpu:
    """A GPU by its name, and its compute capability as a compiler's target: sm86 is 8.6."""

    name: str
    target: str

    def __str__(self) -> str:
        return f"{self.name} ({self.target})"


def find_gpus() -> tuple[Sequence[Gpu], str]:
    """(GPUs in the driver's order, why there are none or "")."""
    try:
        driver = ctypes.CDLL(DRIVERS[platform.system()])
    except (KeyError, OSError):
        return (), "no NVIDIA driver found"
    count = ctypes.c_int(0)
    if (status := driver.cuInit(0)) or (status := driver.cuDeviceGetCount(ctypes.byref(count))):
        return (), f"the NVIDIA driver does not start: CUDA error {status}"
    if not count.value:
        return (), "the NVIDIA driver finds no GPU"
    return [_describe(driver, number) for number in range(count.value)], ""


def _describe(driver: Any, number: int) -> Gpu:
    device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), number)
    driver.cuDeviceGetName(name, len(name), device)
    versions = [ctypes.c_int(0), ctypes.c_int(0)]
    for value, attribute in zip(versions, COMPUTE_CAPABILITY, strict=True):
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return Gpu(name.value.decode(errors="replace"), f"sm{versions[0].value}{versions[1].value}")
