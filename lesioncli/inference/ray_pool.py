"""Workers of a Ray cluster, see processes.Pool. Only this file uses Ray.

An actor serves in a thread. The driver calls it for two things, each in order: to give it an order, and to wait for its
reports. Images, engine and output folder have the same paths on all machines.
"""

import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from lesioncli.errors import EngineError, InputError, MissingPackageError
from lesioncli.inference.outcome import Outcome
from lesioncli.inference.processes import Lost
from lesioncli.inference.worker import Job, Order, Report, Share, Signal, serve
from lesioncli.options import RAY_AUTO, RAY_LOCAL, Backend
from lesioncli.signals import StopRequest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that is started here
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of a change of its own
try:
    import ray
except ModuleNotFoundError as missing:
    if missing.name != "ray":
        raise
    raise MissingPackageError("Ray", "ray") from missing

MAX_CORES = 4  # of a worker: with more, the lock of its interpreter is the limit (docs/scale.md)
CONNECT_TIMEOUT_S = 5.0
SILENCE_TIMEOUT_S = 120.0  # without a word from any worker
REPORT_S = 1.0  # how long a worker waits for reports before it says that there are none
GATHER_S = 0.2  # how long it gathers outcomes after the first
LOCAL_STORE_BYTES = 100 * 2**20  # of a cluster that is started here: messages are small


class Worker:
    """An actor: serves in a thread of its own."""

    def __init__(self, job: Job, share: Share) -> None:
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._stop = StopRequest()
        arguments = (job, share, self._orders.get, self._reports.put, self._stop)
        threading.Thread(target=serve, args=arguments, daemon=True, name="serve").start()

    # ray.method has no annotations.
    @ray.method(concurrency_group="orders")  # type: ignore[untyped-decorator]
    def order(self, order: Order) -> None:
        """Pass on an order."""
        if order is Signal.STOP:
            self._stop.set()
        else:
            self._orders.put(order)

    @ray.method(concurrency_group="reports")  # type: ignore[untyped-decorator]
    def reports(self) -> list[Report]:
        """Return the reports since the last call: wait for one, then for further outcomes, as each call costs time."""
        reports: list[Report] = []
        end = time.monotonic() + REPORT_S
        with suppress(queue.Empty):
            while not reports or isinstance(reports[-1], Outcome):
                reports.append(self._reports.get(timeout=max(0.0, end - time.monotonic())))
                end = min(end, time.monotonic() + GATHER_S) if len(reports) == 1 else end
        return reports


class RayPool:
    """Actors, each of which needs `cores` cores, and a GPU if it `needs_gpu`."""

    def __init__(self, job: Job, share: Share, count: int, needs_gpu: bool, is_ours: bool) -> None:
        self._job, self._share, self._count = job, share, count
        self._make = ray.remote(
            num_cpus=share.cores,
            num_gpus=1 if needs_gpu else 0,
            max_restarts=0,
            scheduling_strategy="SPREAD",
            concurrency_groups={"orders": 1, "reports": 1},
        )(Worker)
        self._is_ours = is_ours
        self._actors: dict[int, Any] = {}
        self._waiting: dict[Any, int] = {}  # the seat of each call whose reports are expected
        self._heard_at = time.monotonic()

    @property
    def names(self) -> Sequence[str]:
        return [f"worker {number}" for number in range(1, self._count + 1)]

    def start(self, seat: int) -> None:
        self._actors[seat] = self._make.remote(self._job, self._share)
        self._ask(seat)

    def _ask(self, seat: int) -> None:
        self._waiting[self._actors[seat].reports.remote()] = seat

    def send(self, seat: int, order: Order) -> None:
        if seat in self._actors:
            self._actors[seat].order.remote(order)

    def receive(self, timeout_s: float) -> list[tuple[int, Report | Lost]]:
        ready, _ = ray.wait(list(self._waiting), timeout=timeout_s)
        if not ready:
            self._refuse_silence()
            return []
        self._heard_at = time.monotonic()
        seat = self._waiting.pop(ready[0])
        try:
            reports: list[Report] = ray.get(ready[0])
        except ray.exceptions.RayError as error:
            ray.kill(self._actors.pop(seat))
            return [(seat, Lost(_describe(error)))]
        self._ask(seat)
        return [(seat, report) for report in reports]

    def _refuse_silence(self) -> None:
        if time.monotonic() - self._heard_at > SILENCE_TIMEOUT_S:
            raise EngineError(
                f"no worker of the Ray cluster has answered for {SILENCE_TIMEOUT_S:.0f} s; each needs"
                f" {self._share.cores} cores: see ray status, then run the same command again"
            )

    def close(self) -> None:
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()
        self._waiting.clear()
        if self._is_ours:
            ray.shutdown()


def open_ray_pool(job: Job, address: str, count: int | None, images: int, note: Callable[[str], None]) -> RayPool:
    """Connect to a cluster, or start one of this machine, and return workers for it; at most one per image.

    Raises InputError if there is no cluster at the address, and EngineError if it has no room for a worker.
    """
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(address)
    try:
        needs_gpu = any(engine.manifest.backend is not Backend.OPENVINO for engine in job.engines)
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        share, room = _divide_cluster(resources, job.options.workers, needs_gpu)
        count = min(count or room, images)
        unit = f"cores per worker {share.cores}{', GPUs 1' * needs_gpu}"
        note(f"Ray cluster: nodes {len(resources)}, workers {count}, {unit}")
        return RayPool(job, share, count, needs_gpu, is_ours)
    except BaseException:
        if is_ours:
            ray.shutdown()
        raise


def _connect(address: str) -> None:
    """Connect to the cluster at an address, or start one."""
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == RAY_LOCAL:
        settings |= {"include_dashboard": False, "object_store_memory": LOCAL_STORE_BYTES}
    elif address != RAY_AUTO:
        _check_reachable(address)
    try:
        with _signal_handlers_kept():
            ray.init(address=address, **settings)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--ray {address}: no Ray cluster that can be used ({reason}); start one with ray start --head, or use"
            f" --ray {RAY_LOCAL} or HOST:PORT"
        ) from error


def _check_reachable(address: str) -> None:
    """Raise InputError if nothing answers at HOST:PORT; Ray itself would try for a minute."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (host and colon and port.isascii() and port.isdecimal()):
        raise InputError(f"--ray {address}: not an address; give HOST:PORT, {RAY_AUTO} or {RAY_LOCAL}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--ray {address}: nothing answers there ({error}); see the address that ray start --head has printed"
        ) from error


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM: Ray sets its own, which ends the program at once."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _divide_cluster(nodes: Sequence[dict[str, float]], workers: int, needs_gpu: bool) -> tuple[Share, int]:
    """Return the share of a worker, and for how many the cluster has room: one per GPU, or per some cores.

    `nodes` are the resources of each node; `workers` the threads of a worker that were asked for, or 0. Raises
    EngineError if there is no room for one.
    """
    cores = [int(node.get("CPU", 0)) for node in nodes]
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    if needs_gpu:
        per_gpu = [cores_of // gpus_of for cores_of, gpus_of in zip(cores, gpus, strict=True) if gpus_of]
        own = workers or max(1, min(per_gpu, default=1))
        room = [min(gpus_of, cores_of // own) for cores_of, gpus_of in zip(cores, gpus, strict=True)]
    else:
        own = workers or min([MAX_CORES, *filter(None, cores)])
        room = [cores_of // own for cores_of in cores]
    if not sum(room):
        raise EngineError(
            f"the Ray cluster has no node with {own} cores{' and a GPU' * needs_gpu}; see ray status, or use fewer"
            " --workers"
        )
    return Share(own, max(room)), sum(room)


def _describe(error: Exception) -> str:
    """Return the reason in an error of Ray: the first line, or for an actor that failed to start the last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if isinstance(error, ray.exceptions.RayTaskError) else next(iter(lines), type(error).__name__)
