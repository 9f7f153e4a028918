"""decode(): pixels, sizes and notes for every format and mode, and an error for every damaged file."""

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.encoded_images import (
    CASES,
    DEEP,
    DEEP_CASES,
    FRAGILE,
    GREY,
    HEIGHT,
    LARGE_JPEGS,
    LAYOUTS,
    PICTURE,
    WIDTH,
    Array,
    Case,
    by_pillow,
    draw,
    grey_rgb,
    oriented,
    oversized,
    plain_tiff,
    tiff,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.ExifTags import Base as Tag

from lesioncli.errors import ImageError
from lesioncli.images.decode import OpenedImage, decode, decode_content
from lesioncli.images.formats import FORMATS
from lesioncli.options import FailureStage

FULL_HW = (10**6, 10**6)  # larger than every image here, so that none is downsampled
LOSS = {"jpeg": 12, "avif": 4}  # grey levels
fuzzing = settings(deadline=None, database=None, derandomize=True)


def save(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def assert_decodes(tmp_path: Path, case: Case, note: str = "") -> None:
    data, want, tolerance = case
    decoded = decode(save(tmp_path / "x", data), FULL_HW)
    assert decoded.rgb.dtype == np.uint8
    assert decoded.rgb.shape == (HEIGHT, WIDTH, 3)
    assert decoded.stored_hw == (HEIGHT, WIDTH)
    assert decoded.orientation == 1
    assert decoded.note == note
    assert np.abs(decoded.rgb - np.asarray(want, float)).max() <= tolerance


@pytest.mark.parametrize("name", CASES)
def test_formats_and_modes(tmp_path: Path, name: str) -> None:
    assert_decodes(tmp_path, CASES[name])


@pytest.mark.parametrize("name", DEEP_CASES)
def test_16_bit_samples_are_scaled(tmp_path: Path, name: str) -> None:
    assert_decodes(tmp_path, DEEP_CASES[name], "16-bit scaled to 8")


@pytest.mark.parametrize("name", LAYOUTS)
def test_tiff_layouts(tmp_path: Path, name: str) -> None:
    assert_decodes(tmp_path, LAYOUTS[name], "16-bit scaled to 8" if name.startswith("16") else "")


@pytest.mark.parametrize(("values", "endian"), [(GREY, "<"), (GREY, ">"), (DEEP[..., 1], "<"), (DEEP[..., 1], ">")])
def test_white_is_zero_is_inverted(tmp_path: Path, values: Array, endian: str) -> None:
    data = tiff(np.iinfo(values.dtype).max - values, photometric="miniswhite", byteorder=endian)
    decoded = decode(save(tmp_path / "x.tif", data), FULL_HW)
    np.testing.assert_array_equal(decoded.rgb, grey_rgb(GREY))


def test_12_bit_samples_are_scaled_by_their_range(tmp_path: Path) -> None:
    values = np.array([[0, 4095], [2048, 1024]])
    bits = (values.reshape(-1, 1) >> np.arange(12)[::-1]) & 1
    tags = {256: 2, 257: 2, 258: 12, 259: 1, 262: 1, 277: 1, 278: 2}
    decoded = decode(save(tmp_path / "x.tif", plain_tiff(tags, np.packbits(bits).tobytes())), FULL_HW)
    np.testing.assert_array_equal(decoded.rgb[..., 0], [[0, 255], [128, 64]])
    assert decoded.note == "12-bit scaled to 8"


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint32, np.int16])
def test_other_pixel_types_are_refused(tmp_path: Path, dtype: type) -> None:
    with pytest.raises(ImageError, match="save it as 8 or 16-bit"):
        decode(save(tmp_path / "x.tif", tiff(GREY.astype(dtype), photometric="minisblack")), FULL_HW)


def test_first_of_several_pages_and_frames(tmp_path: Path) -> None:
    more = [Image.fromarray(255 - PICTURE), Image.fromarray(PICTURE[::-1])]
    pages = by_pillow(PICTURE, "TIFF", save_all=True, append_images=more)
    frames = by_pillow(PICTURE, "WEBP", save_all=True, append_images=more, lossless=True)
    assert_decodes(tmp_path, (pages, PICTURE, 0), "first of 3 pages")
    gif = by_pillow(GREY, "GIF", save_all=True, append_images=[Image.fromarray(255 - GREY)])
    assert_decodes(tmp_path, (gif, grey_rgb(GREY), 0), "first of 2 frames")
    avif = by_pillow(PICTURE, "AVIF", save_all=True, append_images=more, quality=100, subsampling="4:4:4")
    assert_decodes(tmp_path, (avif, PICTURE, 6), "first of 3 frames")
    assert_decodes(tmp_path, (frames, PICTURE, 0), "first of 3 frames")
    deep = tiff(np.stack([DEEP, DEEP[::-1]]), photometric="rgb")
    assert_decodes(tmp_path, (deep, PICTURE, 0), "first of 2 pages; 16-bit scaled to 8")


@pytest.mark.parametrize("name", ["gif", "jpeg2000 lossy", "avif"])
def test_pixels_are_those_of_opencv(tmp_path: Path, name: str) -> None:
    data = CASES[name][0]
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    decoded = decode(save(tmp_path / "x", data), FULL_HW)
    assert np.abs(decoded.rgb - bgr[..., ::-1].astype(float)).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    files, upright = oriented(orientation)
    for name, data in files.items():
        decoded = decode(save(tmp_path / name, data), FULL_HW)
        assert decoded.orientation == orientation, name
        assert decoded.stored_hw == (HEIGHT, WIDTH), name
        assert decoded.rgb.shape == upright.shape, name
        assert np.abs(decoded.rgb - upright.astype(float)).max() <= LOSS.get(name, 0), name


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_invalid_orientations_are_ignored(tmp_path: Path, orientation: int) -> None:
    for name, data in oriented(orientation)[0].items():
        assert decode(save(tmp_path / name, data), FULL_HW).orientation == 1, name


@pytest.mark.parametrize(
    ("stored_hw", "orientation", "at_least_hw", "factor"),
    [
        ((1200, 1600), 1, (75, 100), 8),
        ((1200, 1600), 1, (76, 100), 4),
        ((1200, 1600), 1, (75, 101), 4),
        ((1200, 1600), 1, (256, 256), 2),
        ((1200, 1600), 1, (300, 301), 2),
        ((1200, 1600), 1, (512, 512), 1),
        ((1200, 1600), 6, (100, 75), 8),
        ((1200, 1600), 6, (75, 100), 4),
        ((1201, 1603), 1, (150, 200), 4),
        ((100, 100), 1, (512, 512), 1),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_large_jpegs_are_downsampled_to_twice_the_needed_size(
    tmp_path: Path, stored_hw: tuple[int, int], orientation: int, at_least_hw: tuple[int, int], factor: int, mode: str
) -> None:
    exif = Image.Exif()
    exif[Tag.Orientation] = orientation
    path = save(tmp_path / "x.jpg", by_pillow(draw(*stored_hw), "JPEG", mode, quality=90, exif=exif))
    full, reduced = decode(path, FULL_HW), decode(path, at_least_hw)
    height, width = full.rgb.shape[:2]
    assert full.stored_hw == reduced.stored_hw == stored_hw
    assert reduced.rgb.shape == (-(-height // factor), -(-width // factor), 3)
    averaged = cv2.resize(full.rgb, reduced.rgb.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(averaged - reduced.rgb.astype(float)).max() <= 6


def decode_bytes(data: bytes, at_least_hw: tuple[int, int] = FULL_HW) -> Array | None:
    """Decode the content of a file; None for an ImageError with a proper reason."""
    try:
        return decode_content(data, at_least_hw).rgb
    except ImageError as error:
        if error.stage == FailureStage.DECODE and error.reason.isprintable() and len(error.reason) > 10:
            return None
        raise


# Pillow reports some damage as a warning and goes on. As errors, these would hide the result that a run gets.
pillow_may_warn = pytest.mark.filterwarnings("ignore::UserWarning")


@pillow_may_warn
@pytest.mark.parametrize("name", FRAGILE)
def test_a_truncated_file_is_complete_or_an_error(name: str) -> None:
    data = FRAGILE[name]
    whole = decode_bytes(data)
    assert whole is not None
    cuts = {*range(0, len(data), max(1, len(data) // 150)), *range(len(data) - 20, len(data))}
    for cut in sorted(cuts):
        rgb = decode_bytes(data[:cut])
        assert rgb is None or np.array_equal(rgb, whole), f"{cut} of {len(data)} bytes"


@pillow_may_warn
@fuzzing
@given(
    part=st.floats(0, 1, exclude_max=True), name=st.sampled_from(sorted(LARGE_JPEGS)), need=st.sampled_from([20, 999])
)
def test_a_truncated_large_jpeg_is_an_error_at_every_scale(part: float, name: str, need: int) -> None:
    data = LARGE_JPEGS[name]
    assert decode_bytes(data[: int(part * len(data))], (need, need)) is None


@pytest.mark.parametrize("name", LARGE_JPEGS)
@pytest.mark.parametrize("zeros", [16, 1000, 50_000])
def test_a_jpeg_that_ends_in_zeros_is_an_error(tmp_path: Path, name: str, zeros: int) -> None:
    data = LARGE_JPEGS[name]
    with pytest.raises(ImageError, match="truncated"):
        decode(save(tmp_path / "x.jpg", data[:-zeros] + bytes(zeros)), FULL_HW)


def test_bytes_after_the_end_of_a_jpeg_are_ignored() -> None:
    data = CASES["jpeg rgb"][0]
    whole = decode_bytes(data)
    for appended in (bytes(100), b"a film \xff\xda", data + bytes(100)):
        np.testing.assert_array_equal(decode_bytes(data + appended), whole)


@pillow_may_warn
@fuzzing
@given(data=st.data(), name=st.sampled_from(sorted(FRAGILE)))
def test_damage_raises_only_image_errors(data: st.DataObject, name: str) -> None:
    damaged = bytearray(FRAGILE[name])
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, data.draw(st.sampled_from([40, 400, len(damaged)]))))
        damaged[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    decode_bytes(bytes(damaged))


SIGNATURES = [signature for known in FORMATS for signature in known.signatures]


@fuzzing
@given(signature=st.sampled_from([*SIGNATURES, b"RIFF\x40\0\0\0WEBPVP8 "]), rest=st.binary(max_size=200))
def test_random_bytes_after_a_signature_are_an_error(signature: bytes, rest: bytes) -> None:
    assert decode_bytes(signature + rest) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes in folders")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        decode(tmp_path / "x.jpg", FULL_HW)


def test_the_content_selects_the_reader_not_the_suffix(tmp_path: Path) -> None:
    np.testing.assert_array_equal(decode(save(tmp_path / "x.jpg", CASES["png rgb"][0]), FULL_HW).rgb, PICTURE)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "file is empty"),
        (b"<html>not found</html>", "not a JPEG, PNG, .* or HEIF image"),
        (b"%PDF-1.7", "a PDF file"),
        (CASES["jpeg rgb"][0][:-100], "^truncated: the [A-Z]+ data end too early"),
        (CASES["png rgb"][0][:-100], "^truncated: the [A-Z]+ data end too early"),
        (CASES["tiff rgb raw"][0][:-100], "^truncated: the [A-Z]+ data end too early"),
        (CASES["tiff rgb tiff_lzw"][0][:200], "^truncated: the TIFF data end before their directory"),
    ],
)
def test_reasons(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode(save(tmp_path / "x.jpg", data), FULL_HW)


def test_an_unreadable_path_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^cannot be read: No such file") as missing:
        decode(tmp_path / "none.jpg", FULL_HW)
    assert "none.jpg" not in missing.value.reason
    with pytest.raises(ImageError, match=r"^cannot be read"):
        decode(tmp_path, FULL_HW)


@pytest.mark.parametrize("name", FRAGILE)
def test_small_and_large_files_are_read_alike(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read() -> tuple[int, Array]:
        with OpenedImage(path) as opened:
            return opened.peak_bytes(FULL_HW), opened.decode(FULL_HW).rgb

    path = save(tmp_path / "x.jpg", FRAGILE[name])
    peak, rgb = read()
    assert peak > rgb.nbytes
    monkeypatch.setattr("lesioncli.images.decode.SMALL_FILE_BYTES", 0)
    large_peak, large_rgb = read()
    assert large_peak == peak
    np.testing.assert_array_equal(large_rgb, rgb)


def test_running_out_of_memory_is_an_image_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("lesioncli.images.png.to_rgb", run_out)
    with pytest.raises(ImageError, match="memory"):
        decode(save(tmp_path / "x.png", CASES["png rgb"][0]), FULL_HW)


@pytest.mark.parametrize("name", oversized())
def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match="more than 179 megapixels"):
        decode(save(tmp_path / name, oversized()[name]), FULL_HW)


@pytest.mark.parametrize("name", FRAGILE)
def test_images_below_the_limit_raise_no_warning(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH - 1)  # Pillow warns from here to twice as many
    assert decode_bytes(FRAGILE[name]) is not None
    assert Image.MAX_IMAGE_PIXELS == HEIGHT * WIDTH - 1
