"""The calls of the Python API on engines: build one, find the one to use, and verify it on the GPU of this machine."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lesioncli.errors import EngineError, InputError
from lesioncli.files import ENGINES, StrPath, os_errors_as_input_errors, work_folder
from lesioncli.locks import ProcessLock
from lesioncli.options import Backend, BuildOptions, Decision, Precision
from lesioncli.process import quiet_decoders
from lesioncli.progress import Reporter, ReportTo, reporting

if TYPE_CHECKING:
    from lesioncli.backends.build import BuiltEngine
    from lesioncli.backends.manifest import StoredEngine
    from lesioncli.images.find import ImageFile
    from lesioncli.images.geometry import UInt8

BUILD_LOCK = ".build.lock"
PARITY_IMAGES = 32  # fewer let a bf16 engine pass that differs on photographs; a drawn image takes 25 ms
PARITY_IMAGE_HW = (256, 320)


@os_errors_as_input_errors()
def build_engine(
    model: StrPath | None = None,
    out: StrPath = ENGINES,
    options: BuildOptions = BuildOptions(),
    *,
    progress: ReportTo = False,
) -> "BuiltEngine":
    """Build an engine in the folder `out` and check its parity with its graph.

    `model` is the name of a recipe, a checkpoint (.safetensors, .pt, .pth) or an .onnx graph; None is the
    default model.

    Raises InputError if the model cannot be read, and EngineError if this machine cannot build the engine or the engine
    fails the parity check.
    """
    from lesioncli.backends.registry import with_fallback

    with reporting(progress) as reporter:

        def build_for(backend: Decision[Backend]) -> "BuiltEngine":
            reporter.note(f"backend {backend.value}: {backend.reason}")
            return _build(model, Path(out), replace(options, backend=backend.value), reporter)

        return with_fallback(options, build_for)


def _build(model: StrPath | None, out: Path, options: BuildOptions, reporter: Reporter) -> "BuiltEngine":
    """Build an engine for the backend in the options, which is not `auto`."""
    from lesioncli.backends.build import build, check_output
    from lesioncli.backends.registry import open_compiler
    from lesioncli.source import resolve

    check_output(out, options.name)  # build() does so, too, but only after the model was read and images were drawn
    with work_folder(out) as work:
        compiler = open_compiler(options, out, reporter.build)
        reporter.build("read or export the model", 0, 3)
        source = resolve(None if model is None else os.fspath(model), work)
        options = replace(
            options,
            precision=options.precision or Precision(source.settings.precision),
            batch=options.batch or source.settings.batch,
        )
        images = _parity_images(options.images)
        built = build(
            source.onnx,
            out,
            images,
            options,
            compiler=compiler,
            reference=source.reference,
            on_progress=reporter.build,
        )
        reporter.note(f"precision {built.manifest.precision}: {built.reason}")
        return built


def _parity_images(folder: Path | None) -> "list[UInt8]":
    """Return images for a parity check: a sample of those in `folder`, or drawn ones."""
    if folder is None:
        from lesioncli.demo.draw import draw_case

        return [draw_case(seed, *PARITY_IMAGE_HW).image for seed in range(PARITY_IMAGES)]
    from lesioncli.images.find import find_images
    from lesioncli.images.sample import sample_images

    quiet_decoders()
    images = sample_images(find_images([folder]), PARITY_IMAGES, (256, 256))
    if not images:
        raise InputError(f"{folder}: no image of the sample can be read; give another folder for the parity check")
    return images


@os_errors_as_input_errors()
def ensure_engine(
    engine: StrPath | None = None,
    *,
    backend: Backend = Backend.AUTO,
    batch: int | None = None,
    folder: StrPath = ENGINES,
    progress: ReportTo = False,
) -> "StoredEngine":
    """Return the engine to use, checked; build that of the default model if `folder` has no engine.

    `engine` is the name of a model in `folder`, or the path of a manifest (.json). Without it, the engine is that of
    the default model, or the only one in `folder`.

    Raises EngineError if the named engine does not exist, is damaged or was built for another backend than `backend`.
    """
    from lesioncli.backends.registry import with_fallback

    folder, backend = Path(folder), Backend(backend)
    with reporting(progress) as reporter:

        def ensure_for(chosen: Decision[Backend]) -> "StoredEngine":
            return _find_or_build(engine, backend, chosen, batch, folder, reporter)

        return with_fallback(BuildOptions(backend), ensure_for)


def ensure_engines(
    engine: StrPath | Sequence[StrPath] | None = None,
    *,
    backend: Backend = Backend.AUTO,
    batch: int | None = None,
    progress: ReportTo = False,
) -> "tuple[StoredEngine, ...]":
    """Return the engine to use, as ensure_engine() does, or each of several engines of an ensemble."""
    names = _list_names(engine)
    return tuple(ensure_engine(name, backend=backend, batch=batch, progress=progress) for name in names)


def locate_engines(
    engine: StrPath | Sequence[StrPath] | None = None,
    *,
    backend: Backend = Backend.AUTO,
    progress: ReportTo = False,
) -> "tuple[StoredEngine, ...]":
    """Return the engines that ensure_engines() would return without building one; none if it would build one."""
    from lesioncli.backends.registry import choose_backend

    chosen = choose_backend(Backend(backend))
    with reporting(progress) as reporter:
        found = [_find(name, Backend(backend), chosen, ENGINES, reporter) for name in _list_names(engine)]
        for missing in (one for one in found if one.value is None):
            reporter.note(f"{missing.reason}: the default model's would be built for {chosen.value} ({chosen.reason})")
    return tuple(one.value for one in found if one.value is not None)


def _list_names(engine: StrPath | Sequence[StrPath] | None) -> Sequence[StrPath | None]:
    """Return the names of engines; one None for the default model's."""
    return [engine] if engine is None or isinstance(engine, str | os.PathLike) else list(engine) or [None]


def _find_or_build(
    engine: StrPath | None,
    asked: Backend,
    chosen: Decision[Backend],
    batch: int | None,
    folder: Path,
    reporter: Reporter,
) -> "StoredEngine":
    """Return the engine to use with the chosen backend, or build that of the default model."""
    found = _find(engine, asked, chosen, folder, reporter)
    return found.value or _build_missing(chosen, batch, folder, found.reason, reporter)


def _find(
    engine: StrPath | None, asked: Backend, chosen: Decision[Backend], folder: Path, reporter: Reporter
) -> "Decision[StoredEngine | None]":
    """Return the engine to use with the chosen backend, and say so; None if there is none yet."""
    from lesioncli.backends.registry import find_engine

    found = find_engine(None if engine is None else os.fspath(engine), chosen.value, folder)
    if found.value is None:
        return found
    path, own_backend = found.value.path, found.value.manifest.backend
    if own_backend != chosen.value:
        if asked != Backend.AUTO:
            raise EngineError(f"{path}: built for {own_backend}; to use it, leave out --backend {asked}")
        chosen = Decision(own_backend, "this engine was built for it")
    reporter.note(f"engine {path} ({found.reason}); backend {chosen.value}: {chosen.reason}")
    return found


def _build_missing(
    backend: Decision[Backend], batch: int | None, folder: Path, reason: str, reporter: Reporter
) -> "StoredEngine":
    """Build the default model's engine for a backend that this machine can run."""
    from lesioncli.backends.registry import BACKENDS, find_engine

    entry = BACKENDS[backend.value]
    available = entry.check_availability()
    if not available.value:
        raise EngineError(f"{backend.value}: {available.reason}; to choose another backend, run lesioncli build-engine")
    _check_writable(folder, backend.value)
    is_default = batch is None and entry.default_batch > 1
    batches = f" in batches of {entry.default_batch}, the default for a GPU," if is_default else ""
    reporter.note(f"{reason}: building the default model's{batches} for {backend.value} ({backend.reason})")
    options = BuildOptions(backend.value, batch=batch or entry.default_batch)
    with _building(folder, reporter):
        found = find_engine(None, backend.value, folder)
        if found.value:  # another process has built it in the meantime
            reporter.note(f"engine {found.value.path}: built by another process")
            return found.value
        built = build_engine(None, folder, options, progress=_OnlyBars(reporter))
    reporter.note(f"engine {built.path} built; precision {built.manifest.precision}: {built.reason}")
    return built


@contextmanager
def _building(folder: Path, reporter: Reporter) -> Iterator[None]:
    """Let one process at a time build an engine in a folder: the shards of a run may start at the same moment."""
    lock = ProcessLock(folder / BUILD_LOCK)
    if not lock.acquire():
        reporter.note(f"another process is building an engine in {folder}/: waiting for it")
        lock.acquire(-1)
    try:
        yield
    finally:
        lock.release()


class _OnlyBars(Reporter):
    """Passes on the steps of a compiler, without notes."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def build(self, phase: str, step: int, steps: int) -> None:
        self._reporter.build(phase, step, steps)


def _check_writable(folder: Path, backend: Backend) -> None:
    """Raise InputError if no engine can be written to `folder`; another output folder for masks would not help."""
    from lesioncli.backends.manifest import manifest_path
    from lesioncli.shipped import SHIPPED_MODEL

    try:
        folder.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".building-"):
            pass
    except OSError as error:
        elsewhere = manifest_path(Path("DIR"), SHIPPED_MODEL, backend)
        raise InputError(
            f"{folder}/: no engine can be written here ({error.strerror}); run lesioncli build-engine --out DIR, then"
            f" this command with --engine {elsewhere}"
        ) from error


def verify_on_gpus(
    engine: "StoredEngine",
    images: "Sequence[ImageFile]",
    reporter: Reporter,
    devices: Sequence[int] | None = None,
    limit_s: float | None = None,
) -> None:
    """Check the parity of an engine on the GPUs where it never ran, on a sample of `images` or on drawn ones.

    devices: as in ProcessOptions. limit_s: the process ends with exit code 4 if a GPU takes longer; None: there is no
    limit.
    """
    from lesioncli.backends.parity import VERIFICATION_IMAGES, find_unverified_gpus, verify
    from lesioncli.images.sample import sample_images

    gpus = find_unverified_gpus(engine, devices)
    if not gpus:
        return
    spec = engine.manifest.spec
    found = sample_images(images, VERIFICATION_IMAGES, (spec.height, spec.width))
    sample, source = (found, "of these") if found else (_parity_images(None), "drawn")
    for gpu, number in gpus.items():
        verification = verify(engine, gpu, number, sample, limit_s)
        engine, figures = verification.engine, verification.figures
        note = f"first run on {gpu}: the engine agrees with its graph ({figures.images} {source} images, mask Jaccard"
        note += f" {figures.mask_jaccard:.4f})"
        if verification.problem:
            note += f"; {engine.path} cannot be written ({verification.problem}), so the next run checks again"
        reporter.note(note)
