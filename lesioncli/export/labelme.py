"""labelme: one JSON file per image, so that a person corrects outlines instead of drawing them.

labelme turns images upright by their EXIF orientation, and has no polygons with holes.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from lesioncli.errors import ImageError
from lesioncli.export.job import LABEL, ExportedImage, ExportJob
from lesioncli.export.outlines import join_holes, trace_outlines
from lesioncli.files import write_whole
from lesioncli.images.decode import decode
from lesioncli.images.geometry import to_upright
from lesioncli.options import FailureStage

SUFFIX = ".json"
FILE_VERSION = "5.5.0"  # of labelme
# A point of every step of the outline would be thousands, which nobody can move.
DEFAULT_TOLERANCE, MIN_TOLERANCE_PX = 1 / 500, 1.0  # the first of the longer side of the image


def list_files(job: ExportJob) -> list[Path]:
    """Return the paths that write_labelme() writes."""
    return job.paths_of_images(SUFFIX)


def write_labelme(job: ExportJob) -> None:
    """Write one file per image that refers to the image's file by a relative path."""
    files = job.find_files()
    for exported in job.read_images():
        path = job.path_of(exported.name, SUFFIX)
        image = files.get(exported.name)
        if image is None:
            job.reject(exported.image, "its file was not found; name the images with --images")
            continue
        try:
            content = _make_content(exported, image, path, job.tolerance_px)
        except ImageError as error:
            job.reject(exported.image, error.reason)
            continue
        write_whole(path, f"{json.dumps(content, indent=1)}\n".encode())
        job.exported += 1


def _make_content(exported: ExportedImage, image: Path, path: Path, tolerance_px: float | None) -> dict[str, Any]:
    """Return the content of a file; ImageError if the image cannot be read or is not that of the mask."""
    decoded = decode(image, (1, 1))  # for its orientation, by the readers of all formats
    if decoded.stored_hw != exported.mask.shape:
        height, width = decoded.stored_hw
        raise ImageError(FailureStage.DECODE, f"its file has {width} x {height} pixels now; run lesioncli segment")
    mask = np.asarray(to_upright(exported.mask, decoded.orientation), np.uint8)
    height, width = mask.shape
    tolerance = max(DEFAULT_TOLERANCE * max(height, width), MIN_TOLERANCE_PX) if tolerance_px is None else tolerance_px
    shapes = [
        {
            "label": LABEL,
            "points": join_holes(polygon).tolist(),
            "group_id": None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
        }
        for polygon in trace_outlines(mask, tolerance)
    ]
    return {
        "version": FILE_VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": Path(os.path.relpath(os.path.realpath(image), os.path.realpath(path.parent))).as_posix(),
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
        "lesioncli": dict(exported.values),
    }
