"""The memory that is free for this process, and a budget of it that threads share."""

import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lesioncli.cgroups import find_cgroups, read_text

SHARE = 0.5  # of the free memory: estimates are not exact, and other programs need some
MIN_BYTES = 256 * 2**20  # a cgroup whose memory is full of cached files seems to have nothing left
OPENCV_OUT_OF_MEMORY = -4  # cv::Error::StsNoMem, which Python's cv2 does not name
UNKNOWN_BYTES = 4 * 2**30  # what is taken to be free on systems that do not tell


class MemoryBudget:
    """Bytes that threads reserve before they allocate them.

    One that asks for more than is left waits, and those after it wait behind it. One that asks for more than
    `share_bytes` waits until no other has any.
    """

    def __init__(self, share_bytes: int, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._share_bytes = share_bytes
        self._reserved = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @classmethod
    def choose(cls, max_bytes: int | None, processes: int = 1) -> "MemoryBudget":
        """Return a budget of `max_bytes`, or of a share of the memory that is free now.

        Several `processes` of a run share it; the limit of one image is that of one process, so that they fail on no
        other images.
        """
        free = max(MIN_BYTES, free_bytes()) if max_bytes is None else max_bytes
        share = free if max_bytes is not None else round(SHARE * free)
        return cls(max(1, share // processes), free)

    def divide(self, processes: int) -> None:
        """Keep a part: as many processes of this machine, with budgets of their own, decode images at a time."""
        self.limit_bytes //= processes
        self._share_bytes //= processes

    def set_aside(self, max_bytes: int) -> int:
        """Take up to a quarter off this budget; return the number of bytes."""
        with self._changed:
            size = min(max_bytes, self._share_bytes // 4)
            self.limit_bytes -= size
            self._share_bytes -= size
        return size

    @contextmanager
    def reserve(self, size_bytes: int) -> Iterator[None]:
        """Hold some bytes inside the context. Raises MemoryError if they are more than the limit."""
        if size_bytes > self.limit_bytes:
            raise MemoryError
        size_bytes = min(size_bytes, self._share_bytes)
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(
                lambda: self._waiting[0] is ticket and self._reserved + size_bytes <= self._share_bytes
            )
            self._waiting.popleft()
            self._reserved += size_bytes
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._reserved -= size_bytes
                self._changed.notify_all()


@contextmanager
def opencv_memory_errors() -> Iterator[None]:
    """Turn the error of OpenCV for a lack of memory into a MemoryError."""
    import cv2  # a heavy import, which `--help` does without

    try:
        yield
    except cv2.error as error:
        if getattr(error, "code", None) != OPENCV_OUT_OF_MEMORY:
            raise
        raise MemoryError from error


def free_bytes(root: Path = Path("/")) -> int:
    """Return the memory that this process may still take: of the machine, of its cgroups, of its own limit."""
    known = [*_free_on_linux(root), *_free_below_own_limit(root)] if sys.platform == "linux" else []
    return min(known, default=UNKNOWN_BYTES)


def _free_on_linux(root: Path) -> Iterator[int]:
    """Yield the free memory of the machine, and of each cgroup of this process that has a limit."""
    for line in read_text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield 1024 * int(line.split()[1])
    for folder in find_cgroups("memory", root):
        for names in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            limit, usage = (read_text(folder / name).strip() for name in names)
            if limit.isdecimal() and usage.isdecimal():
                statistics = dict(line.split() for line in read_text(folder / "memory.stat").splitlines())
                cached = int(statistics.get("inactive_file", 0))  # files that can be read again
                yield int(limit) - int(usage) + cached


def _free_below_own_limit(root: Path) -> Iterator[int]:
    """Yield what is free below the limit on address space (`ulimit -v`), if there is one."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = read_text(root / "proc/self/statm").split()
    if limit != resource.RLIM_INFINITY and pages:
        yield limit - int(pages[0]) * resource.getpagesize()


SHARED = MemoryBudget.choose(None)  # of everything in this process that decodes images or masks, but a run of `segment`
