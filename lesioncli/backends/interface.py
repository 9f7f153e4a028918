"""What a backend provides: a compiler, a check whether an engine runs on this machine, and a way to open engines."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from lesioncli.backends.base import Engine, Layout
from lesioncli.backends.manifest import Incompatibility, Manifest, ParityCheck, StoredEngine
from lesioncli.images.geometry import UInt8
from lesioncli.options import Backend, BuildOptions, Decision, Precision

OnProgress = Callable[[str, int, int], None]  # (phase, step, number of steps), called from any thread
PARITY_AHEAD_SLOTS = 2  # of the engines that a parity check opens: its speed does not matter


def ignore_progress(phase: str, step: int, steps: int) -> None:
    """Report nothing."""


class Compiler(Protocol):
    """Compiles a graph, and opens what is compared with the reference graph before an engine is written.

    `parity_check` is ParityCheck.GRAPH if the compiled engine cannot run on this machine.
    """

    @property
    def backend(self) -> Backend: ...
    @property
    def version(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def targets(self) -> Sequence[str]: ...
    @property
    def parity_check(self) -> ParityCheck: ...
    @property
    def dynamic(self) -> bool: ...
    @property
    def is_measured(self) -> bool: ...

    def list_precisions(self, asked: Precision) -> Sequence[Decision[Precision]]:
        """Return the precisions to try in turn; EngineError if the backend or this machine lacks the one asked for.

        With `is_measured`, the fastest one of those that pass the parity check is taken, otherwise the first.
        """
        ...

    def open_for_parity(self, onnx: Path, manifest: Manifest, images: Sequence[UInt8], work: Path) -> Engine:
        """Open what the parity check runs, in the precision of the manifest; temporary files go to `work`.

        images: of the network's size, for precisions that need the ranges of feature maps.
        """
        ...

    def compile(self, onnx: Path, manifest: Manifest, images: Sequence[UInt8], work: Path) -> Sequence[Path]:
        """Write the files of the engine to `work` and return their paths; EngineError if the graph does not compile."""
        ...


class BackendImplementation(Protocol):
    """The code of a backend; it is imported only when it is needed."""

    def open_compiler(self, options: BuildOptions, timings: Path | None, on_progress: OnProgress) -> Compiler:
        """Return a compiler; a backend that measures keeps its measurements in the folder `timings`.

        Raises EngineError if this machine cannot compile.
        """
        ...

    def find_problem(self, engine: StoredEngine) -> Incompatibility | None:
        """Return why an engine does not run on this machine; None if it does."""
        ...

    def find_gpus(self, manifest: Manifest) -> Mapping[int, str]:
        """Return the number and the name of each GPU of this machine that would run an engine; none for the CPU's."""
        ...

    def open_engine(
        self, engine: StoredEngine, ahead: int, layout: Layout, traced: bool, gpu: int | None = None
    ) -> Engine:
        """Open an engine with `ahead` slots more than it runs at the same time; a `traced` engine reports spans.

        `gpu` is one of find_gpus(); None is the first of them.
        """
        ...
