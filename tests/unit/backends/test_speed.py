"""Precision `auto` on a CPU: the engines of all precisions are timed in turn, and the fastest one is built."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from helpers.graphs import MakeEngine
from helpers.pictures import UInt8, draw
from numpy.typing import NDArray

from lesioncli.backends.base import Engine
from lesioncli.backends.build import build
from lesioncli.backends.manifest import Manifest, read_manifest
from lesioncli.backends.openvino import OpenVinoCompiler
from lesioncli.backends.registry import open_engine
from lesioncli.backends.speed import IMAGES, ROUNDS, choose_fastest, measure_speeds
from lesioncli.options import BuildOptions, Decision, Precision

INT8, BF16, FP32 = Precision.INT8, Precision.BF16, Precision.FP32


class NamedEngine(Engine):
    """Uses a core for some time per image, and notes its turns."""

    device = "a loop"

    def __init__(self, like: Engine, name: str, cpu_ms: float, turns: list[str]) -> None:
        super().__init__(like.manifest, like.layout, like.layout.allocate(2), 1, ("mask", "scores"))
        self._name, self._cpu_ms, self._turns, self.is_closed = name, cpu_ms, turns, False

    def _start(self, number: int) -> None:
        self._turns.append(self._name)
        end = time.process_time() + self._cpu_ms / 1000
        while time.process_time() < end:
            pass

    def _finish(self, number: int) -> dict[str, NDArray[Any]]:
        rows, height, width, _ = self._slots[number].shape
        classes = len(self.spec.classes)
        return {"mask": np.zeros((rows, height, width), np.uint8), "scores": np.zeros((rows, classes), np.float32)}

    def close(self) -> None:
        self.is_closed = True


def test_engines_take_turns_and_are_closed(tiny_manifest: MakeEngine) -> None:
    with open_engine(tiny_manifest(1)) as like:
        turns: list[str] = []
        slow, fast = (NamedEngine(like, name, cpu_ms, turns) for name, cpu_ms in (("slow", 3), ("fast", 1)))
        speeds = measure_speeds({FP32: slow, BF16: fast}, [draw(0)] * 40)
    assert turns == (["slow"] * IMAGES + ["fast"] * IMAGES) * (1 + ROUNDS)
    assert 3 <= speeds[FP32] > speeds[BF16] >= 1
    assert slow.is_closed
    assert fast.is_closed


@pytest.mark.parametrize(
    ("speeds", "fastest"),
    [
        ({BF16: 12.1, FP32: 19.8}, BF16),
        ({BF16: 19.8, FP32: 12.1}, FP32),
        ({BF16: 9.6, FP32: 10.0}, FP32),  # too small a gain
        ({BF16: 9.4, FP32: 10.0}, BF16),
        ({INT8: 5.0, BF16: 7.0, FP32: 10.0}, INT8),
        ({INT8: 6.8, BF16: 7.0, FP32: 10.0}, BF16),  # int8 is too little faster than bf16
        ({INT8: 9.0, BF16: 9.6, FP32: 10.0}, INT8),
        ({INT8: 11.0, FP32: 10.0}, FP32),
        ({FP32: 9.0}, FP32),
    ],
)
def test_the_fastest_is_chosen_if_it_is_clearly_faster_than_fp32(
    speeds: dict[Precision, float], fastest: Precision
) -> None:
    chosen = choose_fastest(speeds)
    assert chosen.value is fastest
    assert all(f"{precision} {speed} ms" in chosen.reason for precision, speed in speeds.items())


class TwoPrecisions(OpenVinoCompiler):
    """Has bf16 on every processor; its engines compute in fp32."""

    def list_precisions(self, asked: Precision) -> list[Decision[Precision]]:
        return [Decision(BF16, "for this test"), Decision(FP32, "it is exact")]

    def open_for_parity(self, onnx: Path, manifest: Manifest, images: Sequence[UInt8], work: Path) -> Engine:
        return super().open_for_parity(onnx, msgspec.structs.replace(manifest, precision=FP32), images, work)


@pytest.mark.parametrize("speeds", [{BF16: 2.0, FP32: 1.0}, {BF16: 1.0, FP32: 2.0}])
def test_auto_builds_the_fastest_and_keeps_the_figures(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speeds: dict[Precision, float]
) -> None:
    monkeypatch.setattr("lesioncli.backends.build.measure_speeds", lambda engines, inputs: speeds)
    built = build(tiny_onnx, tmp_path, [draw(seed) for seed in range(3)], compiler=TwoPrecisions())
    assert built.manifest.precision == min(speeds, key=lambda precision: speeds[precision])
    assert built.manifest.measured_ms == speeds
    assert read_manifest(built.path) == built.manifest


def test_what_auto_says_is_what_it_measured(tiny_onnx: Path, tmp_path: Path) -> None:
    built = build(tiny_onnx, tmp_path, [draw(seed) for seed in range(3)], compiler=TwoPrecisions())
    assert set(built.manifest.measured_ms) == {BF16, FP32}
    assert built.reason == choose_fastest(built.manifest.measured_ms).reason


def test_one_precision_is_not_timed(tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lesioncli.backends.build.measure_speeds", lambda engines, inputs: pytest.fail("was timed"))
    built = build(tiny_onnx, tmp_path, [draw(0)], BuildOptions(precision=FP32))
    assert built.manifest.measured_ms == {}
