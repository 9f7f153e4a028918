"""What can go wrong, and the exit code that says so.

    LesionError                 every error that is not a bug
    |-- InputError              3   bad input, or no room for the output, mostly before any work
    |-- EngineError             4   engine trouble: tampered, of another version, disagrees with its graph
    |   `-- MissingPackageError 4   a library of an optional extra is not installed
    `-- ImageError              -   one image cannot be processed; it becomes that image's row, and the run goes on

Other exit codes, which no exception carries: 0 all ok, 1 a bug, 2 a wrong flag, 5 finished but some images failed,
130 interrupted. Every message names the file or value at fault and, where there is one, the next step.
"""

from typing import ClassVar


def install_command(extra: str = "") -> str:
    """How to install lesioncli with one of its extras, in the words of the README: it is in no package index."""
    return f"pip install '/path/to/lesioncli[{extra}]'" if extra else "pip install /path/to/lesioncli"


class LesionError(Exception):
    """Base of the errors this program raises on purpose."""

    exit_code: ClassVar[int] = 1


class InputError(LesionError):
    """The input is wrong, and that shows before any work is done."""

    exit_code = 3


class EngineError(LesionError):
    """An engine, or the library that runs it, cannot do what was asked."""

    exit_code = 4


class MissingPackageError(EngineError):
    """A package of an optional extra is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: {install_command(extra)}")


class ImageError(LesionError):
    """One image failed at a stage (`decode`, `network` or `write`); the run goes on without it."""

    exit_code = 5

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason


EXIT_SOME_FAILED = ImageError.exit_code
EXIT_INTERRUPTED = 130
