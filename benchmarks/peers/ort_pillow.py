"""Peer of `segment`: ONNX Runtime in a pool of threads, with Pillow.

python ort_pillow.py GRAPH SIDE IMAGES OUT
"""

import csv
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from PIL import Image

graph, side, images, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def segment(path: Path) -> list[Any]:
    image = Image.open(path).convert("RGB")
    small = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
    probability, scores = session.run(["mask", "scores"], {"image": small[None]})
    full = Image.fromarray(probability[0]).resize(image.size, Image.Resampling.BILINEAR)
    full.point(lambda value: 255 * (value >= 128)).save(out / f"{path.stem}.png")
    return [path.name, *scores[0]]


out.mkdir()
with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool, (out / "scores.csv").open("w", newline="") as file:
    csv.writer(file).writerows(pool.map(segment, sorted(images.iterdir())))
