"""The CPU backend. In fp32 it also defines what a graph computes: other engines are compared with it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import openvino
from numpy.typing import NDArray

from lesioncli.backends.base import Engine, Layout, Span
from lesioncli.backends.int8 import measure_maps, round_to_int8
from lesioncli.backends.interface import PARITY_AHEAD_SLOTS, OnProgress
from lesioncli.backends.manifest import Incompatibility, Manifest, ParityCheck, StoredEngine
from lesioncli.backends.mixed_precision import find_fp32_operations, mark_as_precise
from lesioncli.errors import EngineError, InputError
from lesioncli.files import naming_os_errors
from lesioncli.images.geometry import UInt8
from lesioncli.options import Backend, BuildOptions, Decision, Precision
from lesioncli.process import count_cores
from lesioncli.spec import METADATA_KEY, ModelSpec

VERSION = openvino.__version__
# OpenVINO's names. What an int8 engine does not compute in int8 is in fp32.
ELEMENT_TYPES = {Precision.FP32: "f32", Precision.BF16: "bf16", Precision.INT8: "f32"}


def processor() -> str:
    """Return the name of the CPU as OpenVINO reports it."""
    return str(openvino.Core().get_property("CPU", "FULL_DEVICE_NAME"))


def has_bf16() -> bool:
    """Return whether this CPU has bf16 arithmetic."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def read_spec(onnx: Path) -> ModelSpec:
    """Read the ModelSpec inside an ONNX graph; InputError if there is none, or the graph is unreadable or broken."""
    try:
        graph = openvino.Core().read_model(onnx)
    except RuntimeError as error:
        raise InputError(f"{onnx}: not a readable ONNX graph ({_last_line(error)})") from error
    try:
        text = graph.get_rt_info(["framework", METADATA_KEY]).astype(str)
    except RuntimeError as error:
        raise InputError(f"{onnx}: has no ModelSpec; export it with lesioncli build-engine CHECKPOINT") from error
    _refuse_broken_weights(graph, onnx)
    return ModelSpec.from_json(text, onnx)


def _refuse_broken_weights(graph: openvino.Model, onnx: Path) -> None:
    """Raise InputError for weights that are not finite: OpenVINO may compute finite, wrong numbers with them."""
    for constant in (operation for operation in graph.get_ops() if operation.get_type_name() == "Constant"):
        values = constant.data
        # Constants without a dimension may be meant: the start of a maximum, the scores of a mask of nan.
        if values.dtype.kind == "f" and values.ndim and not np.isfinite(values).all():
            raise InputError(
                f"{onnx}: weights {constant.get_friendly_name()} are not all finite numbers; take a checkpoint from"
                " before the training failed"
            )


def compile_to_files(onnx: Path, xml: Path, precision: Precision, images: Sequence[UInt8]) -> None:
    """Write a graph in OpenVINO's format: `xml` and, beside it, the weights as .bin.

    Dynamic dimensions stay dynamic; an engine fixes its shapes when it is loaded. The first operations are marked to
    stay in fp32 in a bf16 engine. OpenVINO drops the mark of divisions and subtractions. An int8 engine is rounded by
    what its feature maps hold on `images` of the network's size.
    """
    core = openvino.Core()
    with _engine_errors(f"{onnx}: cannot be compiled"):
        graph = core.read_model(onnx)
        if precision is Precision.INT8:
            round_to_int8(graph, measure_maps(core.read_model(onnx), images), images)
        with naming_os_errors(xml, xml):
            openvino.save_model(graph, xml, compress_to_fp16=False)
            if precision is Precision.BF16:
                mark_as_precise(xml, find_fp32_operations(graph))


def open_graph(onnx: Path, manifest: Manifest, work: Path) -> Engine:
    """Open a graph in fp32 on this CPU, with the batch size of a manifest of any backend; `work` holds its files."""
    xml = work / f"{onnx.stem}.xml"
    manifest = msgspec.structs.replace(manifest, precision=Precision.FP32)
    compile_to_files(onnx, xml, manifest.precision, ())
    return OpenVinoEngine(manifest, xml, PARITY_AHEAD_SLOTS, Layout.for_batches(manifest.spec, manifest.batch))


class OpenVinoCompiler:
    """The compiler of this backend, see interface.Compiler."""

    backend = Backend.OPENVINO
    version = VERSION
    targets: Sequence[str] = ()
    parity_check = ParityCheck.ENGINE
    dynamic = False
    is_measured = True

    @property
    def device(self) -> str:
        return f"CPU: {processor()}"

    def list_precisions(self, asked: Precision) -> list[Decision[Precision]]:
        if asked is Precision.AUTO:
            bf16 = [Decision(Precision.BF16, "this CPU has bf16 arithmetic")] if has_bf16() else []
            return [Decision(Precision.INT8, "it is fast"), *bf16, Decision(Precision.FP32, "it is exact")]
        if asked not in ELEMENT_TYPES:
            raise EngineError(f"--precision {asked}: OpenVINO has {', '.join(ELEMENT_TYPES)}")
        if asked is Precision.BF16 and not has_bf16():
            raise EngineError(f"{processor()} has no bf16 arithmetic; build with --precision fp32")
        return [Decision(asked, "as asked")]

    def open_for_parity(self, onnx: Path, manifest: Manifest, images: Sequence[UInt8], work: Path) -> Engine:
        xml, _ = self.compile(onnx, manifest, images, work)
        return OpenVinoEngine(manifest, xml, PARITY_AHEAD_SLOTS, Layout.for_batches(manifest.spec, manifest.batch))

    def compile(self, onnx: Path, manifest: Manifest, images: Sequence[UInt8], work: Path) -> Sequence[Path]:
        xml = work / manifest.precision / f"{manifest.stem}.xml"
        if not xml.is_file():  # the parity check has written it before
            xml.parent.mkdir(exist_ok=True)
            compile_to_files(onnx, xml, manifest.precision, images)
        return [xml, xml.with_suffix(".bin")]


class OpenVinoBackend:
    """This backend, see interface.BackendImplementation."""

    def open_compiler(self, options: BuildOptions, timings: Path | None, on_progress: OnProgress) -> OpenVinoCompiler:
        return OpenVinoCompiler()

    def find_problem(self, engine: StoredEngine) -> Incompatibility | None:
        manifest = engine.manifest
        if manifest.backend_version != VERSION:
            return Incompatibility(f"built for OpenVINO {manifest.backend_version}, installed is {VERSION}")
        suffixes = sorted(Path(name).suffix for name in manifest.files)
        if suffixes != [".bin", ".xml"] or manifest.precision not in ELEMENT_TYPES:
            return Incompatibility(
                f"the manifest does not name one .xml, one .bin and a precision out of {', '.join(ELEMENT_TYPES)}"
            )
        return None

    def find_gpus(self, manifest: Manifest) -> Mapping[int, str]:
        return {}

    def open_engine(
        self, engine: StoredEngine, ahead: int, layout: Layout, traced: bool, gpu: int | None = None
    ) -> Engine:
        xml, weights = engine.find_file(".xml"), engine.find_file(".bin")
        return OpenVinoEngine(engine.manifest, xml, ahead, layout, weights=weights, traced=traced)


class OpenVinoEngine(Engine):
    """One single-threaded stream per core and one request per slot, which reads the memory of the slot directly.

    The graph is compiled once for each shape of slot. `weights` is the .bin beside `xml` by default.
    """

    def __init__(
        self,
        manifest: Manifest,
        xml: Path,
        ahead: int,
        layout: Layout,
        *,
        weights: Path | None = None,
        traced: bool = False,
    ) -> None:
        compiled = _compile(xml, weights or xml.with_suffix(".bin"), manifest.precision, layout)
        # Two more than the streams, so that no stream waits while the caller takes a result.
        depth = count_cores() + 2
        cycles = layout.allocate(depth + ahead)
        self._names = [str(output.any_name) for output in compiled[layout.shapes[0]].outputs]
        super().__init__(manifest, layout, cycles, depth, self._names)
        self._requests = [compiled[slot.shape[:3]].create_infer_request() for slot in self._slots]
        for request, slot in zip(self._requests, self._slots, strict=True):
            request.set_input_tensor(openvino.Tensor(slot, shared_memory=True))
        self._end_times = [0.0] * len(self._slots)
        for number, request in enumerate(self._requests if traced else ()):
            request.set_callback(self._note_end, number)

    @property
    def device(self) -> str:
        return f"CPU: {processor()}"

    def _start(self, number: int) -> None:
        with _engine_errors(f"{self.manifest.stem}: OpenVINO cannot start a batch"):
            self._requests[number].start_async()

    def _finish(self, number: int) -> dict[str, NDArray[Any]]:
        request = self._requests[number]
        with _engine_errors(f"{self.manifest.stem}: OpenVINO failed"):
            request.wait()
        return {name: request.get_output_tensor(index).data for index, name in enumerate(self._names)}

    def _note_end(self, number: int) -> None:
        self._end_times[number] = time.monotonic()

    def _spans(self, number: int) -> Sequence[Span]:
        end = self._end_times[number]
        return [Span(f"network, slot {number}", end - self._requests[number].latency / 1000, end)] if end else ()

    def close(self) -> None:
        for request in self._requests:
            request.wait()
        self._requests.clear()


@contextmanager
def _engine_errors(action: str) -> Iterator[None]:
    """Turn the RuntimeErrors of OpenVINO, its only exceptions, into EngineErrors."""
    try:
        yield
    except RuntimeError as error:
        raise EngineError(f"{action} ({_last_line(error)})") from error


def _last_line(error: RuntimeError) -> str:
    """Return the reason in a message of OpenVINO: its last line."""
    return str(error).strip().splitlines()[-1]


def _compile(xml: Path, weights: Path, precision: Precision, layout: Layout) -> dict[tuple[int, ...], Any]:
    """Compile a graph for each shape of a layout; EngineError if it does not accept one."""
    cores, element_type = count_cores(), ELEMENT_TYPES[precision]
    options: Mapping[str, Any] = {
        "INFERENCE_PRECISION_HINT": element_type,
        "NUM_STREAMS": cores,
        "INFERENCE_NUM_THREADS": cores,
    }
    core = openvino.Core()
    with _engine_errors(f"{xml}: OpenVINO cannot load it"):
        graph = core.read_model(xml, weights)
    accepted_shape = graph.input(0).partial_shape
    compiled: dict[tuple[int, ...], Any] = {}
    for shape in dict.fromkeys(layout.shapes):
        input_shape = openvino.PartialShape((*shape, 3))
        if not accepted_shape.compatible(input_shape):
            raise EngineError(
                f"{xml}: accepts images of shape {accepted_shape}, not {(*shape, 3)}; build it again from its"
                " checkpoint, or with another --batch"
            )
        with _engine_errors(f"{xml}: does not accept images of shape {(*shape, 3)}"):
            graph.reshape(input_shape)
            compiled[shape] = core.compile_model(graph, "CPU", options)
        actual = compiled[shape].get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if actual != element_type:
            raise EngineError(f"{xml}: OpenVINO computes in {actual}, not {precision}; rebuild with --precision fp32")
    return compiled
