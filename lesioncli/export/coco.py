"""COCO: one JSON file with images and annotations; masks as run-length encoding, or as polygons.

https://cocodataset.org/#format-data. Masks are those of the stored images: EXIF orientations are not applied.
"""

import json
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from lesioncli import __version__
from lesioncli.export.job import LABEL, ExportJob
from lesioncli.export.outlines import join_holes, trace_outlines
from lesioncli.files import atomic_write
from lesioncli.images.geometry import UInt8

LESION_ID = 1
HEAD = {
    "info": {"description": "Lesion masks by lesioncli", "version": __version__},
    "licenses": [],
    "categories": [{"id": LESION_ID, "name": LABEL, "supercategory": "skin"}],
}


def write_coco(job: ExportJob) -> None:
    """Write masks as uncompressed run-length encoding, which equals them to the pixel."""
    _write(job, encode_runs)


def write_coco_polygons(job: ExportJob) -> None:
    """Write masks as polygons, for programs that take no run-length encoding."""
    _write(job, lambda mask: encode_polygons(mask, job.tolerance_px or 0.0))


def encode_runs(mask: UInt8) -> dict[str, Any]:
    """Return the run-length encoding of a mask (H, W): by columns, and beginning with a run of background."""
    height, width = mask.shape
    pixels = mask.ravel(order="F")
    bounds = [0, *(np.flatnonzero(pixels[1:] != pixels[:-1]) + 1).tolist(), pixels.size]
    counts = np.diff(bounds).tolist()
    return {"size": [height, width], "counts": [0, *counts] if pixels[0] else counts}


def encode_polygons(mask: UInt8, tolerance_px: float) -> list[list[float]]:
    """Return one polygon per region, as x and y in turn; a line leads to each hole and back."""
    return [join_holes(polygon).ravel().tolist() for polygon in trace_outlines(mask, tolerance_px)]


def _write(job: ExportJob, encode: Callable[[UInt8], Any]) -> None:
    """Write annotations one by one, so that memory does not grow with their outlines."""
    images: list[dict[str, Any]] = []
    with atomic_write(job.out) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f'{json.dumps(HEAD)[:-1]}, "annotations": [')
        separator = ""
        for number, exported in enumerate(job.read_images(), start=1):
            height, width = exported.mask.shape
            images.append({"id": number, "file_name": exported.image, "width": width, "height": height})
            job.exported += 1
            if not exported.mask.any():
                continue
            annotation = {
                "id": number,
                "image_id": number,
                "category_id": LESION_ID,
                "iscrowd": 0,
                "bbox": list(cv2.boundingRect(exported.mask)),
                "area": int(np.count_nonzero(exported.mask)),
                "segmentation": encode(exported.mask),
                "attributes": dict(exported.values),
            }
            file.write(f"{separator}\n{json.dumps(annotation)}")
            separator = ","
        file.write(f'\n], "images": {json.dumps(images)}}}\n')
