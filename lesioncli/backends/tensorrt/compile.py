"""Plans compiled, by TensorRT or by TensorRT for RTX: one adapter, which is given the vendor's module.

TensorRT for RTX compiles ahead of time, on a machine without a GPU; TensorRT needs the GPU that it compiles for.
Networks are strongly typed: precision is a matter of the graph (see half.py), and a compiler cannot change it.
"""

import importlib.util
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lesioncli.backends import openvino
from lesioncli.backends.base import Engine, Manifest
from lesioncli.backends.tensorrt.driver import find_gpus
from lesioncli.backends.tensorrt.vendors import PRECISIONS, RTX, RTX_TARGETS, Vendor, check_header, load, make_log
from lesioncli.errors import EngineError, MissingPackageError
from lesioncli.files import atomic_write, locked, sha256_of

TYPES = {"fp32": "FLOAT", "fp16": "HALF"}  # the vendor's names
PRODUCTS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
DEFAULT_TARGETS = RTX_TARGETS[:4]  # without --target: Turing, the next, has no fp32 linear layers there


@dataclass(frozen=True)
class Settings:
    """What a plan is built with, beyond precision and batch. None leaves it to the compiler.

    `dynamic` makes plans that take from one image to a whole batch. `on_progress` is told (phase, step, steps), from
    any thread. What TensorRT has timed is kept in the folder `timings`, for its next build.
    """

    targets: Sequence[str] = ()
    dynamic: bool = False
    workspace_mib: int | None = None
    optimization_level: int | None = None
    timings: Path | None = None
    on_progress: Callable[[str, int, int], None] = lambda phase, step, steps: None


def open_compiler(vendor: Vendor, settings: Settings) -> "PlanCompiler":
    """The compiler for what this machine has, or for the targets asked for; EngineError says what is missing."""
    if vendor is RTX:
        targets = tuple(dict.fromkeys(settings.targets)) or DEFAULT_TARGETS
        if strange := [each for each in targets if each not in RTX_TARGETS]:
            raise EngineError(
                f"{vendor.title} compiles for {', '.join(sorted(RTX_TARGETS))}, not for {', '.join(strange)};"
                " --backend tensorrt does, on a machine with such a GPU"
            )
        return PlanCompiler(vendor, load(vendor), settings, targets, f"ahead of time for {', '.join(targets)}")
    if settings.targets:
        raise EngineError("TensorRT compiles for the GPU of this machine; --target goes with --backend tensorrt-rtx")
    gpus, problem = find_gpus()
    if not gpus:
        raise EngineError(
            f"TensorRT compiles on the GPU that it compiles for: {problem}; run: lesioncli build-engine --backend"
            " tensorrt-rtx, which needs none, or lesioncli build-engine for this CPU"
        )
    return PlanCompiler(vendor, load(vendor), settings, (gpus[0].target,), str(gpus[0]), gated="engine")


@dataclass(frozen=True)
class PlanCompiler:
    """What build() needs of these backends, see build.Compiler; `trt` is the vendor's module.

    The gate asks the engine itself where it is compiled for the GPU that is here. One that is compiled ahead of time
    cannot be run, so its graph is asked on this CPU, in fp16 an imitation that rounds as a GPU would; the graph stays
    beside the plan, for the first GPU that runs it.
    """

    vendor: Vendor
    trt: Any
    settings: Settings
    targets: tuple[str, ...]
    device: str
    gated: str = "graph"

    @property
    def name(self) -> str:
        return self.vendor.backend

    @property
    def version(self) -> str:
        return str(self.trt.__version__)

    @property
    def dynamic(self) -> bool:
        return self.settings.dynamic

    def precisions(self, asked: str) -> list[tuple[str, str]]:
        if asked == "auto":
            return [("fp16", "a GPU is fastest in it"), ("fp32", "it is exact")]
        if asked not in PRECISIONS:
            raise EngineError(f"{self.vendor.title} has no precision {asked!r} here, only {', '.join(PRECISIONS)}")
        return [(asked, "as asked")]

    def judged(self, onnx: Path, manifest: Manifest, work: Path) -> Engine:
        if self.gated == "engine":
            from lesioncli.backends.tensorrt.runtime import PlanEngine

            (plan,) = self.compile(onnx, manifest, work)
            return PlanEngine(replace(manifest, files={plan.name: sha256_of(plan)}), plan.parent, 2)
        if manifest.precision == "fp32":
            return openvino.run_graph(onnx, manifest, work)
        from lesioncli.backends.tensorrt import half

        imitation = work / "imitation.onnx"
        half.write_imitation(self._typed(onnx, manifest, work), imitation)
        return openvino.run_graph(imitation, manifest, work)

    def compile(self, onnx: Path, manifest: Manifest, work: Path) -> Sequence[Path]:
        plan = work / manifest.precision / f"{manifest.stem}.plan"
        if not plan.is_file():
            plan.parent.mkdir(exist_ok=True)
            plan.write_bytes(self._build(self._typed(onnx, manifest, work), manifest))
        if problem := check_header(plan, self.vendor, self.version):
            raise EngineError(f"{manifest.spec.name}: no engine written: {problem}")
        if self.gated == "engine":
            return [plan]
        graph = plan.with_suffix(".onnx")
        shutil.copyfile(onnx, graph)
        return [plan, graph]

    def _typed(self, onnx: Path, manifest: Manifest, work: Path) -> Path:
        """The graph with the manifest's precision baked in."""
        if manifest.precision == "fp32":
            return onnx
        if importlib.util.find_spec("onnx") is None:
            raise MissingPackageError("onnx, which turns a graph to fp16,", self.vendor.extra)
        from lesioncli.backends.tensorrt import half

        path = work / "half.onnx"
        if not path.is_file():
            half.write_half(onnx, path)
        return path

    def _build(self, graph: Path, manifest: Manifest) -> bytes:
        trt, log = self.trt, make_log(self.trt)
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse_from_file(str(graph)):
            raise EngineError(f"{manifest.spec.name}: {self.vendor.title} cannot read it: {_parser_errors(parser)}")
        check_types(network, manifest.precision)
        config = self._configure(builder, network, manifest)
        config.progress_monitor = monitor = _make_monitor(trt, self.settings.on_progress)
        with self._timing_cache(config):
            plan = builder.build_serialized_network(network, config)
        if monitor.stopped:
            raise monitor.stopped
        if plan is None:
            raise EngineError(f"{manifest.spec.name}: no engine written: {_explain(log.errors)}")
        return bytes(plan)

    def _configure(self, builder: Any, network: Any, manifest: Manifest) -> Any:
        trt, settings = self.trt, self.settings
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default: products of 10 bits, where fp32 was asked for
        if settings.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
        if settings.optimization_level is not None:
            config.builder_optimization_level = settings.optimization_level
        if self.vendor is RTX:
            config.num_compute_capabilities = len(self.targets)
            for index, target in enumerate(self.targets):
                if not config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index):
                    raise EngineError(f"{self.vendor.title} {self.version} does not compile for {target}")
        if config.add_optimization_profile(self._profile(builder, network, manifest)) < 0:
            raise EngineError(f"{manifest.spec.name}: {self.vendor.title} takes no images of the model's size")
        return config

    @contextmanager
    def _timing_cache(self, config: Any) -> Iterator[None]:
        """Timings of this GPU and version, before and after a build; TensorRT for RTX has none.

        Locked for as long as the build takes: two at a time would disturb each other's timings. A file that the
        compiler does not take is as good as none.
        """
        folder = self.settings.timings
        if folder is None or self.vendor is RTX:
            yield
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f".{self.name}-{self.version}-{self.targets[0]}.timings"
        with locked(path.with_suffix(".lock")):
            known = path.read_bytes() if path.is_file() else b""
            if not config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False):
                config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
            yield
            with atomic_write(path) as aside:
                aside.write_bytes(bytes(config.get_timing_cache().serialize()))

    def _profile(self, builder: Any, network: Any, manifest: Manifest) -> Any:
        """The shapes that a plan takes: whole batches only, unless dynamic."""
        most = (manifest.batch, manifest.spec.height, manifest.spec.width, 3)
        least = (1, *most[1:]) if self.settings.dynamic else most
        profile = builder.create_optimization_profile()
        profile.set_shape(network.get_input(0).name, least, most, most)
        return profile


def _make_monitor(trt: Any, tell: Callable[[str, int, int], None]) -> Any:
    """A progress monitor of the vendor's kind; what `tell` raises, or an interrupt, ends the build and is `stopped`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # its base is known at run time only
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.stopped: BaseException | None = None

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            self._tell(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            self._tell(phase, step + 1)
            return self.stopped is None  # False ends the build

        def phase_finish(self, phase: str) -> None:
            self._tell(phase, self.steps[phase])

        def _tell(self, phase: str, step: int) -> None:
            try:
                tell(phase, step, self.steps[phase])
            except BaseException as error:  # the vendor's code prints what it meets, and goes on
                self.stopped = error

    return Monitor()


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return (
        "; ".join(f"{each.node_operator()} {each.node_name()}: {each.desc()}" for each in errors) or "no reason given"
    )


def _explain(errors: Sequence[str]) -> str:
    said = errors[-1] if errors else "the compiler gave no reason"
    if "FP32 GEMM is not supported" in said:
        return (
            f"sm75 (Turing) has no linear layers in fp32; use --precision fp16, or leave sm75 out of --target ({said})"
        )
    return said


def check_types(network: Any, precision: str) -> None:
    """EngineError where a convolution or product of a parsed network is not in the precision asked for.

    A strongly typed network is compiled in its own types. The engine inspector would need a GPU, and the size of a plan
    is no measure: what is compiled for sm75 adds many times the weights.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    found = {each.get_output(0).dtype.name for each in layers if each.type.name in PRODUCTS}
    if found - {TYPES[precision]} or (precision == "fp16" and not found):
        got = " and ".join(sorted(found)) or "no such layers"
        raise EngineError(f"asked for {precision}, got convolutions and products in {got}; build the model again")
