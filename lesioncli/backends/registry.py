"""The table of backends, and the choices that go by it: which backend, which engine file, how to open it.

To add a backend, write its BackendImplementation, add its name to options.Backend and a line to BACKENDS.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from lesioncli.backends.base import Engine, Layout
from lesioncli.backends.interface import BackendImplementation, Compiler, OnProgress, ignore_progress
from lesioncli.backends.manifest import Manifest, StoredEngine, manifest_path, read_engine
from lesioncli.backends.tensorrt.vendors import RTX, TENSORRT, Vendor, check_availability
from lesioncli.errors import EngineError, LesionError, UnsupportedGpuError
from lesioncli.options import Backend, BuildOptions, Decision, Precision
from lesioncli.shipped import SHIPPED_MODEL, list_recipes, source_sha256
from lesioncli.spec import ModelSpec

T = TypeVar("T")

GPU_BATCH = 16  # a default, not measured: one image leaves most of a GPU idle
PLAN_OPTIONS = ("targets", "dynamic", "workspace_mib", "optimization_level")


@dataclass(frozen=True)
class BackendEntry:
    """A line of the table of backends.

    `build_options` are the fields of BuildOptions that not every backend takes. `check_availability` tells whether
    `auto` may choose the backend on this machine, and why; it imports no vendor library. `load` imports the code.
    `default_batch` is the batch size of an engine that `segment` builds by itself.
    """

    precisions: tuple[Precision, ...]
    build_options: tuple[str, ...]
    check_availability: Callable[[], Decision[bool]]
    load: Callable[[], BackendImplementation]
    default_batch: int = 1


def _load_openvino() -> BackendImplementation:
    from lesioncli.backends.openvino import OpenVinoBackend

    return OpenVinoBackend()


def _load_plans(vendor: Vendor) -> BackendImplementation:
    from lesioncli.backends.tensorrt.backend import PlanBackend

    return PlanBackend(vendor)


BACKENDS: dict[Backend, BackendEntry] = {  # in the order of preference of `auto`
    Backend.TENSORRT: BackendEntry(
        (Precision.FP32, Precision.FP16),
        PLAN_OPTIONS,
        lambda: check_availability(TENSORRT),
        lambda: _load_plans(TENSORRT),
        GPU_BATCH,
    ),
    Backend.TENSORRT_RTX: BackendEntry(
        (Precision.FP32, Precision.FP16),
        PLAN_OPTIONS,
        lambda: check_availability(RTX),
        lambda: _load_plans(RTX),
        GPU_BATCH,
    ),
    Backend.OPENVINO: BackendEntry(
        (Precision.FP32, Precision.BF16, Precision.INT8), (), lambda: Decision(True, "the CPU engine"), _load_openvino
    ),
}


def choose_backend(asked: Backend, refused: Mapping[Backend, str] = MappingProxyType({})) -> Decision[Backend]:
    """Return the backend asked for or, for `auto`, the first one of the table that is available on this machine.

    `refused` are backends that were tried and do not work here, with the reason.
    """
    if asked != Backend.AUTO:
        return Decision(asked, "as asked")
    refusals: list[str] = []
    for backend, entry in BACKENDS.items():
        available = Decision(False, refused[backend]) if backend in refused else entry.check_availability()
        if available.value:
            return Decision(backend, "; ".join([available.reason, *refusals[:1]]))
        refusals.append(available.reason)
    raise EngineError(f"no backend is available on this machine: {'; '.join(refusals)}")


def with_fallback(options: BuildOptions, use: Callable[[Decision[Backend]], T]) -> T:
    """Call `use` with the backend in the options; for `auto`, with the next one if a library refuses this GPU.

    Raises UnsupportedGpuError if another backend was asked for than `auto`, or if the next one lacks an option.
    """
    changed = {name for name in PLAN_OPTIONS if getattr(options, name) != getattr(BuildOptions(), name)}
    chosen, refused = choose_backend(options.backend), dict[Backend, str]()
    while True:
        try:
            return use(chosen)
        except UnsupportedGpuError as error:
            if options.backend != Backend.AUTO:
                raise
            refused[chosen.value] = str(error)
            chosen = choose_backend(options.backend, refused)
            if changed - set(BACKENDS[chosen.value].build_options):
                raise


def open_compiler(
    options: BuildOptions, timings: Path | None = None, on_progress: OnProgress = ignore_progress
) -> Compiler:
    """Return the compiler of the backend that the options name; EngineError if this machine cannot compile for it."""
    backend = choose_backend(options.backend).value
    return BACKENDS[backend].load().open_compiler(options, timings, on_progress)


def open_engine(
    engine: Path | StoredEngine,
    images_ahead: int = 2,
    make_layout: Callable[[ModelSpec, int], Layout] = Layout.for_batches,
    traced: bool = False,
    gpu: int | None = None,
) -> Engine:
    """Open an engine with memory for `images_ahead` images beyond those that it runs at the same time.

    A path is that of a manifest, which is read and checked first; a StoredEngine was checked when it was read.
    `make_layout` returns the layout of a cycle for a model and a batch size. A `traced` engine reports spans.
    `gpu` is the number of a GPU that runs it; None is the first of them.

    Raises EngineError if the engine does not run on this machine, with the command that builds one that does.
    """
    stored = engine if isinstance(engine, StoredEngine) else read_engine(engine)
    check_runs_here(stored)
    manifest = stored.manifest
    layout = make_layout(manifest.spec, manifest.batch)
    ahead = (ceil(images_ahead / layout.images) + 1) * len(layout.shapes)
    return BACKENDS[manifest.backend].load().open_engine(stored, ahead, layout, traced, gpu)


def choose_gpus(engines: Sequence[StoredEngine], asked: Sequence[int]) -> Mapping[int, str]:
    """Return the numbers and names of the GPUs that run all these engines: those asked for, or all for none.

    Raises EngineError if a GPU that was asked for runs one of them not, or if no GPU does.
    """
    found = [BACKENDS[engine.manifest.backend].load().find_gpus(engine.manifest) for engine in engines]
    common = {number: name for number, name in found[0].items() if all(number in gpus for gpus in found)}
    title = " and ".join(str(engine.path) for engine in engines)
    if not common:
        raise EngineError(f"{title}: runs on no GPU of this machine; use --processes for several processes on its CPU")
    if missing := [str(number) for number in asked if number not in common]:
        fitting = ", ".join(f"{number} ({name})" for number, name in common.items())
        raise EngineError(f"{title}: does not run on GPU {', '.join(missing)}; choose among {fitting}")
    return {number: common[number] for number in asked} if asked else common


def check_runs_here(engine: StoredEngine) -> None:
    """Raise EngineError if an engine does not run on this machine, with the command that builds one that does."""
    found = BACKENDS[engine.manifest.backend].load().find_problem(engine)
    if found:
        raise EngineError(f"{engine.path}: {found.problem}; run {_build_command(engine.manifest, found.flags)}")


def _build_command(manifest: Manifest, flags: Sequence[str]) -> str:
    """Return the command that builds an engine of the same model; only a shipped model needs no file."""
    is_shipped = manifest.source_sha256 == source_sha256(SHIPPED_MODEL)
    return " ".join(["lesioncli build-engine", *(() if is_shipped else ("MODEL",)), *flags])


def find_engine(asked: str | None, backend: Backend, folder: Path) -> Decision[StoredEngine | None]:
    """Return the engine to use, read and checked; None if `folder` has none yet.

    `asked` is the name of a model or of a manifest in `folder`, or the path of a manifest; such an engine may be for
    another backend. Without it, the engine is that of the default model or the only one for the backend in `folder`.

    Raises EngineError if there is no engine of that name, or if the choice is not clear.
    """
    if asked is None:
        return _find_default(backend, folder)
    for candidate in (Path(asked), Path(f"{asked}.json"), folder / asked, manifest_path(folder, asked, backend)):
        if candidate.is_file() and candidate.suffix == ".json":
            return Decision(read_engine(candidate), "as asked")
    for other in (manifest_path(folder, asked, other) for other in BACKENDS if other != backend):
        if other.is_file():
            problem = _inspect(other).problem or "choose it with --backend"
            raise EngineError(f"{folder}/ has no {backend} engine {asked!r}, only {other.name}: {problem}")
    raise EngineError(f"no engine {asked!r} in {folder}/{_suggest(asked, backend, folder)}")


def _find_default(backend: Backend, folder: Path) -> Decision[StoredEngine | None]:
    shipped = manifest_path(folder, SHIPPED_MODEL, backend)
    if shipped.is_file():
        engine = read_engine(shipped)
        is_shipped = engine.manifest.source_sha256 == source_sha256(SHIPPED_MODEL)
        return Decision(
            engine, "the default model" if is_shipped else "named as the default model, but of another graph"
        )
    paths = sorted(folder.glob(f"*.{backend}.json"))
    if len(paths) > 1:
        raise EngineError(
            f"{folder}/ has several engines ({', '.join(path.name for path in paths)}); choose one with --engine"
        )
    if not paths:
        return Decision(None, f"no engine in {folder}/ yet")
    return Decision(read_engine(paths[0]), f"the only engine in {folder}/")


def _suggest(asked: str, backend: Backend, folder: Path) -> str:
    """Return what to do if `asked` names no engine: choose one that exists, or build it if there is such a recipe."""
    ending = f".{backend}.json"
    names = ", ".join(path.name.removesuffix(ending) for path in sorted(folder.glob(f"*{ending}")))
    choice = f", which has {names}; choose one of them with --engine, or" if names else ";"
    return f"{choice} run lesioncli build-engine{f' {asked}' if asked in list_recipes() else ''}"


@dataclass(frozen=True)
class ListedEngine:
    """An engine of a folder: its manifest, if that is valid, and why the engine does not run here, or ""."""

    path: Path
    manifest: Manifest | None
    problem: str

    @property
    def description(self) -> str:
        """Return one line: backend, targets, precision, batch, size, calibration and licence."""
        if self.manifest is None:
            return "not readable"
        manifest = self.manifest
        size_mb = StoredEngine(self.path, manifest).size_bytes / 1e6
        targets = f" for {', '.join(manifest.targets)}" if manifest.targets else ""
        batch = f"1 to {manifest.batch}" if manifest.dynamic else manifest.batch
        version = f"{manifest.backend} {manifest.backend_version}"
        calibration = manifest.spec.calibration
        calibrated = f", calibration {calibration.description}" if calibration else ""
        licence = f", weights under {manifest.spec.licence}" if manifest.spec.licence else ""
        return f"{version}{targets}, {manifest.precision}, batch {batch}, {size_mb:.1f} MB{calibrated}{licence}"


def list_engines(folder: Path, checked: StoredEngine | None = None) -> Sequence[ListedEngine]:
    """Return every manifest in a folder, sorted by name, with the problem of each engine that does not run here.

    The engine that was `checked` before is not read again.
    """
    return [
        _inspect(path, checked if checked and checked.path == path else None) for path in sorted(folder.glob("*.json"))
    ]


def _inspect(path: Path, checked: StoredEngine | None = None) -> ListedEngine:
    manifest = None
    try:
        engine = checked or read_engine(path)
        manifest = engine.manifest
        check_runs_here(engine)
    except LesionError as error:
        return ListedEngine(path, manifest, str(error).removeprefix(f"{path}: "))
    return ListedEngine(path, manifest, "")
