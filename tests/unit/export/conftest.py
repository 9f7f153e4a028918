"""Fixtures: an output folder of `segment` with masks of every kind."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.drawn_run import HEIGHT, WIDTH, DrawnRun

from lesioncli.images.geometry import UInt8
from lesioncli.inference.pictures import write_mask


def draw_masks() -> dict[str, UInt8]:
    """Return masks (HEIGHT, WIDTH) by name."""
    empty = np.zeros((HEIGHT, WIDTH), np.uint8)
    ring = empty.copy()
    cv2.circle(ring, (40, 36), 25, 255, -1)
    cv2.circle(ring, (45, 30), 6, 0, -1)
    cv2.circle(ring, (30, 45), 4, 0, -1)
    cv2.circle(ring, (45, 30), 2, 255, -1)  # a region inside a hole
    ring[5:9, 80:90] = 255
    noise = np.where(np.random.default_rng(3).random(empty.shape) < 0.5, 255, 0).astype(np.uint8)
    corner = empty.copy()
    corner[0, 0] = corner[-1, -1] = corner[1, 1] = 255
    return {"empty": empty, "ring": ring, "noise": noise, "corner": corner, "full": np.full_like(empty, 255)}


@pytest.fixture
def run(tmp_path: Path) -> DrawnRun:
    """Six images with masks, one of them drawn; finish() is up to the test."""
    drawn = DrawnRun(tmp_path)
    drawn.add("sub/drawn", 0, melanoma=0.75)
    for seed, (name, mask) in enumerate(draw_masks().items(), start=1):
        drawn.add(name, seed)
        write_mask(drawn.masks / f"{name}.png", mask)
    return drawn
