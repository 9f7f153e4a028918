"""COCO files, as pycocotools reads them."""

import contextlib
import importlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.drawn_run import HEIGHT, WIDTH, DrawnRun
from helpers.pictures import read

from lesioncli.export.run import export_run
from lesioncli.options import ExportFormat
from lesioncli.spec import CLASSES

FORMATS = (ExportFormat.COCO, ExportFormat.COCO_POLYGONS)
NAMES = ["corner", "empty", "full", "noise", "ring", "sub/drawn"]


def open_coco(path: Path) -> Any:
    """Return the index of pycocotools, which prints while it is made."""
    coco = importlib.import_module("pycocotools.coco")
    with contextlib.redirect_stdout(io.StringIO()):
        return coco.COCO(str(path))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools with numpy 2
@pytest.mark.parametrize("export_format", FORMATS)
def test_pycocotools_decodes_every_mask_to_the_pixel(
    run: DrawnRun, tmp_path: Path, export_format: ExportFormat
) -> None:
    run.finish()
    exported = export_run(run.masks, export_format, tmp_path / "out" / "coco.json")
    assert (exported.exported, exported.problems, exported.interruption) == (6, (), "")
    coco = open_coco(exported.out)
    images = {image["file_name"].removesuffix(".jpg"): image for image in coco.loadImgs(coco.getImgIds())}
    assert sorted(images) == NAMES
    for name, image in images.items():
        assert (image["height"], image["width"]) == (HEIGHT, WIDTH)
        mask = read(run.masks / f"{name}.png") > 0
        annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert len(annotations) == (1 if mask.any() else 0)
        for annotation in annotations:
            assert np.array_equal(coco.annToMask(annotation), mask)
            rows, columns = np.nonzero(mask)
            left, top = columns.min(), rows.min()
            assert annotation["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
            assert annotation["area"] == mask.sum()
            assert annotation["iscrowd"] == 0
            assert coco.loadCats(annotation["category_id"])[0]["name"] == "lesion"
    (drawn,) = coco.loadAnns(coco.getAnnIds(images["sub/drawn"]["id"]))
    assert drawn["attributes"]["melanoma"] == 0.75
    assert set(drawn["attributes"]) == {*CLASSES, "lesion_area_fraction", "confidence"}


def test_a_tolerance_makes_polygons_short(run: DrawnRun, tmp_path: Path) -> None:
    run.finish()
    sizes = []
    for tolerance in (None, 1.0):
        out = tmp_path / f"{tolerance}.json"
        export_run(run.masks, ExportFormat.COCO_POLYGONS, out, tolerance_px=tolerance)
        annotations = json.loads(out.read_text())["annotations"]
        sizes.append(sum(len(ring) for annotation in annotations for ring in annotation["segmentation"]))
    assert sizes[1] < 0.6 * sizes[0]


def test_a_file_of_all_empty_masks_is_valid(tmp_path: Path) -> None:
    run = DrawnRun(tmp_path)
    run.add_failed("bad.jpg")
    exported = export_run(run.finish().masks, ExportFormat.COCO, tmp_path / "coco.json")
    assert exported.problems == ("bad.jpg: decode: truncated: the JPEG data end too early",)
    content = json.loads(exported.out.read_text())
    assert (content["images"], content["annotations"]) == ([], [])
