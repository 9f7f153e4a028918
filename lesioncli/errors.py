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
from pathlib import Path
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
    name = f"lesioncli[{extra}]" if extra else "lesioncli"
    if "://" in source:
        requirement = f"{name} @ {source}"
    else:
        requirement = f"{source}[{extra}]" if source and extra else source or name
    return f"{shlex.quote(sys.executable)} -m pip install {flags}{shlex.quote(requirement)}"


def _install_source() -> tuple[str, str]:
    """Return the path or URL that lesioncli was installed from, "" for a package index, and the flags of the install.

    pip records it (PEP 610). Without a record, the checkout that this file lies in is taken.
    """
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
    if vcs := record.get("vcs_info"):
        revision = vcs.get("requested_revision")
        return f"{vcs['vcs']}+{url}{f'@{revision}' if revision else ''}", flags
    if url and not url.startswith("file:"):
        return url, flags
    path = Path(url2pathname(urlsplit(url).path)) if url else Path(__file__).parents[1]
    is_there = path.is_file() or (path / "pyproject.toml").is_file()  # a wheel may be gone
    return str(path) if is_there else "", flags


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


class UnsuitedPrecisionError(EngineError):
    """A network cannot be computed in a precision at all; `auto` then takes another one."""


class UnsupportedGpuError(EngineError):
    """A library does not support the GPU of this machine, or its driver; `auto` then takes another backend."""


class ImageError(LesionError):
    """One image failed; the run goes on without it."""

    exit_code = ExitCode.SOME_FAILED

    def __init__(self, stage: FailureStage, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason
