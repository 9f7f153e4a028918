"""The calls of the Python API on folders of images; the calls on engines are in engines.py.

The command line is a thin layer on both. Paths may be strings. Nothing is printed unless `progress` asks for it. Errors
are subclasses of LesionError.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lesioncli.engines import ensure_engines, locate_engines, verify_on_gpus
from lesioncli.errors import EngineError, ImageError, InputError
from lesioncli.files import ENGINES, StrPath, os_errors_as_input_errors
from lesioncli.options import Backend, CalibrationOptions, EvaluationOptions, FailureStage, SegmentOptions
from lesioncli.process import quiet_decoders
from lesioncli.progress import Reporter, ReportTo, reporting
from lesioncli.sharding import refuse_unmerged
from lesioncli.urls import Place, StrPlace, Url, parse_place

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from lesioncli.backends.manifest import StoredEngine
    from lesioncli.calibrator import CalibrationResult
    from lesioncli.evaluation.result import Evaluation
    from lesioncli.images.find import ImageListing
    from lesioncli.images.written_list import WrittenList
    from lesioncli.inference.destination import Destination
    from lesioncli.inference.merge import MergedShards
    from lesioncli.inference.plan import RunPlan
    from lesioncli.inference.record import RunSummary
    from lesioncli.inference.verify import Verification


@os_errors_as_input_errors()
def segment_folder(
    images: StrPlace | Sequence[StrPlace],
    out: StrPlace,
    options: SegmentOptions = SegmentOptions(),
    *,
    engine: StrPath | Sequence[StrPath] | None = None,
    backend: Backend = Backend.AUTO,
    batch: int | None = None,
    progress: ReportTo = False,
) -> "RunSummary":
    """Write a mask and a row of scores for every image, as `lesioncli segment` does.

    `images` are files, folders, archives and URLs; none with a list in the options. `out` is a folder, or the URL of
    one in a bucket. `engine`, `backend` and `batch` are
    those of ensure_engine(); several engines are an ensemble, whose probabilities are averaged. Whatever stops the
    call, also KeyboardInterrupt, leaves `out` complete for the images that were finished; the same call continues.

    Raises InputError if there are no images, if `out` holds masks of other options or engines, or if it cannot be
    written; EngineError if the engine fails. An image that fails is a row of scores.csv and raises nothing.
    """
    from lesioncli.inference.destination import open_destination
    from lesioncli.inference.launch import launch

    quiet_decoders()
    with reporting(progress) as reporter, open_destination(parse_place(out), options, reporter.note) as destination:
        listing = _list_images(_as_places(images), destination, options, reporter)
        stored = ensure_engines(engine, backend=backend, batch=batch, progress=reporter)
        devices = options.processes.devices if options.processes else None
        for one in stored:
            _check_batch(one, batch)
            if options.verify:
                verify_on_gpus(one, listing.images, reporter, devices, options.engine_timeout_s)
        _note_calibration(stored, options, reporter)
        return launch(listing, stored, destination, options, reporter)


@os_errors_as_input_errors()
def plan_segmentation(
    images: StrPlace | Sequence[StrPlace],
    out: StrPlace,
    options: SegmentOptions = SegmentOptions(),
    *,
    engine: StrPath | Sequence[StrPath] | None = None,
    backend: Backend = Backend.AUTO,
    batch: int | None = None,
    progress: ReportTo = False,
) -> "RunPlan":
    """Return what segment_folder() with these arguments would do and why, as `segment --dry-run` shows it.

    Nothing is written, and no engine is built. Raises what segment_folder() would raise before its first image.
    """
    from lesioncli.backends.watchdog import open_watched
    from lesioncli.inference.destination import open_destination
    from lesioncli.inference.plan import plan_run
    from lesioncli.inference.tta import PROCEDURES

    with (
        reporting(progress) as reporter,
        open_destination(parse_place(out), options, reporter.note, to_write=False) as destination,
    ):
        listing = _list_images(_as_places(images), destination, options, reporter)
        stored = locate_engines(engine, backend=backend, progress=reporter)
        for one in stored:
            _check_batch(one, batch)
        if not stored:
            return plan_run(listing, None, destination, options)
        with open_watched(stored, options.engine_timeout_s, 1, PROCEDURES[options.tta].layout) as opened:
            return plan_run(listing, opened, destination, options)


def _check_batch(engine: "StoredEngine", batch: int | None) -> None:
    if batch not in (None, engine.manifest.batch):
        command = f"lesioncli build-engine --batch {batch}"
        raise InputError(f"{engine.path}: built for batches of {engine.manifest.batch}; run {command}")


def _note_calibration(engines: "Sequence[StoredEngine]", options: SegmentOptions, reporter: Reporter) -> None:
    """Say that scores and confidence are calibrated, and whether that was done for the masks of this run."""
    calibration = next(filter(None, (engine.manifest.spec.calibration for engine in engines)), None)
    if calibration is None:
        return
    if len(engines) > 1:
        reporter.note("scores and confidence are raw: a calibration of one engine does not hold for a mean of several")
        return
    mismatch = calibration.describe_mismatch(options.threshold, options.tta, options.regions)
    warning = f"; it was fitted with {mismatch}, so it is less exact here" if mismatch else ""
    reporter.note(f"calibration {calibration.description}{warning}")


def _list_images(
    sources: Sequence[Place], destination: "Destination", options: SegmentOptions, reporter: Reporter
) -> "ImageListing":
    from lesioncli.images import find
    from lesioncli.images.image_list import read_image_list
    from lesioncli.inference.earlier import require_results
    from lesioncli.inference.record import MaskNames
    from lesioncli.inference.shards import select_images

    if options.image_list:
        if sources:
            raise InputError(
                f"{sources[0]}: the list {options.image_list} also names images; give either folders or the list"
            )
        image_list = read_image_list(options.image_list, options.root)
        listing = image_list.listing
    else:
        image_list = None
        listing = find.list_images(sources, exclude=destination.place, root=options.root)
    if options.isic_names:
        listing = replace(listing, images=find.name_masks_by_isic(listing.images))
    if options.shard:
        listing = select_images(listing, options.shard, MaskNames.ISIC if options.isic_names else MaskNames.IMAGES)
        reporter.note(f"shard {options.shard}: {len(listing.images)} images")
    if image_list:
        checked = image_list.check(listing.images, exclude=destination.place, check_content=options.check_inputs)
        listing = replace(listing, images=list(checked))
    _note_listing(listing, reporter)
    if options.retry_failed:
        require_results(destination.folder, options.shard)
    return listing


def _note_listing(listing: "ImageListing", reporter: Reporter) -> None:
    """Report the ignored files and the folders that cannot be listed."""
    from lesioncli.images.find import describe_ignored, describe_unreadable

    if listing.ignored:
        reporter.note(describe_ignored(listing.ignored))
    for line in describe_unreadable(listing.unreadable):
        reporter.note(line)


@os_errors_as_input_errors()
def merge(out: StrPlace, *, progress: ReportTo = False) -> "MergedShards":
    """Join the rows and records of the shards of an output folder, or of a URL, as `lesioncli merge` does.

    Raises InputError if shards are missing, not finished, or of different runs; nothing is changed then.
    """
    from lesioncli.inference.bucket_shards import merge_place

    with reporting(progress) as reporter:
        return merge_place(parse_place(out), reporter.note)


@os_errors_as_input_errors()
def list_images(
    images: StrPlace | Sequence[StrPlace],
    out: StrPath,
    *,
    root: StrPlace | None = None,
    with_crc32: bool = False,
    progress: ReportTo = False,
) -> "WrittenList":
    """Write the list of the images of files, folders, archives and URLs, as `lesioncli list` does.

    It is for SegmentOptions.image_list.

    `root` is the folder that names are relative to, by default the deepest one that holds all images given.

    Raises InputError if there are no images, or two with the same mask name, or if `out` cannot be written.
    """
    from lesioncli.images import find
    from lesioncli.images.written_list import write_image_list

    with reporting(progress) as reporter:
        listing = find.list_images(_as_places(images), root=None if root is None else parse_place(root))
        _note_listing(listing, reporter)
        return write_image_list(listing, Path(out), with_crc32)


def _as_places(images: StrPlace | Sequence[StrPlace]) -> list[Place]:
    return list(map(parse_place, [images] if isinstance(images, str | os.PathLike | Url) else images))


@os_errors_as_input_errors()
def verify_results(folder: StrPath = "masks", *, repair: bool = False, progress: ReportTo = False) -> "Verification":
    """Read every file of an output folder again, and the images, as `lesioncli verify` does.

    `repair` removes what segment_folder() must do again.

    Raises InputError if the folder has no rows of segment_folder(), or if a run is writing to it.
    """
    from lesioncli.inference.verify import verify

    with reporting(progress) as reporter:
        return verify(Path(folder), repair, lambda done, total: reporter.count("verify", done, total))


@os_errors_as_input_errors()
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

    quiet_decoders()
    with reporting(progress) as reporter:
        return evaluation.evaluate(
            Path(ground_truth),
            Path(predictions),
            options,
            on_progress=lambda done, total: reporter.count("evaluate", done, total),
        )


@os_errors_as_input_errors()
def calibrate(
    ground_truth: StrPath,
    predictions: StrPath = "masks",
    options: CalibrationOptions = CalibrationOptions(),
    *,
    engine: StrPath | None = None,
    backend: Backend = Backend.AUTO,
    progress: ReportTo = False,
) -> "CalibrationResult":
    """Fit a calibration on labelled images and write a calibrated engine, as `lesioncli calibrate` does.

    `predictions` is the output folder of segment_folder() with `engine`, the name of a model in engines/ or the path of
    a manifest.

    Raises EngineError if there is no such engine, and what calibrator.calibrate() raises.
    """
    from lesioncli import calibrator
    from lesioncli.backends.registry import choose_backend, find_engine

    found = find_engine(None if engine is None else os.fspath(engine), choose_backend(Backend(backend)).value, ENGINES)
    if found.value is None:
        raise EngineError(f"{found.reason}; run lesioncli segment first, or name the engine with --engine")
    quiet_decoders()
    with reporting(progress) as reporter:
        return calibrator.calibrate(
            Path(ground_truth),
            Path(predictions),
            found.value,
            options,
            on_progress=lambda done, total: reporter.count("evaluate", done, total),
        )


TEXT_COLUMNS = ("image", "mask", "status", "reason", "note")
SIZE_COLUMNS = ("width", "height", "bytes")


def read_results(folder: StrPath) -> "pd.DataFrame":
    """Read scores.csv of an output folder: one row per image, and the path of its mask as `mask_path`.

    read_mask() reads the mask at such a path, which is None for a failed image. Text columns hold "" and numbers nan or
    <NA> where the file has nothing.

    Raises InputError if the folder has no scores.csv that can be read.
    """
    import pandas as pd

    folder = Path(folder)
    refuse_unmerged(folder)
    path = folder / "scores.csv"
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False).fillna("")  # of a row that is too short
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: cannot be read ({reason}); give the output folder of lesioncli segment") from error
    for name in table.columns.difference(list(TEXT_COLUMNS)):
        table[name] = _to_numbers(table[name], path)
    masks: Iterable[str] = table.get("mask", [])
    table["mask_path"] = pd.Series([folder / mask if mask else None for mask in masks], table.index, dtype=object)
    return table


def read_mask(path: StrPath) -> "NDArray[np.uint8]":
    """Return a mask that `segment` wrote, given its `mask_path` in read_results(): (H, W), 255 for lesion, else 0.

    The path may lead into an archive, as in masks/masks-00000.tar/x.png.

    Raises ImageError if it cannot be read.
    """
    import numpy as np

    from lesioncli.evaluation.reading import masks
    from lesioncli.images.sources import locate_file

    try:
        lesion = masks.read_mask(locate_file(Path(), os.fspath(path)), masks.MaskRole.PREDICTION).lesion
    except OSError as error:
        raise ImageError(FailureStage.DECODE, f"{path}: {error.strerror}") from error
    return np.asarray(lesion.view(np.uint8) * 255, np.uint8)


def _to_numbers(cells: "pd.Series[Any]", path: Path) -> "pd.Series[Any]":
    """Return a column of text as numbers; InputError if only some of its cells are numbers."""
    import pandas as pd

    numbers = pd.to_numeric(cells, errors="coerce")
    is_text = numbers.isna() & ~cells.isin(["", "nan"])
    if not is_text.any():
        return numbers.astype("Int64") if cells.name in SIZE_COLUMNS else numbers
    if cells.name not in SIZE_COLUMNS and is_text.sum() == (cells != "").sum():
        return cells  # a column of the user's own
    position = int(is_text.to_numpy().argmax())
    raise InputError(
        f"{path}, line {position + 2}: {cells.name} is {cells.iloc[position]!r}, not a number; correct it or empty the"
        " cell"
    )
