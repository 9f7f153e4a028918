"""fp16 graphs: what is half in them, what stays fp32, and an imitation that rounds as numpy's float16 does."""

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

from lesioncli.backends.tensorrt.half import write_half, write_imitation
from lesioncli.errors import EngineError

NORMAL = 2.0**-14
TYPES = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}


def write_floats(
    path: Path, nodes: list[onnx.NodeProto], outputs: tuple[str, ...], constants: Mapping[str, NDArray[Any]]
) -> Path:
    """A graph of x, fp32 (1, 1, 4, 4), to fp32 outputs of its shape."""
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


def imitated(source: Path) -> Path:
    target = source.with_suffix(".imitation.onnx")
    write_imitation(halved(source), target)
    return target


def types_by_operator(path: Path) -> dict[str, set[str]]:
    """Operator -> what its outputs are, of the float types, by ONNX's own inference."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    types = {each.name: each.type.tensor_type.elem_type for each in [*model.graph.value_info, *model.graph.output]}
    found: dict[str, set[str]] = {}
    for node in model.graph.node:
        if types[node.output[0]] in TYPES:
            found.setdefault(node.op_type, set()).add(TYPES[types[node.output[0]]])
    return found


def run_openvino(path: Path, **inputs: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
    found = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(inputs)
    return {str(each.any_name): found[each] for each in found}


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """y = 3 x, as a convolution of one weight."""
    node = helper.make_node("Conv", ["x", "three"], ["y"])
    return write_floats(tmp_path / "product.onnx", [node], ("y",), {"three": np.full((1, 1, 1, 1), 3, np.float32)})


@pytest.fixture(scope="module")
def shipped_half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("half") / "half.onnx"
    write_half(shipped_onnx(), path)
    return path


def test_convolutions_and_products_are_half_and_all_that_it_would_harm_is_not(shipped_half: Path) -> None:
    types = types_by_operator(shipped_half)
    for operator in {"Conv", "Gemm", "MatMul"} & set(types):
        assert types[operator] == {"fp16"}
    for operator in {"Softmax", "Sigmoid", "ReduceMean", "ReduceSum", "Div", "Sqrt", "Pow", "Round"} & set(types):
        assert types[operator] == {"fp32"}
    assert {"Conv", "Sigmoid", "Round"} <= set(types)


def test_ends_keep_their_types_and_casts(shipped_half: Path) -> None:
    half, whole = onnx.load(shipped_half), onnx.load(shipped_onnx())
    assert half.graph.input[0] == whole.graph.input[0]
    assert list(half.graph.output) == list(whole.graph.output)
    assert list(half.metadata_props) == list(whole.metadata_props)
    readers = [node.op_type for node in half.graph.node if "image" in node.input]
    writers = [node.op_type for node in half.graph.node if "mask" in node.output]
    assert (readers, writers) == (["Cast"], ["Cast"])


def test_a_half_graph_weighs_half(shipped_half: Path) -> None:
    assert 0.49 < shipped_half.stat().st_size / shipped_onnx().stat().st_size < 0.52


def test_no_weight_is_left_that_nothing_reads(shipped_half: Path) -> None:
    graph = onnx.load(shipped_half).graph
    assert {each.name for each in graph.initializer} <= {name for node in graph.node for name in node.input}


def test_followers_are_half_only_where_all_their_data_is(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "three"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Add", ["b", "one"], ["both"]),  # a weight goes with its data
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
    types = {each.name: TYPES[each.type.tensor_type.elem_type] for each in model.graph.value_info}
    expected = {"a": "fp16", "b": "fp16", "both": "fp16", "mixed": "fp32", "never": "fp32", "exp": "fp32"}
    assert {name: types[name] for name in expected} == expected
    assert types["after"] == "fp32"


def test_a_half_tensor_that_is_an_output_comes_out_as_fp32(product: Path) -> None:
    (found,) = ReferenceEvaluator(str(halved(product))).run(None, {"x": np.full((1, 1, 4, 4), 1 + 2**-12, np.float32)})
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    assert (found == 3).all()  # 2**-12 was lost on the way in


def test_a_graph_without_such_layers_cannot_be_half(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"tiny\.onnx: has no layer .* in fp16; build with --precision fp32"):
        halved(write_graph(tmp_path / "tiny.onnx"))


def test_openvino_alone_would_hide_what_half_loses(product: Path) -> None:
    """Why there is an imitation. Should this fail one day, it is not needed any more, on such a processor."""
    x = np.full((1, 1, 4, 4), 1 + 2**-12, np.float32)
    assert (run_openvino(halved(product), x=x)["y"] == 3 * x).all()
    assert (run_openvino(imitated(product), x=x)["y"] == 3).all()


def test_the_imitation_rounds_as_numpys_float16(product: Path) -> None:
    generator = np.random.default_rng(1)
    imitation = openvino.Core().compile_model(imitated(product), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for _ in range(100):
        x = (generator.uniform(1, 2, 16) * 2.0 ** generator.integers(-13, 14, 16)).astype(np.float32)
        x = (x * generator.choice([-1, 1], 16)).astype(np.float32).reshape(1, 1, 4, 4)
        expected = (np.float32(3) * x.astype(np.float16).astype(np.float32)).astype(np.float16)
        np.testing.assert_array_equal(imitation(x)["y"], expected.astype(np.float32))


@pytest.mark.parametrize(
    ("x", "expected"),
    [(0, 0), (21824, 65472), (21840, np.inf), (30000, np.inf), (-30000, -np.inf), (NORMAL, 3 * NORMAL)],
)
def test_the_imitation_at_the_ends_of_halfs_range(product: Path, x: float, expected: float) -> None:
    found = run_openvino(imitated(product), x=np.full((1, 1, 4, 4), x, np.float32))["y"]
    np.testing.assert_allclose(found, expected, rtol=2**-10)


def test_the_imitation_has_no_half_left(shipped_half: Path, tmp_path: Path) -> None:
    write_imitation(shipped_half, tmp_path / "imitation.onnx")
    types = types_by_operator(tmp_path / "imitation.onnx")
    assert set().union(*types.values()) == {"fp32"}
