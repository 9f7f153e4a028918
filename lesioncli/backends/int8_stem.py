"""The smoothing of the image and the first convolution of a graph, as one convolution in int8.

Why: docs/decisions/0082-int8-stem.md. In TensorRT and in fp32, the graph smooths the image as it was trained.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import openvino
from numpy.lib.stride_tricks import sliding_window_view
from openvino import opset13 as opset

from lesioncli.backends.rounding import Float64, round_kernel, round_values
from lesioncli.images.geometry import UInt8

# The operations in front of a stem, from the last to the first.
CHAIN = ("Add", "Multiply", "AvgPool", "Multiply", "Transpose", "Convert", "Parameter")
TO_CHANNELS_FIRST = [0, 3, 1, 2]
STRIDE = 2
SMOOTHING = {"kernel": [3, 3], "strides": [1, 1], "pads_begin": [1, 1], "pads_end": [1, 1], "exclude-pad": True}
CONVOLUTION = {"strides": [STRIDE, STRIDE], "dilations": [1, 1], "pads_begin": [0, 0], "pads_end": [1, 1]}
KERNEL_SIDE = 5  # of the merged convolution: 3 pixels, each the mean over 3 pixels


@dataclass(frozen=True)
class Stem:
    """A convolution (O, 3, 3, 3) of stride 2 of the smoothed image, times `scale` plus `shift`.

    image: the Parameter of the graph. grey: the value of a pixel that the padding of the convolution stands for.
    """

    convolution: Any
    image: Any
    scale: float
    shift: float

    @property
    def grey(self) -> float:
        return -self.shift / self.scale

    @classmethod
    def match(cls, convolution: Any) -> Self | None:
        """Return the stem that a convolution is, or None."""
        if not _has(convolution, "Convolution", CONVOLUTION):
            return None
        kernel = convolution.input_value(1).get_node()
        if kernel.get_type_name() != "Constant" or tuple(kernel.get_output_shape(0))[1:] != (3, 3, 3):
            return None
        image, constants = _walk_back(convolution.input_value(0).get_node())
        if image is None or constants["Transpose"] != [TO_CHANNELS_FIRST]:
            return None
        scales, shifts = constants["Multiply"], constants["Add"]
        if not all(isinstance(value, float) for value in (*scales, *shifts)) or 0 in scales:
            return None
        return cls(convolution, image, math.prod(scales), shifts[0])


def _has(node: Any, kind: str, attributes: Mapping[str, Any]) -> bool:
    if node.get_type_name() != kind:
        return False
    actual = node.get_attributes()
    return all(actual.get(name) == value for name, value in attributes.items())


def _walk_back(node: Any) -> tuple[Any, Mapping[str, list[Any]]]:
    """Follow CHAIN back from its last operation; return the image, or None, and the constants by kind of operation."""
    constants: dict[str, list[Any]] = defaultdict(list)
    for kind in CHAIN[:-1]:
        if not _has(node, kind, SMOOTHING if kind == "AvgPool" else {}):
            return None, constants
        operands = [value.get_node() for value in node.input_values()]
        constants[kind] += [each.data.tolist() for each in operands if each.get_type_name() == "Constant"]
        node = next((each for each in operands if each.get_type_name() != "Constant"), node)
    return node if node.get_type_name() == CHAIN[-1] else None, constants


def find_stems(graph: openvino.Model) -> list[Stem]:
    """Return the stems of a graph."""
    return [stem for stem in map(Stem.match, graph.get_ordered_ops()) if stem]


def replace_by_int8(stem: Stem, images: Sequence[UInt8]) -> None:
    """Put one int8 convolution of the image in the place of a stem, rounded to fit `images` (H, W, 3)."""
    pixels = _to_uint8(opset.convert(stem.image, "f32").output(0))
    extended = _extend(_extend(pixels, 1, stem.grey), 2, stem.grey)
    mean, covariance = _measure_patches(openvino.Model([extended], [stem.image]), images)
    kernel = np.asarray(stem.convolution.input_value(1).get_node().data, np.float64)
    exact = _merge_smoothing(kernel) * stem.scale
    rounded = round_kernel(exact, covariance)
    channels_first = opset.transpose(extended, TO_CHANNELS_FIRST)
    merged = opset.convolution(channels_first, rounded.store(), [STRIDE, STRIDE], [0, 0], [0, 0], [1, 1])
    # The bias corrects the mean error on `images`, so the weights were rounded for the covariance alone.
    shift = stem.shift * kernel.sum(axis=(1, 2, 3)) + (exact - rounded.weights).reshape(len(kernel), -1) @ mean
    result = opset.add(merged, opset.constant(shift.reshape(1, -1, 1, 1).astype(np.float32))).output(0)
    for reader in stem.convolution.output(0).get_target_inputs():
        reader.replace_source_output(result)


def _merge_smoothing(kernel: Float64) -> Float64:
    """Return the kernel (O, C, 5, 5) of a mean over 3x3 pixels and then a convolution (O, C, 3, 3)."""
    merged = np.zeros((*kernel.shape[:2], KERNEL_SIDE, KERNEL_SIDE))
    for row in range(3):
        for column in range(3):
            merged[..., row : row + 3, column : column + 3] += kernel / 9
    return merged


def _to_uint8(values: openvino.Output) -> openvino.Output:
    return round_values(values, 0, 255)


def _extend(pixels: openvino.Output, axis: int, grey: float) -> openvino.Output:
    """Add one row (or column) before the first and two after the last, so that the border needs no other weights.

    The graph takes the mean of two pixels a and b at its border. The mean of three is the same if the third is
    (a + b) / 2. The last added row is chosen so that the mean of the last three rows is `grey`, the padding. Next to
    very dark or bright pixels, no uint8 value can do that, and the nearest one is taken.
    """
    first, second, before, last = (
        opset.slice(pixels, [start], [end], [1], [axis])
        for start, end in ((0, 1), (1, 2), (-2, -1), (-1, np.iinfo(np.int32).max))
    )
    after = opset.multiply(opset.add(before, last), np.float32(0.5))
    padding = opset.subtract(np.float32(3 * grey), opset.add(last, after))
    leading = opset.multiply(opset.add(first, second), np.float32(0.5))
    added = [_to_uint8(values.output(0)) for values in (leading, after, padding)]
    return opset.concat([added[0], pixels, *added[1:]], axis).output(0)


def _measure_patches(graph: openvino.Model, images: Sequence[UInt8]) -> tuple[Float64, Float64]:
    """Return mean (75,) and covariance (75, 75) of the values of the patches that a stem reads.

    `graph` extends images (N, H, W, 3).
    """
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    batch = graph.inputs[0].partial_shape[0]
    rows = batch.get_length() if batch.is_static else 1
    size = 3 * KERNEL_SIDE**2
    mean, products = np.zeros(size), np.zeros((size, size))
    for image in images:
        extended = compiled([np.resize(image, (rows, *image.shape))])[0][0]
        windows = sliding_window_view(extended, (KERNEL_SIDE, KERNEL_SIDE), axis=(0, 1))
        patches = windows[::STRIDE, ::STRIDE].reshape(-1, size).astype(np.float64)
        mean += patches.mean(axis=0) / len(images)
        products += patches.T @ patches / (len(patches) * len(images))
    return mean, products - np.outer(mean, mean)
