"""Run a network on images and fill an output folder: the one call behind `segment`."""

import hashlib
import platform
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from lesioncli import __version__
from lesioncli.backends.base import Engine, EngineFacts, Member
from lesioncli.backends.manifest import Manifest
from lesioncli.calibration import identify
from lesioncli.errors import InputError
from lesioncli.files import printable
from lesioncli.images.find import ImageFile, ImageListing
from lesioncli.inference.destination import Destination
from lesioncli.inference.earlier import ToDo
from lesioncli.inference.outcome import Column, Outcome, image_name, output_columns, sort_by_name
from lesioncli.inference.pipeline import segment
from lesioncli.inference.record import EngineRecord, MaskNames, RunIdentity, RunRecord, RunStatus, RunSummary
from lesioncli.inference.results import ResultStore
from lesioncli.inference.trace import Trace
from lesioncli.inference.values import raw_columns
from lesioncli.options import SegmentOptions, Status
from lesioncli.signals import StopRequest

LEAST_CONFIDENT_IMAGES = 5


class Runner(Protocol):
    """What makes outcomes of images: this process, or several."""

    @property
    def engine(self) -> EngineFacts:
        """The engine, or one of several that are alike. Raises EngineError if there is none."""
        ...

    def outcomes(
        self, images: Sequence[ImageFile], store: ResultStore, to_do: Sequence[ToDo | None], stop: StopRequest
    ) -> Generator[Outcome, None, None]:
        """Yield one Outcome per image, see pipeline.segment()."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what is recorded at the end of a run, by the fields of RunRecord."""
        ...


@dataclass(frozen=True)
class OneProcess:
    """The Runner of an engine that this process has open."""

    engine: Engine
    options: SegmentOptions
    trace: Trace | None

    def outcomes(
        self, images: Sequence[ImageFile], store: ResultStore, to_do: Sequence[ToDo | None], stop: StopRequest
    ) -> Generator[Outcome, None, None]:
        return segment(images, self.engine, store, self.options, self.trace, stop, to_do)

    def describe(self) -> dict[str, Any]:
        return {}


def segment_images(
    listing: ImageListing,
    engine: Engine,
    out: Path,
    options: SegmentOptions = SegmentOptions(),
    *,
    trace: Trace | None = None,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    stop: StopRequest | None = None,
) -> RunSummary:
    """Segment images into the folder `out`: masks, scores.csv and run.json.

    `on_outcome` is called after each image, in order. Whatever ends the run, the rows of finished images are kept and
    the same call continues. `stop` ends it early; the summary then counts fewer outcomes than images.

    Raises InputError if `out` belongs to another kind of run (see ResultStore) or the disk is full, and EngineError if
    the engine fails.
    """
    return run_images(listing, OneProcess(engine, options, trace), Destination(out), options, on_outcome, stop)


def run_images(
    listing: ImageListing,
    runner: Runner,
    destination: Destination,
    options: SegmentOptions,
    on_outcome: Callable[[Outcome], None],
    stop: StopRequest | None = None,
) -> RunSummary:
    """Segment images as segment_images() does; several processes finish them in any order."""
    engine = runner.engine
    identity = make_identity(listing, engine, options)
    store = ResultStore(destination, identity, make_columns(engine), listing.images, options, listing.root)
    images = _select(listing, store, options)
    to_do = store.find_to_do(images)
    store.missing.clear()  # 42 bytes per image, which nobody needs any more
    record = msgspec.structs.replace(_new_record(identity, listing, engine, store, options), skipped=to_do.count(None))
    totals = _Totals()
    stop = stop or StopRequest()
    try:
        store.write_record(record)
        # Closing the generator stops the threads that write to the memory of the engine.
        with stop.heard(), closing(runner.outcomes(images, store, to_do, stop)) as outcomes:
            for outcome in outcomes:
                store.add(outcome)
                totals.add(outcome)
                on_outcome(outcome)
                if options.max_failures and options.max_failures.is_exceeded(totals.failed, len(listing.images)):
                    stop.set()
    except BaseException:
        with suppress(InputError):  # the error that ended the run matters more
            values = {**totals.values(), **runner.describe()}
            store.finish(msgspec.structs.replace(record, status=RunStatus.INTERRUPTED, **values))
        raise
    values = totals.values()
    status = RunStatus.FINISHED if totals.images == len(listing.images) else RunStatus.INTERRUPTED
    failures = sort_by_name(totals.failures) if options.max_failures else None
    record = msgspec.structs.replace(record, status=status, failures=failures, **runner.describe())
    store.finish(msgspec.structs.replace(record, **values))
    return RunSummary(
        images=len(listing.images),
        **values,
        engine=engine.spec.name,
        device=record.device or "",
        precision=identity.precision or "",
        tta=options.tta,
        out=str(destination.place),
        ignored=dict(listing.ignored),
        least_confident=store.least_confident(LEAST_CONFIDENT_IMAGES),
        unreadable=tuple(map(printable, listing.unreadable)),
        changed=store.changed,
        gone=store.gone,
        pruned=store.pruned,
    )


def _select(listing: ImageListing, store: ResultStore, options: SegmentOptions) -> Sequence[ImageFile]:
    """Return the images of the run: all, or those that earlier runs finished or failed on."""
    if not options.retry_failed:
        return listing.images
    return [image for image in listing.images if store.missing[image.name] in (None, ToDo.FAILED)]


def make_columns(engine: EngineFacts) -> tuple[Column, ...]:
    """Return the columns of scores.csv for an engine."""
    return output_columns(engine.spec.classes, (*engine.extra, *raw_columns(engine.spec)))


def make_identity(listing: ImageListing, engine: EngineFacts, options: SegmentOptions) -> RunIdentity:
    """Return what all masks of the run's output folder must share."""
    return RunIdentity(
        engine_sha256=_hash(engine.members),
        precision=_join(member.manifest.precision for member in engine.members),
        threshold=options.threshold,
        tta=options.tta,
        regions=options.regions,
        names=MaskNames.ISIC if options.isic_names or any(image.mask for image in listing.images) else MaskNames.IMAGES,
        calibration=identify(engine.spec.calibration),
        mm_per_pixel=options.mm_per_pixel,
    )


def _new_record(
    identity: RunIdentity,
    listing: ImageListing,
    engine: EngineFacts,
    store: ResultStore,
    options: SegmentOptions,
) -> RunRecord:
    """Return the record of a run that starts now; it keeps the sources of earlier runs into the folder."""
    manifests = [member.manifest for member in engine.members]
    sources = map(store.destination.name_source, listing.sources)
    roots = [store.destination.name_source(listing.root)] if listing.root else []
    return RunRecord(
        **msgspec.structs.asdict(identity),
        classes=engine.spec.classes,
        lesioncli=__version__,
        python=platform.python_version(),
        model=engine.spec.name,
        backend=_join(f"{manifest.backend} {manifest.backend_version}" for manifest in manifests),
        device=engine.device,
        batch=engine.batch_size,
        workers=options.workers,
        sources=tuple(dict.fromkeys([*store.earlier.record.sources, *sources])),
        roots=tuple(dict.fromkeys([*store.earlier.record.roots, *roots])),
        unreadable=tuple(map(printable, listing.unreadable)),
        images=len(listing.images),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        ignored=dict(listing.ignored),
        status=RunStatus.RUNNING,
        shard=str(options.shard) if options.shard else None,
        listed=listing.whole.images if listing.whole else None,
        listing_sha256=listing.whole.names_sha256 if listing.whole else None,
        engines=tuple(map(_describe, manifests)) if len(manifests) > 1 else None,
        calibration_maps=engine.spec.calibration,
        probabilities=store.has_maps or None,
        crops=store.earlier.record.crops if options.crops is None else options.crops,
    )


def _hash(members: Sequence[Member]) -> str:
    """Return the hash of an engine, for an ensemble that of the hashes of its members."""
    hashes = [member.manifest.sha256 for member in members]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _join(values: Iterable[str]) -> str:
    """Return what the members of an ensemble have, each value once."""
    return " and ".join(dict.fromkeys(values))


def _describe(manifest: Manifest) -> EngineRecord:
    return EngineRecord(
        model=manifest.spec.name,
        engine_sha256=manifest.sha256,
        precision=manifest.precision,
        backend=f"{manifest.backend} {manifest.backend_version}",
    )


class _Totals:
    """Counts and times of a run, from now on."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.failures: dict[str, str] = {}  # reason by the image's name in scores.csv
        self._statuses: Counter[Status] = Counter()
        self._cpu_seconds: Counter[str] = Counter()

    @property
    def failed(self) -> int:
        """The number of failed images so far."""
        return self._statuses[Status.FAILED]

    @property
    def images(self) -> int:
        """The number of images so far."""
        return self._statuses.total()

    def add(self, outcome: Outcome) -> None:
        """Count an outcome and its times."""
        self._statuses[outcome.status] += 1
        if outcome.status == Status.FAILED:
            self.failures[image_name(outcome.image)] = f"{outcome.stage}: {outcome.reason}"
        self._cpu_seconds.update(outcome.seconds)

    def values(self) -> dict[str, Any]:
        """Return the counts and times by their fields in RunRecord and RunSummary."""
        return {
            **{status.value: self._statuses[status] for status in (Status.OK, Status.FAILED, Status.SKIPPED)},
            "seconds": round(time.monotonic() - self._started, 3),
            "cpu_seconds": {stage: round(self._cpu_seconds[stage], 3) for stage in ("decode", "write")},
        }
