"""int8 engines: which operations they round, by how much, and what becomes of the masks."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from helpers.engines import CPU
from helpers.pictures import UInt8, draw
from helpers.shipped import shipped_onnx
from openvino import opset13 as opset

from lesioncli.backends.build import build
from lesioncli.backends.int8 import EXACT_FIRST, EXACT_LAST, MapStatistics, measure_maps, round_to_int8
from lesioncli.backends.openvino import compile_to_files
from lesioncli.backends.rounding import round_weights
from lesioncli.errors import EngineError, UnsuitedPrecisionError
from lesioncli.images.geometry import to_network
from lesioncli.options import Precision

INT8 = replace(CPU, precision=Precision.INT8)


def small_graph(
    *, batch: int = 1, concatenated: bool = False, smoothed: bool = False, weight: float | None = None
) -> openvino.Model:
    """Return a chain of nine 1x1 convolutions, (N, 8, 8, 3) to (N, 4, 8, 8), every second one depthwise.

    weight: that of all convolutions; random ones by default.
    """

    def draw_weights(*shape: int) -> Any:
        return (rng.normal(size=shape) if weight is None else np.full(shape, weight)).astype(np.float32)

    rng = np.random.default_rng(0)
    image = opset.parameter([batch, 8, 8, 3], np.uint8, name="image")
    values = opset.transpose(opset.convert(image, "f32"), np.array([0, 3, 1, 2]))
    if smoothed:
        values = opset.avg_pool(values, [1, 1], [1, 1], [1, 1], [3, 3], exclude_pad=True)
    channels = 3
    for number in range(9):
        if number % 2:
            values = opset.group_convolution(values, draw_weights(channels, 1, 1, 1, 1), [1, 1], [0, 0], [0, 0], [1, 1])
        else:
            if concatenated and number == 6:
                values, channels = opset.concat([values, values], 1), 2 * channels
            values = opset.convolution(values, draw_weights(4, channels, 1, 1), [1, 1], [0, 0], [0, 0], [1, 1])
            channels = 4
        values.set_friendly_name(f"convolution {number}")
    return openvino.Model([values], [image])


def rounded_inputs(graph: openvino.Model) -> list[str]:
    """Return the names of the convolutions that read a rounded map."""
    readers = [op for op in graph.get_ordered_ops() if op.get_type_name() in {"Convolution", "GroupConvolution"}]
    return [op.get_friendly_name() for op in readers if op.input_value(0).get_node().get_type_name() == "FakeQuantize"]


def run(graph: openvino.Model, image: UInt8) -> Any:
    return openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([image[np.newaxis]])


def noise() -> list[UInt8]:
    return list(np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), np.uint8))


def test_inner_convolutions_are_rounded_but_for_depthwise_ones() -> None:
    """Of nine, the first five and the last two are exact, and number 5 is depthwise."""
    assert (EXACT_FIRST, EXACT_LAST) == (5, 2)
    graph = small_graph()
    round_to_int8(graph, measure_maps(small_graph(), noise()), noise())
    assert rounded_inputs(graph) == ["convolution 6"]


def test_a_convolution_of_concatenated_maps_is_exact() -> None:
    graph = small_graph(concatenated=True)
    with pytest.raises(UnsuitedPrecisionError, match="no convolution"):
        round_to_int8(graph, measure_maps(small_graph(), noise()), noise())


def test_a_network_whose_maps_overflow_is_refused() -> None:
    graph = small_graph(weight=1e20)
    with pytest.raises(UnsuitedPrecisionError, match="not finite"):
        round_to_int8(graph, measure_maps(small_graph(weight=1e20), noise()), noise())


@pytest.mark.parametrize("weight", [None, 0.1])  # 0.1: all values between 0 and 1
def test_statistics_are_those_of_the_maps_on_all_images_with_zero_in_the_range(weight: float | None) -> None:
    ((name, found),) = measure_maps(small_graph(weight=weight), noise()).items()
    assert name == "convolution 5:0"
    graph = small_graph(weight=weight)
    graph.add_outputs([op.output(0) for op in graph.get_ordered_ops() if op.get_friendly_name() == "convolution 5"])
    maps = np.stack([run(graph, image)[1][0] for image in noise()])
    np.testing.assert_allclose((found.low, found.high), (min(maps.min(), 0), max(maps.max(), 0)), rtol=1e-5)
    np.testing.assert_allclose(found.products, np.einsum("ncyx,ndyx->cd", maps, maps) / (3 * 8 * 8), rtol=1e-4)


def test_statistics_are_the_same_in_a_graph_with_a_fixed_batch() -> None:
    (fixed,), (free,) = (measure_maps(small_graph(batch=batch), noise()).values() for batch in (2, 1))
    assert (fixed.low, fixed.high) == (free.low, free.high)
    np.testing.assert_array_equal(fixed.products, free.products)


def test_a_map_without_values_below_zero_keeps_a_range_from_zero() -> None:
    graph = small_graph()
    round_to_int8(graph, {"convolution 5:0": MapStatistics(0, 255, np.eye(4))}, noise())
    (rounding,) = (
        op
        for op in graph.get_ordered_ops()
        if op.get_type_name() == "FakeQuantize" and op.get_attributes()["levels"] == 256
    )
    limits = [float(rounding.input_value(number).get_node().data) for number in range(1, 5)]
    assert limits == [0, 255, 0, 255]


def test_weights_of_unrelated_channels_are_rounded_to_the_nearest() -> None:
    weights = np.random.default_rng(2).uniform(-63, 63, (5, 8))
    np.testing.assert_array_equal(round_weights(weights, np.eye(8)), weights.round())


def test_weights_of_related_channels_make_up_for_each_other() -> None:
    """The error of a sum over the channels is far below that of the nearest whole numbers."""
    rng = np.random.default_rng(3)
    maps = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 16)) + 0.05 * rng.normal(size=(200, 16))
    weights = rng.uniform(-63, 63, (5, 16))
    rounded = round_weights(weights, maps.T @ maps / len(maps))
    errors = [np.abs(maps @ (weights - found).T).mean() for found in (rounded, weights.round())]
    assert errors[0] < 0.5 * errors[1]
    assert np.abs(rounded).max() <= 63
    np.testing.assert_array_equal(rounded, rounded.round())


def test_weights_of_maps_that_are_all_zero_are_rounded() -> None:
    weights = np.array([[1.4, -2.6]])
    np.testing.assert_array_equal(round_weights(weights, np.zeros((2, 2))), weights.round())


def test_rounding_changes_outputs_a_little() -> None:
    graph = small_graph()
    round_to_int8(graph, measure_maps(small_graph(), noise()), noise())
    exact = run(small_graph(), noise()[0])[0]
    difference = np.abs(run(graph, noise()[0])[0] - exact).max()
    assert 0 < difference < 0.02 * np.abs(exact).max()


@pytest.fixture(scope="module")
def shipped_layers(tmp_path_factory: pytest.TempPathFactory, parity_images: list[UInt8]) -> list[tuple[str, str]]:
    """Kind and precision of the layers of the shipped model's int8 engine, as OpenVINO runs them."""
    xml = tmp_path_factory.mktemp("int8") / "graph.xml"
    compile_to_files(shipped_onnx(), xml, Precision.INT8, [to_network(image, 224, 224) for image in parity_images])
    return run_layers(xml)


def run_layers(graph: openvino.Model | Path) -> list[tuple[str, str]]:
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    infos = [op.get_rt_info() for op in compiled.get_runtime_model().get_ordered_ops()]
    return [(info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in infos]


def test_the_shipped_model_runs_its_pointwise_convolutions_in_int8(shipped_layers: list[tuple[str, str]]) -> None:
    """In int8 is the stem, too. In fp32 are 22 depthwise ones, two behind the stem, the logits and their upsampling."""
    precisions = [precision for kind, precision in shipped_layers if kind == "Convolution"]
    assert precisions.count("f32") == 22 + 2 + 2
    assert precisions.count("u8") + precisions.count("i8") == 37 + 1


def test_the_shipped_model_smooths_the_image_in_its_stem(shipped_layers: list[tuple[str, str]]) -> None:
    """What is left is the mean of the mask behind the class scores."""
    assert [precision for kind, precision in shipped_layers if kind == "Pooling"] == ["f32"]


def test_an_image_that_no_stem_reads_is_smoothed_in_fp32(tmp_path: Path) -> None:
    """OpenVINO would round the mean of pixels to whole numbers, which costs .02 of mask agreement on photographs."""
    graph = small_graph(smoothed=True)
    round_to_int8(graph, measure_maps(small_graph(smoothed=True), noise()), noise())
    assert [precision for kind, precision in run_layers(graph) if kind == "Pooling"] == ["f32"]


@pytest.mark.parametrize("model", ["multitask-lite", "mbdcnn-lite"])
def test_a_shipped_model_passes_the_parity_check_in_int8(
    model: str, parity_images: list[UInt8], tmp_path: Path
) -> None:
    built = build(shipped_onnx(model), tmp_path, parity_images, INT8)
    assert (built.manifest.precision, built.reason) == (Precision.INT8, "as asked")


def test_the_largest_sums_are_the_same_on_a_processor_without_vnni(tmp_path: Path) -> None:
    """There, two products are added in 16 bits. oneDNN takes the variable as a processor with AVX2 alone."""
    graph = small_graph(weight=1.0)
    white = np.full((8, 8, 3), 255, np.uint8)
    round_to_int8(graph, measure_maps(small_graph(weight=1.0), [white]), [white])
    openvino.save_model(graph, tmp_path / "graph.xml", compress_to_fp16=False)
    code = f"""
import numpy, openvino
compiled = openvino.Core().compile_model({str(tmp_path / "graph.xml")!r}, "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
print(compiled([numpy.full((1, 8, 8, 3), 255, numpy.uint8)])[0].max())
"""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    exact = run(small_graph(weight=1.0), white)[0].max()
    np.testing.assert_allclose(float(done.stdout), exact, rtol=1e-5)


def test_a_network_without_inner_convolutions_is_refused_but_by_auto(tiny_onnx: Path, tmp_path: Path) -> None:
    images = [draw(seed) for seed in range(3)]
    with pytest.raises(EngineError, match=r"in int8, .*no convolution.*--precision fp32"):
        build(tiny_onnx, tmp_path / "int8", images, INT8)
    assert not (tmp_path / "int8").exists()
    assert build(tiny_onnx, tmp_path / "auto", images, CPU).manifest.precision != Precision.INT8
