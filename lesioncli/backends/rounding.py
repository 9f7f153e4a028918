"""Rounding of values to 8 bits and of weights to 7 bits, in graphs of OpenVINO."""

from dataclasses import dataclass

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as opset

LEVELS = 256  # of a feature map
# 7 bits: CPUs without VNNI add two products in 16 bits and cut off what is larger; 2 * 255 * 63 is not.
LARGEST_WEIGHT = 63
MIN_RANGE = 1e-6  # of values that are all zero
DAMPING = 0.01  # times the mean square of a map, added to the mean square of each channel

Float64 = NDArray[np.float64]


def round_values(values: openvino.Output, low: float, high: float) -> openvino.Output:
    """Round values to LEVELS levels over a range that includes 0; one of the levels is exactly 0."""
    step = max(high - low, MIN_RANGE) / (LEVELS - 1)
    below = round(-low / step)
    limits = np.float32(-below * step), np.float32((LEVELS - 1 - below) * step)
    return opset.fake_quantize(values, *limits, *limits, LEVELS).output(0)


@dataclass(frozen=True)
class RoundedKernel:
    """Weights of a convolution: whole numbers (O, C, H, W) times a step for each O, (O, 1, 1, 1)."""

    numbers: NDArray[np.int8]
    step: NDArray[np.float32]

    @property
    def weights(self) -> Float64:
        return np.float64(self.numbers) * self.step

    def store(self) -> openvino.Output:
        """Return the weights as the output of a graph that holds the numbers as int8."""
        return opset.multiply(opset.convert(opset.constant(self.numbers), "f32"), opset.constant(self.step)).output(0)


def round_kernel(weights: Float64, products: Float64) -> RoundedKernel:
    """Round weights (O, C, H, W) to 7 bits.

    `products`: mean product of each two channels (C, C), or of each two values of a patch (C * H * W, C * H * W).
    """
    step = np.maximum(np.abs(weights).max(axis=(1, 2, 3), keepdims=True), MIN_RANGE) / LARGEST_WEIGHT
    of_patches = len(products) == weights[0].size
    last = weights / step if of_patches else np.moveaxis(weights / step, 1, -1)
    rounded = round_weights(last.reshape(-1, len(products)), products).reshape(last.shape)
    numbers = rounded if of_patches else np.moveaxis(rounded, -1, 1)
    return RoundedKernel(numbers.astype(np.int8), step.astype(np.float32))


def round_weights(rows: Float64, products: Float64) -> Float64:
    """Round rows of weights (N, C) to whole numbers so that their sums over a map's channels change little.

    One channel after the other is rounded, and the weights of those that follow make up for the error, as far as the
    products of channels (C, C) allow: the method of GPTQ (Frantar et al. 2022, arXiv 2210.17323).
    """
    damping = max(DAMPING * float(products.diagonal().mean()), MIN_RANGE)
    inverse = np.linalg.inv(products + damping * np.eye(len(products)))
    shares = np.linalg.cholesky(inverse).T
    rest, rounded = rows.copy(), np.empty_like(rows)
    for channel in range(rows.shape[1]):
        rounded[:, channel] = rest[:, channel].round().clip(-LARGEST_WEIGHT, LARGEST_WEIGHT)
        error = (rest[:, channel] - rounded[:, channel]) / shares[channel, channel]
        rest[:, channel + 1 :] -= np.outer(error, shares[channel, channel + 1 :])
    return rounded
