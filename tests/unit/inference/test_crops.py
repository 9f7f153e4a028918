"""Lesion cut-outs: which part of the image, in which orientation and size, and how a run writes them."""

import math
from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import draw, read, save
from helpers.runs import assert_refused, files_of, record_of, segment_folder, statuses
from PIL import Image, ImageOps

from lesioncli.backends.base import Engine
from lesioncli.evaluation.reading.masks import find_predicted_masks
from lesioncli.images.decode import OpenedImage, peak_bytes
from lesioncli.inference.crops import crop_box
from lesioncli.options import SegmentOptions

ORIENTATION = 0x0112


@pytest.mark.parametrize(
    ("margin", "box"),
    [
        (0, (10, 20, 40, 30)),
        (10, (7, 17, 43, 33)),  # 10 % of 30
        (11, (6, 16, 44, 34)),  # rounded up
        (100, (0, 0, 70, 60)),
        (1000, (0, 0, 90, 60)),
    ],
)
def test_a_box_has_its_margin_inside_the_image(margin: float, box: tuple[int, int, int, int]) -> None:
    mask = np.zeros((60, 90), np.uint8)
    mask[20:30, 10:40] = 255
    assert crop_box(mask, margin) == box


def test_an_empty_mask_has_the_box_of_the_image() -> None:
    assert crop_box(np.zeros((60, 90), np.uint8), 10) == (0, 0, 90, 60)


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_a_cut_out_is_upright_and_of_full_size(engine: Engine, tmp_path: Path, orientation: int) -> None:
    """A large JPEG is decoded at reduced size for the network."""
    path = save(tmp_path / "images" / "sub" / "a.jpg", draw(5, 1200, 1600), orientation)
    out = tmp_path / "out"
    segment_folder(tmp_path / "images", engine, out, crops=20)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    mask = Image.fromarray(read(out / "sub" / "a.png"))
    mask.getexif()[ORIENTATION] = orientation
    left, top, right, bottom = ImageOps.exif_transpose(mask).getbbox() or (0, 0, 0, 0)
    margin = math.ceil(0.2 * max(right - left, bottom - top))
    rows = slice(max(0, top - margin), bottom + margin)
    expected = upright[rows, max(0, left - margin) : right + margin].astype(int)
    crop = read(out / "crops" / "sub" / "a.jpg").astype(int)
    assert crop.shape == expected.shape
    assert 0 < crop.size < upright.size
    assert np.abs(crop - expected).mean() < 3


def test_masks_and_rows_are_the_same_with_cut_outs(engine: Engine, images: Path, out: Path, tmp_path: Path) -> None:
    statuses(images, engine, out, crops=10)
    statuses(images, engine, tmp_path / "plain")
    plain = files_of(tmp_path / "plain")
    assert {name: content for name, content in files_of(out).items() if name in plain} == plain
    assert set(files_of(out)) - set(plain) == {f"crops/00{number}.jpg" for number in range(6)}
    assert (record_of(out)["crops"], "crops" in record_of(tmp_path / "plain")) == (10, False)
    listing = find_predicted_masks(out)
    assert len(listing.masks) == 6
    assert not listing.unsupported


def test_an_image_without_its_cut_out_is_done_again(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    assert statuses(images, engine, out, crops=10) == "oooooo"
    whole = files_of(out)
    (out / "crops" / "002.jpg").write_bytes(whole["crops/002.jpg"][:-2])
    (out / "crops" / "003.jpg").unlink()
    assert statuses(images, engine, out, crops=10) == "ssooss"
    assert files_of(out) == whole
    assert statuses(images, engine, out) == "ssssss"
    assert_refused(out, engine, images, "10 %", "20 %", crops=20)
    (images / "004.jpg").write_bytes(b"")
    (out / "004.png").unlink()
    assert statuses(images, engine, out, crops=10) == "ssssfs"
    assert not (out / "crops" / "004.jpg").exists()
    assert statuses(images, engine, out, overwrite=True) == "oooofo"
    assert not any(name.startswith("crops/") for name in files_of(out))


def test_a_file_that_vanishes_during_the_run_fails_its_image(
    engine: Engine, images: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove_and_open(path: Path) -> OpenedImage:
        if path.stem == "003":
            path.unlink()
        return OpenedImage(path)

    monkeypatch.setattr("lesioncli.inference.crops.OpenedImage", remove_and_open)
    assert statuses(images, engine, out, crops=10) == "ooofoo"
    assert not (out / "003.png").exists()


def test_memory_for_the_full_size_image_is_reserved(
    engine: Engine, images: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def note(path: Path, at_least_hw: tuple[int, int]) -> int:
        asked.append(at_least_hw)
        return peak_bytes(path, at_least_hw)

    monkeypatch.setattr("lesioncli.inference.crops.peak_bytes", note)
    statuses(images, engine, out, crops=10)
    assert asked == [(40, 60)] * 6


@pytest.mark.parametrize("margin", [-1.0, math.nan, math.inf])
def test_a_margin_is_a_number_from_0_on(margin: float) -> None:
    with pytest.raises(ValueError, match="crops"):
        SegmentOptions(crops=margin)
