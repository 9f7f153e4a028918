"""HEIF: photographs of phones, as libheif writes them, read by its Python package."""

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from helpers.encoded_images import DEEP, HEIGHT, PICTURE, WIDTH, by_pillow, draw
from helpers.heif_files import heif
from PIL import Image
from PIL.ExifTags import Base as Tag

from lesioncli.errors import ImageError
from lesioncli.images import formats
from lesioncli.images.decode import DecodedImage, decode, peak_bytes
from lesioncli.images.find import list_images

FULL_HW = (10**6, 10**6)


def read(tmp_path: Path, data: bytes) -> DecodedImage:
    (tmp_path / "x.heic").write_bytes(data)
    return decode(tmp_path / "x.heic", FULL_HW)


def test_pixels(tmp_path: Path) -> None:
    decoded = read(tmp_path, heif(PICTURE))
    assert np.abs(decoded.rgb - PICTURE.astype(float)).max() <= 4
    assert (decoded.stored_hw, decoded.orientation, decoded.note) == ((HEIGHT, WIDTH), 1, "")
    assert peak_bytes(tmp_path / "x.heic", FULL_HW) > decoded.rgb.nbytes
    assert len(list_images([tmp_path]).images) == 1


def test_notes_name_further_pictures_and_bits(tmp_path: Path) -> None:
    decoded = read(tmp_path, heif(PICTURE, 255 - PICTURE))
    assert np.abs(decoded.rgb - PICTURE.astype(float)).max() <= 4
    assert decoded.note == "first of 2 pictures"
    deep = read(tmp_path, heif(DEEP, mode="RGB;16"))
    assert np.abs(deep.rgb - PICTURE.astype(float)).max() <= 4
    assert deep.note == "10-bit scaled to 8"


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_images_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    """Phones store the sensor's rows, and how to turn them; what is stored here is what is shown."""
    exif = Image.Exif()
    exif[Tag.Orientation] = orientation
    decoded = read(tmp_path, heif(PICTURE, exif=exif.tobytes()))
    turns = {3: 2, 6: 3, 8: 1}[orientation]
    upright = np.rot90(PICTURE, turns)
    assert decoded.rgb.shape == upright.shape
    assert decoded.stored_hw == upright.shape[:2]
    assert np.abs(decoded.rgb - upright.astype(float)).max() <= 4


def test_a_general_brand_is_read_by_what_is_inside(tmp_path: Path) -> None:
    avif = by_pillow(PICTURE, "AVIF", quality=100, subsampling="4:4:4").replace(b"ftypavif", b"ftypmif1", 1)
    heic = heif(PICTURE).replace(b"ftypheic", b"ftypmif1", 1)
    for data in (avif, heic):
        assert np.abs(read(tmp_path, data).rgb - PICTURE.astype(float)).max() <= 4
        assert peak_bytes(tmp_path / "x.heic", FULL_HW) > PICTURE.nbytes


def oversized(height: int, width: int) -> bytes:
    data = bytearray(heif(PICTURE))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", width, height)
    return bytes(data)


@pytest.mark.parametrize("size_hw", [(15_000, 15_000), (60_000, 60_000), (2**31, 2**31)])
def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path, size_hw: tuple[int, int]) -> None:
    with pytest.raises(ImageError) as failed:
        read(tmp_path, oversized(*size_hw))
    assert failed.value.reason.isprintable()


def test_a_truncated_file_is_complete_or_an_error(tmp_path: Path) -> None:
    data = heif(draw(200, 300))
    whole = read(tmp_path, data).rgb
    for cut in (*range(20, len(data), max(1, len(data) // 40)), len(data) - 1):
        with suppress(ImageError):
            np.testing.assert_array_equal(read(tmp_path, data[:cut]).rgb, whole)
    with pytest.raises(ImageError):
        read(tmp_path, data[: len(data) // 2])


def test_without_the_extra_the_row_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda _: None)
    formats._has_module.cache_clear()
    try:
        with pytest.raises(ImageError, match=r"pip install.*heif"):
            read(tmp_path, heif(PICTURE))
    finally:
        formats._has_module.cache_clear()
