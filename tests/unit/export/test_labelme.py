"""labelme files: what labelme itself does with them, by Pillow."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.drawn_run import HEIGHT, WIDTH, DrawnRun
from helpers.pictures import UInt8, jaccard, read
from PIL import Image, ImageDraw, ImageOps

from lesioncli.export.run import export_run
from lesioncli.inference.pictures import write_mask
from lesioncli.options import ExportFormat

ORIENTATION = 0x0112


def read_file(path: Path) -> tuple[dict[str, Any], UInt8]:
    """Return the content of a file and its mask, filled as labelme.utils.shape_to_mask() does."""
    content = json.loads(path.read_text())
    canvas = Image.new("L", (content["imageWidth"], content["imageHeight"]))
    for shape in content["shapes"]:
        assert (shape["label"], shape["shape_type"]) == ("lesion", "polygon")
        ImageDraw.Draw(canvas).polygon([(x, y) for x, y in shape["points"]], outline=1, fill=1)
    return content, np.asarray(canvas)


def test_the_outline_is_close_to_the_mask_and_has_few_points(run: DrawnRun, tmp_path: Path) -> None:
    run.finish()
    exported = export_run(run.masks, ExportFormat.LABELME, tmp_path / "out")
    assert (exported.exported, exported.problems) == (6, ())
    content, filled = read_file(tmp_path / "out" / "sub" / "drawn.json")
    mask = read(run.masks / "sub" / "drawn.png") > 0
    assert jaccard(filled, mask) > 0.9  # it is filled half a pixel too large
    assert 3 <= len(content["shapes"][0]["points"]) < 60
    assert (content["imageHeight"], content["imageWidth"], content["imageData"]) == (HEIGHT, WIDTH, None)
    assert content["lesioncli"]["melanoma"] == 0.75
    assert content["imagePath"] == "../../images/sub/drawn.jpg"
    assert (tmp_path / "out" / "sub" / content["imagePath"]).is_file()
    assert json.loads((tmp_path / "out" / "empty.json").read_text())["shapes"] == []


def test_holes_are_cut_out(run: DrawnRun, tmp_path: Path) -> None:
    run.finish()
    export_run(run.masks, ExportFormat.LABELME, tmp_path / "out", tolerance_px=0)
    content, filled = read_file(tmp_path / "out" / "ring.json")
    assert len(content["shapes"]) == 3
    assert jaccard(filled, read(run.masks / "ring.png") > 0) > 0.9
    assert filled[30, 45 - 4] == 0  # in a hole, beside the region in it


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_outlines_are_upright_as_labelme_shows_the_image(tmp_path: Path, orientation: int) -> None:
    run = DrawnRun(tmp_path)
    run.add("turned", 0)
    path = run.images / "turned.jpg"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    with Image.open(path) as image:
        image.save(path, exif=exif)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(mask, (20, 15), 12, 255, -1)
    write_mask(run.masks / "turned.png", mask)
    export_run(run.finish().masks, ExportFormat.LABELME, tmp_path / "out")
    content, filled = read_file(tmp_path / "out" / "turned.json")
    stored = Image.fromarray(mask)
    stored.getexif()[ORIENTATION] = orientation
    upright = np.asarray(ImageOps.exif_transpose(stored))
    assert (content["imageHeight"], content["imageWidth"]) == upright.shape
    assert jaccard(filled, upright) > 0.9


def test_images_that_are_gone_or_changed_are_problems(run: DrawnRun, tmp_path: Path) -> None:
    run.finish()
    (run.images / "ring.jpg").unlink()
    Image.new("RGB", (10, 10)).save(run.images / "full.jpg")
    (run.images / "noise.jpg").write_bytes(b"\xff\xd8\xff none")
    exported = export_run(run.masks, ExportFormat.LABELME, tmp_path / "out")
    assert {problem.partition(":")[0] for problem in exported.problems} == {"full.jpg", "noise.jpg", "ring.jpg"}
    assert exported.exported == 3
    assert not (tmp_path / "out" / "ring.json").exists()


def test_the_path_of_an_image_is_relative_to_the_real_folder(run: DrawnRun, tmp_path: Path) -> None:
    run.finish()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    export_run(run.masks, ExportFormat.LABELME, tmp_path / "link", images=[run.images])
    content, _ = read_file(tmp_path / "link" / "ring.json")
    assert (tmp_path / "deep" / "er" / content["imagePath"]).samefile(run.images / "ring.jpg")
