"""Peer of `segment`: PyTorch with a DataLoader and Pillow; the network is that of lesioncli.

python torch_loader.py CHECKPOINT SIDE IMAGES OUT
"""

import csv
import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lesioncli.training.checkpoint import load_checkpoint

checkpoint, side, images, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
paths = sorted(images.iterdir())


class Images(Dataset[tuple[Tensor, int, int, int]]):
    def __len__(self) -> int:
        return len(paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int, int]:
        image = Image.open(paths[index]).convert("RGB")
        small = np.array(image.resize((side, side), Image.Resampling.BILINEAR))
        return torch.from_numpy(small), index, image.width, image.height


out.mkdir()
network, _ = load_checkpoint(checkpoint)
loader = DataLoader(Images(), batch_size=16, num_workers=len(os.sched_getaffinity(0)))
with torch.inference_mode(), (out / "scores.csv").open("w", newline="") as file:
    for batch, indices, widths, heights in loader:
        output = network(batch.permute(0, 3, 1, 2).float() / 255)
        maps = (output.mask_logits.sigmoid().squeeze(1) * 255).round().byte().numpy()
        scores = network.class_probabilities(output.class_logits).tolist()
        for probability, index, width, height, row in zip(maps, indices, widths, heights, scores, strict=True):
            full = Image.fromarray(probability).resize((int(width), int(height)), Image.Resampling.BILINEAR)
            full.point(lambda value: 255 * (value >= 128)).save(out / f"{paths[index].stem}.png")
            csv.writer(file).writerow([paths[index].name, *row])
