"""Options, manifests, folders and batches for tests of engines."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from helpers.graphs import TINY_SPEC
from helpers.pictures import UInt8
from lesioncli.backends.base import Batch, Cycle, Engine
from lesioncli.backends.manifest import Manifest, manifest_path, write_manifest
from lesioncli.options import Backend, BuildOptions, Precision

CPU = BuildOptions(backend=Backend.OPENVINO)
CPU_FP32 = BuildOptions(backend=Backend.OPENVINO, precision=Precision.FP32)


def fill_in_turn(engine: Engine, images: Sequence[UInt8]) -> Iterator[Batch]:
    """Yield batches of one-row images, filled as far ahead of the engine as it allows."""
    filled: deque[Batch] = deque()
    for start in range(0, len(images), engine.batch_size):
        group, cycle = images[start : start + engine.batch_size], engine.next_cycle()
        cycle.slots[0][: len(group)] = group
        filled.append(Batch(cycle, len(group)))
        if len(filled) == engine.prefetch:
            yield filled.popleft()
    yield from filled


def next_batch(engine: Engine, images: int = 1) -> Batch:
    """Return a batch of whatever the next cycle of an engine holds."""
    return Batch(engine.next_cycle(), images)


def slots_of(cycles: Sequence[Cycle]) -> list[UInt8]:
    """Return the slots of all cycles, in order."""
    return [slot for cycle in cycles for slot in cycle.slots]


def list_names(folder: Path) -> list[str]:
    """Return the names in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def write_empty_engine(folder: Path, name: str, backend: Backend = Backend.OPENVINO) -> Path:
    """Write the manifest of an engine without files; return its path."""
    path = manifest_path(folder, name, backend)
    write_manifest(path, make_manifest(name, backend))
    return path


def make_manifest(name: str = "tiny", backend: Backend = Backend.OPENVINO) -> Manifest:
    """Return the manifest of an fp32 engine without files."""
    return Manifest(
        spec=replace(TINY_SPEC, name=name),
        backend=backend,
        backend_version="1.2.3",
        precision_asked=Precision.FP32,
        precision=Precision.FP32,
        batch=1,
        device="a device",
        files={},
        source_sha256="0" * 64,
        parity=None,
        created="2026-01-01T00:00:00+00:00",
    )
