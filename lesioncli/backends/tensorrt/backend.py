"""The two NVIDIA backends, see interface.BackendImplementation."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lesioncli.backends.base import Engine, Layout
from lesioncli.backends.interface import Compiler, OnProgress
from lesioncli.backends.manifest import Incompatibility, Manifest, StoredEngine
from lesioncli.backends.tensorrt import vendors
from lesioncli.options import BuildOptions


@dataclass(frozen=True)
class PlanBackend:
    """Builds and runs the plans of one vendor's library."""

    vendor: vendors.Vendor

    def open_compiler(self, options: BuildOptions, timings: Path | None, on_progress: OnProgress) -> Compiler:
        from lesioncli.backends.tensorrt.compile import open_compiler

        return open_compiler(self.vendor, options, timings, on_progress)

    def find_problem(self, engine: StoredEngine) -> Incompatibility | None:
        return vendors.find_problem(engine)

    def find_gpus(self, manifest: Manifest) -> Mapping[int, str]:
        return {found.number: str(found.gpu) for found in vendors.matching_gpus(manifest)}

    def open_engine(
        self, engine: StoredEngine, ahead: int, layout: Layout, traced: bool, gpu: int | None = None
    ) -> Engine:
        from lesioncli.backends.tensorrt.runtime import PlanEngine

        return PlanEngine(engine.manifest, engine.find_file(".plan"), ahead, layout, traced, gpu)
