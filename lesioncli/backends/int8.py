"""int8 engines of the CPU backend: inputs and weights of a graph's stems and inner convolutions, in 8 and 7 bits.

Why these convolutions: docs/decisions/0080-int8-inside.md. Why 7 bits: docs/decisions/0081-weights-of-seven-bits.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as opset

from lesioncli.backends.int8_stem import find_stems, replace_by_int8
from lesioncli.backends.mixed_precision import depths_from_image, depths_from_outputs
from lesioncli.backends.rounding import Float64, round_kernel, round_values
from lesioncli.errors import UnsuitedPrecisionError
from lesioncli.images.geometry import UInt8

# The first convolutions stay in fp32, unless they are stems, and the last: those of the logits and of their upsampling.
EXACT_FIRST, EXACT_LAST = 5, 2


@dataclass(frozen=True)
class MapStatistics:
    """What a feature map of C channels holds on some images.

    low, high: its range, which includes 0, the padding. products: mean product of each two channels, (C, C).
    """

    low: float
    high: float
    products: Float64


Statistics = Mapping[str, MapStatistics]  # by the name of the output that a convolution reads


def measure_maps(graph: openvino.Model, images: Sequence[UInt8]) -> Statistics:
    """Return statistics, on network-sized images (H, W, 3), of the feature maps that an int8 engine rounds.

    Each of these becomes an output of the graph.
    """
    sources = {_name_input(operation): operation.input_value(0) for operation in _find_rounded(graph)}
    first = len(graph.outputs)
    graph.add_outputs(list(sources.values()))
    free_or_fixed = graph.inputs[0].partial_shape[0]
    batch = free_or_fixed.get_length() if free_or_fixed.is_static else 1
    graph.reshape(openvino.PartialShape((batch, *images[0].shape)))
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found: dict[str, MapStatistics] = {}
    for image in images:
        outputs = compiled([np.resize(image, (batch, *image.shape))])
        for number, name in enumerate(sources, start=first):
            found[name] = _add_image(found.get(name), outputs[number][0], 1 / len(images))
    return found


def _add_image(before: MapStatistics | None, values: NDArray[np.float32], share: float) -> MapStatistics:
    """Return statistics with the map (C, H, W) of one more image; `share`: one divided by the number of images."""
    rows = values.reshape(len(values), -1)
    products = (rows @ rows.T).astype(np.float64) * (share / rows.shape[1])
    low, high = float(rows.min()), float(rows.max())
    if before is None:
        return MapStatistics(min(low, 0), max(high, 0), products)
    return MapStatistics(min(low, before.low), max(high, before.high), products + before.products)


def round_to_int8(graph: openvino.Model, statistics: Statistics, images: Sequence[UInt8]) -> None:
    """Round inputs and weights of the inner convolutions, and the stems, so that OpenVINO computes them in int8.

    `images` of the network's size (H, W, 3) are those of the statistics. Raises UnsuitedPrecisionError if there is no
    inner convolution, since an engine called int8 would be fp32 nearly throughout, or if a feature map is not finite.
    """
    convolutions = _find_rounded(graph)
    if not convolutions:
        raise UnsuitedPrecisionError("the network has no convolution that could be in it")
    if not all(np.isfinite(found.products).all() for found in statistics.values()):
        raise UnsuitedPrecisionError("a feature map of the network is not finite")
    rounded: dict[str, Any] = {}
    for operation in convolutions:
        source = _name_input(operation)
        if source not in rounded:
            found = statistics[source]
            rounded[source] = round_values(operation.input_value(0), found.low, found.high)
        operation.input(0).replace_source_output(rounded[source])
        weights = np.asarray(operation.input_value(1).get_node().data, np.float64)
        operation.input(1).replace_source_output(round_kernel(weights, statistics[source].products).store())
    stems = find_stems(graph)
    _keep_image_exact(graph)
    for stem in stems:
        replace_by_int8(stem, images)
    graph.validate_nodes_and_infer_types()


def _keep_image_exact(graph: openvino.Model) -> None:
    """Let what is no stem smooth the image in fp32: in an int8 graph, OpenVINO rounds means over uint8 to uint8.

    It cannot move its int8 arithmetic past a minimum.
    """
    for target in graph.inputs[0].get_target_inputs():
        cast = target.get_node()
        readers = cast.output(0).get_target_inputs()
        exact = opset.minimum(cast.output(0), np.float32(255)).output(0)
        for reader in readers:
            reader.replace_source_output(exact)


def _find_rounded(graph: openvino.Model) -> list[Any]:
    """Return the convolutions that an int8 engine computes in int8, in the order of the graph.

    Two kinds stay in fp32: depthwise convolutions, which int8 hardly speeds up, and convolutions of concatenated maps,
    because one range cannot fit maps of different ranges.
    """
    depths, heights = depths_from_image(graph), depths_from_outputs(graph)
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
