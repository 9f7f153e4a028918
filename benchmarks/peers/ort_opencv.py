"""Peer of `segment`: ONNX Runtime in a pool of threads, with scaled JPEG decoding by Pillow and the rest by OpenCV.

python ort_opencv.py GRAPH SIDE IMAGES OUT
"""

import csv
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
from PIL import Image

graph, side, images, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
cv2.setNumThreads(1)


def segment(path: Path) -> list[Any]:
    image = Image.open(path)
    full_size = image.size
    image.draft("RGB", (2 * side, 2 * side))
    small = cv2.resize(np.asarray(image.convert("RGB")), (side, side), interpolation=cv2.INTER_AREA)
    probability, scores = session.run(["mask", "scores"], {"image": small[None]})
    full = cv2.resize(probability[0], full_size, interpolation=cv2.INTER_LINEAR)
    cv2.imwrite(str(out / f"{path.stem}.png"), cv2.threshold(full, 127, 255, cv2.THRESH_BINARY)[1])
    return [path.name, *scores[0]]


out.mkdir()
with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool, (out / "scores.csv").open("w", newline="") as file:
    csv.writer(file).writerows(pool.map(segment, sorted(images.iterdir())))
