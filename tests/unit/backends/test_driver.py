"""What the NVIDIA driver is asked, and what is made of its answers; the driver here is a stand-in."""
# ruff: noqa: N802 - its functions have the driver's names

import ctypes
from collections.abc import Sequence
from typing import Any

import pytest

from lesioncli.backends.tensorrt.driver import Gpu, find_gpus


class Driver:
    """Answers as libcuda does, through pointers and status codes. 75 and 76 ask for the compute capability."""

    def __init__(self, gpus: Sequence[tuple[str, int, int]], init: int = 0, count: int = 0) -> None:
        self.gpus, self.statuses = gpus, {"init": init, "count": count}

    def cuInit(self, flags: int) -> int:
        return self.statuses["init"]

    def cuDeviceGetCount(self, into: Any) -> int:
        into._obj.value = len(self.gpus)
        return self.statuses["count"]

    def cuDeviceGet(self, into: Any, number: int) -> int:
        into._obj.value = 10 + number  # a handle is not a number
        return 0

    def cuDeviceGetName(self, into: Any, size: int, device: Any) -> int:
        into.value = self.gpus[device.value - 10][0].encode()[: size - 1]
        return 0

    def cuDeviceGetAttribute(self, into: Any, attribute: int, device: Any) -> int:
        into._obj.value = self.gpus[device.value - 10][{75: 1, 76: 2}[attribute]]
        return 0


def found_by(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> tuple[Sequence[Gpu], str]:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    return find_gpus()


def test_gpus_by_name_and_target(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver([("NVIDIA L4", 8, 9), ("NVIDIA GeForce RTX 5090", 12, 0)])
    assert found_by(driver, monkeypatch) == ([Gpu("NVIDIA L4", "sm89"), Gpu("NVIDIA GeForce RTX 5090", "sm120")], "")


@pytest.mark.parametrize(
    ("driver", "problem"),
    [
        (Driver([("a", 8, 9)], init=100), "the NVIDIA driver does not start: CUDA error 100"),
        (Driver([("a", 8, 9)], count=3), "the NVIDIA driver does not start: CUDA error 3"),
        (Driver([]), "the NVIDIA driver finds no GPU"),
    ],
)
def test_no_gpu_has_its_reason(driver: Driver, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found_by(driver, monkeypatch) == ((), problem)


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert find_gpus() == ((), "no NVIDIA driver found")
