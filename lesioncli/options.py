"""The choices a user makes: enums, whose values are the words of the command line and of all files, and dataclasses."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from lesioncli.urls import Place, StrPlace

T = TypeVar("T")


@dataclass(frozen=True)
class Decision(Generic[T]):
    """What the program chose by itself, and the reason it prints."""

    value: T
    reason: str


class Backend(StrEnum):
    """Libraries that run an engine. `auto` is resolved before an engine is built or opened."""

    AUTO = "auto"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


class Precision(StrEnum):
    """Arithmetic of an engine: bf16 and int8 on CPUs, fp16 on NVIDIA GPUs."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"


class TTA(StrEnum):
    """Test-time augmentation: one view, four flips, or the 27 passes of MB-DCNN's test procedure."""

    NONE = "none"
    FLIPS = "flips"
    FULL = "full"


class Regions(StrEnum):
    """Connected regions that a mask keeps."""

    LARGEST = "largest"
    ALL = "all"


class MaskStorage(StrEnum):
    """How `segment` stores masks: each in a file, or in tar archives."""

    FILES = "files"
    TAR = "tar"


class TableFormat(StrEnum):
    """How tables are printed: for a terminal, or to be pasted into a document."""

    TEXT = "text"
    MARKDOWN = "markdown"
    LATEX = "latex"


class ProtocolName(StrEnum):
    """Evaluation rules."""

    PLAIN = "plain"
    ISIC2017 = "isic2017"
    ISIC2018 = "isic2018"
    PH2 = "ph2"


class Challenge(StrEnum):
    """Challenges that `submission` writes files for."""

    ISIC2017 = "isic2017"
    ISIC2018 = "isic2018"


class ExportFormat(StrEnum):
    """Formats that `export` writes."""

    COCO = "coco"
    COCO_POLYGONS = "coco-polygons"
    GEOJSON = "geojson"
    LABELME = "labelme"
    PARQUET = "parquet"
    TAR = "tar"


class TrainingDevice(StrEnum):
    """Where `train` computes."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Status(StrEnum):
    """Outcome of one image: `skipped` was finished by an earlier run."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


class FailureStage(StrEnum):
    """Where an image failed."""

    DECODE = "decode"
    NETWORK = "network"
    WRITE = "write"


MIN_THRESHOLD = 0.004  # the smallest that is above 0 in steps of 1/255


def _convert(options: object, **types: Callable[[Any], Any]) -> None:
    """Convert fields of a frozen dataclass that are not None: strings to enums and paths; ValueError if not valid."""
    for name, convert in types.items():
        value = getattr(options, name)
        if value is not None:
            object.__setattr__(options, name, convert(value))


def _to_place(value: "StrPlace") -> "Place":
    from lesioncli.urls import parse_place  # its errors import this module

    return parse_place(value)


def _to_tuple(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


@dataclass(frozen=True)
class BuildOptions:
    """Options of `build-engine`; None takes the recipe's value, else the compiler's default.

    `images` is a folder of images for the parity check. The last four are for NVIDIA's compilers only.
    """

    backend: Backend = Backend.AUTO
    precision: Precision | None = None
    batch: int | None = None
    name: str | None = None
    images: Path | None = None
    targets: tuple[str, ...] = ()
    dynamic: bool = False
    workspace_mib: int | None = None
    optimization_level: int | None = None

    def __post_init__(self) -> None:
        _convert(self, backend=Backend, precision=Precision, images=Path, targets=_to_tuple)


@dataclass(frozen=True)
class FailureLimit:
    """The largest number of failed images that a run accepts: `value` images, or per cent of all images."""

    value: float
    is_percent: bool = False

    @classmethod
    def parse(cls, text: str) -> "FailureLimit":
        """Read `N` or `P%`; ValueError for anything else."""
        number = text.strip().removesuffix("%")
        is_percent = number != text.strip()
        value = float(number) if is_percent else int(number)
        if not 0 <= value <= (100 if is_percent else value):
            raise ValueError(f"{text} is out of range")
        return cls(value, is_percent)

    def is_exceeded(self, failed: int, images: int) -> bool:
        """Return whether `failed` of all `images` are too many."""
        return failed > (self.value / 100 * images if self.is_percent else self.value)


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of the images of a run, numbered from 1. Raises ValueError if there is no such part."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ValueError(f"{self} is not a shard; name one as in 2/8, from 1/8 to 8/8")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read `K/N`; ValueError for anything else."""
        index, _, count = text.partition("/")
        if not all(number.isascii() and number.isdecimal() for number in (index, count)):
            raise ValueError(f"{text!r} is not a shard such as 2/8, or auto")
        return cls(int(index), int(count))


@dataclass(frozen=True)
class ProcessOptions:
    """The processes that share the images of a run.

    count: number of processes; None is one per device, or what the cores of a Ray cluster allow. devices: numbers of
    GPUs; () is all that the engine was built for, None the first of them. ray: address of a Ray cluster, RAY_AUTO for
    the one that this machine belongs to, RAY_LOCAL for one of this machine alone; None is no cluster.

    Raises ValueError if the values contradict each other.
    """

    count: int | None = None
    devices: tuple[int, ...] | None = None
    ray: str | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ValueError(f"{self.count} processes cannot segment images; at least 1 can")
        if self.ray is not None and self.devices is not None:
            raise ValueError("Ray chooses the GPUs of its workers; leave out the devices")
        if self.devices and len(set(self.devices)) < len(self.devices):
            raise ValueError(f"devices {', '.join(map(str, self.devices))} name one twice")


RAY_AUTO, RAY_LOCAL = "auto", "local"


@dataclass(frozen=True)
class SegmentOptions:
    """Options of `segment` that do not depend on the engine.

    `threshold` is the minimum lesion probability of a pixel of the mask. `workers` 0: one thread per core. `verify`:
    check the parity of an engine that never ran on this GPU. `trace`: JSON file for a timeline of the run.
    `save_probabilities`: also write the lesion probability of every pixel.
    `max_memory_mib`: memory of images in work; None is half of what is free. `root`: folder that the names of images
    are relative to; None is the deepest one that holds all images given. `max_failures`: the run ends early when more
    images have failed. `mm_per_pixel`: side of a pixel in millimetres, in place of that in a file. `crops`: also write
    lesion cut-outs with a margin of so many per cent. `check_inputs`: compare the content of images that are done, and
    of those of a list, not only size and time. `prune`: remove rows and masks of images that are gone. `image_list`:
    file that lists the images, "-" for the standard input. `shard`: part of the images that this run has, see
    sharding.py. `retry_failed`: segment only images that an earlier run failed on. `log`, `metrics`: files for
    other programs that watch the run, see monitoring.py. `engine_timeout_s`: the process ends with exit code 4 if one
    call of the engine takes longer; None is no limit. `processes`: share the images among several processes;
    `workers` are then threads of each, 0 for an equal share of the cores. `masks`: each in a file, or in archives.
    """

    threshold: float = 0.5
    workers: int = 0
    overlay: bool = False
    tta: TTA = TTA.NONE
    regions: Regions = Regions.LARGEST
    isic_names: bool = False
    overwrite: bool = False
    verify: bool = True
    trace: Path | None = None
    save_probabilities: bool = False
    max_memory_mib: int | None = None
    root: "Place | None" = None
    max_failures: FailureLimit | None = None
    mm_per_pixel: float | None = None
    crops: float | None = None
    check_inputs: bool = False
    prune: bool = False
    image_list: Path | None = None
    retry_failed: bool = False
    shard: Shard | None = None
    log: Path | None = None
    metrics: Path | None = None
    engine_timeout_s: float | None = None
    processes: ProcessOptions | None = None
    masks: MaskStorage = MaskStorage.FILES

    @property
    def max_memory_bytes(self) -> int | None:
        """The same in bytes."""
        return None if self.max_memory_mib is None else self.max_memory_mib * 2**20

    def __post_init__(self) -> None:
        paths = dict.fromkeys(("trace", "image_list", "log", "metrics"), Path)
        _convert(self, tta=TTA, regions=Regions, masks=MaskStorage, root=_to_place, **paths)
        if not MIN_THRESHOLD <= self.threshold <= 1:
            raise ValueError(f"threshold {self.threshold} is not between {MIN_THRESHOLD} and 1")
        if self.mm_per_pixel is not None and not 0 < self.mm_per_pixel < math.inf:
            raise ValueError(f"mm_per_pixel {self.mm_per_pixel} is not a positive number")
        if self.crops is not None and not 0 <= self.crops < math.inf:
            raise ValueError(f"crops {self.crops} is not a margin in per cent")
        if self.engine_timeout_s is not None and not self.engine_timeout_s > 0:
            raise ValueError(f"engine_timeout_s {self.engine_timeout_s} is not a positive number of seconds")
        if self.trace and self.processes:
            raise ValueError("a trace is of one process; leave out the other processes, or the trace")
        if self.retry_failed and self.overwrite:
            raise ValueError("overwrite would remove the rows of the images that retry_failed is for")


@dataclass(frozen=True)
class CalibrationOptions:
    """Options of `calibrate`.

    `name` is that of the calibrated engine, by default that of the engine with `-calibrated`. `labels`, `cluster`,
    `metadata`, `workers` and `seed` are those of EvaluationOptions. `export`: file to write the calibration to, too.
    """

    name: str | None = None
    labels: Path | None = None
    cluster: str = ""
    metadata: Path | None = None
    export: Path | None = None
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        _convert(self, **dict.fromkeys(("labels", "metadata", "export"), Path))


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of `evaluate`.

    `labels` and `scores` are CSV files that replace those found beside the masks. `compare` is a second folder of
    predictions or a CSV of scores. `by` names the columns that define groups, `cluster` the column whose values are
    resampled as a whole; both are read from `metadata` or from the labels. A score above `score_threshold` counts as
    positive, except in official figures. `workers` 0: one thread per core.
    """

    protocol: ProtocolName = ProtocolName.PLAIN
    labels: Path | None = None
    scores: Path | None = None
    distances: bool = False
    compare: Path | None = None
    by: tuple[str, ...] = ()
    cluster: str = ""
    metadata: Path | None = None
    score_threshold: float = 0.5
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        paths = dict.fromkeys(("labels", "scores", "compare", "metadata"), Path)
        _convert(self, protocol=ProtocolName, by=_to_tuple, **paths)
