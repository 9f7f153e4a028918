"""NVIDIA's two libraries, TensorRT and TensorRT for RTX: names, loading, and checks of a plan before it is loaded.

Both have the same Python interface, so the code that uses it receives the module as an argument.
"""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lesioncli.backends.manifest import Incompatibility, Manifest, StoredEngine
from lesioncli.backends.tensorrt.driver import Gpu, GpuListing, find_gpus
from lesioncli.errors import EngineError, MissingPackageError, UnsupportedGpuError, install_command
from lesioncli.options import Backend, Decision, Precision

PRECISIONS = (Precision.FP16, Precision.FP32)
MIN_TENSORRT_TARGET = 75  # compute capability 7.5; the release notes of TensorRT 10.5 say that it removed Volta
CUDA_MAJORS = (12, 13)  # of the wheels of both libraries
DRIVER_ADVICE = f"update the NVIDIA driver, or use --backend {Backend.OPENVINO}"
HEADER_BYTES = 28  # magic in bytes 0 to 3; major, minor, patch and build version in bytes 24 to 27


@dataclass(frozen=True)
class Vendor:
    """One of the two libraries.

    `modules` are names of its Python module; the first that is installed is used. `magic` are the first bytes of a
    plan. `targets` are the compute capabilities that it compiles for ahead of time; None: it compiles only for the GPU
    that it runs on, and a plan runs only on that model of GPU.
    """

    backend: Backend
    title: str
    modules: tuple[str, ...]
    extra: str
    magic: bytes
    targets: tuple[str, ...] | None

    def supports(self, gpu: Gpu) -> bool:
        """Return whether the library can compile for a GPU, as far as it is known without the library."""
        if self.targets is None:
            return int(gpu.target.removeprefix("sm")) >= MIN_TENSORRT_TARGET
        return gpu.target in self.targets


TENSORRT = Vendor(Backend.TENSORRT, "TensorRT", ("tensorrt", "tensorrt_bindings"), "tensorrt", b"ftrt", None)
RTX_TARGETS = ("sm86", "sm89", "sm120", "sm75", "sm80", "sm121")
RTX = Vendor(
    Backend.TENSORRT_RTX,
    "TensorRT for RTX",
    ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    "rtx",
    b"vtrt",
    RTX_TARGETS,
)
VENDORS = {vendor.backend: vendor for vendor in (TENSORRT, RTX)}


@dataclass(frozen=True)
class NumberedGpu:
    """A GPU and its number in the driver's order."""

    number: int
    gpu: Gpu


def check_availability(vendor: Vendor) -> Decision[bool]:
    """Return whether this machine has a GPU, the library and pycuda, and the reason; nothing is imported."""
    listing = find_gpus()
    if not listing.gpus:
        return Decision(False, listing.problem)
    gpu = listing.gpus[0]
    if not vendor.supports(gpu):
        return Decision(False, f"{vendor.title} does not support {gpu}")
    if problem := find_driver_problem(vendor, listing):
        return Decision(False, problem)
    if any(map(find_spec, vendor.modules)) and find_spec("pycuda"):
        return Decision(True, f"{gpu}, and {vendor.title} is installed")
    return Decision(False, f"to use {gpu}, run {install_command(vendor.extra)}")


def find_driver_problem(vendor: Vendor, listing: GpuListing) -> str:
    """Return why the driver is too old for the installed library, or ""; nothing is imported."""
    needed = find_cuda_major(vendor)
    if needed is None or listing.cuda_version is None or listing.cuda_version[0] >= needed:
        return ""
    return f"{_describe_driver(listing)}, and the installed {vendor.title} needs CUDA {needed}"


def find_cuda_major(vendor: Vendor) -> int | None:
    """Return the major version of CUDA that the installed wheels of a library are for; None if they do not tell."""
    for major in CUDA_MAJORS:
        for suffix in ("bindings", "libs"):
            try:
                distribution(f"{vendor.modules[0]}_cu{major}_{suffix}")
            except PackageNotFoundError:
                continue
            return major
    return None


def _describe_driver(listing: GpuListing) -> str:
    if listing.cuda_version is None:
        return listing.problem
    return f"the NVIDIA driver supports CUDA {'.'.join(map(str, listing.cuda_version))}"


def load(vendor: Vendor) -> Any:
    """Import the module of a vendor.

    Raises MissingPackageError if it is not installed, and EngineError if it does not load, for example without the
    wheel of its libraries.
    """
    for name in vendor.modules:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:
            if isinstance(error, ModuleNotFoundError) and error.name == name:
                continue
            raise EngineError(
                f"{vendor.title} does not load ({error}); to install it again, run {install_command(vendor.extra)}"
            ) from error
    raise MissingPackageError(vendor.title, vendor.extra)


@contextmanager
def creation_errors(vendor: Vendor, log: Any) -> Iterator[None]:
    """Turn the TypeError of the bindings, for an object that the library does not create, into UnsupportedGpuError.

    The reason is nearly always a driver that is too old.
    """
    try:
        yield
    except TypeError as error:
        reason = log.errors[-1] if log.errors else error
        raise UnsupportedGpuError(
            f"{vendor.title} does not start ({reason}); {_describe_driver(find_gpus())}: {DRIVER_ADVICE}"
        ) from error


def make_log(trt: Any) -> Any:
    """Return a logger for the vendor's library that keeps the errors and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]  # the base class is known only at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


def check_header(path: Path, vendor: Vendor, version: str) -> str:
    """Return what is wrong with the first bytes of a plan, or "", before a library reads it."""
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return f"{path.name} is truncated"
    if header[:4] != vendor.magic:
        owner = next((other.title for other in VENDORS.values() if header[:4] == other.magic), "")
        kind = f"a plan of {owner}" if owner else "not a plan"
        return f"{path.name} is {kind}; expected a plan of {vendor.title}"
    plan_version = ".".join(map(str, header[24:28]))
    if plan_version != ".".join(version.split(".")[:4]):
        return f"{path.name} was built by {vendor.title} {plan_version}, not by {version}"
    return ""


def find_problem(stored: StoredEngine) -> Incompatibility | None:
    """Return why a plan does not run on this machine; None if it does.

    The vendor's library is imported last, only for its version. Raises MissingPackageError if it is not installed.
    """
    manifest = stored.manifest
    vendor = VENDORS[manifest.backend]
    rebuild = ("--backend", str(vendor.backend))
    suffixes = sorted(Path(name).suffix for name in manifest.files)
    if suffixes not in ([".plan"], [".onnx", ".plan"]) or manifest.precision not in PRECISIONS:
        precisions = ", ".join(PRECISIONS)
        return Incompatibility(f"the manifest does not name one .plan and a precision out of {precisions}", rebuild)
    if problem := check_header(stored.find_file(".plan"), vendor, manifest.backend_version):
        return Incompatibility(problem, rebuild)
    if found := _find_gpu_problem(manifest, vendor):
        return found
    if (version := str(load(vendor).__version__)) != manifest.backend_version:
        return Incompatibility(f"built for {vendor.title} {manifest.backend_version}, installed is {version}", rebuild)
    return None


def _find_gpu_problem(manifest: Manifest, vendor: Vendor) -> Incompatibility | None:
    """Return why no GPU of this machine runs a plan; None if one does."""
    listing = find_gpus()
    wanted = manifest.device if vendor.targets is None else ", ".join(manifest.targets)
    if not listing.gpus:
        return Incompatibility(
            f"built for {wanted}, and this machine has no GPU: {listing.problem}", ("--backend", Backend.OPENVINO)
        )
    if problem := find_driver_problem(vendor, listing):
        return Incompatibility(f"{problem}: update the NVIDIA driver, or use the CPU", ("--backend", Backend.OPENVINO))
    if matching_gpus(manifest):
        return None
    gpu = listing.gpus[0]
    flags: tuple[str, ...] = ("--backend", str(vendor.backend))
    if vendor.targets is not None:
        flags = (*flags, "--target", gpu.target) if vendor.supports(gpu) else ("--backend", Backend.TENSORRT)
    return Incompatibility(f"built for {wanted}, this machine has {', '.join(map(str, listing.gpus))}", flags)


def matching_gpus(manifest: Manifest) -> Sequence[NumberedGpu]:
    """Return the GPUs of this machine that a plan was built for, in the driver's order.

    TensorRT builds for one model of GPU, TensorRT for RTX for a compute capability.
    """
    is_for_one_model = VENDORS[manifest.backend].targets is None
    return [
        NumberedGpu(number, gpu)
        for number, gpu in enumerate(find_gpus().gpus)
        if gpu.target in manifest.targets and (not is_for_one_model or str(gpu) == manifest.device)
    ]
