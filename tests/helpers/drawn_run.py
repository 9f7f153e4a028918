"""An output folder of `segment` with drawn images and masks, made without an engine."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from lesioncli.demo.draw import DrawnCase, draw_case
from lesioncli.inference.outcome import output_columns
from lesioncli.inference.results import write_mask
from lesioncli.spec import CLASSES

COLUMNS = [column.name for column in output_columns(CLASSES)]
HEIGHT, WIDTH = 72, 96


class DrawnRun:
    """Folders images/, labels/ and masks/, filled case by case; finish() writes the tables.

    A predicted mask is the ground truth, shifted horizontally.
    """

    def __init__(self, folder: Path) -> None:
        self.images, self.labels, self.masks = (folder / name for name in ("images", "labels", "masks"))
        for path in (self.images, self.labels, self.masks):
            path.mkdir(parents=True)
        self.rows: list[Mapping[str, object]] = []
        self.labelled: list[tuple[str, int, int]] = []

    def add(self, name: str, seed: int, moved_px: int = 0, truth: bool = True, melanoma: float = 0.5) -> DrawnCase:
        """Add a segmented image; with `truth` it also has a ground truth mask and labels."""
        drawn = draw_case(seed, HEIGHT, WIDTH)
        self._save(f"{name}.jpg", drawn)
        predicted = np.roll(drawn.mask, moved_px, axis=1)
        write_mask(self.masks / f"{name}.png", predicted.astype(np.uint8) * 255)
        if truth:
            write_mask(self.labels / f"{name}_segmentation.png", drawn.mask.astype(np.uint8) * 255)
            self.labelled.append((name, int(drawn.label == "melanoma"), int(drawn.label == "seborrheic_keratosis")))
        self.row(
            f"{name}.jpg",
            mask=f"{name}.png",
            melanoma=melanoma,
            seborrheic_keratosis=seed % 7 / 10,
            nevus=1 - melanoma,
            lesion_area_fraction=round(float(predicted.mean()), 5),
            confidence=round(1 / (1 + abs(moved_px) / 10), 5),
        )
        return drawn

    def add_failed(self, name: str, reason: str = "decode: truncated: the JPEG data end too early") -> None:
        """Add an image that cannot be decoded."""
        path = self.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8\xff none")
        self.row(name, status="failed", reason=reason)

    def row(self, image: str, **values: object) -> None:
        """Add a row to scores.csv."""
        size = {} if values.get("status") else {"width": WIDTH, "height": HEIGHT}
        self.rows.append({"image": image, "status": "ok", **size, **values})

    def finish(self, sources: Sequence[str] = ("../images",)) -> "DrawnRun":
        """Write scores.csv, run.json and labels.csv; `sources` are relative to masks/."""
        with (self.masks / "scores.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        about = {"model": "drawn", "engine_sha256": "ab" * 32, "started": "2026-01-02T03:04:05+00:00"}
        (self.masks / "run.json").write_text(json.dumps({**about, "threshold": 0.5, "sources": list(sources)}))
        if self.labelled:
            with (self.labels / "labels.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("image", "melanoma", "seborrheic_keratosis"), *self.labelled])
        return self

    def _save(self, name: str, drawn: DrawnCase) -> None:
        path = self.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.image).save(path, "JPEG")


def filled(path: str, width: int, height: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Return the inside of an SVG path of relative lines, as the report writes them, as a mask (height, width)."""
    mask = np.zeros((height, width), np.uint8)
    for part in filter(None, path.split("M")):
        start, _, steps = part.removesuffix("z").partition("l")
        numbers = np.array([int(number) for number in f"{start} {steps}".replace("-", " -").split()]).reshape(-1, 2)
        cv2.fillPoly(mask, [np.cumsum(numbers, axis=0).astype(np.int32)], 1)
    return mask.astype(bool)
