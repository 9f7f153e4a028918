"""A graph's body in half precision, and the same graph imitated in fp32 where a processor has no such arithmetic.

Convolutions and products are computed in half, and so is what lies between them. Everything else stays in fp32, and
with it all that half precision would lose: normalisation, moments, means and sums over pictures, sigmoid and softmax.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lesioncli.errors import EngineError

PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
FOLLOWERS = {"Add", "AveragePool", "Clip", "Concat", "MaxPool", "Relu", "Resize"}  # half where all they get is half
LARGEST = float(np.finfo(np.float16).max)
SPLITTER = 2.0**13 + 1  # Veltkamp's: keeps the upper 11 of fp32's 24 bits


def write_half(source: Path, target: Path) -> None:
    """Write the graph with its body in half; inputs and outputs keep their types. EngineError where it has no body."""
    model = onnx.load(source)
    _Halver(model.graph).run()
    if not any(each.data_type == TensorProto.FLOAT16 for each in model.graph.initializer):
        raise EngineError(f"{source}: has no layer that would be computed in fp16; build with --precision fp32")
    onnx.checker.check_model(model)
    onnx.save(model, target)


class _Halver:
    """Goes through a graph once, in the order of computation, and knows which tensors are half by then."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.weights = {each.name: each for each in graph.initializer if each.data_type == TensorProto.FLOAT}
        self.outputs = {each.name for each in graph.output}
        self.half: set[str] = set()
        self.nodes: list[onnx.NodeProto] = []
        self.made: set[str] = set()  # casts and halved weights, each made once

    def run(self) -> None:
        nodes = list(self.graph.node)
        for node in nodes:
            self._take(node)
        used = {name for node in self.nodes for name in node.input}
        kept = [each for each in self.graph.initializer if each.name in used]
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]  # the last tell types of old
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(kept)

    def _take(self, node: onnx.NodeProto) -> None:
        goes_half = node.op_type in PRODUCTS or (node.op_type in FOLLOWERS and self._gets_half(node))
        for index, name in enumerate(node.input):
            if goes_half and name and not (node.op_type == "Resize" and index > 0):  # its sizes are no data
                node.input[index] = self._as_half(name)
            elif name in self.half:
                node.input[index] = self._cast(name, f"{name}.float", TensorProto.FLOAT)
        self.nodes.append(node)
        if not goes_half:
            return
        for index, name in enumerate(node.output):
            if name in self.outputs:
                node.output[index] = f"{name}.half"
                self._cast(f"{name}.half", name, TensorProto.FLOAT)
            self.half.add(node.output[index])

    def _gets_half(self, node: onnx.NodeProto) -> bool:
        inputs = node.input[:1] if node.op_type == "Resize" else node.input
        data = [name for name in inputs if name and name not in self.weights]
        return bool(data) and all(name in self.half for name in data)

    def _as_half(self, name: str) -> str:
        if name in self.half:
            return name
        halved = f"{name}.half"
        if name not in self.weights:
            return self._cast(name, halved, TensorProto.FLOAT16)
        if halved not in self.made:
            self.made.add(halved)
            with np.errstate(over="ignore"):  # an infinite weight does not pass the gate
                values = numpy_helper.to_array(self.weights[name]).astype(np.float16)
            self.graph.initializer.append(numpy_helper.from_array(values, halved))
        return halved

    def _cast(self, name: str, to_name: str, to: int) -> str:
        if to_name not in self.made:
            self.made.add(to_name)
            self.nodes.append(helper.make_node("Cast", [name], [to_name], to=to))
        return to_name


def write_imitation(half: Path, target: Path) -> None:
    """Write a half-precision graph in fp32, with every half tensor rounded where it is made.

    Processors without half arithmetic, and OpenVINO on them, widen such a graph to fp32 and round nothing but weights:
    what it answers there says little of a GPU. What becomes larger than half can hold becomes infinite. Not imitated:
    the coarser steps below 6e-5, and sums that a GPU might carry in half.
    """
    model = onnx.load(half)
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.value_info
    rounded = {each.name for each in inferred if each.type.tensor_type.elem_type == TensorProto.FLOAT16}
    weights = [_widened(each) for each in graph.initializer]
    nodes = [new for node in graph.node for new in _imitated(node, rounded)]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
    for name, value in {"half.splitter": SPLITTER, "half.largest": LARGEST}.items():
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    onnx.checker.check_model(model)
    onnx.save(model, target)


def _widened(weight: onnx.TensorProto) -> onnx.TensorProto:
    if weight.data_type != TensorProto.FLOAT16:
        return weight
    return numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name)


def _imitated(node: onnx.NodeProto, rounded: set[str]) -> Iterator[onnx.NodeProto]:
    """The node in fp32, then the rounding of what it made."""
    made = [name for name in node.output if name in rounded]
    if node.op_type == "Cast" and made:
        node.attribute[0].i = TensorProto.FLOAT
    for index, name in enumerate(node.output):
        if name in rounded:
            node.output[index] = f"{name}.exact"
    yield node
    for name in made:
        yield from _rounding(f"{name}.exact", name)


def _rounding(exact: str, name: str) -> Iterator[onnx.NodeProto]:
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
            operator, [f"{name}.{each}" if each in inner else each for each in inputs], [f"{name}.{output}"]
        )
    yield helper.make_node("Cast", [f"{name}.fits"], [f"{name}.one_or_zero"], to=TensorProto.FLOAT)
    yield helper.make_node("Div", [f"{name}.near", f"{name}.one_or_zero"], [name])
