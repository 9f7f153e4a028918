"""Fetch images of object stores ahead of the pipeline, within a budget of memory, each once.

If a store stops answering, or the credentials expire, the run ends: a million failed rows would help nobody.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace

from lesioncli.errors import ImageError, InputError
from lesioncli.images.find import ImageFile
from lesioncli.images.stored import Content, FileStatus, StoredFile, UnavailableError
from lesioncli.memory import MemoryBudget
from lesioncli.options import FailureStage
from lesioncli.stores import CONNECTIONS

MAX_AHEAD = 4 * CONNECTIONS  # images
MAX_BYTES = 2**28  # of images ahead
MAX_UNAVAILABLE = 20  # images in a row


class Fetcher:
    """Fetches images of stores in order, several at a time; others pass through.

    A part of the memory is for images that are being fetched, or were and are not read yet. One for which there is no
    room is fetched when it is read.
    """

    def __init__(self, memory: MemoryBudget) -> None:
        self._memory = memory
        self._max_bytes: int | None = None  # until there is an image to fetch
        self._pool: ThreadPoolExecutor | None = None
        self._unread_bytes = 0
        self._lock = threading.Lock()
        self._watch = StoreWatch()

    def ahead(self, images: Iterable[ImageFile]) -> Iterator[ImageFile]:
        """Yield images whose content is being fetched. The iterator ends early if the store is unavailable."""
        waiting: deque[ImageFile] = deque()
        for image in images:
            if not (isinstance(image.path, StoredFile) and image.path.is_remote):
                yield image
                continue
            size = image.path.status().size_bytes
            while waiting and (len(waiting) >= MAX_AHEAD or not self._has_room(size)):
                yield waiting.popleft()
            if self._watch.problem:
                return
            waiting.append(replace(image, path=self._start(image.path, size)))
        yield from waiting

    def close(self) -> None:
        """Cancel what was not fetched yet."""
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def raise_problem(self) -> None:
        """Raise InputError if the store was unavailable."""
        if self._watch.problem:
            raise InputError(self._watch.problem)

    def _has_room(self, size: int) -> bool:
        if self._max_bytes is None:
            self._max_bytes = self._memory.set_aside(MAX_BYTES)
        with self._lock:
            return self._unread_bytes + size <= self._max_bytes

    def _start(self, file: StoredFile, size: int) -> "FetchedFile":
        if not self._has_room(size):
            return FetchedFile(file, self._watch)
        self._add(size)
        self._pool = self._pool or ThreadPoolExecutor(CONNECTIONS, "fetch")
        return FetchedFile(file, self._watch, self._pool.submit(self._watch.read, file), lambda: self._add(-size))

    def _add(self, size: int) -> None:
        with self._lock:
            self._unread_bytes += size


class FetchedFile(StoredFile):
    """An image that is being fetched, unless there is no room for it; read() waits for it the first time."""

    def __init__(
        self,
        file: StoredFile,
        watch: "StoreWatch",
        future: Future[Content] | None = None,
        on_read: Callable[[], None] = lambda: None,
    ) -> None:
        self.file, self._watch, self._future, self._on_read = file, watch, future, on_read

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def is_remote(self) -> bool:
        return True

    @property
    def is_fetched(self) -> bool:
        """Whether memory for its content was reserved."""
        return self._future is not None

    def __str__(self) -> str:
        return str(self.file)

    def status(self) -> FileStatus:
        return self.file.status()

    def read(self) -> Content:
        future, self._future = self._future, None
        if future is None:
            return self._watch.read(self.file)
        try:
            return future.result()
        except CancelledError as error:
            raise UnavailableError(FailureStage.DECODE, "cannot be read: the run was stopped") from error
        finally:
            self._on_read()


def stored_image(image: ImageFile) -> ImageFile:
    """Return an image as it was before it was fetched."""
    return replace(image, path=image.path.file) if isinstance(image.path, FetchedFile) else image


class StoreWatch:
    """Reads images of stores, and tells when a store has become unavailable, in `problem`; any thread may use it.

    That is so when MAX_UNAVAILABLE images in a row could not be read, nor one that could be before.
    """

    def __init__(self) -> None:
        self.problem = ""
        self._in_a_row = 0
        self._last_read: StoredFile | None = None
        self._lock = threading.Lock()

    def read(self, file: StoredFile) -> Content:
        """Read an image. Raises ImageError."""
        if self.problem:
            raise UnavailableError(FailureStage.DECODE, "not read: the store is not available")
        try:
            content = file.read()
        except UnavailableError as error:
            with self._lock:
                self._count(file, error)
            raise
        with self._lock:
            self._in_a_row, self._last_read = 0, file
        return content

    def _count(self, file: StoredFile, error: ImageError) -> None:
        self._in_a_row += 1
        if self._in_a_row < MAX_UNAVAILABLE or self.problem:
            return
        if self._last_read and _answers(self._last_read):
            self._in_a_row = 0  # these objects are special, not the store
            return
        self.problem = (
            f"{file.store}: {self._in_a_row} images in a row, the last {file}, {error.reason}; then run the same"
            " command again, which continues"
        )


def _answers(file: StoredFile) -> bool:
    try:
        file.ask()
    except OSError:
        return False
    return True
