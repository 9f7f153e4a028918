"""What is installed, what device there is, which engine would run and why, and the command that mends what is not."""

import importlib.metadata
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from lesioncli import __version__
from lesioncli.backends.registry import choose_backend, find_engine, list_engines
from lesioncli.backends.tensorrt.driver import find_gpus
from lesioncli.errors import LesionError, install_command
from lesioncli.options import Backend, Precision
from lesioncli.shipped import SHIPPED_MODEL, find_checkpoint

EXTRAS = ("", "train", "report", "xlsx", "rtx", "tensorrt", "cuda")  # "" is what every command needs


@dataclass(frozen=True)
class Finding:
    """One line of the report; `fix` is a command, where something is missing.

    `needed`: without it, not even the CPU engine can be counted on.
    """

    subject: str
    state: str
    fix: str = ""
    needed: bool = False


def examine(engines: Path) -> list[Finding]:
    """Look at the installation and at the folder of engines; nothing is changed."""
    return [
        Finding("lesioncli", f"{__version__}, Python {platform.python_version()}, {platform.platform()}"),
        *(_package(name, extra) for name, extra in _requirements().items()),
        _processor(),
        Finding("NVIDIA GPU", _gpu()),
        _shipped_model(),
        _engine(engines),
        *(Finding(each.path.name, each.problem or f"runs here: {each.description}") for each in list_engines(engines)),
    ]


def _requirements() -> dict[str, str]:
    """The packages that lesioncli was installed to need, each with the first of EXTRAS that it is for."""
    found: dict[str, set[str]] = {}
    for line in importlib.metadata.requires("lesioncli") or ():
        extra = re.search(r"extra == ['\"](\w+)", line)
        found.setdefault(re.split(r"[^\w.-]", line)[0], set()).add(extra[1] if extra else "")
    return {name: extra for extra in EXTRAS for name, wanted in found.items() if extra == _first(wanted)}


def _first(wanted: set[str]) -> str | None:
    return next((extra for extra in EXTRAS if extra in wanted), None)


def _package(name: str, extra: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        where = ", on a machine with an NVIDIA GPU" if extra in ("cuda", "tensorrt") else ""
        return Finding(name, "not installed", install_command(extra) + where, needed=not extra)


def _processor() -> Finding:
    try:
        from lesioncli.backends import openvino
    except ImportError as error:
        return Finding("processor", f"OpenVINO does not load: {error}", "pip install --force-reinstall openvino", True)
    precision = openvino.choose_precision(Precision.AUTO)
    return Finding(
        "processor", f"{openvino.processor()}; auto precision is {precision.value}: {precision.reason}"
    )


def _gpu() -> str:
    listing = find_gpus()
    return ", ".join(map(str, listing.gpus)) or f"none ({listing.problem})"


def _shipped_model() -> Finding:
    try:
        path = find_checkpoint(SHIPPED_MODEL)
    except LesionError as error:
        return Finding("shipped model", str(error), f"{install_command()} --force-reinstall", True)
    return Finding("shipped model", f"{path.stem}, {path.stat().st_size / 1e6:.0f} MB")


def _engine(folder: Path) -> Finding:
    backend = choose_backend(Backend.AUTO)
    try:
        found = find_engine(None, backend.value, folder)
    except LesionError as error:
        return Finding("engine", str(error), "lesioncli build-engine", True)
    if found.value is None:
        state = f"auto chooses {backend.value} ({backend.reason}); {found.reason}"
        return Finding("engine", state, "lesioncli build-engine")
    precision = found.value.manifest.precision
    choice = f"auto chooses {found.value.path} ({found.reason})"
    return Finding("engine", f"{choice}: {backend.value}, {precision}; {backend.reason}")
