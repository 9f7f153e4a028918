"""The lock of a run in a bucket, with a clock and a store of the test."""

from collections.abc import Callable, Iterator
from email.utils import formatdate

import pytest
from helpers.object_server import URL, Fault, ObjectServer, use_server

from lesioncli import stores
from lesioncli.errors import InputError
from lesioncli.inference.lease import EXPIRY_S, RENEW_S, Lease, refuse_if_held
from lesioncli.stores import ObjectFolder, StoreError
from lesioncli.urls import Url

START = 1_800_000_000.0
NAME = "run.lock"


class Clock:
    """A clock that sleeping sets forward; `while_sleeping` is called each time."""

    def __init__(self) -> None:
        self.now = START
        self.while_sleeping: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.while_sleeping()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """A bucket whose clock is that of the test."""
    stores.open_store.cache_clear()
    with ObjectServer().running() as server:
        use_server(server, monkeypatch)

        def stamp() -> None:
            server.modified.update(dict.fromkeys(server.objects, formatdate(clock.now, usegmt=True)))

        server.on_change = stamp
        yield server
    stores.open_store.cache_clear()


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def make_lease(server: ObjectServer, clock: Clock, notes: list[str]) -> Iterator[Callable[[], Lease]]:
    """Return a function that makes the lease of another run."""
    made: list[Lease] = []

    def make() -> Lease:
        made.append(Lease(ObjectFolder(Url.parse(f"{URL}/out")), NAME, notes.append, clock, clock.sleep))
        return made[-1]

    yield make
    for lease in made:
        lease.close()


def test_a_lock_is_removed_at_the_end(server: ObjectServer, make_lease: Callable[[], Lease], notes: list[str]) -> None:
    lease = make_lease()
    lease.acquire()
    assert list(server.objects) == [f"out/{NAME}"]
    lease.check()
    lease.close()
    assert not server.objects
    assert not notes


def test_a_live_run_keeps_others_out(make_lease: Callable[[], Lease], clock: Clock, notes: list[str]) -> None:
    holder = make_lease()
    holder.acquire()
    clock.while_sleeping = holder._renew  # as its thread does
    with pytest.raises(InputError, match=r"another run is writing there, process \d+ on "):
        make_lease().acquire()
    assert clock.now - START < RENEW_S
    assert "waiting until it is" in notes[0]
    holder.check()


def test_a_dead_run_is_waited_for(make_lease: Callable[[], Lease], clock: Clock, notes: list[str]) -> None:
    """A machine that was lost leaves its lock; the one that replaces it is sure after EXPIRY_S seconds, not earlier."""
    dead = make_lease()
    dead.acquire()
    clock.now += 100
    lease = make_lease()
    lease.acquire()
    assert EXPIRY_S <= clock.now - START < EXPIRY_S + 10
    assert "which has ended without a word" in notes[-1]
    with pytest.raises(InputError, match="has taken over this place"):  # it was only suspended
        dead.check()
    dead.close()
    lease.check()  # close() did not remove the lock of the other


def test_an_old_lock_is_not_waited_for(make_lease: Callable[[], Lease], clock: Clock) -> None:
    make_lease().acquire()
    clock.now += 10 * EXPIRY_S
    started = clock.now
    make_lease().acquire()
    assert clock.now == started


def test_a_lock_that_is_removed_by_hand(server: ObjectServer, make_lease: Callable[[], Lease], clock: Clock) -> None:
    holder = make_lease()
    holder.acquire()
    clock.while_sleeping = lambda: server.write(f"out/{NAME}", None)
    make_lease().acquire()
    clock.now += EXPIRY_S
    with pytest.raises(InputError, match="has taken over this place"):
        holder.check()


def test_two_runs_that_find_a_dead_one(server: ObjectServer, make_lease: Callable[[], Lease], clock: Clock) -> None:
    make_lease().acquire()
    first, second = make_lease(), make_lease()
    clock.now += EXPIRY_S
    replace = first._objects.replace

    def late(*arguments: object) -> object:
        second.acquire()
        return replace(*arguments)  # type: ignore[arg-type] # those of replace()

    first._objects.replace = late  # type: ignore[method-assign, assignment] # the moment between two requests
    with pytest.raises(InputError, match="another run is writing there"):
        first.acquire()
    second.check()


def test_answers_that_are_lost(server: ObjectServer, make_lease: Callable[[], Lease], clock: Clock) -> None:
    """The retry of a request that had succeeded meets its own lock."""
    server.put_faults[f"out/{NAME}"] = [Fault.CUT]
    lease = make_lease()
    lease.acquire()
    server.put_faults[f"out/{NAME}"] = [Fault.CUT]
    clock.now += EXPIRY_S
    lease.check()
    lease.close()
    assert not server.objects


def test_a_store_that_does_not_answer_for_a_while(
    server: ObjectServer, make_lease: Callable[[], Lease], clock: Clock
) -> None:
    lease = make_lease()
    lease.acquire()
    clock.now += 2 * EXPIRY_S
    server.every_put = Fault.DENIED
    lease._renew_quietly()
    with pytest.raises(StoreError):
        lease.check()  # nothing may be written before the lock is certain
    server.every_put = None
    lease.check()


def test_a_store_without_conditional_writes(
    server: ObjectServer, make_lease: Callable[[], Lease], notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.has_conditions = False
    lease = Lease(ObjectFolder(Url.parse(f"{URL}/out"), retries=0), NAME, notes.append)
    lease.acquire()
    lease.check()
    lease.close()
    assert "cannot hold locks" in notes[0]


def test_a_lock_of_anybody(server: ObjectServer, make_lease: Callable[[], Lease], clock: Clock) -> None:
    server.write(f"out/{NAME}", b"[" * 100_000)
    with pytest.raises(InputError, match="lock of an unknown process"):
        refuse_if_held(ObjectFolder(Url.parse(f"{URL}/out")), NAME, clock)
    clock.now += EXPIRY_S + 1
    refuse_if_held(ObjectFolder(Url.parse(f"{URL}/out")), NAME, clock)
    make_lease().acquire()
