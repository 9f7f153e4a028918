"""fp16 graphs: which tensors are half, and an emulation that rounds as numpy's float16 does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from helpers.graphs import write_graph
from helpers.shipped import shipped_onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from lesioncli.backends.tensorrt.half import write_emulation, write_half
from lesioncli.errors import EngineError

NORMAL = 2.0**-14
TYPES = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}


def write_floats(
    path: Path, nodes: list[onnx.NodeProto], outputs: tuple[str, ...], constants: Mapping[str, NDArray[Any]]
) -> Path:
    """Write a graph from x, fp32 (1, 1, 4, 4), to fp32 outputs of the same shape."""
    graph = helper.make_graph(
        nodes,
        "drawn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 4, 4]) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def halved(source: Path) -> Path:
    target = source.with_suffix(".half.onnx")
    write_half(source, target)
    return target


def emulated(source: Path) -> Path:
    target = source.with_suffix(".emulation.onnx")
    write_emulation(halved(source), target)
    return target


def types_by_operator(path: Path) -> dict[str, set[str]]:
    """Return the float types of the outputs of each operator, by ONNX's own shape inference."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    tensors = [*model.graph.value_info, *model.graph.output]
    types = {tensor.name: tensor.type.tensor_type.elem_type for tensor in tensors}
    found: dict[str, set[str]] = {}
    for node in model.graph.node:
        if types[node.output[0]] in TYPES:
            found.setdefault(node.op_type, set()).add(TYPES[types[node.output[0]]])
    return found


def run_openvino(path: Path, **inputs: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
    outputs = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(inputs)
    return {str(output.any_name): outputs[output] for output in outputs}


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """A graph of y = 3 x, as a convolution with one weight."""
    node = helper.make_node("Conv", ["x", "three"], ["y"])
    return write_floats(tmp_path / "product.onnx", [node], ("y",), {"three": np.full((1, 1, 1, 1), 3, np.float32)})


@pytest.fixture(scope="module")
def shipped_half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("half") / "half.onnx"
    write_half(shipped_onnx(), path)
    return path


def test_convolutions_and_products_are_half_and_sensitive_operations_are_not(shipped_half: Path) -> None:
    types = types_by_operator(shipped_half)
    for operator in {"Conv", "Gemm", "MatMul"} & set(types):
        assert types[operator] == {"fp16"}
    for operator in {"Softmax", "Sigmoid", "ReduceMean", "ReduceSum", "Div", "Sqrt", "Pow", "Round"} & set(types):
        assert types[operator] == {"fp32"}
    assert {"Conv", "Sigmoid", "Round"} <= set(types)


def test_inputs_and_outputs_keep_their_types_and_casts(shipped_half: Path) -> None:
    half, whole = onnx.load(shipped_half), onnx.load(shipped_onnx())
    assert half.graph.input[0] == whole.graph.input[0]
    assert list(half.graph.output) == list(whole.graph.output)
    assert list(half.metadata_props) == list(whole.metadata_props)
    readers = [node.op_type for node in half.graph.node if "image" in node.input]
    writers = [node.op_type for node in half.graph.node if "mask" in node.output]
    assert (readers, writers) == (["Cast"], ["Cast"])


def test_a_half_graph_has_half_the_size(shipped_half: Path) -> None:
    assert 0.49 < shipped_half.stat().st_size / shipped_onnx().stat().st_size < 0.52


def test_unused_weights_are_removed(shipped_half: Path) -> None:
    graph = onnx.load(shipped_half).graph
    assert {weight.name for weight in graph.initializer} <= {name for node in graph.node for name in node.input}


def test_followers_are_half_only_if_all_their_data_is(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "three"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Add", ["b", "one"], ["both"]),  # a weight has the type of its data
        helper.make_node("Add", ["b", "x"], ["mixed"]),
        helper.make_node("Relu", ["x"], ["never"]),
        helper.make_node("Exp", ["both"], ["exp"]),
        helper.make_node("Add", ["exp", "one"], ["after"]),
        helper.make_node("Sum", ["mixed", "never", "after"], ["y"]),
    ]
    constants = {"three": np.full((1, 1, 1, 1), 3, np.float32), "one": np.ones(1, np.float32)}
    model = onnx.shape_inference.infer_shapes(
        onnx.load(halved(write_floats(tmp_path / "some.onnx", nodes, ("y",), constants)))
    )
    types = {tensor.name: TYPES[tensor.type.tensor_type.elem_type] for tensor in model.graph.value_info}
    expected = {"a": "fp16", "b": "fp16", "both": "fp16", "mixed": "fp32", "never": "fp32", "exp": "fp32"}
    assert {name: types[name] for name in expected} == expected
    assert types["after"] == "fp32"


def test_a_half_output_is_cast_to_fp32(product: Path) -> None:
    (found,) = ReferenceEvaluator(str(halved(product))).run(None, {"x": np.full((1, 1, 4, 4), 1 + 2**-12, np.float32)})
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    assert (found == 3).all()  # the input lost 2**-12


def test_a_graph_without_products_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"tiny\.onnx: .*--precision fp32"):
        halved(write_graph(tmp_path / "tiny.onnx"))


def test_openvino_alone_does_not_round(product: Path) -> None:
    """This is why there is an emulation. If this fails one day, the emulation is not needed any more."""
    x = np.full((1, 1, 4, 4), 1 + 2**-12, np.float32)
    assert (run_openvino(halved(product), x=x)["y"] == 3 * x).all()
    assert (run_openvino(emulated(product), x=x)["y"] == 3).all()


def test_the_emulation_rounds_as_numpys_float16(product: Path) -> None:
    generator = np.random.default_rng(1)
    emulation = openvino.Core().compile_model(emulated(product), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for _ in range(100):
        x = (generator.uniform(1, 2, 16) * 2.0 ** generator.integers(-13, 14, 16)).astype(np.float32)
        x = (x * generator.choice([-1, 1], 16)).astype(np.float32).reshape(1, 1, 4, 4)
        expected = (np.float32(3) * x.astype(np.float16).astype(np.float32)).astype(np.float16)
        np.testing.assert_array_equal(emulation(x)["y"], expected.astype(np.float32))


@pytest.mark.parametrize(
    ("x", "expected"),
    [(0, 0), (21824, 65472), (21840, np.inf), (30000, np.inf), (-30000, -np.inf), (NORMAL, 3 * NORMAL)],
)
def test_the_emulation_at_the_ends_of_the_range(product: Path, x: float, expected: float) -> None:
    found = run_openvino(emulated(product), x=np.full((1, 1, 4, 4), x, np.float32))["y"]
    np.testing.assert_allclose(found, expected, rtol=2**-10)


def test_the_emulation_has_no_half_tensor(shipped_half: Path, tmp_path: Path) -> None:
    write_emulation(shipped_half, tmp_path / "emulation.onnx")
    types = types_by_operator(tmp_path / "emulation.onnx")
    assert set().union(*types.values()) == {"fp32"}
