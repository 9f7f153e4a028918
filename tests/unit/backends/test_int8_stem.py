"""Smoothing and first convolution of a graph as one convolution in int8."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino
import pytest
from helpers.pictures import UInt8
from numpy.typing import NDArray
from openvino import opset13 as opset

from lesioncli.backends.int8_stem import find_stems, replace_by_int8

OUTPUTS = 8
USUAL: Mapping[str, Any] = {"stride": 2, "pads_end": 1, "side": 3, "exclude_pad": True, "order": (0, 3, 1, 2)}


def stem_graph(batch: int = -1, **changes: Any) -> openvino.Model:
    """Return a graph of images (N, H, W, 3) that is a stem, unless `changes` of USUAL make it none."""
    made = {**USUAL, **changes}
    rng = np.random.default_rng(0)
    image = opset.parameter(openvino.PartialShape([batch, -1, -1, 3]), np.uint8, name="image")
    values = opset.transpose(opset.convert(image, "f32"), np.array(made["order"]))
    values = opset.multiply(values, np.float32(1 / 255))
    values = opset.avg_pool(values, [1, 1], [1, 1], [1, 1], [3, 3], exclude_pad=made["exclude_pad"])
    values = opset.add(opset.multiply(values, np.float32(2)), np.float32(-1))
    kernel = rng.normal(size=(OUTPUTS, 3, made["side"], made["side"])).astype(np.float32)
    stride, end = made["stride"], made["pads_end"]
    values = opset.convolution(values, kernel, [stride, stride], [0, 0], [end, end], [1, 1])
    return openvino.Model([opset.relu(values)], [image])


def run(graph: openvino.Model, image: UInt8) -> NDArray[np.float32]:
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled([image[np.newaxis]])[0][0])


def rounded_graph(images: list[UInt8], batch: int = -1) -> openvino.Model:
    graph = stem_graph(batch)
    (stem,) = find_stems(graph)
    replace_by_int8(stem, images)
    graph.validate_nodes_and_infer_types()
    return graph


def noise(low: int, high: int, size_hw: tuple[int, int] = (32, 40)) -> list[UInt8]:
    return list(np.random.default_rng(1).integers(low, high, (3, *size_hw, 3), np.uint8))


@pytest.mark.parametrize("size_hw", [(32, 40), (33, 40), (32, 41), (3, 2)])
def test_outputs_are_those_of_smoothing_and_convolution(size_hw: tuple[int, int]) -> None:
    """Also in the corners, where a mean is over four pixels, and at the end, where the convolution is padded.

    An even number of rows has padding, an odd one has none.
    """
    images = noise(70, 186, size_hw)  # pixels at the border that the padding can make up for
    expected, found = run(stem_graph(), images[0]), run(rounded_graph(images), images[0])
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=0.025 * expected.max())


def test_dark_and_bright_images_differ_at_the_end_alone() -> None:
    images = noise(0, 30)
    difference = np.abs(run(rounded_graph(images), images[0]) - run(stem_graph(), images[0])).max(axis=0)
    assert difference[:-1, :-1].max() < 0.05
    assert max(difference[-1].max(), difference[:, -1].max()) > 0.05


def test_the_error_of_the_mean_colour_is_made_up_for() -> None:
    """On an image of one colour, what is left are 7 bits of the padding at the end."""
    images = [np.full((32, 40, 3), (200, 140, 110), np.uint8)]
    difference = np.abs(run(rounded_graph(images), images[0]) - run(stem_graph(), images[0])).max(axis=0)
    assert difference[:-1, :-1].max() < 0.005


def test_the_convolution_is_in_int8_and_nothing_smooths() -> None:
    graph = rounded_graph(noise(0, 256))
    graph.reshape([1, 32, 40, 3])
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    infos = [op.get_rt_info() for op in compiled.get_runtime_model().get_ordered_ops()]
    layers = [(info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in infos]
    assert ("Convolution", "u8") in layers
    assert "Pooling" not in dict(layers)


def test_a_graph_with_a_fixed_batch_is_rounded_alike() -> None:
    images = noise(0, 256)
    found = run(rounded_graph(images), images[0])
    fixed = rounded_graph(images, batch=2)
    compiled = openvino.Core().compile_model(fixed, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    both = compiled([np.stack([images[0], images[0]])])[0]
    np.testing.assert_allclose(both, np.stack([found, found]), atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"stride": 1},
        {"pads_end": 0},
        {"side": 5},
        {"exclude_pad": False},
        {"order": (0, 3, 2, 1)},
    ],
    ids=str,
)
def test_what_is_different_is_left_alone(changes: Mapping[str, Any]) -> None:
    assert len(find_stems(stem_graph())) == 1
    assert not find_stems(stem_graph(**changes))


def test_what_reads_no_image_is_no_stem() -> None:
    values = opset.parameter([1, 3, 8, 8], np.float32)
    kernel = np.ones((1, 3, 3, 3), np.float32)
    graph = openvino.Model([opset.convolution(values, kernel, [2, 2], [0, 0], [1, 1], [1, 1])], [values])
    assert not find_stems(graph)


def test_scales_of_each_channel_are_no_stem() -> None:
    graph = stem_graph()
    (multiply, *_) = (op for op in graph.get_ordered_ops() if op.get_type_name() == "Multiply")
    multiply.input(1).replace_source_output(opset.constant(np.ones((3, 1, 1), np.float32)).output(0))
    assert not find_stems(graph)
