"""find_gpus() with an imitated NVIDIA driver."""
# ruff: noqa: N802 - its functions have the driver's names

import ctypes
from collections.abc import Sequence
from typing import Any

import pytest

from lesioncli.backends.tensorrt.driver import Gpu, GpuListing, find_gpus


class Driver:
    """Returns values as libcuda does, through pointers and status codes; 75 and 76 are the compute capability."""

    def __init__(self, gpus: Sequence[tuple[str, int, int]], init: int = 0, count: int = 0) -> None:
        self.gpus, self.statuses = gpus, {"init": init, "count": count}

    def cuDriverGetVersion(self, into: Any) -> int:
        into._obj.value = 12090
        return 0

    def cuInit(self, flags: int) -> int:
        return self.statuses["init"]

    def cuDeviceGetCount(self, into: Any) -> int:
        into._obj.value = len(self.gpus)
        return self.statuses["count"]

    def cuDeviceGet(self, into: Any, number: int) -> int:
        into._obj.value = 10 + number  # a handle is not the number
        return 0

    def cuDeviceGetName(self, into: Any, size: int, device: Any) -> int:
        into.value = self.gpus[device.value - 10][0].encode()[: size - 1]
        return 0

    def cuDeviceGetAttribute(self, into: Any, attribute: int, device: Any) -> int:
        into._obj.value = self.gpus[device.value - 10][{75: 1, 76: 2}[attribute]]
        return 0


def find_with(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> GpuListing:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    return find_gpus()


def test_gpus_have_a_name_and_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver([("NVIDIA L4", 8, 9), ("NVIDIA GeForce RTX 5090", 12, 0)])
    expected = (Gpu("NVIDIA L4", "sm89"), Gpu("NVIDIA GeForce RTX 5090", "sm120"))
    assert find_with(driver, monkeypatch) == GpuListing(expected, cuda_version=(12, 9))


@pytest.mark.parametrize(
    ("driver", "named"),
    [
        (Driver([("a", 8, 9)], init=100), "error 100"),
        (Driver([("a", 8, 9)], count=3), "error 3"),
        (Driver([]), "no GPU"),
    ],
)
def test_the_reason_for_no_gpu(driver: Driver, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = find_with(driver, monkeypatch)
    assert (listing.gpus, listing.cuda_version) == ((), None)
    assert listing.problem.endswith(named)


def test_the_reason_for_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    listing = find_gpus()
    assert (listing.gpus, listing.cuda_version) == ((), None)
    assert "no NVIDIA driver" in listing.problem
