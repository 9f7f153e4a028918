"""NVIDIA's two libraries, TensorRT and TensorRT for RTX: what they are called, and what of a plan must be right before
one of them sees it. Their interface is one, so what is written for it is given the module.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesioncli.backends.base import Manifest
from lesioncli.backends.tensorrt.driver import Gpu, find_gpus
from lesioncli.errors import EngineError, MissingPackageError

PRECISIONS = ("fp16", "fp32")
# What TensorRT for RTX compiles for.
RTX_TARGETS = ("sm80", "sm86", "sm89", "sm120", "sm75", "sm121")
HEADER_SIZE = 28  # magic in bytes 0 to 3; major, minor, patch and build in 24 to 27


@dataclass(frozen=True)
class Vendor:
    """One of the two: names of backend, product, Python modules (the first that is there) and extra; a plan's magic."""

    backend: str
    title: str
    modules: tuple[str, ...]
    extra: str
    magic: bytes


TENSORRT = Vendor("tensorrt", "TensorRT", ("tensorrt", "tensorrt_bindings"), "tensorrt", b"ftrt")
RTX = Vendor("tensorrt-rtx", "TensorRT for RTX", ("tensorrt_rtx", "tensorrt_rtx_bindings"), "rtx", b"vtrt")
VENDORS = {each.backend: each for each in (TENSORRT, RTX)}


def load(vendor: Vendor) -> Any:
    """The vendor's module; MissingPackageError where it is not installed."""
    for name in vendor.modules:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
        except ImportError as error:
            raise EngineError(f"{vendor.title} does not load: {error}; install it again") from error
    raise MissingPackageError(vendor.title, vendor.extra)


def make_log(trt: Any) -> Any:
    """A logger of the vendor's kind that keeps the errors and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]  # its base is known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


def check_header(path: Path, vendor: Vendor, version: str) -> str:
    """What is wrong with a plan's first bytes, or "": whose it is and of which version, before any library reads it."""
    with path.open("rb") as file:
        header = file.read(HEADER_SIZE)
    if len(header) < HEADER_SIZE:
        return f"{path.name} is cut short"
    if header[:4] != vendor.magic:
        others = [each.title for each in VENDORS.values() if header[:4] == each.magic]
        return f"{path.name} is {f'a plan of {others[0]}' if others else 'no plan'}, not one of {vendor.title}"
    found = ".".join(map(str, header[24:28]))
    if found != ".".join(version.split(".")[:4]):
        return f"{path.name} was built by {vendor.title} {found}, not by {version}"
    return ""


def find_problem(manifest: Manifest, path: Path) -> tuple[str, str]:
    """(why an engine would not run here, build-engine's flags for one that would).

    The vendor's library is imported only to ask its version. MissingPackageError where it is not installed.
    """
    vendor = VENDORS[manifest.backend]
    again = f"--backend {vendor.backend}"
    suffixes = sorted(Path(name).suffix for name in manifest.files)
    if suffixes not in ([".plan"], [".onnx", ".plan"]) or manifest.precision not in PRECISIONS:
        return f"its manifest does not name one .plan and a precision out of {', '.join(PRECISIONS)}", again
    (plan,) = (path.parent / name for name in manifest.files if Path(name).suffix == ".plan")
    if problem := check_header(plan, vendor, manifest.backend_version):
        return problem, again
    gpus, problem = find_gpus()
    wanted = ", ".join(manifest.targets) if vendor is RTX else manifest.device
    if not gpus:
        return f"it is for {wanted}, and no GPU is here: {problem}", "--backend openvino"
    if not matching_gpus(manifest):
        if vendor is RTX:
            again = f"{again} --target {gpus[0].target}" if gpus[0].target in RTX_TARGETS else "--backend tensorrt"
        return f"it is for {wanted}, here is {', '.join(map(str, gpus))}", again
    if (version := str(load(vendor).__version__)) != manifest.backend_version:
        return f"it was built by {vendor.title} {manifest.backend_version}, here is {version}", again
    return "", ""


def matching_gpus(manifest: Manifest) -> Sequence[tuple[int, Gpu]]:
    """(number, GPU) of those here that an engine is for, in the driver's order.

    TensorRT compiles for the very model of GPU that it runs on, TensorRT for RTX for a compute capability.
    """
    here = [(number, gpu) for number, gpu in enumerate(find_gpus()[0]) if gpu.target in manifest.targets]
    return [each for each in here if VENDORS[manifest.backend] is RTX or str(each[1]) == manifest.device]
