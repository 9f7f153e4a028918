"""Convert a graph to half precision, and emulate that graph in fp32 for processors without half arithmetic.

Convolutions and matrix products are computed in half precision, and so are the operations between them. Everything that
would lose too much stays in fp32: normalisation, moments, means and sums over images, sigmoid and softmax.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lesioncli.errors import EngineError

PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
# Half precision if all their inputs are.
FOLLOWERS = {"Add", "AveragePool", "Clip", "Concat", "MaxPool", "Relu", "Resize"}
LARGEST = float(np.finfo(np.float16).max)
SPLITTER = 2.0**13 + 1  # Veltkamp splitting: keeps the upper 11 of the 24 bits of fp32


def write_half(source: Path, target: Path) -> None:
    """Write the graph in half precision; its inputs and outputs keep their types.

    Raises EngineError if the graph has no convolution or matrix product.
    """
    model = onnx.load(source)
    _HalfConverter(model.graph).run()
    if not any(weight.data_type == TensorProto.FLOAT16 for weight in model.graph.initializer):
        raise EngineError(f"{source}: has no layer to compute in fp16; build with --precision fp32")
    onnx.checker.check_model(model)
    onnx.save(model, target)


class _HalfConverter:
    """Converts a graph in one pass in the order of computation; `half` holds the names of half tensors so far."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.weights = {weight.name: weight for weight in graph.initializer if weight.data_type == TensorProto.FLOAT}
        self.outputs = {output.name for output in graph.output}
        self.half: set[str] = set()
        self.nodes: list[onnx.NodeProto] = []
        self.made: set[str] = set()  # names of casts and half weights

    def run(self) -> None:
        nodes = list(self.graph.node)
        for node in nodes:
            self._convert(node)
        used = {name for node in self.nodes for name in node.input}
        weights = [weight for weight in self.graph.initializer if weight.name in used]
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]  # value_info has the old types
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(weights)

    def _convert(self, node: onnx.NodeProto) -> None:
        is_half = node.op_type in PRODUCTS or (node.op_type in FOLLOWERS and self._has_half_inputs(node))
        for index, name in enumerate(node.input):
            if is_half and name and not (node.op_type == "Resize" and index > 0):  # its other inputs are sizes
                node.input[index] = self._as_half(name)
            elif name in self.half:
                node.input[index] = self._cast(name, f"{name}.float", TensorProto.FLOAT)
        self.nodes.append(node)
        if not is_half:
            return
        for index, name in enumerate(node.output):
            if name in self.outputs:
                node.output[index] = f"{name}.half"
                self._cast(f"{name}.half", name, TensorProto.FLOAT)
            self.half.add(node.output[index])

    def _has_half_inputs(self, node: onnx.NodeProto) -> bool:
        inputs = node.input[:1] if node.op_type == "Resize" else node.input
        data = [name for name in inputs if name and name not in self.weights]
        return bool(data) and all(name in self.half for name in data)

    def _as_half(self, name: str) -> str:
        if name in self.half:
            return name
        half_name = f"{name}.half"
        if name not in self.weights:
            return self._cast(name, half_name, TensorProto.FLOAT16)
        if half_name not in self.made:
            self.made.add(half_name)
            with np.errstate(over="ignore"):  # an infinite weight fails the parity check
                values = numpy_helper.to_array(self.weights[name]).astype(np.float16)
            self.graph.initializer.append(numpy_helper.from_array(values, half_name))
        return half_name

    def _cast(self, name: str, to_name: str, to: int) -> str:
        if to_name not in self.made:
            self.made.add(to_name)
            self.nodes.append(helper.make_node("Cast", [name], [to_name], to=to))
        return to_name


def write_emulation(half: Path, target: Path) -> None:
    """Write a half-precision graph in fp32 that rounds every half tensor as soon as it is computed.

    On a processor without half arithmetic OpenVINO computes such a graph in fp32 and rounds only the weights, so its
    outputs say little about a GPU. Values above the range of half become infinite. Not emulated: subnormal numbers
    (below 6e-5), and sums that a GPU accumulates in half precision.
    """
    model = onnx.load(half)
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.value_info
    rounded = {tensor.name for tensor in inferred if tensor.type.tensor_type.elem_type == TensorProto.FLOAT16}
    weights = [_to_fp32(weight) for weight in graph.initializer]
    nodes = [emulated for node in graph.node for emulated in _emulate(node, rounded)]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
    for name, value in {"half.splitter": SPLITTER, "half.largest": LARGEST}.items():
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    onnx.checker.check_model(model)
    onnx.save(model, target)


def _to_fp32(weight: onnx.TensorProto) -> onnx.TensorProto:
    if weight.data_type != TensorProto.FLOAT16:
        return weight
    return numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name)


def _emulate(node: onnx.NodeProto, rounded: set[str]) -> Iterator[onnx.NodeProto]:
    """Yield the node in fp32, then the nodes that round its half outputs."""
    half_outputs = [name for name in node.output if name in rounded]
    if node.op_type == "Cast" and half_outputs:
        node.attribute[0].i = TensorProto.FLOAT
    for index, name in enumerate(node.output):
        if name in rounded:
            node.output[index] = f"{name}.exact"
    yield node
    for name in half_outputs:
        yield from _round(f"{name}.exact", name)


def _round(exact: str, name: str) -> Iterator[onnx.NodeProto]:
    """Yield nodes that round tensor `exact` to 11 bits (Veltkamp splitting) and to infinity above the range of half."""
    steps = (
        ("Mul", (exact, "half.splitter"), "scaled"),
        ("Sub", ("scaled", exact), "rest"),
        ("Sub", ("scaled", "rest"), "near"),
        ("Abs", ("near",), "size"),
        ("LessOrEqual", ("size", "half.largest"), "fits"),
    )
    inner = {output for _, _, output in steps}
    for operator, inputs, output in steps:
        yield helper.make_node(
            operator, [f"{name}.{source}" if source in inner else source for source in inputs], [f"{name}.{output}"]
        )
    yield helper.make_node("Cast", [f"{name}.fits"], [f"{name}.one_or_zero"], to=TensorProto.FLOAT)
    yield helper.make_node("Div", [f"{name}.near", f"{name}.one_or_zero"], [name])
