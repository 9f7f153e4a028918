"""The record of a run (run.json), and the summary that a run returns."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from lesioncli.calibration import NO_CALIBRATION, Calibration
from lesioncli.errors import InputError
from lesioncli.files import atomic_write
from lesioncli.images.ignored import RUN_RECORD
from lesioncli.options import TTA, Regions
from lesioncli.sharding import find_parts, find_shards, shard_folder

RUN_FORMAT = 1


class RunStatus(StrEnum):
    """State of a run; a killed one stays `running`."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"


class MaskNames(StrEnum):
    """Naming of masks: after their images, or `ISIC_0012345_segmentation`."""

    IMAGES = "images"
    ISIC = "isic"


# Values of keys that a run.json of an early version does not have.
LEGACY_DEFAULTS = {"tta": TTA.NONE, "names": MaskNames.IMAGES, "regions": Regions.ALL}


class RunIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What all masks of an output folder share; None where run.json does not record it.

    `precision` is part of it because the files of an engine, and so their hash, are the same in bf16 and fp32.
    `calibration` is an identifier, NO_CALIBRATION if the values of scores.csv are raw.
    """

    engine_sha256: str | None = None
    precision: str | None = None
    threshold: float | None = None
    tta: TTA | None = None
    regions: Regions | None = None
    names: MaskNames | None = None
    calibration: str = NO_CALIBRATION
    mm_per_pixel: float | None = None


class EngineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One engine of an ensemble."""

    model: str
    engine_sha256: str
    precision: str
    backend: str


class RunRecord(RunIdentity, frozen=True, kw_only=True):
    """The content of run.json; None where it is not recorded.

    classes: names of the columns of scores.csv that are class scores. sources: files and folders of the images of all
    runs, relative to the output folder. ignored: files in them that are not images, by kind. ok, failed, skipped,
    seconds and cpu_seconds (by stage) are those of the latest run. calibration_maps: the calibration in full.
    probabilities: any run wrote probability maps. crops: margin of the cut-outs of any run, in per cent. roots: folders
    of all runs that names of images are relative to, relative to the output folder. unreadable: folders that the latest
    run could not list. failures: reason by image, of a latest run that accepted some. engines: those of an ensemble,
    of which model, precision, backend and device are joined. shard: of the record of a shard, as in 2/8; listed and
    listing_sha256 are then the number and the hash of the names of the images of all shards. processes: number of
    processes that shared the images, None if there was one; lost: why some of them were lost.
    """

    format: int = RUN_FORMAT
    classes: tuple[str, ...] | None = None
    lesioncli: str | None = None
    python: str | None = None
    model: str | None = None
    backend: str | None = None
    device: str | None = None
    batch: int | None = None
    workers: int | None = None
    sources: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    images: int | None = None
    started: str | None = None
    # Keys of run.json and of --json are kept from the first version.
    ignored: dict[str, int] = msgspec.field(default_factory=dict, name="passed_over")
    status: RunStatus | None = None
    ok: int | None = None
    failed: int | None = None
    skipped: int | None = None
    seconds: float | None = None
    cpu_seconds: dict[str, float] | None = None
    failures: dict[str, str] | None = None
    calibration_maps: Calibration | None = None
    probabilities: bool | None = None
    crops: float | None = None
    engines: tuple[EngineRecord, ...] | None = None
    shard: str | None = None
    listed: int | None = None
    listing_sha256: str | None = None
    processes: int | None = None
    lost: tuple[str, ...] | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """The recorded values of RunIdentity."""
        return {name: getattr(self, name) for name in RunIdentity.__struct_fields__}

    def describe_interruption(self, known: int) -> str:
        """Return what the latest run left undone, given the number of images with a result; "" if it finished."""
        images = self.images or 0
        if known < images:
            return f"interrupted: {known} of {images} images"
        is_unfinished = self.status in (RunStatus.RUNNING, RunStatus.INTERRUPTED)
        return "interrupted: the latest run into this folder did not finish" if is_unfinished else ""

    def to_dict(self) -> dict[str, Any]:
        """Return the recorded values by their keys in run.json."""
        later = ("roots", "unreadable")  # keys that are left out if they are empty
        content = msgspec.to_builtins(self).items()
        return {key: value for key, value in content if value is not None and (value or key not in later)}


def read_record(folder: Path) -> RunRecord:
    """Read run.json of an output folder; a missing or unreadable one gives a record without values.

    Raises InputError if a later version of lesioncli wrote it.
    """
    path = folder / RUN_RECORD
    try:
        record = msgspec.convert({**LEGACY_DEFAULTS, **json.loads(path.read_text(encoding="utf-8"))}, RunRecord)
    except (OSError, ValueError, TypeError, RecursionError):  # msgspec.ValidationError is a ValueError
        return RunRecord()
    if record.format > RUN_FORMAT:
        raise InputError(f"{path}: has format {record.format}, this version reads {RUN_FORMAT}; update lesioncli")
    return record


def read_joint_record(out: Path) -> RunRecord:
    """Read run.json of an output folder; of one with shards that are not merged, the values that all of them share."""
    first, *others = [read_record(part) for part in find_parts(out) if (part / RUN_RECORD).exists()] or [RunRecord()]
    values = {name: getattr(first, name) for name in RunRecord.__struct_fields__}
    return RunRecord(
        **{name: value for name, value in values.items() if all(getattr(other, name) == value for other in others)}
    )


def describe_shards(out: Path) -> str:
    """Return how far the shards of an output folder are that are not merged; "" if there are none."""
    shards = find_shards(out)
    if not shards:
        return ""
    finished = sum(read_record(shard_folder(out, shard)).status == RunStatus.FINISHED for shard in shards)
    return f"shards are not merged: finished {finished} of {shards[-1].count}"


def write_record(folder: Path, record: RunRecord) -> None:
    """Write run.json. Raises OSError."""
    with atomic_write(folder / RUN_RECORD) as temporary:
        temporary.write_text(json.dumps(record.to_dict(), indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class ImageConfidence:
    """The confidence of one image's mask; `image` is its name in scores.csv."""

    image: str
    confidence: float


@dataclass(frozen=True)
class RunSummary:
    """Summary of a run: images by status, wall seconds, CPU seconds by stage, and the engine.

    ignored: number of files that are not images, by kind. least_confident: the images in the output folder whose masks
    have the lowest confidence, the lowest first. unreadable: folders whose images could not be listed. changed: number
    of images that were segmented before and have changed since. gone, pruned: number of rows whose image is gone, and
    that are marked so or were removed.
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
    tta: TTA
    out: str
    ignored: Mapping[str, int]
    least_confident: Sequence[ImageConfidence]
    unreadable: Sequence[str] = ()
    changed: int = 0
    gone: int = 0
    pruned: int = 0

    @property
    def remaining(self) -> int:
        """Number of images that a run which was stopped did not come to."""
        return self.images - self.ok - self.failed - self.skipped

    @property
    def images_per_second(self) -> float:
        """Images per second, without the skipped ones."""
        return (self.ok + self.failed) / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the values by the keys of `segment --json`."""
        return {
            **{name: getattr(self, name) for name in ("images", "ok", "failed", "skipped", "seconds")},
            "cpu_seconds": dict(self.cpu_seconds),
            **{name: getattr(self, name) for name in ("engine", "device", "precision", "tta", "out")},
            "passed_over": dict(self.ignored),
            "unreadable": list(self.unreadable),
            **{name: getattr(self, name) for name in ("changed", "gone", "pruned")},
            "look_first": [[lowest.image, lowest.confidence] for lowest in self.least_confident],
            "images_per_second": round(self.images_per_second, 2),
        }
