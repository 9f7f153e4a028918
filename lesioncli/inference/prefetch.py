"""Fill the cycles of an engine ahead of it, on a pool of threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from itertools import islice
from typing import TypeVar

from lesioncli.backends.base import Batch, Cycle, Engine

Item = TypeVar("Item")
Filled = TypeVar("Filled")


def fill_cycles(
    engine: Engine,
    items: Iterable[Item],
    fill: Callable[[Item, Cycle, int], Filled],
    pool: Executor,
    in_engine: deque[Filled],
) -> Iterator[Batch]:
    """Fill the next free cycles of an engine, as far ahead as it allows; yield them in order, for Engine.stream().

    `fill` writes an item to a cycle as its `index`-th image, in a thread of the pool. What it returns is appended to
    `in_engine` when the batch is yielded. Raises what `fill` raises.
    """
    remaining = iter(items)
    groups = iter(lambda: list(islice(remaining, engine.layout.images)), [])
    filling: deque[tuple[Cycle, list[Future[Filled]]]] = deque()
    while True:
        for group in islice(groups, engine.prefetch - len(filling)):
            cycle = engine.next_cycle()
            filling.append((cycle, [pool.submit(fill, item, cycle, index) for index, item in enumerate(group)]))
        if not filling:
            return
        yield _wait(*filling.popleft(), in_engine)


def _wait(cycle: Cycle, futures: Sequence[Future[Filled]], in_engine: deque[Filled]) -> Batch:
    """Wait until a cycle is filled. The futures are not kept, because they hold decoded images."""
    in_engine.extend([future.result() for future in futures])
    return Batch(cycle, len(futures))
