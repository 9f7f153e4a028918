"""The watchdog of engines: what counts as a hang, and that nothing else does."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from helpers.engines import fill_in_turn, next_batch
from helpers.graphs import MakeEngine, OpenEngine
from helpers.pictures import draw

from lesioncli.backends import watchdog
from lesioncli.backends.base import Engine
from lesioncli.backends.ensemble import open_engines
from lesioncli.backends.manifest import StoredEngine, read_manifest
from lesioncli.backends.registry import open_engine
from lesioncli.backends.watchdog import TICKS, _watch, open_watched, watched
from lesioncli.errors import ExitCode
from lesioncli.inference.tta import PROCEDURES
from lesioncli.options import TTA, SegmentOptions

LIMIT_S = 0.2
IMAGES = [draw(seed) for seed in range(12)]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Exit codes and reasons with which the watchdog would have ended the process."""
    made: list[tuple[int, str]] = []
    monkeypatch.setattr(watchdog, "exit_at_once", lambda code, reason: made.append((code, reason.decode())))
    return made


def wait_for_end(ends: Sequence[object]) -> None:
    """Wait as a library that hangs until the watchdog notices, or for 20 s."""
    deadline = time.monotonic() + 20
    while not ends and time.monotonic() < deadline:
        time.sleep(LIMIT_S / 10)


def block(engine: Engine, monkeypatch: pytest.MonkeyPatch, method: str, nth: int, ends: list[tuple[int, str]]) -> None:
    """Let the nth call of a method of an engine last until the watchdog notices."""
    real, calls = getattr(engine, method), iter(range(10**6))

    def blocked(*given: int) -> object:
        if next(calls) == nth:
            ends.clear()
            wait_for_end(ends)
        return real(*given)

    monkeypatch.setattr(engine, method, blocked)


@pytest.mark.parametrize(
    ("method", "nth"), [("_start", 0), ("_start", 11), ("_finish", 0), ("_finish", 11), ("close", 0)]
)
def test_a_call_that_does_not_return_ends_the_process(
    tiny_manifest: MakeEngine, monkeypatch: pytest.MonkeyPatch, ends: list[tuple[int, str]], method: str, nth: int
) -> None:
    engine = open_engine(tiny_manifest(1))
    block(engine, monkeypatch, method, nth, ends)
    with watched(engine, LIMIT_S):
        list(engine.stream(fill_in_turn(engine, IMAGES)))
    code, reason = ends[0]
    assert code == ExitCode.ENGINE
    assert "tiny" in reason
    assert engine.device in reason
    assert "--engine-timeout" in reason


def test_an_engine_that_does_not_open_ends_the_process(
    tiny_manifest: MakeEngine, monkeypatch: pytest.MonkeyPatch, ends: list[tuple[int, str]]
) -> None:
    def open_late(*given: Any) -> Engine:
        wait_for_end(ends)
        return open_engines(*given)

    monkeypatch.setattr(watchdog, "open_engines", open_late)
    stored = StoredEngine(tiny_manifest(1), read_manifest(tiny_manifest(1)))
    with open_watched([stored], LIMIT_S, 2, PROCEDURES[TTA.NONE].layout) as engine:
        assert len(ends) == 1
        time.sleep(2 * LIMIT_S)  # neither the end of opening nor what follows is a hang
        assert len(list(engine.stream(fill_in_turn(engine, IMAGES)))) == len(IMAGES)
    ((code, reason),) = ends
    assert code == ExitCode.ENGINE
    assert f"opening {stored.path}" in reason
    assert "--engine-timeout" in reason


class Looks(threading.Event):
    """Stands for the time between two looks of the watchdog, in which the calls of the engine become those given."""

    def __init__(self, engine: Engine, calls: Sequence[int]) -> None:
        super().__init__()
        self._engine, self._calls = engine, iter(calls)

    def wait(self, timeout: float | None = None) -> bool:
        self._engine.calls = next(self._calls, -1)
        return self._engine.calls == -1


@pytest.mark.parametrize(
    ("calls", "is_hang"),
    [
        (range(1, 101, 2), False),  # short calls
        ([2] * 50, False),  # between two calls: the caller is slow
        ([3] * TICKS, False),  # the first look has no earlier one
        ([3] * (TICKS + 1), True),
        ([*[3] * TICKS, 5, *[5] * (TICKS - 1), 6, 7], False),
        ([0, 1, 2, *[9] * (TICKS + 1)], True),
    ],
)
def test_the_same_call_at_every_look_is_a_hang(
    tiny_engine: OpenEngine, calls: Sequence[int], is_hang: bool, ends: list[tuple[int, str]]
) -> None:
    engine = tiny_engine(1)
    engine.calls = 0
    _watch("engine", 600, lambda: engine.calls, Looks(engine, calls))
    engine.calls = 0
    assert len(ends) == is_hang


def test_without_a_limit_nothing_is_watched(tiny_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, threads = tiny_engine(1), threading.active_count()
    monkeypatch.setattr(engine, "close", lambda: None)  # other tests use it
    with watched(engine, None):
        assert threading.active_count() == threads


def test_an_ensemble_is_watched_as_a_whole(
    tiny_manifest: MakeEngine, free_manifest: MakeEngine, monkeypatch: pytest.MonkeyPatch, ends: list[tuple[int, str]]
) -> None:
    stored = [StoredEngine(path, read_manifest(path)) for path in (tiny_manifest(1), free_manifest(1))]
    with watched(open_engines(stored, 2, PROCEDURES[TTA.NONE].layout), LIMIT_S) as engine:
        block(engine, monkeypatch, "_finish", 3, ends)
        list(engine.stream(next_batch(engine) for _ in range(4)))
    assert "free+tiny" in ends[0][1]


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_limit_is_a_positive_number(seconds: float) -> None:
    with pytest.raises(ValueError, match="engine_timeout_s"):
        SegmentOptions(engine_timeout_s=seconds)
