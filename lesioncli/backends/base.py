"""What every engine is, has beside it, and has checked for it.

An engine is a few files and a manifest. The manifest is read and the files' hashes are compared before a vendor library
sees a byte: an engine can be native code.
"""

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lesioncli.errors import EngineError, InputError
from lesioncli.files import atomic_write, sha256_of
from lesioncli.spec import ModelSpec

UInt8 = NDArray[np.uint8]
MANIFEST_FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """The JSON beside an engine. `files` maps each file's name to its sha256.

    `targets` are the compute capabilities that a plan is for, as in sm86; a CPU engine has none. `gated` says what the
    parity figures are of: the "engine", or only the "graph" it was compiled of, where the engine could not be run; then
    `verified` has the figures of each GPU that it has run on since. `dynamic`: it takes batches of one image up to
    `batch`.
    """

    spec: ModelSpec
    backend: str
    backend_version: str
    precision_asked: str
    precision: str
    batch: int
    device: str
    files: Mapping[str, str]
    source_sha256: str
    parity: Mapping[str, float]
    created: str
    targets: Sequence[str] = ()
    gated: str = "engine"
    dynamic: bool = False
    verified: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    format: int = MANIFEST_FORMAT

    @property
    def stem(self) -> str:
        """What the names of the engine's files begin with."""
        return f"{self.spec.name}.{self.backend}"

    @property
    def sha256(self) -> str:
        """One hash for the whole engine, whatever the number of its files."""
        return hashlib.sha256("".join(self.files[name] for name in sorted(self.files)).encode()).hexdigest()

    def write(self, path: Path) -> None:
        with atomic_write(path) as aside:
            aside.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check a manifest and the files it names; EngineError says what is wrong and how to rebuild."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["format"] != MANIFEST_FORMAT:
                raise EngineError(f"{path}: manifest format {values['format']}, this version reads {MANIFEST_FORMAT}")
            values["spec"] = ModelSpec.from_json(json.dumps(values["spec"]), path)
            manifest = cls(**{**values, "targets": tuple(values.get("targets", ()))})
            if type(manifest.batch) is not int or manifest.batch < 1:
                raise ValueError(f"batch {manifest.batch!r} is not a positive number")
            manifest._check_files(path)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, InputError) as error:
            raise EngineError(f"{path}: not a readable manifest ({error}); run: lesioncli build-engine") from error
        return manifest

    def _check_files(self, path: Path) -> None:
        again = f"lesioncli build-engine --backend {self.backend}"
        for name, expected in self.files.items():
            if Path(name).name != name:
                raise EngineError(f"{path}: names a file outside its folder: {name!r}")
            if not (path.parent / name).is_file():
                raise EngineError(f"{path}: {name} is missing; run: {again}")
            if sha256_of(path.parent / name) != expected:
                raise EngineError(
                    f"{path.parent / name}: does not match its manifest's sha256, so it is not loaded; run: {again}"
                )


@dataclass(frozen=True)
class Layout:
    """One cycle of an engine's ring: `images` pictures in slots of these shapes, (rows, H, W) each."""

    images: int
    shapes: tuple[tuple[int, int, int], ...]

    @classmethod
    def of_batches(cls, spec: ModelSpec, batch: int) -> Self:
        """A cycle of one slot: every picture is one row of the network's own size."""
        return cls(batch, ((batch, spec.height, spec.width),))

    def make_ring(self, least: int, make: Callable[..., UInt8] = np.zeros) -> list[UInt8]:
        """Empty slots (rows, H, W, 3), each from `make(shape, dtype)`: whole cycles, `least` slots or more together."""
        cycles = ceil(least / len(self.shapes))
        return [make((*shape, 3), np.uint8) for _ in range(cycles) for shape in self.shapes]


@dataclass(frozen=True)
class Batch:
    """A filled slot: its first `count` rows hold images, the rest is padding."""

    slot: int
    count: int


@dataclass(frozen=True)
class Span:
    """When something was done, in seconds of time.monotonic(); spans of one track do not overlap."""

    track: str
    start: float
    end: float


@dataclass(frozen=True)
class Prediction:
    """What came out for one batch; the arrays belong to the caller.

    mask: uint8 (count, H, W), of its slot's size, lesion probability in 1/255. scores: float32 (count, K). extra:
    further outputs of the graph, float32 (count,) each. finite: bool (count,), False where a score or extra is nan or
    infinite. spans: what the device did for it and when, of an engine that was asked to tell.
    """

    batch: Batch
    mask: UInt8
    scores: NDArray[np.float32]
    extra: Mapping[str, NDArray[np.float32]]
    finite: NDArray[np.bool_]
    spans: Sequence[Span] = ()


class Engine(ABC):
    """A compiled network with slots of host memory to fill, used as a context manager by one thread.

    `slots` are a ring of uint8 arrays in memory that the device reads directly: whole cycles of `layout`, (rows, H, W,
    3) each. While a batch of slot s is on its way through stream(), s must not be written; it is free again once its
    Prediction was yielded. stream() has at most `depth` batches on their way, so a caller that fills the slots in turn
    may fill `ahead` slots beyond the one it hands over. `extra` names the graph's outputs beyond mask and scores.
    """

    def __init__(
        self, manifest: Manifest, layout: Layout, slots: Sequence[UInt8], depth: int, outputs: Sequence[str]
    ) -> None:
        self.manifest = manifest
        self.layout = layout
        self.slots = slots
        self.depth = depth
        self.extra = tuple(name for name in outputs if name not in ("mask", "scores"))

    @property
    def spec(self) -> ModelSpec:
        return self.manifest.spec

    @property
    def batch_size(self) -> int:
        return self.manifest.batch

    @property
    def ahead(self) -> int:
        return len(self.slots) - self.depth

    def stream(self, batches: Iterable[Batch]) -> Generator[Prediction, None, None]:
        """Run filled slots through the network, several in flight; yields in order. EngineError on wrong outputs."""
        on_the_way: deque[Batch] = deque()
        try:
            for batch in batches:
                self._start(batch.slot)
                on_the_way.append(batch)
                if len(on_the_way) == self.depth:
                    yield self._collect(on_the_way.popleft())
            while on_the_way:
                yield self._collect(on_the_way.popleft())
        finally:  # a caller that stops early leaves no slot in use
            for batch in on_the_way:
                self._finish(batch.slot)

    def _collect(self, batch: Batch) -> Prediction:
        outputs = self._finish(batch.slot)
        for name, (shape, dtype) in self._expected_outputs(batch.slot).items():
            found = outputs.get(name)
            if found is None or found.shape != shape or found.dtype != dtype:
                got = "missing" if found is None else f"{found.dtype} {found.shape}"
                raise EngineError(f"output {name!r} is {got}, not {np.dtype(dtype)} {shape}; build the engine again")
        # Copies: an engine's own output memory is written again by the next batch.
        copies = {name: array[: batch.count].copy() for name, array in outputs.items()}
        mask, scores = copies.pop("mask"), copies.pop("scores")
        finite = np.isfinite(np.column_stack([scores, *copies.values()])).all(1)
        return Prediction(batch, mask, scores, copies, finite, self._spans(batch.slot))

    def _expected_outputs(self, slot: int) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
        rows, height, width, _ = self.slots[slot].shape
        return {
            "mask": ((rows, height, width), np.uint8),
            "scores": ((rows, len(self.spec.classes)), np.float32),
            **dict.fromkeys(self.extra, ((rows,), np.float32)),
        }

    @property
    @abstractmethod
    def device(self) -> str:
        """What it really runs on; the manifest's is what it was built on or for."""

    @abstractmethod
    def _start(self, slot: int) -> None:
        """Send a slot on its way; does not wait."""

    @abstractmethod
    def _finish(self, slot: int) -> dict[str, NDArray[Any]]:
        """Wait for that slot; its outputs by name, whole batch, in memory that may be used again."""

    def _spans(self, slot: int) -> Sequence[Span]:
        """What the device did for a slot that was just finished, where it was asked to tell."""
        return ()

    @abstractmethod
    def close(self) -> None:
        """Release the device; slots are invalid afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
