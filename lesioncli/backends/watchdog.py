"""End the process if an engine hangs: nothing else ends a call of a vendor's library that does not return."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lesioncli.backends.base import Engine
from lesioncli.errors import ExitCode
from lesioncli.signals import exit_at_once

TICKS = 10  # looks at the engine within the limit; a process that is suspended does not look


@contextmanager
def watched(engine: Engine, limit_s: float | None) -> Iterator[Engine]:
    """Yield an engine and close it; the process ends with exit code 4 if one call of its library takes `limit_s`.

    None: there is no limit.
    """
    ended = threading.Event()
    if limit_s is not None:
        threading.Thread(target=_watch, args=(engine, limit_s, ended), daemon=True, name="watchdog").start()
    try:
        with engine:
            yield engine
    finally:
        ended.set()


def _watch(engine: Engine, limit_s: float, ended: threading.Event) -> None:
    last_calls, ticks = 0, 0
    while not ended.wait(limit_s / TICKS):
        calls = engine.calls
        is_same_call = calls % 2 == 1 and calls == last_calls
        ticks, last_calls = ticks + 1 if is_same_call else 0, calls
        if ticks == TICKS:
            reason = (
                f"\nerror: engine {engine.spec.name} on {engine.device} hangs: no answer for {limit_s:g} s; finished"
                " rows are kept: run lesioncli doctor, then the same command again, or give the engine more time with"
                " --engine-timeout\n"
            )
            exit_at_once(ExitCode.ENGINE, reason.encode())
