"""Compile plans with TensorRT or TensorRT for RTX.

TensorRT for RTX compiles ahead of time, on a machine without a GPU; TensorRT needs the GPU that it compiles for.
Networks are strongly typed: the precision is that of the graph (half.py), and a compiler cannot change it.
"""

import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from lesioncli.backends import openvino
from lesioncli.backends.base import Engine, Layout
from lesioncli.backends.interface import PARITY_AHEAD_SLOTS, OnProgress, ignore_progress
from lesioncli.backends.manifest import Manifest, ParityCheck
from lesioncli.backends.tensorrt.driver import find_gpus
from lesioncli.backends.tensorrt.vendors import (
    DRIVER_ADVICE,
    PRECISIONS,
    Vendor,
    check_header,
    creation_errors,
    find_driver_problem,
    load,
    make_log,
)
from lesioncli.errors import EngineError, MissingPackageError, UnsupportedGpuError
from lesioncli.files import atomic_write
from lesioncli.images.geometry import UInt8
from lesioncli.options import Backend, BuildOptions, Decision, Precision

TYPES = {Precision.FP32: "FLOAT", Precision.FP16: "HALF"}  # the library's names
PRODUCTS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
UNSUPPORTED_GPU = "is not supported by this TensorRT release"  # "Target GPU SM 70 ..."
DEFAULT_TARGETS = 3  # without --target, the first of Vendor.targets: those that NVIDIA's engines have by default


def open_compiler(
    vendor: Vendor,
    options: BuildOptions,
    timings: Path | None = None,
    on_progress: OnProgress = ignore_progress,
) -> "PlanCompiler":
    """Return the compiler for the targets in the options, or for the GPU of this machine.

    TensorRT keeps its time measurements in the folder `timings` for the next build.

    Raises EngineError if the library, the GPU or a target is missing.
    """
    if vendor.targets is not None:
        targets = tuple(dict.fromkeys(options.targets)) or vendor.targets[:DEFAULT_TARGETS]
        if unknown := [target for target in targets if target not in vendor.targets]:
            raise EngineError(
                f"--target {','.join(unknown)}: {vendor.title} compiles for {', '.join(sorted(vendor.targets))};"
                f" run lesioncli build-engine --backend {Backend.TENSORRT} on a machine with such a GPU"
            )
        device = f"ahead of time for {', '.join(targets)}"
        return PlanCompiler(
            vendor, load(vendor), options, targets, device, ParityCheck.GRAPH, timings=None, on_progress=on_progress
        )
    if options.targets:
        raise EngineError(
            f"--target: {vendor.title} compiles for the GPU of this machine; leave it out or add"
            f" --backend {Backend.TENSORRT_RTX}"
        )
    listing = find_gpus()
    if not listing.gpus:
        raise EngineError(
            f"{vendor.title} compiles on the GPU that it compiles for: {listing.problem}; run lesioncli build-engine"
            f" --backend {Backend.TENSORRT_RTX}, which needs no GPU, or lesioncli build-engine for this CPU"
        )
    if problem := find_driver_problem(vendor, listing):
        raise UnsupportedGpuError(f"{problem}: {DRIVER_ADVICE}")
    gpu = listing.gpus[0]
    return PlanCompiler(
        vendor, load(vendor), options, (gpu.target,), str(gpu), timings=timings, on_progress=on_progress
    )


@dataclass(frozen=True)
class PlanCompiler:
    """The compiler of these backends, see interface.Compiler; `trt` is the module of the vendor.

    If the plan runs on the GPU of this machine, the parity check runs it. A plan that was compiled ahead of time cannot
    run here, so its graph runs on the CPU instead, for fp16 with every half tensor rounded as on a GPU. The graph stays
    beside the plan for the verification on the first GPU that runs it.
    """

    vendor: Vendor
    trt: Any
    options: BuildOptions
    targets: tuple[str, ...]
    device: str
    parity_check: ParityCheck = ParityCheck.ENGINE
    timings: Path | None = None
    on_progress: OnProgress = ignore_progress

    @property
    def backend(self) -> Backend:
        return self.vendor.backend

    @property
    def version(self) -> str:
        return str(self.trt.__version__)

    @property
    def dynamic(self) -> bool:
        return self.options.dynamic

    @property
    def is_measured(self) -> bool:
        return False  # a plan that is compiled ahead of time does not run here, and every compilation takes minutes

    def list_precisions(self, asked: Precision) -> list[Decision[Precision]]:
        if asked is Precision.AUTO:
            return [Decision(Precision.FP16, "fastest on a GPU"), Decision(Precision.FP32, "it is exact")]
        if asked not in PRECISIONS:
            raise EngineError(f"--precision {asked}: {self.vendor.title} has {', '.join(PRECISIONS)}")
        return [Decision(asked, "as asked")]

    def open_for_parity(self, onnx: Path, manifest: Manifest, images: Sequence[UInt8], work: Path) -> Engine:
        if self.parity_check is ParityCheck.ENGINE:
            from lesioncli.backends.tensorrt.runtime import PlanEngine

            plan = self._compile_plan(onnx, manifest, work)
            layout = Layout.for_batches(manifest.spec, manifest.batch)
            return PlanEngine(manifest, plan, PARITY_AHEAD_SLOTS, layout)
        if manifest.precision is Precision.FP32:
            return openvino.open_graph(onnx, manifest, work)
        from lesioncli.backends.tensorrt import half

        emulation = work / "emulation.onnx"
        half.write_emulation(self._write_typed(onnx, manifest, work), emulation)
        return openvino.open_graph(emulation, manifest, work)

    def compile(self, onnx: Path, manifest: Manifest, images: Sequence[UInt8], work: Path) -> Sequence[Path]:
        plan = self._compile_plan(onnx, manifest, work)
        if self.parity_check is ParityCheck.ENGINE:
            return [plan]
        graph = plan.with_suffix(".onnx")
        shutil.copyfile(onnx, graph)
        return [plan, graph]

    def _compile_plan(self, onnx: Path, manifest: Manifest, work: Path) -> Path:
        """Write the plan to `work` unless the parity check has written it before."""
        plan = work / manifest.precision / f"{manifest.stem}.plan"
        if not plan.is_file():
            plan.parent.mkdir(exist_ok=True)
            plan.write_bytes(self._build(self._write_typed(onnx, manifest, work), manifest))
        if problem := check_header(plan, self.vendor, self.version):
            raise EngineError(f"{manifest.spec.name}: no engine written: {problem}; install {self.vendor.title} again")
        return plan

    def _write_typed(self, onnx: Path, manifest: Manifest, work: Path) -> Path:
        """Return the graph in the precision of the manifest, written to `work` if it is fp16."""
        if manifest.precision is Precision.FP32:
            return onnx
        if importlib.util.find_spec("onnx") is None:
            raise MissingPackageError("onnx, which converts a graph to fp16,", self.vendor.extra)
        from lesioncli.backends.tensorrt import half

        path = work / "half.onnx"
        if not path.is_file():
            half.write_half(onnx, path)
        return path

    def _build(self, graph: Path, manifest: Manifest) -> bytes:
        trt, log, name = self.trt, make_log(self.trt), manifest.spec.name
        with creation_errors(self.vendor, log):
            builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse_from_file(str(graph)):
            raise EngineError(f"{name}: {self.vendor.title} cannot read the graph: {_parser_errors(parser)}")
        check_types(network, manifest.precision)
        self._fix_shapes(network, manifest)
        config = self._configure(builder, network, manifest)
        config.progress_monitor = monitor = _make_monitor(trt, self.on_progress)
        with self._timing_cache(config):
            plan = builder.build_serialized_network(network, config)
        if monitor.error:
            raise monitor.error
        if plan is None:
            if log.errors and UNSUPPORTED_GPU in log.errors[-1]:
                advice = f"use --backend {Backend.OPENVINO}"
                raise UnsupportedGpuError(f"{self.vendor.title} {self.version}: {log.errors[-1]}; {advice}")
            raise EngineError(f"{name}: no engine written: {_explain(log.errors)}")
        return bytes(plan)

    def _configure(self, builder: Any, network: Any, manifest: Manifest) -> Any:
        trt, options = self.trt, self.options
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default: it multiplies with 10 bits where fp32 was asked for
        if options.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if self.vendor.targets is not None:
            config.num_compute_capabilities = len(self.targets)
            for index, target in enumerate(self.targets):
                if not config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index):
                    raise EngineError(f"--target {target}: {self.vendor.title} {self.version} does not compile for it")
        if config.add_optimization_profile(self._make_profile(builder, network, manifest)) < 0:
            raise EngineError(
                f"{manifest.spec.name}: {self.vendor.title} does not accept images of the model's size"
                f" {manifest.spec.height}x{manifest.spec.width}; export the model again"
            )
        return config

    @contextmanager
    def _timing_cache(self, config: Any) -> Iterator[None]:
        """Load the time measurements of this GPU and version before a build, and save them after it.

        The file is locked during the build: two builds at a time would disturb each other's measurements. A file that
        the compiler does not accept is ignored.
        """
        if self.timings is None:
            yield
            return
        self.timings.mkdir(parents=True, exist_ok=True)
        path = self.timings / f".{self.backend}-{self.version}-{self.targets[0]}.timings"
        with FileLock(path.with_suffix(".lock")):
            content = path.read_bytes() if path.is_file() else b""
            if not _set_timings(config, content):
                _set_timings(config, b"")
            yield
            with atomic_write(path) as temporary:
                temporary.write_bytes(bytes(config.get_timing_cache().serialize()))

    def _fix_shapes(self, network: Any, manifest: Manifest) -> None:
        """Replace the free sides of the graph, except the number of rows of a dynamic plan.

        For free sides, TensorRT for RTX begins a run with general kernels and replaces them while it runs.
        """
        rows = -1 if self.dynamic else manifest.batch
        network.get_input(0).shape = (rows, manifest.spec.height, manifest.spec.width, 3)

    def _make_profile(self, builder: Any, network: Any, manifest: Manifest) -> Any:
        """Return the accepted input shapes: full batches or, if dynamic, batches of 1 to the batch size."""
        largest = (manifest.batch, manifest.spec.height, manifest.spec.width, 3)
        smallest = (1, *largest[1:]) if self.dynamic else largest
        profile = builder.create_optimization_profile()
        profile.set_shape(network.get_input(0).name, smallest, largest, largest)
        return profile


def _set_timings(config: Any, content: bytes) -> bool:
    """Return whether the compiler accepts time measurements; the bindings raise TypeError for a damaged file."""
    with suppress(TypeError):
        return bool(config.set_timing_cache(config.create_timing_cache(content), ignore_mismatch=False))
    return False


def _make_monitor(trt: Any, on_progress: OnProgress) -> Any:
    """Return a progress monitor for the vendor's library; an exception of `on_progress` ends the build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base class is known only at run time
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.error: BaseException | None = None

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            self._report(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            self._report(phase, step + 1)
            return self.error is None  # False ends the build

        def phase_finish(self, phase: str) -> None:
            self._report(phase, self.steps[phase])

        def _report(self, phase: str, step: int) -> None:
            try:
                on_progress(phase, step, self.steps[phase])
            except BaseException as error:  # the library would print it and continue
                self.error = error

    return Monitor()


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    texts = [f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors]
    return "; ".join(texts) or "no reason given"


def _explain(errors: Sequence[str]) -> str:
    """Return the last error of the compiler, with advice where it is known."""
    message = errors[-1] if errors else "the compiler gave no reason"
    if "FP32 GEMM is not supported" in message:
        return f"sm75 (Turing) has no linear layers in fp32; use --precision fp16, or --target without sm75 ({message})"
    return message


def check_types(network: Any, precision: Precision) -> None:
    """Raise EngineError if a convolution or product of a parsed network does not have the precision asked for.

    A strongly typed network is compiled in its own types. The engine inspector needs a GPU, and the size of a plan says
    nothing: code for sm75 is many times larger than the weights.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    types = {layer.get_output(0).dtype.name for layer in layers if layer.type.name in PRODUCTS}
    if types - {TYPES[precision]} or (precision is Precision.FP16 and not types):
        actual = " and ".join(sorted(types)) or "no such layers"
        raise EngineError(
            f"--precision {precision}: the graph has convolutions and products in {actual}; build the model again"
        )
