"""A text file that grows line by line during a run, and that only one run at a time may write."""

import os
import threading
from contextlib import suppress
from pathlib import Path

from lesioncli.errors import InputError
from lesioncli.files import sync_descriptor
from lesioncli.locks import ProcessLock


def lock_of(journal: Path) -> ProcessLock:
    """Return the lock of a journal: a hidden file beside it."""
    return ProcessLock(journal.with_name(f".{journal.name}.lock"))


class Journal:
    """The journal of a run, locked against other processes until it is closed.

    Opening keeps the lines of an earlier run that was killed. On a file system without locks, nothing is locked.
    size_bytes: length of the file.

    Raises InputError if another run holds the lock, and OSError if the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = lock_of(path)
        if not self._lock.acquire():
            raise InputError(
                f"{path.parent}: another run is writing to this folder; wait until it ends or choose another folder"
                " with --out"
            )
        try:
            self._file = path.open("a", newline="", encoding="utf-8")
            self._status = os.fstat(self._file.fileno())
            self.size_bytes = self._status.st_size
            self._writing = threading.Lock()
        except BaseException:
            self._lock.release()
            raise

    def clear(self) -> None:
        """Remove all lines."""
        self._file.truncate(0)
        self.size_bytes = 0

    def append(self, lines: str) -> None:
        """Add lines; they survive the end of this process, whatever ends it. Several threads may do so."""
        with self._writing:
            self._file.write(lines)
            self._file.flush()
            self.size_bytes += len(lines.encode())

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from one offset to another. Raises OSError."""
        with self._path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def sync(self) -> None:
        """Wait until all lines are on the disk. Raises OSError."""
        sync_descriptor(self._file.fileno())

    def is_in_place(self) -> bool:
        """Return whether the file is still found by its path: the folder was neither removed nor renamed."""
        try:
            return os.path.samestat(self._path.stat(), self._status)
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Close the file, remove it if it is empty, and release the lock."""
        if self._file.closed:
            return
        try:
            is_empty = os.fstat(self._file.fileno()).st_size == 0 and self.is_in_place()
        except OSError:  # of a folder that cannot be searched any more
            is_empty = False
        with suppress(OSError):  # the buffered line on which append() failed fails again
            self._file.close()
        if is_empty:
            with suppress(OSError):  # of a folder that cannot be written any more; an empty journal does no harm
                self._path.unlink(missing_ok=True)
        self._lock.release()
