"""Exceptions and exit codes.

    LesionError                 base of every error that is not a bug
    |-- InputError              3   bad input, or an output that cannot be written
    |-- EngineError             4   engine or vendor library missing, tampered with, or of another version
    |   |-- MissingPackageError 4   a package of an optional extra is not installed
    |   `-- UnsupportedGpuError 4   a library does not support the GPU of this machine, or its driver
    `-- ImageError              -   one image failed; it becomes that image's row and the run goes on

A message says what is wrong, where, and what to do.
"""

import shlex
import sys
from enum import IntEnum
from typing import ClassVar

from lesioncli.options import FailureStage


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    BUG = 1
    USAGE = 2
    INPUT = 3
    ENGINE = 4
    SOME_FAILED = 5
    INTERRUPTED = 130
    TERMINATED = 143


def install_command(extra: str = "") -> str:
    """Return the command that installs lesioncli for this Python, with an extra, from where it was installed from."""
    source, flags = _install_source()
    is_repository = source.startswith("git+")
    requirement = f"lesioncli[{extra}] @ {source}" if is_repository else f"{source}[{extra}]"
    return f"{shlex.quote(sys.executable)} -m pip install {flags}{shlex.quote(requirement if extra else source)}"


def _install_source() -> tuple[str, str]:
    """Return the folder, wheel or repository that pip recorded (PEP 610), and the flags of an editable install."""
    import importlib.metadata  # these imports are slow, and only an error message needs them
    import json
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        text = importlib.metadata.distribution("lesioncli").read_text("direct_url.json")
        record = json.loads(text or "{}")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        record = {}
    url = str(record.get("url", ""))
    flags = "--editable " if record.get("dir_info", {}).get("editable") else ""
    if url.startswith("file:"):
        return url2pathname(urlsplit(url).path), flags
    return (f"git+{url}" if "vcs_info" in record else url or "/path/to/lesioncli"), flags


class LesionError(Exception):
    """Base of the errors that this program raises on purpose."""

    exit_code: ClassVar[ExitCode] = ExitCode.BUG


class InputError(LesionError):
    """The input is wrong, or the output cannot be written."""

    exit_code = ExitCode.INPUT


class EngineError(LesionError):
    """An engine, or the library that runs it, cannot do what was asked."""

    exit_code = ExitCode.ENGINE


class MissingPackageError(EngineError):
    """A package of an optional extra is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run {install_command(extra)}")


class UnsupportedGpuError(EngineError):
    """A library does not support the GPU of this machine, or its driver; `auto` then takes another backend."""


class ImageError(LesionError):
    """One image failed; the run goes on without it."""

    exit_code = ExitCode.SOME_FAILED

    def __init__(self, stage: FailureStage, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason
