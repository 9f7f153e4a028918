"""Processes on this machine, see processes.Pool: spawned by multiprocessing, with a pipe to each."""

import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from lesioncli.inference.processes import Lost
from lesioncli.inference.worker import Job, Order, Report, Share, Signal, serve
from lesioncli.process import count_cores, skip_openvino_converter
from lesioncli.signals import StopRequest

END_TIMEOUT_S = 30.0  # for a process that was told to end, before it is killed
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_CONTEXT = multiprocessing.get_context("spawn")  # a fork would copy the locks of other threads


def divide_machine(processes: int, gpus: Sequence[int] = ()) -> list[Share]:
    """Return the share of each process: of the cores, and one of the GPUs in turn, if there are any."""
    cores = max(1, count_cores() // processes)
    return [Share(cores, processes, gpus[number % len(gpus)] if gpus else None) for number in range(processes)]


class LocalPool:
    """Processes that end as soon as this one does, whatever ends it."""

    def __init__(self, job: Job, shares: Sequence[Share]) -> None:
        self._job, self._shares = job, shares
        self._running: dict[int, tuple[SpawnProcess, Connection]] = {}
        self._is_ending = False

    @property
    def names(self) -> Sequence[str]:
        return [
            f"process {number}" + ("" if share.gpu is None else f" (GPU {share.gpu})")
            for number, share in enumerate(self._shares, 1)
        ]

    def start(self, seat: int) -> None:
        own_end, other_end = _CONTEXT.Pipe()
        process = _CONTEXT.Process(
            target=_run, args=(other_end, self._job, self._shares[seat]), daemon=True, name=self.names[seat]
        )
        with _signals_blocked():
            process.start()
        other_end.close()
        self._running[seat] = process, own_end

    def send(self, seat: int, order: Order) -> None:
        self._is_ending |= order is Signal.END
        if seat in self._running:
            with suppress(OSError):
                self._running[seat][1].send(order)

    def receive(self, timeout_s: float) -> list[tuple[int, Report | Lost]]:
        ready = wait([connection for _, connection in self._running.values()], timeout_s)
        connections = {seat: connection for seat, (_, connection) in self._running.items() if connection in ready}
        return [report for seat, connection in connections.items() for report in self._read(seat, connection)]

    def _read(self, seat: int, connection: Connection) -> Iterator[tuple[int, Report | Lost]]:
        """Yield what has come from a process; Lost at the end of its pipe."""
        try:
            while connection.poll():
                yield seat, connection.recv()
        except (EOFError, OSError):
            yield seat, Lost(self._bury(seat))

    def _bury(self, seat: int) -> str:
        """Remove a process that has ended; return what ended it."""
        process, connection = self._running.pop(seat)
        connection.close()
        process.join(END_TIMEOUT_S)
        code = process.exitcode or 0
        process.close()
        return f"ended by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"

    def close(self) -> None:
        """End all processes: wait for those that were told to end, and kill those that were not."""
        for process, connection in self._running.values():
            if not self._is_ending:
                process.kill()
            process.join(END_TIMEOUT_S)
            connection.close()
            process.kill()
            process.join()
            process.close()
        self._running.clear()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Start a process that no Ctrl-C reaches, which a terminal sends to all: this process tells the others to stop."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # it would unblock them
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _run(connection: Connection, job: Job, share: Share) -> None:
    """Serve in a process of its own."""
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)
    skip_openvino_converter()
    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
    stop = StopRequest()

    def listen() -> None:
        try:
            while True:
                order = connection.recv()
                if order is Signal.STOP:
                    stop.set()
                else:
                    orders.put(order)
        except (EOFError, OSError):  # the process of the run is gone; what is written so far is whole
            os._exit(1)

    threading.Thread(target=listen, daemon=True, name="orders").start()

    def send(report: Report) -> None:
        with suppress(OSError):  # as above
            connection.send(report)

    serve(job, share, orders.get, send, stop)
