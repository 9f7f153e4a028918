"""Pictures and rows on their way to a bucket: pictures first, several at a time, and at intervals the rows of those."""

import csv
import io
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from lesioncli.images.mask_archives import is_archived
from lesioncli.inference.journal import Journal
from lesioncli.inference.rows import csv_line
from lesioncli.stores import CONNECTIONS

ROWS_INTERVAL_S = 20.0
MAX_WAITING = 16 * CONNECTIONS  # images whose pictures are not moved yet
ALL_BYTES = 2**62


class Target(Protocol):
    """What an Uploader needs of a bucket."""

    def move(self, paths: Iterable[Path]) -> None:
        """Move the pictures of an image."""

    def publish_part(self, lines: bytes) -> None:
        """Write lines of the journal whose pictures were moved."""


class Uploader:
    """Moves the pictures of new rows to the bucket, several at a time, and then the rows; in place of GroupSync.

    synced_bytes: a line of the journal reaches the bucket only when all before it are safe. has_archives: masks are not
    moved, but archives of them, so a row that names a file is not sent.
    """

    synced_bytes = ALL_BYTES

    def __init__(self, target: Target, journal: Journal, has_archives: bool) -> None:
        self._target, self._journal, self._has_archives = target, journal, has_archives
        self._pool = ThreadPoolExecutor(CONNECTIONS, "upload")
        self._room = threading.BoundedSemaphore(MAX_WAITING)
        self._moving: list[Future[None]] = []
        self._header = b""
        self._sent_bytes = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def add(self, paths: Iterable[Path]) -> None:
        """Move the pictures of a row; wait while too many are on their way. Raises the error of an earlier one."""
        self._room.acquire()
        if self._error:
            raise self._error
        with self._lock:
            self._moving.append(self._pool.submit(self._move, list(paths)))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="rows")
                self._thread.start()

    def _move(self, paths: Sequence[Path]) -> None:
        try:
            if not self._error:
                self._target.move(paths)
        except Exception as error:
            self._error = error
            raise
        finally:
            self._room.release()

    def finish(self) -> None:
        """Move all that was added, send all rows, and end the threads."""
        self.stop()
        if self._error:
            raise self._error
        self._send_rows()

    def stop(self) -> None:
        self._ended.set()
        if self._thread:
            self._thread.join()
        self._pool.shutdown()

    def _run(self) -> None:
        while not self._ended.wait(ROWS_INTERVAL_S):
            try:
                self._send_rows()
            except Exception as error:  # raised by the next add()
                self._error = error
                return

    def _send_rows(self) -> None:
        with self._lock:
            moving, self._moving = self._moving, []
            length = self._journal.size_bytes
        self._wait(moving)
        lines = self._journal.read(self._sent_bytes, length)
        if not self._header:
            self._header = lines[: lines.index(b"\n") + 1]
        lines = lines.removeprefix(self._header)
        if self._has_archives:
            lines = _without_files(self._header, lines)
        if lines:
            self._target.publish_part(self._header + lines)
        self._sent_bytes = length

    def _wait(self, moving: Iterable[Future[None]]) -> None:
        for future in moving:
            future.result()


def _without_files(header: bytes, lines: bytes) -> bytes:
    """Leave out rows whose mask is a file."""
    mask = next(csv.reader([header.decode()])).index("mask")
    rows = csv.reader(io.StringIO(lines.decode(), newline=""))
    return "".join(csv_line(fields) for fields in rows if not fields[mask] or is_archived(fields[mask])).encode()
