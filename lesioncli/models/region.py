"""Crop the lesion inside the graph, and paste a map back to where the crop came from.

Both are products with two small matrices, one for rows and one for columns: every engine has these operations, but not
every engine has a grid sampler.
"""

from typing import NamedTuple

import torch
from torch import Tensor

DILATION = 1.5  # side of the crop over the extent of the lesion
SMALLEST = 0.25  # as a share of the image's side


class Region(NamedTuple):
    """A square of every image, as shares of its sides: top, left and side, each (N,). It lies inside the image."""

    top: Tensor
    left: Tensor
    side: Tensor


def region_of(probability: Tensor) -> Region:
    """Lesion probability (N, 1, H, W) in [0, 1] -> a region of DILATION times the lesion's extent, without gradient.

    The extent comes from moments, since a single pixel could change a bounding box: the half axes of an ellipse are
    twice its standard deviations. Without a lesion, the region is the whole image.
    """
    weight = probability.detach().float()[:, 0] ** 2  # squared, so that low probabilities count little
    row, height = _centre_and_extent(weight.mean(2))
    column, width = _centre_and_extent(weight.mean(1))
    side = (DILATION * torch.maximum(height, width)).clamp(SMALLEST, 1.0)
    side = torch.where(weight.mean((1, 2)) > 1e-4, side, torch.ones_like(side))
    return Region(_inside(row, side), _inside(column, side), side)


def cut_out(images: Tensor, region: Region) -> Tensor:
    """Crop the region from images (N, C, H, W) and resample it to (H, W), antialiased where that downsamples."""
    rows = _resampling(region.top, region.side, images.shape[2])
    columns = _resampling(region.left, region.side, images.shape[3])
    return _apply(rows, images, columns)


def put_back(maps: Tensor, region: Region) -> Tensor:
    """Invert cut_out(): maps (N, C, h, w) of the region -> maps (N, C, h, w) of the image, 0 outside the region."""
    rows = _resampling(-region.top / region.side, 1 / region.side, maps.shape[2])
    columns = _resampling(-region.left / region.side, 1 / region.side, maps.shape[3])
    return _apply(rows, maps, columns)


def _apply(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    rows, columns = rows.to(images.dtype), columns.to(images.dtype)
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


def _centre_and_extent(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights along one side (N, S) -> their mean position and four standard deviations, as shares of the side."""
    position = _centres(weight.shape[1], weight)
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-9)
    centre = (weight * position).sum(1)
    variance = (weight * (position - centre[:, None]) ** 2).sum(1)
    return centre, 4 * variance.clamp(min=0).sqrt()


def _inside(centre: Tensor, side: Tensor) -> Tensor:
    """Start of an interval with that centre and length, moved into the image."""
    return torch.minimum((centre - side / 2).clamp(min=0), 1 - side)


def _centres(size: int, like: Tensor) -> Tensor:
    return (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) / size


def _resampling(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Matrix (N, size, size) that resamples one side; row i has the weights of sample i in [start, start + length].

    Weights follow a triangle as wide as a pixel, or as the distance of samples if that is larger. Samples outside the
    image have no weights.
    """
    centres = _centres(size, start)
    samples = start[:, None] + length[:, None] * centres
    distance = (samples[:, :, None] - centres).abs() * size
    weight = (1 - distance / length.clamp(min=1)[:, None, None]).clamp(min=0)
    inside = ((samples >= 0) & (samples <= 1)).to(weight.dtype)
    return weight / weight.sum(2, keepdim=True).clamp(min=1e-6) * inside[:, :, None]
