"""The queue of a run in several processes, with imitated processes: who gets which images, and what is lost."""

import random
from collections import deque
from pathlib import Path

import pytest
from helpers.engines import make_manifest

from lesioncli.backends.base import Layout, Member
from lesioncli.errors import EngineError
from lesioncli.images.find import ImageFile
from lesioncli.inference.earlier import ToDo
from lesioncli.inference.outcome import Outcome
from lesioncli.inference.pictures import PictureFolder
from lesioncli.inference.processes import MAX_LOSSES, MAX_ORDER, Lost, Processes
from lesioncli.inference.worker import Failure, Order, RemoteEngine, Report, Signal
from lesioncli.options import Status
from lesioncli.signals import StopRequest

MANIFEST = make_manifest()
ENGINE = RemoteEngine(MANIFEST.spec, (Member(MANIFEST, Layout(1, ()), slice(None)),), (), 1, "a device")
IMAGES = [ImageFile(Path(f"{number:04d}.jpg"), f"{number:04d}") for number in range(300)]
NEVER = 10**9
DEPTH = 3


class _Store:
    pictures = PictureFolder(Path("masks"))


class ImitatedPool:
    """Processes that finish an image each time they are asked, with up to DEPTH images in work.

    lives: for each start of a seat, the number of images that its process finishes before it is lost; the last one is
    repeated. opening: what a process reports in place of its engine.
    """

    def __init__(self, lives: list[list[int]], opening: Report = ENGINE) -> None:
        self.names = [f"process {number}" for number in range(1, len(lives) + 1)]
        self.starts = [0] * len(lives)
        self.told: list[set[Signal]] = [set() for _ in lives]
        self.biggest_order = 0
        self.is_closed = False
        self._lives, self._opening = lives, opening
        self._left = [0] * len(lives)
        self._work: list[deque[ImageFile]] = [deque() for _ in lives]
        self._reports: list[deque[Report | Lost]] = [deque() for _ in lives]
        self._ask_at = [0] * len(lives)  # images in work when the next are asked for

    def start(self, seat: int) -> None:
        lives = self._lives[seat]
        self._left[seat] = lives[min(self.starts[seat], len(lives) - 1)]
        self.starts[seat] += 1
        self._work[seat].clear()
        self._reports[seat].append(self._opening)

    def send(self, seat: int, order: Order) -> None:
        if isinstance(order, Signal):
            self.told[seat].add(order)
            if order is Signal.STOP:
                self._work[seat] = deque(list(self._work[seat])[:DEPTH])
                self._reports[seat].append(Signal.IDLE)
                self._ask_at[seat] = -1
        elif isinstance(order, list):
            self.biggest_order = max(self.biggest_order, len(order))
            self._work[seat].extend(order)
            self._ask_at[seat] = len(order) or -1
            if not order:
                self._reports[seat].append(Signal.IDLE)

    def receive(self, timeout_s: float) -> list[tuple[int, Report | Lost]]:
        reports: list[tuple[int, Report | Lost]] = []
        for seat in range(len(self.names)):
            if self._left[seat] == 0:
                self._left[seat] = NEVER
                self._reports[seat].clear()
                self._work[seat].clear()
                reports.append((seat, Lost("killed")))
                continue
            if self._reports[seat] and not (self._reports[seat][0] is Signal.IDLE and self._work[seat]):
                reports.append((seat, self._reports[seat].popleft()))
            if len(self._work[seat]) == self._ask_at[seat]:
                reports.append((seat, Signal.MORE))
            if self._work[seat]:
                self._left[seat] -= 1
                reports.append((seat, Outcome(self._work[seat].popleft(), Status.OK)))
        return reports

    def close(self) -> None:
        self.is_closed = True


def run(
    pool: ImitatedPool, stop: StopRequest | None = None, stop_after: int = NEVER, notes: list[str] | None = None
) -> list[Outcome]:
    """Segment IMAGES, the first of which is done already; return the outcomes."""
    stop = stop or StopRequest()
    found: list[Outcome] = []
    with Processes(pool, (notes if notes is not None else []).append) as processes:
        assert processes.engine is ENGINE
        to_do = [None, *[ToDo.NEW] * (len(IMAGES) - 1)]
        for outcome in processes.outcomes(IMAGES, _Store(), to_do, stop):  # type: ignore[arg-type]  # only its pictures
            found.append(outcome)
            if len(found) == stop_after:
                stop.set()
    assert pool.is_closed
    return found


def names(outcomes: list[Outcome]) -> list[str]:
    return sorted(outcome.image.name for outcome in outcomes)


EXPECTED = [image.name for image in IMAGES]


def test_every_image_has_one_outcome() -> None:
    pool = ImitatedPool([[NEVER]] * 3)
    outcomes = run(pool)
    assert names(outcomes) == EXPECTED
    assert [outcome.status for outcome in outcomes].count(Status.SKIPPED) == 1
    assert pool.starts == [1, 1, 1]
    assert pool.biggest_order == MAX_ORDER
    assert all(Signal.END in told for told in pool.told)


@pytest.mark.parametrize("seed", range(20))
def test_images_of_lost_processes_are_given_to_others(seed: int) -> None:
    """Processes end at any moment, in their seats again and again, while one lasts; nothing is done twice."""
    moments = random.Random(seed)  # noqa: S311 - not for cryptography
    lives = [[moments.randrange(1, 60) for _ in range(MAX_LOSSES)] for _ in range(3)]
    notes: list[str] = []
    pool = ImitatedPool([*lives, [NEVER]])
    assert names(run(pool, notes=notes)) == EXPECTED
    assert max(pool.starts) <= MAX_LOSSES
    assert len(notes) >= sum(pool.starts) - 4


def test_the_loss_of_all_ends_the_run() -> None:
    pool = ImitatedPool([[10], [20]])
    with pytest.raises(EngineError, match=r"all processes are lost, at last process 2: killed"):
        run(pool)
    assert pool.starts == [MAX_LOSSES] * 2
    assert pool.is_closed


def test_an_engine_that_does_not_open_is_not_tried_again() -> None:
    pool = ImitatedPool([[NEVER]] * 2, opening=Failure("the reason; what to do"))
    with pytest.raises(EngineError, match=r"^the reason; what to do$"):
        run(pool)
    assert pool.starts == [1, 1]


def test_a_bug_in_a_process_ends_the_run() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run(ImitatedPool([[NEVER]], opening=Failure("ZeroDivisionError", is_bug=True)))


def test_a_request_to_stop_ends_what_is_in_work_only() -> None:
    pool = ImitatedPool([[NEVER]] * 2)
    outcomes = run(pool, stop_after=30)
    assert 30 <= len(outcomes) <= 30 + 2 * DEPTH + 2
    assert len(set(names(outcomes))) == len(outcomes)
    assert all(Signal.STOP in told for told in pool.told)


def test_a_process_that_is_lost_after_a_request_to_stop_is_not_started_again() -> None:
    pool = ImitatedPool([[35], [35]])
    assert len(run(pool, stop_after=60)) < len(IMAGES)
    assert pool.starts == [1, 1]


def test_a_caller_that_ends_early_leaves_no_process() -> None:
    pool = ImitatedPool([[NEVER]] * 2)
    processes = Processes(pool, print)
    assert processes.engine is ENGINE
    outcomes = processes.outcomes(IMAGES, _Store(), [ToDo.NEW] * len(IMAGES), StopRequest())  # type: ignore[arg-type]  # a stub store
    next(outcomes)
    outcomes.close()
    assert pool.is_closed
