"""Share the images of a run among several processes: which one has which images, and what happens if one is lost.

The process of the run owns the rows, the lock and the order; the others send it the outcomes of their images. So the
output folder is at any moment what one process leaves. What carries the messages is a Pool.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Protocol, Self

from lesioncli.backends.base import EngineFacts
from lesioncli.errors import EngineError, InputError
from lesioncli.images.find import ImageFile
from lesioncli.inference.earlier import ToDo
from lesioncli.inference.outcome import Outcome
from lesioncli.inference.results import ResultStore
from lesioncli.inference.worker import Failure, Order, RemoteEngine, Report, Signal
from lesioncli.options import Status
from lesioncli.signals import StopRequest

POLL_S = 0.2  # how soon a request to stop is seen
MAX_ORDER = 32  # images in one order: a process has up to two of them, beside the images in its engine
MAX_LOSSES = 3  # of a seat; then no process takes it again


@dataclass(frozen=True)
class Lost:
    """A process ended without a Failure, for example because it was killed."""

    reason: str


class Pool(Protocol):
    """Starts processes in numbered seats, and carries messages."""

    @property
    def names(self) -> Sequence[str]:
        """The name of each seat, for messages."""
        ...

    def start(self, seat: int) -> None:
        """Start a process in a seat that has none, or whose process is lost."""
        ...

    def send(self, seat: int, order: Order) -> None:
        """Send an order; what is lost with its process, receive() reports."""
        ...

    def receive(self, timeout_s: float) -> list[tuple[int, Report | Lost]]:
        """Return what processes have sent, by seat and in order; nothing after `timeout_s`."""
        ...

    def close(self) -> None:
        """End all processes: in order if they were told to, else at once."""
        ...


class _State(Enum):
    STARTING, IDLE, WORKING, GONE = range(4)


@dataclass
class _Seat:
    """A seat: `images` were given to its process and have no outcome yet, in the order in which outcomes come."""

    name: str
    state: _State = _State.STARTING
    images: deque[ImageFile] = field(default_factory=deque)
    losses: int = 0
    engine: EngineFacts | None = None


class Processes:
    """The processes of a run, as a context manager. `note` receives a line about each that is lost."""

    def __init__(self, pool: Pool, note: Callable[[str], None]) -> None:
        self._lost: list[str] = []  # reasons
        self._devices: dict[str, None] = {}  # that have been opened, in order
        self._pool, self._note = pool, note
        self._seats = [_Seat(name) for name in pool.names]
        self._queue: deque[ImageFile] = deque()
        self._store: ResultStore | None = None
        self._stop = StopRequest()
        for number in range(len(self._seats)):
            pool.start(number)

    @property
    def engine(self) -> EngineFacts:
        """The engine of the first process that has it open; waits for it. Raises EngineError if none opens it."""
        while not (engines := [seat.engine for seat in self._seats if seat.engine]):
            list(self._receive())
        return engines[0]

    def describe(self) -> dict[str, Any]:
        """Return what is recorded at the end of a run, by the fields of RunRecord."""
        return {
            "device": " and ".join(self._devices),
            "processes": len(self._seats),
            "lost": tuple(self._lost) or None,
        }

    def outcomes(
        self, images: Sequence[ImageFile], store: ResultStore, to_do: Sequence[ToDo | None], stop: StopRequest
    ) -> Generator[Outcome, None, None]:
        """Yield one Outcome per image, as pipeline.segment() does, but as they come.

        Raises EngineError if all processes are lost, and InputError if a store of images is unavailable.
        """
        self._store, self._stop = store, stop
        for number, seat in enumerate(self._seats):
            if seat.engine:
                self._welcome(number, seat.engine)
        for image, reason in zip(images, to_do, strict=True):
            if reason:
                self._queue.append(image)
            else:
                yield Outcome(image, Status.SKIPPED)
        try:
            yield from self._run()
        except BaseException:  # whoever closes the folder next must find nobody who writes to it
            self._pool.close()
            raise
        for number in range(len(self._seats)):
            self._pool.send(number, Signal.END)

    def _run(self) -> Iterator[Outcome]:
        """Yield the outcomes of all images in the queue; after a request to stop, of those in work."""
        is_told = False
        while any(seat.state is _State.WORKING for seat in self._seats) or (self._queue and not self._stop.is_set):
            if self._stop.is_set and not is_told:
                is_told = True
                for number in range(len(self._seats)):
                    self._pool.send(number, Signal.STOP)
            self._feed()
            yield from self._receive()

    def _feed(self) -> None:
        """Give images to the processes that have none."""
        for number, seat in enumerate(self._seats):
            if seat.state is _State.IDLE and self._queue and not self._stop.is_set:
                seat.state = _State.WORKING
                self._give(number)

    def _give(self, number: int) -> None:
        """Give the next images to a process; none if there are none left, fewer towards the end."""
        count = min(MAX_ORDER, -(-len(self._queue) // (2 * len(self._seats)))) if not self._stop.is_set else 0
        images = [self._queue.popleft() for _ in range(count)]
        self._seats[number].images.extend(images)
        self._pool.send(number, images)

    def _receive(self) -> Iterator[Outcome]:
        """Handle the next reports; yield the outcomes among them."""
        for number, report in self._pool.receive(POLL_S):
            seat = self._seats[number]
            if isinstance(report, Outcome):
                seat.images.popleft()
                yield report
            elif report is Signal.MORE:
                self._give(number)
            elif report is Signal.IDLE:
                seat.state = _State.IDLE
                seat.images.clear()  # not begun, after a request to stop
            elif isinstance(report, RemoteEngine):
                self._welcome(number, report)
            elif isinstance(report, Failure):
                if report.is_bug:
                    raise RuntimeError(f"{seat.name} failed:\n{report.text}")
                if report.ends_run:
                    raise InputError(report.text)
                self._lose(number, report.text, is_final=seat.engine is None)
            elif isinstance(report, Lost):
                self._lose(number, report.reason, is_final=False)

    def _welcome(self, number: int, engine: EngineFacts) -> None:
        """Note the engine of a process, and tell it where to write, once that is known."""
        seat = self._seats[number]
        seat.engine = engine
        self._devices[engine.device] = None
        if self._store:
            self._pool.send(number, self._store.pictures)
            seat.state = _State.IDLE

    def _lose(self, number: int, reason: str, is_final: bool) -> None:
        """Take back the images of a process, and start another in its seat, unless that is of no use.

        Raises EngineError if no seat is left.
        """
        seat = self._seats[number]
        self._lost.append(f"{seat.name}: {reason}")
        images = f"; its {len(seat.images)} images are given to others" if seat.images else ""
        self._note(f"{seat.name} is lost: {reason}{images}")
        self._queue.extendleft(reversed(seat.images))
        seat.images.clear()
        seat.losses += 1
        if not (is_final or seat.losses == MAX_LOSSES or self._stop.is_set):
            seat.state, seat.engine = _State.STARTING, None
            self._pool.start(number)
            return
        seat.state = _State.GONE
        if self._stop.is_set or any(other.state is not _State.GONE for other in self._seats):
            return
        if self._store is None:
            raise EngineError(reason)
        raise EngineError(
            f"all processes are lost, at last {seat.name}: {reason}; finished rows are kept, and the same command"
            " continues from there"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.close()
