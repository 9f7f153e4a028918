"""Masks and the journal reach the disk in groups: after a power cut, at most the latest group is done again.

A sync of each mask takes longer than all the rest of an image. A thread syncs the masks of some seconds, their folders,
and then the journal; the next line of the journal says how much of it is on the disk. A later run trusts the rows up to
there, and compares the masks of the rows after it with their CRC-32.
"""

import threading
from collections.abc import Iterable
from pathlib import Path

from lesioncli.files import sync_files
from lesioncli.inference.journal import Journal

SYNC_INTERVAL_S = 3.0


class GroupSync:
    """Syncs pictures below the folder `top`, and the journal, every SYNC_INTERVAL_S seconds.

    synced_bytes: length of the journal up to which it, and the pictures of its rows, are on the disk.
    """

    def __init__(self, journal: Journal, top: Path) -> None:
        self.synced_bytes = 0
        self._journal, self._top = journal, top
        self._pending: list[Path] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def add(self, paths: Iterable[Path]) -> None:
        """Sync the pictures of a row with the next group, or their removal; call this before its line is appended.

        Raises the OSError of an earlier group.
        """
        self._raise_error()
        with self._lock:
            self._pending.extend(paths)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="group sync")
                self._thread.start()

    def finish(self) -> None:
        """Sync all that was added, and end the thread. Raises OSError."""
        self.stop()
        self._raise_error()
        self._sync()

    def stop(self) -> None:
        """End the thread, after the group that it is syncing."""
        self._ended.set()
        if self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(SYNC_INTERVAL_S):
            try:
                self._sync()
            except OSError as error:
                self._error = error
                return

    def _sync(self) -> None:
        with self._lock:
            paths, self._pending = self._pending, []
            length = self._journal.size_bytes
        if length > self.synced_bytes or paths:
            sync_files(paths, self._top)
            self._journal.sync()
            self.synced_bytes = length

    def _raise_error(self) -> None:
        if self._error:
            raise self._error
