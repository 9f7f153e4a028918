"""Draw dermoscopy-like images with known masks and labels, for people without data.

The images show that the program works. The accuracy of a network on them says nothing about skin.
"""

from dataclasses import dataclass

import numpy as np

from lesioncli.demo.artefacts import ARTEFACTS, aperture, expose, light
from lesioncli.demo.canvas import Canvas, Mask, UInt8
from lesioncli.demo.lesion import APPEARANCES, add_lesion, draw_outline, skin_density
from lesioncli.spec import CLASSES


@dataclass(frozen=True)
class DrawnCase:
    """An `image` (H, W, 3) uint8 RGB, its lesion `mask` (H, W) bool and its `label`, one of spec.CLASSES."""

    image: UInt8
    mask: Mask
    label: str


def draw_case(seed: int, height: int = 480, width: int = 640) -> DrawnCase:
    """Draw one image with its mask and label.

    A seed always gives the same image; three consecutive seeds give the three classes.
    """
    label = CLASSES[seed % len(CLASSES)]
    rng = np.random.default_rng(seed)
    canvas = Canvas(rng, height, width, px_per_mm=width / rng.uniform(11, 20))
    transmission = aperture(canvas)
    mask = draw_outline(canvas, APPEARANCES[label], visible=transmission > 0.5)
    rgb = add_lesion(canvas, APPEARANCES[label], mask, np.exp(-skin_density(canvas)))
    rgb *= light(canvas)
    for share, add_artefact in ARTEFACTS:
        if rng.random() < share:
            rgb = add_artefact(canvas, rgb)
    return DrawnCase(expose(canvas, rgb * transmission[..., None]), mask, label)
