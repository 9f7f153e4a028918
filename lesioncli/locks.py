"""Locks between processes: the operating system releases them when a process ends, whatever ends it."""

import errno
import sys
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # errors of file systems without locks


class ProcessLock:
    """A file that one process at a time can lock; it is removed when it is released.

    On a file system without locks, nothing is locked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # The soft locks that filelock can fall back to outlive a killed process.
        self._lock = FileLock(path, thread_local=False, fallback_to_soft=False)

    def acquire(self, timeout_s: float = 0) -> bool:
        """Return whether this process has the lock now; wait for it at most so many seconds, -1 without end.

        Raises OSError if the file cannot be written.
        """
        try:
            self._lock.acquire(timeout=timeout_s)
        except Timeout:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        return True

    def release(self) -> None:
        """Release the lock."""
        if sys.platform != "win32":  # on Windows, the library removes the file
            # A process that has opened this file, but not yet locked it, notices that it is gone.
            with suppress(OSError):  # a file that stays is not locked any more
                self._path.unlink(missing_ok=True)
        self._lock.release()
