"""Examine the installation: packages, processor, GPUs, the shipped model and the engines."""

import importlib.metadata
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lesioncli import __version__
from lesioncli.backends.manifest import StoredEngine
from lesioncli.backends.registry import choose_backend, find_engine, list_engines
from lesioncli.backends.tensorrt.driver import find_gpus
from lesioncli.errors import LesionError, install_command
from lesioncli.options import Backend, Decision
from lesioncli.shipped import SHIPPED_MODEL, find_checkpoint

# The purpose of each extra.
EXTRAS = {
    "train": "training, and building engines from checkpoints",
    "check": "near duplicates in data sets",
    "xlsx": "labels of PH2 in a spreadsheet",
    "parquet": "exporting tables as Parquet",
    "dicom": "DICOM images",
    "heif": "HEIC and HEIF images",
    "remote": "images and results in buckets, images on web servers",
    "ray": "runs on a Ray cluster",
    "rtx": "TensorRT for RTX engines",
    "tensorrt": "TensorRT engines, on machines with an NVIDIA GPU",
    "cuda": "running TensorRT engines, on machines with an NVIDIA GPU",
}


@dataclass(frozen=True)
class Finding:
    """State of one subject; `fix` is a command for what is missing, "" where nothing is.

    `needed`: without it, not even the CPU engine runs. `optional`: many users do not need it.
    """

    subject: str
    state: str
    fix: str = ""
    needed: bool = False
    optional: bool = False


def examine(engines: Path) -> list[Finding]:
    """Examine the installation and a folder of engines; nothing is changed."""
    return [
        Finding("lesioncli", f"{__version__}, Python {platform.python_version()}, {platform.platform()}"),
        *_examine_packages(),
        _examine_processor(),
        _examine_gpus(),
        _examine_shipped_model(),
        *_examine_engines(engines),
    ]


def _examine_packages() -> list[Finding]:
    """Return one finding per package that every command needs, then one per extra."""
    packages = _required_packages()
    return [
        *(_examine_package(name) for name in packages.get("", ())),
        *(_examine_extra(extra, packages.get(extra, ())) for extra in EXTRAS),
    ]


def _required_packages() -> dict[str, list[str]]:
    """Return the packages that lesioncli requires by extra; "" is the base installation."""
    packages: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("lesioncli") or ():
        extra = re.search(r"extra == ['\"](\w+)", requirement)
        packages.setdefault(extra[1] if extra else "", []).append(re.split(r"[^\w.-]", requirement)[0])
    return packages


def _examine_package(name: str) -> Finding:
    version = _find_version(name)
    return Finding(name, version) if version else Finding(name, "not installed", install_command(), needed=True)


def _examine_extra(extra: str, packages: Iterable[str]) -> Finding:
    versions = {name: _find_version(name) for name in packages}
    missing = [name for name, version in versions.items() if not version]
    if missing:
        state = f"not installed: {', '.join(missing)}; for {EXTRAS[extra]}"
        return Finding(f"extra {extra}", state, install_command(extra), optional=True)
    return Finding(f"extra {extra}", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _find_version(name: str) -> str:
    """Return the version of an installed package, else ""."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _examine_processor() -> Finding:
    try:
        from lesioncli.backends import openvino
    except ImportError as error:
        fix = "pip install --force-reinstall openvino"
        return Finding("processor", f"OpenVINO cannot be imported: {error}", fix, needed=True)
    return Finding(
        "processor", f"{openvino.processor()}, {'with' if openvino.has_bf16() else 'without'} bf16 arithmetic"
    )


def _examine_gpus() -> Finding:
    listing = find_gpus()
    return Finding("NVIDIA GPU", ", ".join(map(str, listing.gpus)) or f"none ({listing.problem})")


def _examine_shipped_model() -> Finding:
    try:
        path = find_checkpoint(SHIPPED_MODEL)
    except LesionError as error:
        fix = install_command().replace("pip install", "pip install --force-reinstall", 1)
        return Finding("shipped model", str(error), fix, needed=True)
    return Finding("shipped model", f"{path.stem}, {path.stat().st_size / 1e6:.0f} MB")


def _examine_engines(folder: Path) -> list[Finding]:
    """Return the engine that `segment` chooses by default, and why; then every engine in the folder."""
    backend = choose_backend(Backend.AUTO)
    checked = None
    try:
        engine = find_engine(None, backend.value, folder)
    except LesionError as error:
        default = Finding("engine", str(error), "lesioncli build-engine", needed=True)
    else:
        checked = engine.value
        default = _describe_default(backend, engine)
    listed = list_engines(folder, checked)
    return [default, *(Finding(item.path.name, item.problem or f"runs here: {item.description}") for item in listed)]


def _describe_default(backend: Decision[Backend], engine: Decision[StoredEngine | None]) -> Finding:
    if engine.value is None:
        state = f"backend auto: {backend.value}, {backend.reason}; {engine.reason}"
        return Finding("engine", state, "lesioncli build-engine")
    precision = engine.value.manifest.precision
    state = f"{engine.value.path} ({engine.reason}), {precision}; backend auto: {backend.value}, {backend.reason}"
    return Finding("engine", state)
