"""End the process if an engine hangs: nothing else ends a call of a vendor's library that does not return."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lesioncli.backends.base import Engine, Layout
from lesioncli.backends.ensemble import open_engines
from lesioncli.backends.manifest import StoredEngine
from lesioncli.errors import ExitCode
from lesioncli.signals import exit_at_once
from lesioncli.spec import ModelSpec

TICKS = 10  # looks at the engine within the limit; a process that is suspended does not look


@contextmanager
def open_watched(
    engines: Sequence[StoredEngine],
    limit_s: float | None,
    images_ahead: int,
    make_layout: Callable[[ModelSpec, int], Layout],
    traced: bool = False,
    gpu: int | None = None,
) -> Iterator[Engine]:
    """Open engines as open_engines() does, and close them; both, and each call in between, may take `limit_s`."""
    with limited(f"opening {' and '.join(str(engine.path) for engine in engines)}", limit_s):
        engine = open_engines(engines, images_ahead, make_layout, traced, gpu)
    with watched(engine, limit_s):
        yield engine


@contextmanager
def watched(engine: Engine, limit_s: float | None) -> Iterator[Engine]:
    """Yield an engine and close it; the process ends with exit code 4 if one call of its library takes `limit_s`."""
    with limited(f"engine {engine.spec.name} on {engine.device}", limit_s, lambda: engine.calls), engine:
        yield engine


@contextmanager
def limited(action: str, limit_s: float | None, count_calls: Callable[[], int] = lambda: 1) -> Iterator[None]:
    """End the process with exit code 4, and the name of the action, if one call takes `limit_s`; None: no limit.

    count_calls: the number of beginnings and ends of calls so far; by default, all that is done is one call.
    """
    ended = threading.Event()
    if limit_s is not None:
        watch = (action, limit_s, count_calls, ended)
        threading.Thread(target=_watch, args=watch, daemon=True, name="watchdog").start()
    try:
        yield
    finally:
        ended.set()


def _watch(action: str, limit_s: float, count_calls: Callable[[], int], ended: threading.Event) -> None:
    last_calls, ticks = 0, 0
    while not ended.wait(limit_s / TICKS):
        calls = count_calls()
        is_same_call = calls % 2 == 1 and calls == last_calls
        ticks, last_calls = ticks + 1 if is_same_call else 0, calls
        if ticks == TICKS:
            reason = (
                f"\nerror: {action} hangs: no answer for {limit_s:g} s; finished rows are kept: run lesioncli doctor,"
                " then the same command again, or give the engine more time with --engine-timeout\n"
            )
            exit_at_once(ExitCode.ENGINE, reason.encode())
