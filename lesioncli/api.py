"""The calls of the Python API; the command line is a thin layer on them.

Paths may be strings. Nothing is printed unless `progress` asks for it. Errors are subclasses of LesionError.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lesioncli.errors import EngineError, InputError
from lesioncli.options import Backend, BuildOptions, Decision, EvaluationOptions, Precision, SegmentOptions
from lesioncli.process import count_cores, opencv_on_one_thread, quiet_decoders
from lesioncli.progress import Reporter, ReportTo, reporting

if TYPE_CHECKING:
    import pandas as pd

    from lesioncli.backends.build import BuiltEngine
    from lesioncli.backends.manifest import StoredEngine
    from lesioncli.evaluation.result import Evaluation
    from lesioncli.images.find import ImageFile, ImageListing
    from lesioncli.images.geometry import UInt8
    from lesioncli.inference.record import RunSummary

StrPath = str | os.PathLike[str]

ENGINES = Path("engines")
PARITY_IMAGES = 32  # fewer let a bf16 engine pass that differs on photographs; a drawn image takes 25 ms
PARITY_IMAGE_HW = (256, 320)


def build_engine(
    model: StrPath | None = None,
    out: StrPath = ENGINES,
    options: BuildOptions = BuildOptions(),
    *,
    progress: ReportTo = False,
) -> "BuiltEngine":
    """Build an engine in the folder `out` and check its parity with its graph.

    `model` is the name of a recipe, a checkpoint (.safetensors, .pt) or an .onnx graph; None is the default model.

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
    with TemporaryDirectory() as work:
        compiler = open_compiler(options, out, reporter.build)
        source = resolve(None if model is None else os.fspath(model), Path(work))
        options = replace(
            options,
            precision=options.precision or Precision(source.settings.precision),
            batch=options.batch or source.settings.batch,
        )
        images = _parity_images(options.images)
        built = build(source.onnx, out, images, options, compiler=compiler, reference=source.reference)
        reporter.note(f"precision {built.manifest.precision}: {built.reason}")
        return built


def _parity_images(folder: Path | None) -> "list[UInt8]":
    """Return images for a parity check: a sample of those in `folder`, or drawn ones."""
    if folder is None:
        from lesioncli.demo.draw import draw_case

        return [draw_case(seed, *PARITY_IMAGE_HW).image for seed in range(PARITY_IMAGES)]
    from lesioncli.images.find import find_images
    from lesioncli.images.sample import sample_images

    images = sample_images(find_images([folder]), PARITY_IMAGES, (256, 256))
    if not images:
        raise InputError(f"{folder}: no image of the sample can be read; give another folder for the parity check")
    return images


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


def _find_or_build(
    engine: StrPath | None,
    asked: Backend,
    chosen: Decision[Backend],
    batch: int | None,
    folder: Path,
    reporter: Reporter,
) -> "StoredEngine":
    """Return the engine to use with the chosen backend, or build that of the default model."""
    from lesioncli.backends.registry import find_engine

    found = find_engine(None if engine is None else os.fspath(engine), chosen.value, folder)
    if found.value is None:
        return _build_missing(chosen, batch, folder, found.reason, reporter)
    path, own_backend = found.value.path, found.value.manifest.backend
    if own_backend != chosen.value:
        if asked != Backend.AUTO:
            raise EngineError(f"{path}: built for {own_backend}; to use it, leave out --backend {asked}")
        chosen = Decision(own_backend, "this engine was built for it")
    reporter.note(f"engine {path} ({found.reason}); backend {chosen.value}: {chosen.reason}")
    return found.value


def _build_missing(
    backend: Decision[Backend], batch: int | None, folder: Path, reason: str, reporter: Reporter
) -> "StoredEngine":
    """Build the default model's engine for a backend that this machine can run."""
    from lesioncli.backends.registry import BACKENDS

    entry = BACKENDS[backend.value]
    available = entry.check_availability()
    if not available.value:
        raise EngineError(f"{backend.value}: {available.reason}; to choose another backend, run lesioncli build-engine")
    _check_writable(folder, backend.value)
    is_default = batch is None and entry.default_batch > 1
    batches = f" in batches of {entry.default_batch}, the default for a GPU," if is_default else ""
    reporter.note(f"{reason}: building the default model's{batches} for {backend.value} ({backend.reason})")
    options = BuildOptions(backend.value, batch=batch or entry.default_batch)
    built = build_engine(None, folder, options, progress=_OnlyBars(reporter))
    reporter.note(f"engine {built.path} built; precision {built.manifest.precision}: {built.reason}")
    return built


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


def segment_folder(
    images: StrPath | Sequence[StrPath],
    out: StrPath,
    options: SegmentOptions = SegmentOptions(),
    *,
    engine: StrPath | None = None,
    backend: Backend = Backend.AUTO,
    batch: int | None = None,
    progress: ReportTo = False,
) -> "RunSummary":
    """Write a mask and a row of scores for every image, as `lesioncli segment` does.

    `images` are files and folders. `engine`, `backend` and `batch` are those of ensure_engine(). Whatever stops the
    call, also KeyboardInterrupt, leaves `out` complete for the images that were finished; the same call continues.

    Raises InputError if there are no images, if `out` holds masks of other options or engines, or if it cannot be
    written; EngineError if the engine fails. An image that fails is a row of scores.csv and raises nothing.
    """
    quiet_decoders()
    out = Path(out)
    sources = [Path(images)] if isinstance(images, str | os.PathLike) else [Path(source) for source in images]
    with reporting(progress) as reporter:
        listing = _list_images(sources, out, options, reporter)
        stored = ensure_engine(engine, backend=backend, batch=batch, progress=reporter)
        if batch not in (None, stored.manifest.batch):
            command = f"lesioncli build-engine --batch {batch}"
            raise InputError(f"{stored.path}: built for batches of {stored.manifest.batch}; run {command}")
        if options.verify:
            verify_on_gpu(stored, listing.images, reporter)
        return _run(listing, sources, stored, out, options, reporter)


def _list_images(sources: Sequence[Path], out: Path, options: SegmentOptions, reporter: Reporter) -> "ImageListing":
    from lesioncli.images.find import describe_ignored, list_images, name_masks_by_isic

    listing = list_images(sources, exclude=out)
    if options.isic_names:
        listing = replace(listing, images=name_masks_by_isic(listing.images))
    if listing.ignored:
        reporter.note(describe_ignored(listing.ignored))
    return listing


def _run(
    listing: "ImageListing",
    sources: Sequence[Path],
    engine: "StoredEngine",
    out: Path,
    options: SegmentOptions,
    reporter: Reporter,
) -> "RunSummary":
    """Open the engine and segment the images of a listing."""
    from lesioncli.backends.registry import open_engine
    from lesioncli.inference.run import segment_images
    from lesioncli.inference.trace import Trace
    from lesioncli.inference.tta import PROCEDURES

    ahead = 2 * (options.workers or count_cores())
    total = len(listing.images)
    finished = iter(range(1, total + 1))
    with (
        opencv_on_one_thread(),
        open_engine(engine, ahead, PROCEDURES[options.tta].layout, options.trace is not None) as opened,
        Trace.writing(options.trace) if options.trace else nullcontext() as trace,
    ):
        reporter.start_images(total)
        return segment_images(
            listing,
            opened,
            out,
            options,
            sources=sources,
            trace=trace,
            on_outcome=lambda outcome: reporter.image(outcome, next(finished), total),
        )


def verify_on_gpu(engine: "StoredEngine", images: "Sequence[ImageFile]", reporter: Reporter) -> None:
    """Check the parity of an engine that never ran on this machine's GPU, on a sample of the images of the run."""
    from lesioncli.backends.parity import VERIFICATION_IMAGES, find_unverified_gpu, verify
    from lesioncli.images.sample import sample_images

    gpu = find_unverified_gpu(engine.manifest)
    if not gpu:
        return
    spec = engine.manifest.spec
    sample = sample_images(images, VERIFICATION_IMAGES, (spec.height, spec.width)) or _parity_images(None)
    verification = verify(engine, gpu, sample)
    jaccard = f"mask Jaccard {verification.figures.mask_jaccard:.4f}"
    note = f"first run on {gpu}: the engine agrees with its graph on {len(sample)} of these images ({jaccard})"
    if verification.problem:
        note += f"; {engine.path} cannot be written ({verification.problem}), so the next run checks again"
    reporter.note(note)


def evaluate(
    ground_truth: StrPath,
    predictions: StrPath = "masks",
    options: EvaluationOptions = EvaluationOptions(),
    *,
    progress: ReportTo = False,
) -> "Evaluation":
    """Compare predicted masks and class scores with the ground truth, as `lesioncli evaluate` does; write nothing.

    `ground_truth` is a folder of masks and labels, a data set, or a CSV of pairs or of labels.

    Raises InputError if it cannot be read or if there is nothing to compare.
    """
    from lesioncli.evaluation import evaluate as evaluation

    with reporting(progress) as reporter:
        return evaluation.evaluate(
            Path(ground_truth),
            Path(predictions),
            options,
            on_progress=lambda done, total: reporter.count("evaluate", done, total),
        )


TEXT_COLUMNS = ("image", "mask", "status", "reason", "note")
SIZE_COLUMNS = ("width", "height", "bytes")


def read_results(folder: StrPath) -> "pd.DataFrame":
    """Read scores.csv of an output folder: one row per image, and the path of its mask as `mask_path`.

    Text columns hold "" and numbers nan or <NA> where the file has nothing; `mask_path` is None for a failed image.

    Raises InputError if the folder has no scores.csv that can be read.
    """
    import pandas as pd

    folder = Path(folder)
    path = folder / "scores.csv"
    types: dict[str, Any] = {**dict.fromkeys(TEXT_COLUMNS, str), **dict.fromkeys(SIZE_COLUMNS, "Int64")}
    try:
        table = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=_empty_numbers(path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: cannot be read ({reason}); give the output folder of lesioncli segment") from error
    masks: Iterable[str] = table.get("mask", [])
    table["mask_path"] = pd.Series([folder / mask if mask else None for mask in masks], table.index, dtype=object)
    return table


def _empty_numbers(path: Path) -> dict[str, list[str]]:
    """Return the columns of a table that are not text, with the value that stands for a missing number."""
    import pandas as pd

    return {name: [""] for name in pd.read_csv(path, nrows=0).columns if name not in TEXT_COLUMNS}
