"""Small ONNX graphs whose outputs three lines of numpy give as well.

The tiny graph accepts 32x32 pixels. Its mask is the red channel, its scores are the share of each channel in the sum of
all pixels (nan for a black image), and its further output `agreement` is the mean brightness. The free graph computes
the same for images of any size.
"""

import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from helpers.pictures import SIDE, UInt8
from lesioncli.backends.base import Engine
from lesioncli.spec import METADATA_KEY, ModelSpec

# The condition in pyproject.toml: if there are wheels, the tests need them, and a broken wheel is no reason to skip.
HAS_RTX_WHEELS = sys.platform != "darwin" and platform.machine() in ("x86_64", "AMD64")
NO_RTX_WHEELS = "TensorRT for RTX has no wheels for this platform"
needs_rtx = pytest.mark.skipif(not HAS_RTX_WHEELS, reason=NO_RTX_WHEELS)
GraphOutputs = Mapping[str, tuple[int, Sequence[int | str]]]  # type and shape by name
MakeEngine = Callable[[int], Path]
OpenEngine = Callable[[int], Engine]
TINY_SPEC = ModelSpec("tiny", "drawn", SIDE, SIDE)
TINY_NODES = {
    "pixels": helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
    "red": helper.make_node("Gather", ["pixels", "first"], ["red"], axis=3),
    "mask": helper.make_node("Cast", ["red"], ["mask"], to=TensorProto.UINT8),
    "sums": helper.make_node("ReduceSum", ["pixels", "rows_and_columns"], ["sums"], keepdims=0),
    "light": helper.make_node("ReduceSum", ["sums", "channels"], ["light"], keepdims=1),
    "scores": helper.make_node("Div", ["sums", "light"], ["scores"]),
    "brightness": helper.make_node("Div", ["light", "all_light"], ["brightness"]),
    "agreement": helper.make_node("Squeeze", ["brightness", "channels"], ["agreement"]),
}
TINY_OUTPUTS: GraphOutputs = {
    "mask": (TensorProto.UINT8, ("n", SIDE, SIDE)),
    "scores": (TensorProto.FLOAT, ("n", 3)),
    "agreement": (TensorProto.FLOAT, ("n",)),
}
TINY_CONSTANTS: Mapping[str, NDArray[Any]] = {
    "first": np.array(0, np.int64),
    "rows_and_columns": np.array([1, 2], np.int64),
    "channels": np.array([1], np.int64),
    "all_light": np.array(255 * 3 * SIDE * SIDE, np.float32),
}
FREE_SIDE = 64
FREE_SPEC = ModelSpec("free", "drawn", FREE_SIDE, FREE_SIDE)
FREE_NODES = {
    **TINY_NODES,
    "brightness": helper.make_node("ReduceMean", ["pixels"], ["brightness"], axes=[1, 2, 3], keepdims=0),
    "agreement": helper.make_node("Div", ["brightness", "white"], ["agreement"]),
}
FREE_OUTPUTS: GraphOutputs = {**TINY_OUTPUTS, "mask": (TensorProto.UINT8, ("n", "h", "w"))}
FREE_CONSTANTS = {**TINY_CONSTANTS, "white": np.array(255, np.float32)}


def write_graph(
    path: Path,
    nodes: Mapping[str, onnx.NodeProto] = TINY_NODES,
    outputs: GraphOutputs = TINY_OUTPUTS,
    constants: Mapping[str, NDArray[Any]] = TINY_CONSTANTS,
    spec: ModelSpec | None = TINY_SPEC,
    image_shape: tuple[int | str, int | str, int | str] = ("n", SIDE, SIDE),
) -> Path:
    """Write an ONNX graph, by default the tiny one; `image_shape` is N, H and W of its input."""
    graph = helper.make_graph(
        list(nodes.values()),
        "drawn",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [*image_shape, 3])],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if spec:
        helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


GREY = [np.full((SIDE, SIDE, 3), value, np.uint8) for value in (128, 200, 255)]  # images for the graph below


def write_precise_graph(path: Path, weight: float) -> Path:
    """Write a graph with scores of 0.4 x brightness, as a difference of `weight` + 0.2 and - 0.2.

    In half precision the two numbers may be equal.
    """
    weights = np.zeros((SIDE * SIDE, 3, 3), np.float32)
    weights[:, 0], weights[:, 1] = (weight + 0.2) / 2**18, (0.2 - weight) / 2**18
    nodes = {
        "pixels": TINY_NODES["pixels"],
        "red": TINY_NODES["red"],
        "mask": TINY_NODES["mask"],
        "flat": helper.make_node("Reshape", ["pixels", "flat_shape"], ["flat"]),
        "scores": helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
    }
    constants = {
        "first": TINY_CONSTANTS["first"],
        "flat_shape": np.array([0, -1], np.int64),
        "weights": weights.reshape(-1, 3),
    }
    return write_graph(path, nodes, {name: TINY_OUTPUTS[name] for name in ("mask", "scores")}, constants)


def tiny_outputs(pixels: UInt8) -> tuple[UInt8, NDArray[np.float64], float]:
    """Return the outputs of the tiny and the free graph for (H, W, 3) pixels: mask, scores, agreement."""
    sums = pixels.sum((0, 1), dtype=np.int64)
    with np.errstate(invalid="ignore"):
        return pixels[..., 0], sums / sums.sum(), float(pixels.mean()) / 255
