"""Measure how much a model's masks depend on the downsampling kernel. Figures for the model cards.

    python benchmarks/kernel_agreement.py MANIFEST IMAGES [IMAGES...]

Each image is segmented four times: downsampled by Pillow's antialiased bilinear kernel (the one lesioncli uses), by
Pillow's box kernel and by OpenCV's area kernel, and decoded at full size instead of scaled. For each pair of variants,
print the mean, 5th percentile and minimum Jaccard between the masks (largest regions) at network size.
"""

import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lesioncli.backends.base import predict_all
from lesioncli.backends.registry import open_engine
from lesioncli.evaluation.metrics import pixels as metrics
from lesioncli.images.decode import decode
from lesioncli.images.find import find_images
from lesioncli.images.geometry import UInt8, to_network
from lesioncli.inference.postprocess import keep_largest_region


def main() -> None:
    manifest, *folders = map(Path, sys.argv[1:])
    paths = [each.local_path for folder in folders for each in find_images([folder])]
    print(f"{len(paths)} images, {manifest}")
    for (one, other), agreement in measure_agreement(manifest, paths).items():
        low, worst = np.percentile(agreement, 5), agreement.min()
        print(f"{one:>12} - {other:13} mean {agreement.mean():.4f}  5th percentile {low:.3f}  worst {worst:.3f}")


def measure_agreement(manifest: Path, paths: Sequence[Path]) -> Mapping[tuple[str, str], NDArray[np.float64]]:
    """Return the Jaccard of the masks of each image (N,) by two ways to reduce it, for each pair of ways."""
    with open_engine(manifest) as engine:
        height, width = engine.spec.height, engine.spec.width
    reduced: dict[str, list[UInt8]] = {name: [] for name in ("bilinear", "box", "opencv area", "full decoding")}
    for path in paths:
        scaled = decode(path, (height, width)).rgb
        full = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        reduced["bilinear"].append(to_network(scaled, height, width))
        reduced["box"].append(to_network(scaled, height, width, "box"))
        area = cv2.resize(scaled, (width, height), interpolation=cv2.INTER_AREA)
        reduced["opencv area"].append(np.asarray(area, np.uint8))
        reduced["full decoding"].append(to_network(full, height, width))
    masks = {name: _segment(manifest, pictures) for name, pictures in reduced.items()}
    return {
        (one, other): np.array(
            [metrics.jaccard(metrics.count_pixels(a, b)) for a, b in zip(masks[one], masks[other], strict=True)]
        )
        for one, other in combinations(masks, 2)
    }


def _segment(manifest: Path, pictures: Sequence[UInt8]) -> Sequence[NDArray[np.bool_]]:
    probabilities = predict_all(open_engine(manifest), pictures).probability
    return [keep_largest_region(probability > 127)[0] for probability in probabilities]


if __name__ == "__main__":
    main()
