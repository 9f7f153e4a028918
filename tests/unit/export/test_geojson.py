"""GeoJSON files, as shapely reads them."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from helpers.drawn_run import HEIGHT, WIDTH, DrawnRun
from helpers.pictures import read

from lesioncli.export.run import export_run
from lesioncli.options import ExportFormat


def read_features(path: Path) -> list[dict[str, Any]]:
    content = json.loads(path.read_text())
    assert set(content) == {"type", "features"}
    assert content["type"] == "FeatureCollection"
    return list(content["features"])


def test_every_image_has_a_collection_with_its_mask(run: DrawnRun, tmp_path: Path) -> None:
    shapely = importlib.import_module("shapely")
    run.finish()
    exported = export_run(run.masks, ExportFormat.GEOJSON, tmp_path / "out")
    assert (exported.exported, exported.problems) == (6, ())
    names = {path.relative_to(exported.out).as_posix() for path in exported.out.rglob("*.geojson")}
    assert names == {f"{name}.geojson" for name in ("corner", "empty", "full", "noise", "ring", "sub/drawn")}
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    for name in names:
        mask = read(run.masks / name.replace(".geojson", ".png")) > 0
        features = read_features(exported.out / name)
        assert len(features) == (1 if mask.any() else 0)
        for feature in features:
            shape = shapely.from_geojson(json.dumps(feature["geometry"]))
            assert shape.is_valid
            assert np.array_equal(shapely.contains_xy(shape, x, y), mask)


def test_a_feature_says_what_it_is(run: DrawnRun, tmp_path: Path) -> None:
    run.finish()
    export_run(run.masks, ExportFormat.GEOJSON, tmp_path / "out")
    (drawn,) = read_features(tmp_path / "out" / "sub" / "drawn.geojson")
    assert drawn["geometry"]["type"] == "Polygon"
    assert drawn["properties"]["objectType"] == "annotation"
    assert drawn["properties"]["classification"]["name"] == "lesion"
    assert drawn["properties"]["measurements"]["melanoma"] == 0.75
    (ring,) = read_features(tmp_path / "out" / "ring.geojson")
    polygons = ring["geometry"]["coordinates"]
    assert ring["geometry"]["type"] == "MultiPolygon"
    assert sorted(len(polygon) for polygon in polygons) == [1, 1, 3]  # one with two holes, one in a hole, one outside
    assert all(part[0] == part[-1] for polygon in polygons for part in polygon)
