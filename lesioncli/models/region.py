"""The lesion cut out of a picture inside the graph, and a map put back where the cut-out came from.

Both are products with two small matrices, one for rows and one for columns: made of nothing that an engine could lack,
unlike a grid sampler.
"""

from typing import NamedTuple

import torch
from torch import Tensor

DILATION = 1.5  # side of the cut-out over the lesion's extent
SMALLEST = 0.25  # of the picture's side


class Region(NamedTuple):
    """A part of each picture, in shares of its sides: top, left and side, each (N,). It lies inside the picture."""

    top: Tensor
    left: Tensor
    side: Tensor


def region_of(probability: Tensor) -> Region:
    """Where the lesion is: (N, 1, H, W) in [0, 1] -> a region of DILATION times its extent; no gradient.

    By moments, since a stray pixel would move a bounding box: the half axes of an ellipse are twice its standard
    deviations. Where nothing is found, the region is the whole picture.
    """
    weight = probability.detach().float()[:, 0] ** 2  # squared: a faint haze weighs little
    row, height = _centre_and_extent(weight.mean(2))
    column, width = _centre_and_extent(weight.mean(1))
    side = (DILATION * torch.maximum(height, width)).clamp(SMALLEST, 1.0)
    side = torch.where(weight.mean((1, 2)) > 1e-4, side, torch.ones_like(side))
    return Region(_inside(row, side), _inside(column, side), side)


def cut_out(images: Tensor, region: Region) -> Tensor:
    """(N, C, H, W) -> the region, at the same size, antialiased where that reduces it."""
    rows = _resampling(region.top, region.side, images.shape[2])
    columns = _resampling(region.left, region.side, images.shape[3])
    return _apply(rows, images, columns)


def put_back(maps: Tensor, region: Region) -> Tensor:
    """cut_out()'s inverse: maps (N, C, h, w) of the region -> maps (N, C, h, w) of the picture, 0 outside."""
    rows = _resampling(-region.top / region.side, 1 / region.side, maps.shape[2])
    columns = _resampling(-region.left / region.side, 1 / region.side, maps.shape[3])
    return _apply(rows, maps, columns)


def _apply(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    rows, columns = rows.to(images.dtype), columns.to(images.dtype)
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


def _centre_and_extent(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights along one side (N, S) -> their mean place and four standard deviations, in shares of the side."""
    place = _centres(weight.shape[1], weight)
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-9)
    centre = (weight * place).sum(1)
    variance = (weight * (place - centre[:, None]) ** 2).sum(1)
    return centre, 4 * variance.clamp(min=0).sqrt()


def _inside(centre: Tensor, side: Tensor) -> Tensor:
    """Where a side of that centre begins, moved into the picture."""
    return torch.minimum((centre - side / 2).clamp(min=0), 1 - side)


def _centres(size: int, like: Tensor) -> Tensor:
    return (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) / size


def _resampling(start: Tensor, length: Tensor, size: int) -> Tensor:
    """(N, size, size): row i weighs the pixels around the i-th sample of [start, start + length], by a triangle.

    The triangle is a pixel wide, or a sample where samples lie further apart. Samples beyond the pixels get none.
    """
    centres = _centres(size, start)
    samples = start[:, None] + length[:, None] * centres
    distance = (samples[:, :, None] - centres).abs() * size
    weight = (1 - distance / length.clamp(min=1)[:, None, None]).clamp(min=0)
    inside = ((samples >= 0) & (samples <= 1)).to(weight.dtype)
    return weight / weight.sum(2, keepdim=True).clamp(min=1e-6) * inside[:, :, None]
