"""The interface of every engine: a compiled network with host memory to fill, used as a context manager."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from math import ceil
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from lesioncli.backends.manifest import Manifest
from lesioncli.errors import EngineError
from lesioncli.files import FORMULA_STARTS
from lesioncli.images.geometry import UInt8
from lesioncli.spec import ModelSpec


@dataclass(frozen=True)
class Layout:
    """The memory of one cycle: `images` images in slots of shape (rows, H, W).

    A cycle holds a batch of images of one row each or, with test-time augmentation, all views of one image.
    """

    images: int
    shapes: tuple[tuple[int, int, int], ...]

    @classmethod
    def for_batches(cls, spec: ModelSpec, batch: int) -> Self:
        """Return a layout of one slot: each image is one row of the network's input size."""
        return cls(batch, ((batch, spec.height, spec.width),))

    def allocate(self, min_slots: int, make: Callable[..., UInt8] = np.zeros) -> list["Cycle"]:
        """Return empty cycles with at least `min_slots` slots in total, made by `make(shape, dtype)`."""
        count = ceil(min_slots / len(self.shapes))
        return [Cycle(number, tuple(make((*shape, 3), np.uint8) for shape in self.shapes)) for number in range(count)]


@dataclass(frozen=True, eq=False)
class Cycle:
    """Host memory of the images of one cycle: a uint8 array (rows, H, W, 3) for each slot of the layout."""

    number: int
    slots: tuple[UInt8, ...]


@dataclass(frozen=True, eq=False)
class Batch:
    """A filled cycle: it holds `images` images, the rest is padding."""

    cycle: Cycle
    images: int


@dataclass(frozen=True)
class Member:
    """A member of an ensemble with its own views of an image, and its slots in a cycle."""

    manifest: Manifest
    layout: Layout
    slots: slice

    @property
    def spec(self) -> ModelSpec:
        """The model of this member."""
        return self.manifest.spec


@dataclass(frozen=True)
class Span:
    """Start and end of an activity in seconds of time.monotonic(); spans of one track do not overlap."""

    track: str
    start: float
    end: float


@dataclass(frozen=True, eq=False)
class Outputs:
    """Network outputs for N rows.

    probability: uint8 (N, H, W), lesion probability in 1/255. scores: float32 (N, K). extra: further outputs of the
    graph by name, float32 (N,).
    """

    probability: UInt8
    scores: NDArray[np.float32]
    extra: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    @cached_property
    def is_finite(self) -> NDArray[np.bool_]:
        """Return for each row (N,) whether its scores and further outputs are all finite."""
        values = np.column_stack([self.scores, *self.extra.values()])
        return np.asarray(np.isfinite(values).all(axis=1))


@dataclass(frozen=True, eq=False)
class Prediction:
    """The outputs of one batch, for each slot of its cycle and without padding; the arrays belong to the caller.

    spans: the activity of the device, if the engine was opened with tracing.
    """

    batch: Batch
    slots: tuple[Outputs, ...]
    spans: tuple[Span, ...] = ()


class EngineFacts(Protocol):
    """What a run records about its engine; an open Engine has it, and so has what another process tells about one."""

    @property
    def spec(self) -> ModelSpec: ...
    @property
    def members(self) -> Sequence[Member]: ...
    @property
    def extra(self) -> Sequence[str]: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def device(self) -> str: ...


class Engine(ABC):
    """A compiled network with a ring of cycles in host memory, used as a context manager by one thread.

    The device reads the slots of a cycle directly, so a cycle must not be written from the moment stream() takes it
    until its prediction is yielded. next_cycle() hands out the cycles in turn; a caller may hold up to `prefetch`
    cycles that stream() has not taken yet. stream() runs up to `depth` slots at the same time.
    `extra` names the outputs of the graph beyond mask and scores; EngineError if a name begins like a formula.
    `calls` counts beginnings and ends of calls of the vendor's library: it is odd during a call.
    """

    def __init__(
        self, manifest: Manifest, layout: Layout, cycles: Sequence[Cycle], depth: int, outputs: Sequence[str]
    ) -> None:
        self.manifest = manifest
        self.layout = layout
        self.cycles = cycles
        self.depth = depth
        self.extra = tuple(name for name in outputs if name not in ("mask", "scores"))
        if formulas := [name for name in self.extra if name.startswith(FORMULA_STARTS)]:
            raise EngineError(
                f"{manifest.stem}: output {formulas[0]!r} would be a column that spreadsheets take for a formula;"
                " rename the output of the graph, then run lesioncli build-engine"
            )
        self._slots = [slot for cycle in cycles for slot in cycle.slots]
        self._next_cycle = 0
        self.calls = 0
        if self.prefetch < 1:
            raise ValueError(f"{len(self._slots)} slots are too few to fill a cycle while {depth} slots run")

    @property
    def spec(self) -> ModelSpec:
        return self.manifest.spec

    @property
    def members(self) -> tuple[Member, ...]:
        """Return the members of an ensemble; of any other engine, itself."""
        return (Member(self.manifest, self.layout, slice(None)),)

    @property
    def batch_size(self) -> int:
        return self.manifest.batch

    @property
    def prefetch(self) -> int:
        """Return the number of cycles that a caller may fill before stream() takes the first of them."""
        return (1 + len(self._slots) - self.depth) // len(self.layout.shapes)

    def next_cycle(self) -> Cycle:
        """Return the next cycle to fill; it is free if the caller holds no more than `prefetch` cycles."""
        cycle = self.cycles[self._next_cycle]
        self._next_cycle = (self._next_cycle + 1) % len(self.cycles)
        return cycle

    def stream(self, batches: Iterable[Batch]) -> Generator[Prediction, None, None]:
        """Run batches through the network, several slots at the same time; yield predictions in order.

        Raises EngineError if an output does not have the shape and type of the graph contract.
        """
        running: deque[tuple[Batch, int]] = deque()
        try:
            finished = self._run(batches, running)
            while slots := list(islice(finished, len(self.layout.shapes))):
                spans = tuple(span for slot in slots for span in slot.spans)
                yield Prediction(slots[0].batch, tuple(slot.outputs for slot in slots), spans)
        finally:  # a caller that stops early leaves no slot in use
            for _, number in running:
                with self._calling():
                    self._finish(number)

    def _run(self, batches: Iterable[Batch], running: deque[tuple[Batch, int]]) -> Iterator["_FinishedSlot"]:
        """Start slot after slot, keep up to `depth` of them in `running`, and yield them finished and in order."""
        length = len(self.layout.shapes)
        for batch in batches:
            for number in range(batch.cycle.number * length, (batch.cycle.number + 1) * length):
                with self._calling():
                    self._start(number)
                running.append((batch, number))
                if len(running) == self.depth:
                    yield self._collect(*running.popleft())
        while running:
            yield self._collect(*running.popleft())

    def _collect(self, batch: Batch, number: int) -> "_FinishedSlot":
        with self._calling():
            arrays = self._finish(number)
        for name, (shape, dtype) in self._expected_outputs(number).items():
            array = arrays.get(name)
            if array is None or array.shape != shape or array.dtype != dtype:
                actual = "missing" if array is None else f"{array.dtype} {array.shape}"
                raise EngineError(
                    f"{self.manifest.stem}: output {name!r} is {actual}, not {np.dtype(dtype)} {shape};"
                    " run lesioncli build-engine"
                )
        rows = len(self._slots[number]) // self.layout.images * batch.images
        # Copies, because the next batch overwrites the engine's own output memory.
        copies = {name: array[:rows].copy() for name, array in arrays.items()}
        outputs = Outputs(copies.pop("mask"), copies.pop("scores"), copies)
        return _FinishedSlot(batch, outputs, self._spans(number))

    def _expected_outputs(self, number: int) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
        rows, height, width, _ = self._slots[number].shape
        return {
            "mask": ((rows, height, width), np.uint8),
            "scores": ((rows, len(self.spec.classes)), np.float32),
            **dict.fromkeys(self.extra, ((rows,), np.float32)),
        }

    @contextmanager
    def _calling(self) -> Iterator[None]:
        self.calls += 1
        try:
            yield
        finally:
            self.calls += 1

    @property
    @abstractmethod
    def device(self) -> str:
        """Return the device that runs the engine; the manifest has the one that it was built on or for."""

    @abstractmethod
    def _start(self, number: int) -> None:
        """Start the inference of a slot and return at once."""

    @abstractmethod
    def _finish(self, number: int) -> dict[str, NDArray[Any]]:
        """Wait for a slot and return its outputs by name: all rows, in memory that the engine may use again."""

    def _spans(self, number: int) -> Sequence[Span]:
        """Return the activity of the device for the slot that finished last, if the engine traces."""
        return ()

    @abstractmethod
    def close(self) -> None:
        """Release the device; the cycles are invalid afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._calling():
            self.close()


@dataclass(frozen=True, eq=False)
class _FinishedSlot:
    batch: Batch
    outputs: Outputs
    spans: Sequence[Span]


def predict_all(engine: Engine, images: Sequence[UInt8]) -> Outputs:
    """Run network-sized images (H, W, 3) through an engine with Layout.for_batches(), and close it."""
    with engine:
        return predict(engine, images)


def predict(engine: Engine, images: Sequence[UInt8]) -> Outputs:
    """Run network-sized images (H, W, 3) through an engine with Layout.for_batches()."""

    def batches() -> Iterator[Batch]:
        for start in range(0, len(images), engine.layout.images):
            group, cycle = images[start : start + engine.layout.images], engine.next_cycle()
            for row, image in zip(cycle.slots[0], group, strict=False):
                row[:] = image
            yield Batch(cycle, len(group))

    outputs = [prediction.slots[0] for prediction in engine.stream(batches())]
    extra = {name: np.concatenate([part.extra[name] for part in outputs]) for name in engine.extra}
    return Outputs(
        np.concatenate([part.probability for part in outputs]),
        np.concatenate([part.scores for part in outputs]),
        extra,
    )
