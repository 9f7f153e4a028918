"""An output folder of `segment` with drawn images, made without an engine."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lesioncli.demo.draw import DrawnCase, draw_case
from lesioncli.inference.outcome import output_columns
from lesioncli.inference.pictures import write_mask
from lesioncli.spec import CLASSES

COLUMNS = tuple(column.name for column in output_columns(CLASSES))
HEIGHT, WIDTH = 72, 96
RECORD = {
    "model": "drawn",
    "engine_sha256": "ab" * 32,
    "started": "2026-01-02T03:04:05+00:00",
    "threshold": 0.5,
    "classes": list(CLASSES),
}


class DrawnRun:
    """The folders images/, labels/ and masks/, filled case by case; finish() writes the tables.

    A predicted mask is the ground truth mask, shifted: the larger the shift, the worse it is.
    """

    def __init__(self, folder: Path) -> None:
        self.images, self.labels, self.masks = (folder / name for name in ("images", "labels", "masks"))
        for path in (self.images, self.labels, self.masks):
            path.mkdir(parents=True)
        self.columns: tuple[str, ...] = COLUMNS
        self.rows: list[Mapping[str, object]] = []
        self.labelled: list[tuple[str, int, int]] = []

    def add(self, name: str, seed: int, shift_px: int = 0, truth: bool = True, melanoma: float = 0.5) -> DrawnCase:
        """Add a segmented image, by default with a ground truth mask and labels."""
        drawn = draw_case(seed, HEIGHT, WIDTH)
        self._save_image(f"{name}.jpg", drawn)
        predicted = np.roll(drawn.mask, shift_px, axis=1)
        write_mask(self.masks / f"{name}.png", predicted.astype(np.uint8) * 255)
        if truth:
            write_mask(self.labels / f"{name}_segmentation.png", drawn.mask.astype(np.uint8) * 255)
            self.labelled.append((name, int(drawn.label == "melanoma"), int(drawn.label == "seborrheic_keratosis")))
        self.add_row(
            f"{name}.jpg",
            mask=f"{name}.png",
            melanoma=melanoma,
            seborrheic_keratosis=seed % 7 / 10,
            nevus=1 - melanoma,
            lesion_area_fraction=round(float(predicted.mean()), 5),
            confidence=round(1 / (1 + abs(shift_px) / 10), 5),
        )
        return drawn

    def add_failed(self, name: str, reason: str = "decode: truncated: the JPEG data end too early") -> None:
        """Add an image that cannot be decoded."""
        path = self.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8\xff none")
        self.add_row(name, status="failed", reason=reason)

    def add_row(self, image: str, **values: object) -> None:
        """Add a row of scores.csv."""
        size = {} if values.get("status") else {"width": WIDTH, "height": HEIGHT}
        self.rows.append({"image": image, "status": "ok", **size, **values})

    def finish(self, sources: Sequence[str] = ("../images",), **record: Any) -> "DrawnRun":
        """Write scores.csv, run.json and labels.csv; `record` replaces values of run.json, None removes one."""
        with (self.masks / "scores.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)
        recorded = {**RECORD, "sources": list(sources), **record}
        known = {key: value for key, value in recorded.items() if value is not None}
        (self.masks / "run.json").write_text(json.dumps(known))
        if self.labelled:
            with (self.labels / "labels.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("image", "melanoma", "seborrheic_keratosis"), *self.labelled])
        return self

    def _save_image(self, name: str, drawn: DrawnCase) -> None:
        path = self.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.image).save(path, "JPEG")


def fill_outline(path: str, width: int, height: int) -> NDArray[np.bool_]:
    """Return the inside (height, width) of an SVG path of relative lines, as the report writes it."""
    mask = np.zeros((height, width), np.uint8)
    for part in filter(None, path.split("M")):
        start, _, steps = part.removesuffix("z").partition("l")
        numbers = np.array([int(number) for number in f"{start} {steps}".replace("-", " -").split()]).reshape(-1, 2)
        cv2.fillPoly(mask, [np.cumsum(numbers, axis=0).astype(np.int32)], 1)
    return mask.astype(bool)
