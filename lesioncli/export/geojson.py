"""GeoJSON (RFC 7946) for QuPath and other viewers: one FeatureCollection per image, in pixels of the stored image."""

import json
from pathlib import Path
from typing import Any

from lesioncli.export.job import LABEL, ExportedImage, ExportJob
from lesioncli.export.outlines import Points, Polygon, trace_outlines
from lesioncli.files import write_whole

SUFFIX = ".geojson"
COLOR_RGB = [255, 230, 0]


def list_files(job: ExportJob) -> list[Path]:
    """Return the paths that write_geojson() writes."""
    return job.paths_of_images(SUFFIX)


def write_geojson(job: ExportJob) -> None:
    """Write one file per image; the numbers in its row are measurements of the lesion, as QuPath 0.4 reads them."""
    for exported in job.read_images():
        content = make_collection(exported, job.tolerance_px or 0.0)
        write_whole(job.path_of(exported.name, SUFFIX), f"{json.dumps(content)}\n".encode())
        job.exported += 1


def make_collection(exported: ExportedImage, tolerance_px: float) -> dict[str, Any]:
    """Return the FeatureCollection of an image, without a feature if its mask is empty."""
    polygons = [_rings(polygon) for polygon in trace_outlines(exported.mask, tolerance_px)]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": polygons[0]}
        if len(polygons) == 1
        else {"type": "MultiPolygon", "coordinates": polygons},
        "properties": {
            "objectType": "annotation",
            "name": exported.image,
            "classification": {"name": LABEL, "color": COLOR_RGB},
            "measurements": dict(exported.values),
        },
    }
    return {"type": "FeatureCollection", "features": [feature] if polygons else []}


def _rings(polygon: Polygon) -> list[list[list[float]]]:
    return [_close(ring) for ring in polygon.rings]


def _close(ring: Points) -> list[list[float]]:
    points: list[list[float]] = ring.tolist()
    return [*points, points[0]]
