"""SIGINT (Ctrl-C) and SIGTERM (sent by schedulers): the first one ends a command in order, a second one at once.

Only the program handles signals; a program that imports this package keeps its own handlers.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNAL_EXIT = 128  # plus the number of the signal: the exit code of a program that a signal ended, in every shell
_STOPPING = b"\nstopping after the images that are in work; a second signal stops at once\n"
_GRACE_IS_OVER = b"\nstopping at once: the images in work took longer than --grace\n"
_SHOW_CURSOR = b"\x1b[?25h"  # progress bars hide it


class Terminated(KeyboardInterrupt):
    """SIGTERM."""


class StopRequest:
    """A wish to end a run early, after the images that are in work; any thread and signal handlers may set it."""

    def __init__(self) -> None:
        self.is_set = self.is_heard = False

    def set(self) -> None:
        """Ask the run to end."""
        self.is_set = True

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Declare that the code inside the context looks at `is_set`, which is for this run only."""
        self.is_set, self.is_heard = False, True
        try:
            yield
        finally:
            self.is_heard = False


class SignalHandler:
    """Sets `stop` at the first signal if a run hears it; else raises KeyboardInterrupt, or Terminated for SIGTERM.

    grace_s: seconds that the run then has to end in order; None for as long as it takes.
    """

    def __init__(self) -> None:
        self.stop = StopRequest()
        self.grace_s: float | None = None
        self._received = 0

    @property
    def exit_code(self) -> int:
        """Exit code of a program that the received signal ended; 0 if there was none."""
        return SIGNAL_EXIT + self._received if self._received else 0

    def install(self) -> None:
        """Handle signals from now on; call this from the main thread."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            _end_as_by(number)
        self._received = number
        if self.stop.is_heard:
            self.stop.set()
            _write_to_stderr(_STOPPING)
            if self.grace_s is not None:
                timer = threading.Timer(self.grace_s, _end_as_by, (number, _GRACE_IS_OVER))
                timer.daemon = True
                timer.start()
        else:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _end_as_by(number: int, reason: bytes = b"") -> None:
    exit_at_once(SIGNAL_EXIT + number, reason)


def exit_at_once(code: int, reason: bytes) -> None:
    """End the process without waiting: threads and vendor libraries may be at work for long, or hang."""
    _write_to_stderr(reason + (_SHOW_CURSOR if os.isatty(2) else b""))
    os._exit(code)


def _write_to_stderr(text: bytes) -> None:
    with suppress(OSError):
        os.write(2, text)  # not by print(): a signal may have come while it writes


HANDLER = SignalHandler()
