"""Which backend, and why; which engine file, and why. Decisions come back with their reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import ceil
from pathlib import Path

from lesioncli.backends.base import Engine, Layout, Manifest
from lesioncli.backends.tensorrt.driver import find_gpus
from lesioncli.errors import EngineError, LesionError, install_command
from lesioncli.files import PRETRAINED, sha256_of
from lesioncli.spec import ModelSpec

BACKENDS = ("openvino", "tensorrt", "tensorrt-rtx")
SHIPPED_MODEL = "multitask-lite"


def choose_backend(asked: str) -> tuple[str, str]:
    """(backend, reason) for "auto" or a backend's name; EngineError for one that is not here."""
    if asked == "auto":
        return _best_backend()
    if asked not in BACKENDS:
        raise EngineError(f"no backend {asked!r} in this version; it has {', '.join(BACKENDS)}")
    return asked, "as asked"


def _best_backend() -> tuple[str, str]:
    """The GPU's, where there is one with all that it takes; nothing of weight is imported to know that."""
    gpus, problem = find_gpus()
    if not gpus:
        return "openvino", f"the CPU engine; {problem}"
    from lesioncli.backends.tensorrt.vendors import RTX_TARGETS, TENSORRT, VENDORS

    for vendor in VENDORS.values():
        fits = vendor is TENSORRT or gpus[0].target in RTX_TARGETS
        if fits and any(map(find_spec, vendor.modules)) and find_spec("pycuda"):
            return vendor.backend, f"{gpus[0]}, and {vendor.title} is installed"
    return "openvino", f"the CPU engine; to use {gpus[0]}, run: {install_command('tensorrt')}"


def shipped_onnx(model: str = SHIPPED_MODEL) -> Path:
    """The graph of a model that comes with the package."""
    return PRETRAINED / f"{model}.onnx"


def manifest_path(folder: Path, model: str, backend: str) -> Path:
    """Where the manifest of a model's engine for a backend lies."""
    return folder / f"{model}.{backend}.json"


def find_engine(asked: str | None, backend: str, folder: Path) -> tuple[Path | None, str]:
    """(manifest, reason): what --engine names, or the shipped model's, or the only one in `folder`; None: build it.

    `asked` is a model's name in `folder` or a path to a manifest. EngineError where it names nothing.
    """
    if asked is not None:
        for candidate in (Path(asked), Path(f"{asked}.json"), manifest_path(folder, asked, backend)):
            if candidate.is_file() and candidate.suffix == ".json":
                return candidate, "as asked"
        for other in (manifest_path(folder, asked, each) for each in BACKENDS if each != backend):
            if other.is_file():
                problem = _look_at(other).problem or "choose it with --backend"
                raise EngineError(f"no {backend} engine {asked!r} in {folder}/, and {other.name}: {problem}")
        raise EngineError(f"no engine {asked!r} here or in {folder}/{_what_else(asked, backend, folder)}")
    default = manifest_path(folder, SHIPPED_MODEL, backend)
    if default.is_file():
        is_shipped = Manifest.read(default).source_sha256 == sha256_of(shipped_onnx())
        return default, "the shipped model's" if is_shipped else "of the shipped model's name, but built of another"
    found = sorted(folder.glob(f"*.{backend}.json"))
    if len(found) > 1:
        names = ", ".join(each.name for each in found)
        raise EngineError(f"{folder}/ holds several engines ({names}); choose one with --engine")
    return (found[0], f"the only one in {folder}/") if found else (None, f"none in {folder}/ yet")


def _what_else(asked: str, backend: str, folder: Path) -> str:
    """What to do where `asked` names no engine: take one that is there, or build it, if it is a name."""
    ending = f".{backend}.json"
    there = ", ".join(path.name.removesuffix(ending) for path in sorted(folder.glob(f"*{ending}")))
    choose = f", which has {there}; choose one of them with --engine" if there else ""
    is_name = asked and asked == Path(asked).name and Path(asked).suffix != ".json"
    return f"{choose}{', or' if there else ';'} run: lesioncli build-engine{f' {asked}' * bool(is_name)}"


def open_engine(
    path: Path,
    ahead_images: int = 2,
    lay_out: Callable[[ModelSpec, int], Layout] = Layout.of_batches,
    traced: bool = False,
) -> Engine:
    """Check a manifest and its files, then load the engine with slots for `ahead_images` beyond those in flight.

    `lay_out` is given the model's spec and the engine's batch, and says what a cycle of slots is. A `traced` engine
    tells what its device did when.
    """
    manifest = Manifest.read(path)
    _check_here(manifest, path)
    layout = lay_out(manifest.spec, manifest.batch)
    ahead = (ceil(ahead_images / layout.images) + 1) * len(layout.shapes)
    if manifest.backend == "openvino":
        from lesioncli.backends.openvino import OpenVinoEngine

        return OpenVinoEngine(manifest, path.parent, ahead, layout, traced)
    from lesioncli.backends.tensorrt.runtime import PlanEngine

    return PlanEngine(manifest, path.parent, ahead, layout, traced)


def _check_here(manifest: Manifest, path: Path) -> None:
    """EngineError where an engine does not run on this machine, with the command that builds one that does."""
    if manifest.backend not in BACKENDS:
        raise EngineError(f"{path}: is for backend {manifest.backend!r}; this version has {', '.join(BACKENDS)}")
    if manifest.backend == "openvino":
        from lesioncli.backends import openvino

        problem, flags = "", ""
        if manifest.backend_version != openvino.VERSION:
            problem = f"built with OpenVINO {manifest.backend_version}, this is {openvino.VERSION}"
    else:
        from lesioncli.backends.tensorrt.vendors import find_problem

        problem, flags = find_problem(manifest, path)
    if problem:
        raise EngineError(f"{path}: {problem}; run: {_build_command(manifest, flags)}")


def _build_command(manifest: Manifest, flags: str) -> str:
    """What builds another engine of the same model; a manifest does not know where a model's own file lies."""
    shipped = shipped_onnx()
    is_shipped = shipped.is_file() and manifest.source_sha256 == sha256_of(shipped)
    return " ".join(["lesioncli build-engine", *(() if is_shipped else ("MODEL",)), *flags.split()])


@dataclass(frozen=True)
class Listed:
    """An engine in a folder: its manifest where that can be read, and why it would not run here or ""."""

    path: Path
    manifest: Manifest | None
    problem: str

    @property
    def description(self) -> str:
        """One line: backend, precision, batch, what it is for, size."""
        if self.manifest is None:
            return "not readable"
        made = self.manifest
        size = sum((self.path.parent / name).stat().st_size for name in made.files) / 1e6
        for_what = f" for {', '.join(made.targets)}" if made.targets else ""
        batch = f"1 to {made.batch}" if made.dynamic else made.batch
        return f"{made.backend} {made.backend_version}{for_what}, {made.precision}, batch {batch}, {size:.1f} MB"


def list_engines(folder: Path) -> Sequence[Listed]:
    """Every manifest in a folder, by name, with its files' hashes checked; what cannot be read is listed, too."""
    return [_look_at(path) for path in sorted(folder.glob("*.json"))]


def _look_at(path: Path) -> Listed:
    manifest = None
    try:
        manifest = Manifest.read(path)
        _check_here(manifest, path)
    except LesionError as error:
        return Listed(path, manifest, str(error).removeprefix(f"{path}: "))
    return Listed(path, manifest, "")
