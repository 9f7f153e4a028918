"""Several engines as one: each sees every image, with slots and an input size of its own."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from typing import Any

from numpy.typing import NDArray

from lesioncli.backends.base import Cycle, Engine, Layout, Member, Span
from lesioncli.backends.manifest import StoredEngine
from lesioncli.backends.registry import open_engine
from lesioncli.errors import EngineError
from lesioncli.spec import ModelSpec

ENGINE_AGREEMENT = "engine_agreement"


def open_engines(
    engines: Sequence[StoredEngine],
    images_ahead: int,
    make_layout: Callable[[ModelSpec, int], Layout],
    traced: bool = False,
    gpu: int | None = None,
) -> Engine:
    """Open one engine, or several as an ensemble; the arguments are those of open_engine().

    Raises EngineError if an engine does not run on this machine, or if the engines cannot be combined.
    """
    if len(engines) == 1:
        return open_engine(engines[0], images_ahead, make_layout, traced, gpu)
    # The order in which they were named makes no difference.
    in_order = sorted(engines, key=lambda engine: (engine.manifest.spec.name, engine.manifest.sha256))
    _check_fit(in_order)
    with ExitStack() as opened:
        members = [
            opened.enter_context(open_engine(engine, images_ahead, make_layout, traced, gpu)) for engine in in_order
        ]
        ensemble = Ensemble(members)
        opened.pop_all()
    return ensemble


def _check_fit(engines: Sequence[StoredEngine]) -> None:
    """Raise EngineError if engines cannot be combined."""
    for first, second in pairwise(engines):
        manifest, other = first.manifest, second.manifest
        if (manifest.sha256, manifest.precision) == (other.sha256, other.precision):
            raise EngineError(f"{first.path} and {second.path} are the same engine; name different ones with --engine")
        if manifest.spec.classes != other.spec.classes:
            raise EngineError(f"{first.path} and {second.path} have different classes; name engines of the same ones")
        if manifest.batch != other.batch:
            raise EngineError(
                f"{first.path} and {second.path}: built for batches of {manifest.batch} and {other.batch}; build them"
                " with the same --batch"
            )


class Ensemble(Engine):
    """Open engines of the same classes and batch size. A cycle has the slots of its members, one after another.

    It owns its members, and `manifest` is that of the first one. The outputs of the members are combined elsewhere,
    because views have to be merged first.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = tuple(engines)
        layout = Layout(engines[0].layout.images, tuple(shape for one in engines for shape in one.layout.shapes))
        count = min(len(one.cycles) for one in engines)
        slots = [tuple(slot for one in engines for slot in one.cycles[number].slots) for number in range(count)]
        cycles = [Cycle(number, of_cycle) for number, of_cycle in enumerate(slots)]
        extra = dict.fromkeys(name for one in engines for name in one.extra)
        super().__init__(
            engines[0].manifest, layout, cycles, min(one.depth for one in engines), (*extra, ENGINE_AGREEMENT)
        )
        name = "+".join(one.spec.name for one in engines)
        self._spec = replace(engines[0].spec, name=name, calibration=None)  # that of one does not hold for a mean
        # The engine of each slot of a cycle, and the slot's number among those of the engine.
        self._places = [(one, slot) for one in engines for slot in range(len(one.layout.shapes))]

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def members(self) -> tuple[Member, ...]:
        members, start = [], 0
        for one in self._engines:
            end = start + len(one.layout.shapes)
            members.append(Member(one.manifest, one.layout, slice(start, end)))
            start = end
        return tuple(members)

    @property
    def device(self) -> str:
        return " and ".join(dict.fromkeys(one.device for one in self._engines))

    def _place(self, number: int) -> tuple[Engine, int]:
        """Return the engine of a slot, and the slot's number there."""
        cycle, slot = divmod(number, len(self._places))
        engine, own_slot = self._places[slot]
        return engine, cycle * len(engine.layout.shapes) + own_slot

    def _start(self, number: int) -> None:
        engine, own_number = self._place(number)
        engine._start(own_number)

    def _finish(self, number: int) -> dict[str, NDArray[Any]]:
        engine, own_number = self._place(number)
        return engine._finish(own_number)

    def _expected_outputs(self, number: int) -> dict[str, Any]:
        engine, own_number = self._place(number)
        return engine._expected_outputs(own_number)

    def _spans(self, number: int) -> Sequence[Span]:
        engine, own_number = self._place(number)
        return [replace(span, track=f"{engine.spec.name}: {span.track}") for span in engine._spans(own_number)]

    def close(self) -> None:
        with ExitStack() as closing:
            for one in self._engines:
                closing.callback(one.close)
