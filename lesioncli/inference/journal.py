"""A file of lines that grows while a run goes on, and that one run at a time may write."""

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from lesioncli.errors import InputError

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # what file systems say that have none


class Journal:
    """Opened as it is, so that what a killed run left can be read, and this run's alone until it is closed.

    InputError where another process has it. Nothing is locked on Windows, or where the file system has no locks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _open_alone(path)

    def clear(self) -> None:
        """Remove all lines."""
        self._file.truncate(0)

    def append(self, line: str) -> None:
        """Add a line that is there from now on, whatever becomes of this process."""
        self._file.write(line)
        self._file.flush()

    def close(self) -> None:
        """Let go of the file, and remove it where it has no lines."""
        if self._file.closed:
            return
        is_empty = not os.fstat(self._file.fileno()).st_size
        if is_empty and sys.platform != "win32":
            self._path.unlink(missing_ok=True)  # before it is let go of, or another run's would be removed
        with suppress(OSError):  # of a line that append() could not write, and said so
            self._file.close()
        if is_empty and sys.platform == "win32":
            self._path.unlink(missing_ok=True)


def _open_alone(path: Path) -> TextIO:
    while True:
        file = path.open("a", newline="", encoding="utf-8")
        try:
            _lock(file, path)
        except BaseException:
            file.close()
            raise
        if _is_at(path, file):
            return file
        file.close()  # the run that had it has just ended, and removed it


def _is_at(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _lock(file: TextIO, path: Path) -> None:
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{path.parent}: another run is writing into this folder; wait for its end or choose another --out"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
