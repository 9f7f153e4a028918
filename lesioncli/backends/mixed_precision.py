"""Which operations of a graph an engine of the CPU backend computes in which precision.

The convolutions near the image are the most sensitive: values are large there, and lesion and skin differ little. So
are the last ones, which make the mask.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import openvino
from openvino import opset13 as opset

from lesioncli.errors import UnsuitedPrecisionError
from lesioncli.images.geometry import UInt8

# Operations behind at most this many convolutions stay in fp32 in a bf16 engine: bf16 does nearly all of its harm
# there. With 18, both shipped models pass the parity check with a wide margin (docs/experiments).
FP32_CONVOLUTIONS = 18
# An int8 engine leaves the first convolutions in fp32 and the last: those of the logits and of their upsampling.
EXACT_FIRST, EXACT_LAST = 5, 2
CONVOLUTIONS = {"Convolution", "GroupConvolution"}
LEVELS, INT8_MAX = 256, 127
MIN_RANGE = 1e-6  # of values that are all zero

Ranges = Mapping[str, tuple[float, float]]  # lowest and highest value of feature maps, by the name of their operation
Depths = Mapping[str, int]  # convolutions on the longest path to an operation, by its name


def find_fp32_operations(graph: openvino.Model) -> set[str]:
    """Return the names of the operations behind at most FP32_CONVOLUTIONS convolutions.

    The set is empty if no convolution follows them: an engine called bf16 would be fp32 throughout.
    """
    depths = _depths_from_image(graph)
    if max(depths.values()) <= FP32_CONVOLUTIONS:
        return set()
    return {name for name, depth in depths.items() if depth <= FP32_CONVOLUTIONS}


def mark_as_precise(xml: Path, names: Collection[str]) -> None:
    """Add OpenVINO's attribute "precise" to operations; its Python API has no function for that."""
    tree = ElementTree.parse(xml)  # noqa: S314 - OpenVINO wrote it
    for layer in tree.iterfind("layers/layer"):
        if layer.get("name") in names and layer.get("type") not in {"Parameter", "Result"}:
            info = layer.find("rt_info")
            if info is None:
                info = ElementTree.SubElement(layer, "rt_info")
            ElementTree.SubElement(info, "attribute", name="precise", version="0")
    tree.write(xml)


def is_exact_in_int8() -> bool:
    """Return whether this CPU adds products of 8-bit numbers exactly, as those with VNNI do.

    Others add pairs of products in 16 bits and cut off what is larger, unnoticed. The largest sum tells.
    """
    channels, shape = 64, (1, 64, 8, 8)
    image = opset.parameter(shape, np.float32)
    weights = opset.constant(np.full((channels, channels, 1, 1), INT8_MAX, np.int8))
    weights = opset.multiply(opset.convert(weights, "f32"), opset.constant(np.ones((channels, 1, 1, 1), np.float32)))
    sums = opset.convolution(_round_map(image.output(0), 0, LEVELS - 1), weights, [1, 1], [0, 0], [0, 0], [1, 1])
    graph = openvino.Model([sums], [image])
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled([np.full(shape, LEVELS - 1, np.float32)])[0]
    return bool((found == channels * INT8_MAX * (LEVELS - 1)).all())


def measure_ranges(graph: openvino.Model, images: Sequence[UInt8]) -> Ranges:
    """Return the ranges, on network-sized images (H, W, 3), of the feature maps that an int8 engine rounds.

    Each of these becomes an output of the graph.
    """
    sources = {_name_input(operation): operation.input_value(0) for operation in _find_rounded(graph)}
    first = len(graph.outputs)
    graph.add_outputs(list(sources.values()))
    free_or_fixed = graph.inputs[0].partial_shape[0]
    batch = free_or_fixed.get_length() if free_or_fixed.is_static else 1
    graph.reshape(openvino.PartialShape((batch, *images[0].shape)))
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    low, high = np.zeros((2, len(sources)))  # so that 0, the padding, is always in the range
    for image in images:
        maps = list(compiled([np.resize(image, (batch, *image.shape))]).values())[first:]
        low = np.minimum(low, [values.min() for values in maps])
        high = np.maximum(high, [values.max() for values in maps])
    return dict(zip(sources, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def round_to_int8(graph: openvino.Model, ranges: Ranges) -> None:
    """Round inputs and weights of the inner convolutions to 8 bits, so that OpenVINO computes them in int8.

    Raises UnsuitedPrecisionError if there is none: an engine called int8 would be fp32 throughout.
    """
    convolutions = _find_rounded(graph)
    if not convolutions:
        raise UnsuitedPrecisionError("the network has no convolution that could be in it")
    rounded: dict[str, Any] = {}
    for operation in convolutions:
        source = _name_input(operation)
        if source not in rounded:
            rounded[source] = _round_map(operation.input_value(0), *ranges[source])
        operation.input(0).replace_source_output(rounded[source])
        operation.input(1).replace_source_output(_round_weights(operation.input_value(1)))
    _keep_image_exact(graph)
    graph.validate_nodes_and_infer_types()


def _keep_image_exact(graph: openvino.Model) -> None:
    """Let the image be smoothed in fp32: in an int8 graph, OpenVINO rounds the mean over pixels of uint8 to uint8.

    It cannot move its int8 arithmetic past a minimum.
    """
    for target in graph.inputs[0].get_target_inputs():
        cast = target.get_node()
        readers = cast.output(0).get_target_inputs()
        exact = opset.minimum(cast.output(0), np.float32(255)).output(0)
        for reader in readers:
            reader.replace_source_output(exact)


def _round_map(values: openvino.Output, low: float, high: float) -> openvino.Output:
    """Round feature maps to LEVELS levels from about `low` to `high`; one of them is exactly 0."""
    step = max(high - low, MIN_RANGE) / (LEVELS - 1)
    below = round(-low / step)
    limits = np.float32(-below * step), np.float32((LEVELS - 1 - below) * step)
    return opset.fake_quantize(values, *limits, *limits, LEVELS).output(0)


def _round_weights(weights: openvino.Output) -> openvino.Output:
    """Round weights (O, I, H, W) to 255 levels for each O, from minus to plus the largest magnitude, stored as int8."""
    values = np.asarray(weights.get_node().data, np.float32)
    step = np.maximum(np.abs(values).max(axis=(1, 2, 3), keepdims=True), MIN_RANGE) / INT8_MAX
    rounded = opset.constant(np.round(values / step).astype(np.int8))
    return opset.multiply(opset.convert(rounded, "f32"), opset.constant(step)).output(0)


def _find_rounded(graph: openvino.Model) -> list[Any]:
    """Return the convolutions that an int8 engine computes in int8, in the order of the graph.

    Two kinds stay in fp32: depthwise convolutions, which int8 hardly speeds up, and convolutions of concatenated maps,
    because one range cannot fit maps of different ranges.
    """
    depths, heights = _depths_from_image(graph), _depths_from_outputs(graph)
    names = ((operation, operation.get_friendly_name()) for operation in graph.get_ordered_ops())
    return [
        operation
        for operation, name in names
        if operation.get_type_name() == "Convolution"
        and operation.input_value(1).get_node().get_type_name() == "Constant"
        and operation.input_value(0).get_node().get_type_name() != "Concat"
        and depths.get(name, 0) > EXACT_FIRST
        and heights.get(name, 0) > EXACT_LAST
    ]


def _name_input(operation: Any) -> str:
    """Return the name of the output that a convolution reads."""
    value = operation.input_value(0)
    return f"{value.get_node().get_friendly_name()}:{value.get_index()}"


def _depths_from_image(graph: openvino.Model) -> Depths:
    """Return the convolutions on the longest path from the image to each operation, the operation included."""
    depths: dict[str, int] = {}
    for operation in graph.get_ordered_ops():
        name, kind = operation.get_friendly_name(), operation.get_type_name()
        inputs = [value.get_node().get_friendly_name() for value in operation.input_values()]
        input_depths = [depths[input_name] for input_name in inputs if input_name in depths]
        if kind == "Parameter":
            depths[name] = 0
        elif input_depths and kind != "ShapeOf":  # shapes do not depend on the precision
            # A MatMul crops the image by coordinates that the network computed: its result is again an image.
            depths[name] = min(input_depths) if kind == "MatMul" else max(input_depths) + (kind in CONVOLUTIONS)
    return depths


def _depths_from_outputs(graph: openvino.Model) -> Depths:
    """Return the convolutions on the longest path from each operation to an output, the operation included."""
    depths: dict[str, int] = {}
    for operation in reversed(graph.get_ordered_ops()):
        name, kind = operation.get_friendly_name(), operation.get_type_name()
        readers = [target.get_node() for output in operation.outputs() for target in output.get_target_inputs()]
        later = [depths[reader.get_friendly_name()] for reader in readers if reader.get_friendly_name() in depths]
        if kind == "Result":
            depths[name] = 0
        elif later:
            depths[name] = max(later) + (kind in CONVOLUTIONS)
    return depths
