"""One call for a whole run: images that were found go through an engine, and the folder is left complete."""

import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lesioncli import __version__
from lesioncli.backends.base import Engine
from lesioncli.errors import InputError
from lesioncli.images.find import ImageFile
from lesioncli.inference.pipeline import segment
from lesioncli.inference.results import FAILED, OK, SKIPPED, Outcome, RunFolder, read_run
from lesioncli.inference.trace import Trace
from lesioncli.options import SegmentOptions

LOOK_FIRST = 5


@dataclass(frozen=True)
class Summary:
    """What a run did: images by status, wall seconds, CPU seconds by stage, and what ran it.

    `passed_over` are files in the folders of the images that were none, by kind.
    `look_first` names the images of the folder whose masks are least sure, with their confidence, the least sure first.
    """

    images: int
    ok: int
    failed: int
    skipped: int
    seconds: float
    cpu_seconds: Mapping[str, float]
    engine: str
    device: str
    precision: str
    tta: str
    out: str
    passed_over: Mapping[str, int]
    look_first: Sequence[tuple[str, float]]

    @property
    def images_per_second(self) -> float:
        return (self.ok + self.failed) / self.seconds if self.seconds else 0.0


def run(
    images: Sequence[ImageFile],
    engine: Engine,
    out: Path,
    options: SegmentOptions,
    *,
    trace: Trace | None = None,
    overwrite: bool = False,
    sources: Sequence[Path] = (),
    passed_over: Mapping[str, int] = MappingProxyType({}),
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> Summary:
    """Segment images into folder `out`: masks, scores.csv and run.json.

    `sources` are the files and folders that the images are from; run.json keeps them, and those of earlier runs,
    and how many files of each kind were `passed_over` in them.

    Raises InputError where `out` holds masks of another engine, precision, threshold, test procedure or choice of
    regions, or of other files of the same names, or where the disk is full, EngineError where the engine fails. Rows of
    finished images are kept whatever ends the run.
    """
    values = (*engine.spec.classes, "lesion_area_fraction", "confidence", *engine.extra)
    folder = RunFolder(out, _identity(images, engine, options), values, images, overwrite=overwrite)
    record = {**_record(images, engine, out, options, sources), "passed_over": dict(passed_over)}
    tally = _Tally()
    try:
        folder.describe({**record, "status": "running"})
        # Closed before the engine is: until then threads may write to its slots.
        with closing(segment(images, engine, folder, options, trace)) as outcomes:
            for outcome in outcomes:
                folder.add(outcome)
                tally.add(outcome)
                on_outcome(outcome)
    except BaseException:
        with suppress(InputError):  # of two errors, the one that ended the run is told
            folder.finish({**record, "status": "interrupted", **tally.figures()})
        raise
    figures = tally.figures()
    folder.finish({**record, "status": "finished", **figures})
    return Summary(
        images=len(images),
        **figures,
        engine=engine.spec.name,
        device=engine.device,
        precision=engine.manifest.precision,
        tta=options.tta,
        out=str(out),
        passed_over=dict(passed_over),
        look_first=folder.least_sure(LOOK_FIRST),
    )


def _identity(images: Sequence[ImageFile], engine: Engine, options: SegmentOptions) -> dict[str, Any]:
    """What all masks of a folder share."""
    return {
        "engine_sha256": engine.manifest.sha256,
        "precision": engine.manifest.precision,  # not in the hash: an engine in bf16 has the same files as one in fp32
        "threshold": options.threshold,
        "tta": options.tta,
        "regions": options.regions,
        "names": "isic" if any(image.mask for image in images) else "images",
    }


def _record(
    images: Sequence[ImageFile], engine: Engine, out: Path, options: SegmentOptions, sources: Sequence[Path]
) -> dict[str, Any]:
    """What run.json says of a run besides its identity, as far as that is known when it starts."""
    manifest = engine.manifest
    earlier = read_run(out).get("sources", ())
    return {
        "lesioncli": __version__,
        "python": platform.python_version(),
        "model": engine.spec.name,
        "backend": f"{manifest.backend} {manifest.backend_version}",
        "device": engine.device,
        "batch": manifest.batch,
        "workers": options.workers,
        "sources": list(dict.fromkeys([*earlier, *(_seen_from(out, source) for source in sources)])),
        "images": len(images),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


class _Tally:
    """What a run has done since it was started."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._statuses: Counter[str] = Counter()
        self._cpu_seconds: Counter[str] = Counter()

    def add(self, outcome: Outcome) -> None:
        self._statuses[outcome.status] += 1
        self._cpu_seconds.update(outcome.seconds)

    def figures(self) -> dict[str, Any]:
        """Images by status, and seconds."""
        return {
            **{status: self._statuses[status] for status in (OK, FAILED, SKIPPED)},
            "seconds": round(time.monotonic() - self._started, 3),
            "cpu_seconds": {stage: round(self._cpu_seconds[stage], 3) for stage in ("decode", "write")},
        }


def _seen_from(folder: Path, source: Path) -> str:
    """A path from `folder`, which holds while the two are moved together; from the root, where another disk has it."""
    here, there = (
        os.path.realpath(folder),
        os.path.realpath(source),
    )  # ".." of a linked folder is not what it looks like
    try:
        return Path(os.path.relpath(there, here)).as_posix()
    except ValueError:
        return Path(there).as_posix()
