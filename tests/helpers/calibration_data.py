"""Labelled output folders of an engine, for tests of calibrate: scores and confidence with a known distortion."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from helpers.engines import write_empty_engine
from helpers.evaluation_data import block, save_mask, write_lines
from lesioncli.backends.manifest import StoredEngine, manifest_path, read_engine, read_manifest, write_manifest
from lesioncli.calibration import Calibration, ConfidenceMap, PlattScaling

IMAGES = 150
PREVALENCE = {"melanoma": 0.3, "seborrheic_keratosis": 0.25}
CALIBRATION = Calibration(
    "mine", {"melanoma": PlattScaling(0.5, -1.0, 200, 0.2)}, ConfidenceMap(((0.0, 0.0), (0.5, 0.3), (1.0, 0.8)), 150)
)
RAW_SLOPE, RAW_OFFSET = 2.0, -1.0  # raw logit = (true logit - offset) / slope


def make_engine(folder: Path, name: str = "tiny") -> StoredEngine:
    """Write the manifest of an engine without files, and read it."""
    return read_engine(write_empty_engine(folder, name))


def write_run(folder: Path, engine: StoredEngine, images: int = IMAGES, **record: Any) -> None:
    """Write labels/ and masks/: labels as those of ISIC-2017, masks that miss columns, and too high confidences.

    `record` are values of run.json.
    """
    rng = np.random.default_rng(5)
    rows = ["image,mask,width,height,bytes,status,reason,melanoma,seborrheic_keratosis,nevus,confidence,note"]
    labels = ["image_id,melanoma,seborrheic_keratosis"]
    shares = list(PREVALENCE.values())
    for number in range(images):
        kind = int(rng.choice(3, p=[*shares, 1 - sum(shares)]))
        logits = rng.normal(0, 1, 3) + np.where(np.arange(3) == kind, 1.5, -1.5)
        scores = 1 / (1 + np.exp(-(logits - RAW_OFFSET) / RAW_SLOPE))
        missed = int(rng.integers(1, 9))
        confidence = min(1.0, 1 - missed / 60 + rng.normal(0, 0.01))
        name = f"{number:03}"
        save_mask(folder / "labels" / f"{name}.png", block(6, 12, (20, 20)))
        save_mask(folder / "masks" / f"{name}.png", block(6, 12 - missed, (20, 20)))
        labels.append(f"{name},{int(kind == 0)},{int(kind == 1)}")
        values = ",".join(f"{value:.5f}" for value in (*scores, confidence))
        rows.append(f"{name}.jpg,{name}.png,20,20,1,ok,,{values},")
    write_lines(folder / "labels" / "labels.csv", *labels)
    write_lines(folder / "masks" / "scores.csv", *rows)
    run: dict[str, Any] = {
        "engine_sha256": engine.manifest.sha256,
        "precision": "fp32",
        "model": "tiny",
        "calibration": "none",
    }
    run |= {"model": "tiny", "threshold": 0.5, "tta": "none", "regions": "largest", "names": "images"}
    (folder / "masks" / "run.json").write_text(json.dumps({**run, "format": 1, **record}))


def write_calibrated(manifest: Path, calibration: Calibration, name: str) -> Path:
    """Write a calibrated engine beside another one, with the same files; return its manifest."""
    plain = read_manifest(manifest)
    path = manifest_path(manifest.parent, name, plain.backend)
    write_manifest(path, msgspec.structs.replace(plain, spec=replace(plain.spec, name=name, calibration=calibration)))
    return path


def change_column(table: Path, column: str, values: Sequence[str]) -> None:
    """Replace a column of a CSV without quotes; `values` are repeated."""
    header, *rows = (line.split(",") for line in table.read_text().splitlines())
    index = header.index(column)
    for number, row in enumerate(rows):
        row[index] = values[number % len(values)]
    table.write_text("".join(",".join(row) + "\n" for row in (header, *rows)))
