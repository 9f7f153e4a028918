"""The CPU engine: the embedded default and, in fp32, the living definition of what a graph computes."""

import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from numpy.typing import NDArray

from lesioncli.backends.base import Engine, Layout, Manifest, Span
from lesioncli.errors import EngineError, InputError
from lesioncli.files import sha256_of
from lesioncli.process import count_cores
from lesioncli.spec import METADATA_KEY, ModelSpec

# On import openvino reports itself to its maker's analytics, unless it cannot import its reporter, for which it has a
# stand-in. Nothing here may use the network without being asked.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None makes the import fail
import openvino  # noqa: E402

NAME = "openvino"
VERSION = openvino.__version__
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
# What lies within so many convolutions of the picture stays in fp32 in a bf16 engine: there lesion and skin are large
# numbers that differ little, and there bf16 does nearly all of its harm. With 18, both shipped models pass the gate
# with room to spare (docs/experiments.md).
EXACT_CONVOLUTIONS = 18
CONVOLUTIONS = {"Convolution", "GroupConvolution"}


def processor() -> str:
    """The CPU's name as OpenVINO reports it."""
    return str(openvino.Core().get_property("CPU", "FULL_DEVICE_NAME"))


def choose_precision(asked: str) -> tuple[str, str]:
    """(precision, reason) for "auto", "fp32" or "bf16"; EngineError where the processor lacks what was asked for."""
    has_bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if asked == "bf16" and not has_bf16:
        raise EngineError(f"{processor()} has no bf16 arithmetic; build with --precision fp32")
    if asked != "auto":
        return asked, "as asked"
    return ("bf16", "this processor multiplies bf16 natively") if has_bf16 else ("fp32", "no native bf16 here")


def read_spec(onnx: Path) -> ModelSpec:
    """The ModelSpec inside an ONNX graph; InputError where there is no graph or no spec."""
    try:
        graph = openvino.Core().read_model(onnx)
    except RuntimeError as error:
        raise InputError(f"{onnx}: not a readable ONNX graph ({str(error).strip().splitlines()[-1]})") from error
    try:
        text = graph.get_rt_info(["framework", METADATA_KEY]).astype(str)
    except RuntimeError as error:
        raise InputError(f"{onnx}: carries no ModelSpec; export it with lesioncli build-engine CHECKPOINT") from error
    return ModelSpec.from_json(text, onnx)


def compile_to_files(onnx: Path, xml: Path) -> None:
    """Write the graph as OpenVINO's own files: `xml` and, beside it, the weights as .bin.

    What is dynamic in the graph stays so; the engine fixes its shapes when it is loaded. The first operations are
    marked: they stay in fp32 in a bf16 engine, too. OpenVINO forgets the mark of divisions and subtractions.
    """
    with _named_errors(f"{onnx}: cannot be compiled"):
        graph = openvino.Core().read_model(onnx)
        openvino.save_model(graph, xml, compress_to_fp16=False)
    _mark_exact(xml, _first_operations(graph))


def _first_operations(graph: openvino.Model) -> set[str]:
    """Names of the operations that the picture reaches through no more than EXACT_CONVOLUTIONS.

    None where no convolution comes after: the whole graph would be exact, and an engine called bf16 be fp32.
    """
    passed: dict[str, int] = {}  # convolutions on the longest way from the picture
    for operation in graph.get_ordered_ops():
        name, kind = operation.get_friendly_name(), operation.get_type_name()
        before = [each.get_node().get_friendly_name() for each in operation.input_values()]
        ways = [passed[each] for each in before if each in passed]
        if kind == "Parameter":
            passed[name] = 0
        elif ways and kind != "ShapeOf":  # a size is the same in every precision
            # A part cut out of the picture, by products with what was found in it, is again the picture of an encoder.
            passed[name] = min(ways) if kind == "MatMul" else max(ways) + (kind in CONVOLUTIONS)
    if max(passed.values()) <= EXACT_CONVOLUTIONS:
        return set()
    return {name for name, convolutions in passed.items() if convolutions <= EXACT_CONVOLUTIONS}


def _mark_exact(xml: Path, names: Collection[str]) -> None:
    """Add OpenVINO's own mark ("precise") to operations; its Python API has no way to."""
    tree = ElementTree.parse(xml)  # noqa: S314 - OpenVINO wrote it
    for layer in tree.iterfind("layers/layer"):
        if layer.get("name") in names and layer.get("type") not in {"Parameter", "Result"}:
            info = layer.find("rt_info")
            if info is None:
                info = ElementTree.SubElement(layer, "rt_info")
            ElementTree.SubElement(info, "attribute", name="precise", version="0")
    tree.write(xml)


def run_graph(onnx: Path, manifest: Manifest, work: Path) -> Engine:
    """A graph as it is, in fp32 on this CPU, whatever engine the manifest is of; `work` holds its files."""
    xml = work / f"{onnx.stem}.xml"
    compile_to_files(onnx, xml)
    files = {each.name: sha256_of(each) for each in (xml, xml.with_suffix(".bin"))}
    return OpenVinoEngine(replace(manifest, precision="fp32", files=files), work, 2)


class OpenVinoCompiler:
    """What build() needs of this backend, see build.Compiler."""

    name = NAME
    version = VERSION
    targets: Sequence[str] = ()
    gated = "engine"
    dynamic = False

    @property
    def device(self) -> str:
        return f"CPU: {processor()}"

    def precisions(self, asked: str) -> list[tuple[str, str]]:
        best, reason = choose_precision(asked)
        return [(best, reason)] if asked == best or best == "fp32" else [(best, reason), ("fp32", "it is exact")]

    def judged(self, onnx: Path, manifest: Manifest, work: Path) -> Engine:
        files = {each.name: sha256_of(each) for each in self.compile(onnx, manifest, work)}
        return OpenVinoEngine(replace(manifest, files=files), work, 2)

    def compile(self, onnx: Path, manifest: Manifest, work: Path) -> Sequence[Path]:
        xml = work / f"{manifest.stem}.xml"
        if not xml.is_file():  # the same for every precision
            compile_to_files(onnx, xml)
        return [xml, xml.with_suffix(".bin")]


@contextmanager
def _named_errors(what: str) -> Iterator[None]:
    """OpenVINO raises RuntimeError for everything; the last of its lines says what is wrong."""
    try:
        yield
    except RuntimeError as error:
        raise EngineError(f"{what} ({str(error).strip().splitlines()[-1]})") from error


class OpenVinoEngine(Engine):
    """One single-threaded stream per core and one request per slot, which reads the slot's memory directly.

    The graph is compiled once for every shape of slot.
    """

    def __init__(
        self, manifest: Manifest, folder: Path, ahead: int, layout: Layout | None = None, traced: bool = False
    ) -> None:
        files = {Path(name).suffix: folder / name for name in manifest.files}
        if set(files) != {".xml", ".bin"} or manifest.precision not in PRECISIONS:
            raise EngineError(
                f"{folder}: the manifest of {manifest.spec.name} does not name an .xml, a .bin and a precision"
                f" out of {', '.join(PRECISIONS)}; run: lesioncli build-engine"
            )
        layout = layout or Layout.of_batches(manifest.spec, manifest.batch)
        compiled = _compile(files[".xml"], files[".bin"], manifest.precision, layout)
        # One more than the streams, so that none waits while the caller takes a result away.
        depth = count_cores() + 1
        slots = layout.make_ring(depth + ahead)
        self._names = [str(output.any_name) for output in compiled[layout.shapes[0]].outputs]
        super().__init__(manifest, layout, slots, depth, self._names)
        self._requests = [compiled[slot.shape[:3]].create_infer_request() for slot in slots]
        for request, slot in zip(self._requests, slots, strict=True):
            request.set_input_tensor(openvino.Tensor(slot, shared_memory=True))
        self._ended = [0.0] * len(slots)
        for number, request in enumerate(self._requests if traced else ()):
            request.set_callback(self._note_end, number)

    @property
    def device(self) -> str:
        return f"CPU: {processor()}"

    def _start(self, slot: int) -> None:
        with _named_errors("OpenVINO cannot start"):
            self._requests[slot].start_async()

    def _finish(self, slot: int) -> dict[str, NDArray[Any]]:
        request = self._requests[slot]
        with _named_errors("OpenVINO stopped"):
            request.wait()
        return {name: request.get_output_tensor(index).data for index, name in enumerate(self._names)}

    def _note_end(self, slot: int) -> None:
        self._ended[slot] = time.monotonic()

    def _spans(self, slot: int) -> Sequence[Span]:
        end = self._ended[slot]
        return [Span(f"network, slot {slot}", end - self._requests[slot].latency / 1000, end)] if end else ()

    def close(self) -> None:
        for request in self._requests:
            request.wait()
        self._requests.clear()


def _compile(xml: Path, weights: Path, precision: str, layout: Layout) -> dict[tuple[int, ...], Any]:
    """The graph, compiled for each of the layout's shapes; EngineError where it does not take one."""
    cores = count_cores()
    options: Mapping[str, Any] = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "NUM_STREAMS": cores,
        "INFERENCE_NUM_THREADS": cores,
    }
    core = openvino.Core()
    with _named_errors(f"{xml}: OpenVINO cannot load it"):
        graph = core.read_model(xml, weights)
    takes = graph.input(0).partial_shape
    compiled: dict[tuple[int, ...], Any] = {}
    for shape in dict.fromkeys(layout.shapes):
        images = (*shape, 3)
        if not takes.compatible(openvino.PartialShape(images)):
            raise EngineError(
                f"{xml}: takes no images of {images}, only {takes}; build it again from its checkpoint, with another"
                " --batch where that is what differs"
            )
        with _named_errors(f"{xml}: takes no images of {images}"):
            graph.reshape(openvino.PartialShape(images))
            compiled[shape] = core.compile_model(graph, "CPU", options)
        got = compiled[shape].get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if got != PRECISIONS[precision]:
            raise EngineError(f"asked OpenVINO for {precision}, got {got}; rebuild with --precision fp32")
    return compiled
