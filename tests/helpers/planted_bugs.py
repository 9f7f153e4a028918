"""Mistakes to plant in the code that drives a GPU, one at a time: tests must notice each of them."""

import inspect
import pkgutil
import sys
import textwrap
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Bug:
    """A mistake to plant: a part of the source of a function or method of lesioncli, and what replaces it."""

    function: str
    old: str
    new: str

    def plant(self, monkeypatch: pytest.MonkeyPatch, leaked: list[Any]) -> None:
        """Replace the function for one test. A bug that leaks appends to `leaked`."""
        path, _, name = f"lesioncli.{self.function}".rpartition(".")
        owner = pkgutil.resolve_name(path)
        function = getattr(owner, name)
        source = textwrap.dedent(inspect.getsource(function))
        assert source.count(self.old) == 1
        namespace: dict[str, Any] = {}
        names = {**vars(sys.modules[function.__module__]), "leaked": leaked}
        exec(source.replace(self.old, self.new), names, namespace)  # noqa: S102 - this project's own source
        monkeypatch.setattr(owner, name, namespace[name])


LANE, DEVICE = "backends.tensorrt.cuda.Lane", "backends.tensorrt.cuda.Device"
RUNTIME = "backends.tensorrt.runtime"
RACES = {  # only some delays show them
    "computes before the images are copied in": Bug(
        f"{LANE}.start", "device.compute.wait_for_event(self._copied)", "pass"
    ),
    "copies out before it has computed": Bug(f"{LANE}.start", "device.copy_out.wait_for_event(self._computed)", "pass"),
    "reads before the outputs are copied out": Bug(f"{LANE}.finish", "self._done.synchronize()", "pass"),
    "takes a lane that is in use": Bug(f"{RUNTIME}.PlanEngine._start", "self._started % DEPTH", "0"),
    "fills a cycle that is in use": Bug(
        "inference.pipeline.fill_cycles", "engine.prefetch -", "2 * len(engine.cycles) -"
    ),
    "frees an input before its use": Bug(f"{LANE}.start", "device.compute.wait_for_event(", "self.input.free(); ("),
}
