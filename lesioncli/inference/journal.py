"""A text file that grows line by line during a run, and that only one run at a time may write."""

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lesioncli.errors import InputError

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # errors of file systems without locks


class Journal:
    """The journal of a run, locked against other processes until it is closed.

    Opening keeps the lines of an earlier run that was killed. The lock is a hidden file beside the journal; on a file
    system without locks, nothing is locked.

    Raises InputError if another run holds the lock, and OSError if the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_path = path.with_name(f".{path.name}.lock")
        # The soft locks that filelock can fall back to outlive a killed run.
        self._lock = FileLock(self._lock_path, thread_local=False, fallback_to_soft=False)
        self._acquire()
        try:
            self._file = path.open("a", newline="", encoding="utf-8")
            self._status = os.fstat(self._file.fileno())
        except BaseException:
            self._release()
            raise

    def clear(self) -> None:
        """Remove all lines."""
        self._file.truncate(0)

    def append(self, line: str) -> None:
        """Add a line; it survives the end of this process, whatever ends it."""
        self._file.write(line)
        self._file.flush()

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
        is_empty = os.fstat(self._file.fileno()).st_size == 0 and self.is_in_place()
        with suppress(OSError):  # the buffered line on which append() failed fails again
            self._file.close()
        if is_empty:
            self._path.unlink(missing_ok=True)
        self._release()

    def _acquire(self) -> None:
        try:
            self._lock.acquire(blocking=False)
        except Timeout as error:
            raise InputError(
                f"{self._path.parent}: another run is writing to this folder; wait until it ends or choose another"
                " folder with --out"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise

    def _release(self) -> None:
        if sys.platform != "win32":  # on Windows, the library removes the file
            # A run that has opened this file, but not yet locked it, notices that it is gone.
            self._lock_path.unlink(missing_ok=True)
        self._lock.release()
