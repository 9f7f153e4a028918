"""Damaged, hostile and unusual files: an error with a reason, or the right pixels with a note."""

import io
import re
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.encoded_images import (
    ALPHA,
    DEEP,
    INKS,
    NOISE,
    PICTURE,
    RGBA,
    Array,
    by_pillow,
    chunk,
    draw,
    inks_to_rgb,
    interlaced_png,
    plain_png,
    plain_tiff,
    png,
    scanlines,
    tiff,
)
from PIL import Image, ImageCms

from lesioncli.errors import ImageError
from lesioncli.images import jpeg, pixels
from lesioncli.images.decode import decode
from lesioncli.images.pixels import DecodedImage
from lesioncli.options import FailureStage

FULL_HW = (10**6, 10**6)
START, END = b"\xff\xd8", b"\xff\xd9"


def read(folder: Path, data: bytes, at_least_hw: tuple[int, int] = FULL_HW) -> DecodedImage:
    (folder / "x").write_bytes(data)
    return decode(folder / "x", at_least_hw)


def reason(folder: Path, data: bytes, at_least_hw: tuple[int, int] = FULL_HW) -> str:
    with pytest.raises(ImageError) as caught:
        read(folder, data, at_least_hw)
    assert caught.value.stage == FailureStage.DECODE
    return caught.value.reason


# A photograph has noise in every block; without it, lost bytes are hardly lost.
PHOTOGRAPH = (draw(600, 800) // 2 + np.random.default_rng(1).integers(0, 64, (600, 800, 3))).astype(np.uint8)
JPEGS = {
    "baseline": by_pillow(PHOTOGRAPH, "JPEG", quality=85),
    "progressive": by_pillow(PHOTOGRAPH, "JPEG", quality=85, progressive=True),
    "restart intervals": cv2.imencode(".jpg", PHOTOGRAPH, [cv2.IMWRITE_JPEG_RST_INTERVAL, 50])[1].tobytes(),
    "grey": by_pillow(PHOTOGRAPH[..., 1], "JPEG", quality=85),
    "cmyk": by_pillow(PHOTOGRAPH[:300, :400], "JPEG", "CMYK", quality=85),
}
MIDDLE = slice(20_000, 24_096)


def damaged_jpegs(data: bytes) -> dict[str, bytes]:
    block = np.random.default_rng(2).bytes(512)
    return {
        "zeroed": data[: MIDDLE.start] + bytes(4096) + data[MIDDLE.stop :],
        "lost": data[: MIDDLE.start] + data[MIDDLE.stop :],
        "swapped": data[: MIDDLE.start]
        + data[40_000:44_096]
        + data[MIDDLE.stop : 40_000]
        + data[MIDDLE]
        + data[44_096:],
        "foreign": data[: MIDDLE.start] + block + data[MIDDLE.start + 512 :],
        "half and an end marker": data[: len(data) // 2] + END,
        "half and zeros": data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
        "half and text": data[: len(data) // 2] + b"\r\n<html>timeout</html>" + END,
    }


@pytest.mark.parametrize("need", [FULL_HW, (100, 100)])
@pytest.mark.parametrize("kind", damaged_jpegs(b""))
@pytest.mark.parametrize("name", JPEGS)
def test_a_damaged_jpeg_is_an_error_at_every_scale(tmp_path: Path, name: str, kind: str, need: tuple[int, int]) -> None:
    assert re.search("damaged|truncated", reason(tmp_path, damaged_jpegs(JPEGS[name])[kind], need))


def pixels_by_pillow(data: bytes, size: tuple[int, int] | None = None) -> Array:
    image = Image.open(io.BytesIO(data))
    image.draft(None, size)
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("need", [300, 150, 80, 40])
@pytest.mark.parametrize("name", JPEGS)
def test_the_pixels_of_a_jpeg_are_those_of_pillow(tmp_path: Path, name: str, need: int) -> None:
    want = pixels_by_pillow(JPEGS[name], (2 * need, 2 * need))
    np.testing.assert_array_equal(read(tmp_path, JPEGS[name], (need, need)).rgb, want)


def with_sampling(data: bytes, *factors: int) -> bytes:
    """Change the sampling factors of the three components of a JPEG."""
    changed, frame = bytearray(data), data.index(b"\xff\xc0")
    for index, factor in enumerate(factors):
        changed[frame + 11 + 3 * index] = factor
    return bytes(changed)


def test_unusual_subsampling_is_decoded(tmp_path: Path) -> None:
    data = with_sampling(by_pillow(PICTURE, "JPEG", quality=95, subsampling=0), 0x11, 0x22, 0x22)
    np.testing.assert_array_equal(read(tmp_path, data).rgb, pixels_by_pillow(data))


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def harmless_oddities() -> dict[str, bytes]:
    """Whole JPEGs of which libjpeg warns, or which hold markers where a search would find them."""
    data = JPEGS["baseline"]
    scan = data.index(b"\xff\xda")
    jfif = data.index(b"JFIF\0")
    thumbnail = by_pillow(PICTURE, "JPEG")
    return {
        "bytes behind the end": data + bytes(100),
        "a trailer that holds a scan marker": data + b"film \xff\xda film" + bytes(100),
        "a trailer that holds scan markers only": data + b"\xff\xda" * 500 + bytes(16),
        "a second picture behind the end": data + thumbnail,
        "a thumbnail": START + segment(0xE1, b"any\0" + thumbnail) + data[2:],
        "an unknown version of JFIF": data[: jfif + 5] + b"\7" + data[jfif + 6 :],
        "no spectral selection": data[: scan + 11] + b"\0\0\0" + data[scan + 14 :],
        "a broken colour profile": START + segment(0xE2, b"ICC_PROFILE\0\5\2abc") + data[2:],
        "bytes between segments": data[:scan] + bytes(7) + data[scan:],
        "zeros before the end marker": data[:-2] + bytes(100) + END,
        "padding before the end marker": data[:-2] + b"\xff" * 100 + END,
    }


@pytest.mark.parametrize("name", harmless_oddities())
def test_whole_jpegs_with_oddities_are_read(tmp_path: Path, name: str) -> None:
    decoded = read(tmp_path, harmless_oddities()[name])
    np.testing.assert_array_equal(decoded.rgb, pixels_by_pillow(JPEGS["baseline"]))


@pytest.mark.parametrize("name", ["no spectral selection", "an unknown version of JFIF", "bytes between segments"])
def test_damage_shows_behind_harmless_warnings(tmp_path: Path, name: str) -> None:
    data = harmless_oddities()[name]
    assert "damaged" in reason(tmp_path, data[: MIDDLE.start] + bytes(4096) + data[MIDDLE.stop :])


@pytest.mark.parametrize("zeros", [200, 4096, 20_000])
def test_a_tail_of_zeros_before_the_end_marker_is_damage(tmp_path: Path, zeros: int) -> None:
    assert "damaged" in reason(tmp_path, JPEGS["baseline"][: -2 - zeros] + bytes(zeros) + END)


@pytest.mark.parametrize("scans", [90, 3000])
def test_the_scans_of_a_jpeg_are_limited(tmp_path: Path, scans: int) -> None:
    data = by_pillow(PICTURE[..., 0], "JPEG", progressive=True)
    end_of_first = data.index(b"\xff\xc4", data.index(b"\xff\xda"))  # a table precedes the second scan
    first = data[data.index(b"\xff\xda") : end_of_first]
    bomb = data[:end_of_first] + first * scans + data[end_of_first:]
    if scans < 100:
        assert "more than" not in reason(tmp_path, bomb)  # libjpeg finds it inconsistent
    else:
        assert re.search(r"300\d scans", reason(tmp_path, bomb))


@pytest.mark.parametrize("size", [2, 3, 1001, 1002])
def test_scan_markers_are_counted_at_any_place(size: int) -> None:
    data = np.random.default_rng(size).choice(np.array([0, 0xDA, 0xFF], np.uint8), size).tobytes()
    assert jpeg._count_scan_markers(data) == data.count(b"\xff\xda")


def test_further_pictures_of_a_jpeg_are_noted(tmp_path: Path) -> None:
    frames = [Image.fromarray(PICTURE[::-1]), Image.fromarray(PICTURE)]
    decoded = read(tmp_path, by_pillow(PICTURE, "MPO", save_all=True, append_images=frames, quality=95))
    assert decoded.note == "first of several pictures"
    assert np.abs(decoded.rgb - PICTURE.astype(int)).max() <= 12


HALF = PICTURE[: len(PICTURE) // 2]
FULL_HEADER = (PICTURE.shape[1], PICTURE.shape[0])


@pytest.mark.parametrize("fill", [0, 119, 255])
@pytest.mark.parametrize("name", ["grey", "rgb", "rgba", "16-bit", "palette"])
def test_a_png_with_half_of_its_rows_is_an_error(tmp_path: Path, name: str, fill: int) -> None:
    samples, bits, color_type = {
        "grey": (HALF[..., :1], 8, 0),
        "rgb": (HALF, 8, 2),
        "rgba": (RGBA[: len(HALF)], 8, 6),
        "16-bit": (DEEP[: len(HALF), :, :1], 16, 0),
        "palette": (HALF[..., :1], 8, 3),
    }[name]
    palette = [chunk(b"PLTE", bytes([fill] * 768))] if name == "palette" else []
    lines = scanlines(samples, bits)
    assert "too few" in reason(tmp_path, png((*FULL_HEADER, bits, color_type, 0, 0, 0), lines, *palette))
    whole = np.full((*PICTURE.shape[:2], samples.shape[2]), fill, samples.dtype)
    read(tmp_path, plain_png(whole, bits, color_type, *palette))


def test_an_interlaced_png_without_its_last_pass_is_an_error(tmp_path: Path) -> None:
    whole = interlaced_png(PICTURE)
    at = whole.index(b"IDAT") - 4
    (size,) = struct.unpack_from(">I", whole, at)
    lines = zlib.decompress(whole[at + 8 : at + 8 + size])
    passes = png((*FULL_HEADER, 8, 2, 0, 0, 1), lines[: len(lines) // 2])
    assert "truncated" in reason(tmp_path, passes)


def test_a_png_with_changed_stored_pixels_is_an_error(tmp_path: Path) -> None:
    stored = by_pillow(NOISE, "PNG", compress_level=0)
    changed = stored[:5000] + bytes(64) + stored[5064:]
    assert "checksum" in reason(tmp_path, changed)


@pytest.mark.parametrize("lossless", [False, True])
def test_a_webp_with_zeros_or_lost_data_is_an_error(tmp_path: Path, lossless: bool) -> None:
    data = by_pillow(PHOTOGRAPH, "WEBP", lossless=lossless, quality=90)
    half = len(data) // 2
    assert reason(tmp_path, data[:half] + bytes(len(data) - half))
    assert reason(tmp_path, data[:half] + bytes(4096) + data[half + 4096 :])
    assert "truncated" in reason(tmp_path, data[:half] + data[half + 512 :])
    assert "truncated" in reason(tmp_path, data[:half])


@pytest.mark.parametrize("method", [0, 4])
@pytest.mark.parametrize("lossless", [False, True])
def test_a_webp_with_flat_areas_is_whole(tmp_path: Path, lossless: bool, method: int) -> None:
    picture = np.zeros((3000, 3000, 3), np.uint8)
    picture[1000:1300, 1000:1400] = NOISE // 8 + 100
    decoded = read(tmp_path, by_pillow(picture, "WEBP", lossless=lossless, method=method))
    assert np.abs(decoded.rgb[:900] - picture[:900].astype(int)).max() <= 2


def test_zeros_in_the_metadata_of_a_webp_are_harmless(tmp_path: Path) -> None:
    data = by_pillow(PICTURE, "WEBP", lossless=True, xmp=bytes(5000))
    np.testing.assert_array_equal(read(tmp_path, data).rgb, PICTURE)


@pytest.mark.parametrize(
    "data",
    [by_pillow(draw(100, 200), "BMP"), by_pillow(draw(100, 200), "TIFF"), tiff(draw(100, 200).astype("u2") * 257)],
)
def test_raw_pixels_that_end_in_zeros_are_noted(tmp_path: Path, data: bytes) -> None:
    whole, half = read(tmp_path, data), read(tmp_path, data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    assert "zero" not in whole.note
    assert re.search(r"the last (49|50) stored rows are exactly zero", half.note)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (png((1, 178_000_000, 8, 2, 0, 0, 0), b""), "1,000,000 pixels"),
        (png((13_000, 13_000, 16, 6, 0, 0, 0), b""), "1.3 GiB"),
        (tiff(np.zeros((2, 2, 400), np.uint8), photometric="minisblack", planarconfig="contig"), ""),
    ],
    ids=["side", "bytes", "channels"],
)
def test_large_images_are_refused_before_decoding(
    tmp_path: Path, data: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not words:
        monkeypatch.setattr(pixels, "MAX_BYTES", 1000)
        words = "400 x 8 bits"
    assert words in reason(tmp_path, data)


def test_huge_tiles_of_a_small_tiff_are_refused(tmp_path: Path) -> None:
    data = tiff(PICTURE, photometric="rgb", tile=(16, 16))
    for tag in (322, 323):  # TileWidth, TileLength
        data = re.sub(
            struct.pack("<H", tag) + b"..\1\0\0\0....", struct.pack("<HHII", tag, 4, 1, 2**20), data, flags=re.S
        )
    assert "megapixels" in reason(tmp_path, data)


@pytest.mark.skipif(sys.platform != "linux", reason="memory limits of Linux")
def test_an_image_that_does_not_fit_in_memory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(by_pillow(np.zeros((9000, 12000, 3), np.uint8), "PNG", compress_level=1))
    program = """
import resource, sys
from pathlib import Path
from lesioncli.images.decode import decode
from lesioncli.errors import ImageError
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 300 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    decode(Path(sys.argv[1]), (256, 256))
except ImageError as error:
    sys.exit(0 if "memory" in error.reason else error.reason)
sys.exit("read")
"""
    command = [sys.executable, "-c", program, str(tmp_path / "x.png")]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stderr == ""


@pytest.mark.skipif(sys.platform != "linux", reason="sparse files of Linux")
def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.jpg").open("wb") as file:
        file.write(JPEGS["baseline"])
        file.truncate(2**40)
    with pytest.raises(ImageError, match="1024"):
        decode(tmp_path / "x.jpg", FULL_HW)


UNSUPPORTED = {
    "JPEG XL": b"\xff\x0a\xfa\x7f",
    "Photoshop": b"8BPS\0\1" + bytes(20),
    "camera RAW": b"II*\0\x10\0\0\0CR\2\0" + bytes(50),
    "PDF": b"%PDF-1.7\n",
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_formats_are_named(tmp_path: Path, name: str) -> None:
    text = reason(tmp_path, UNSUPPORTED[name] + bytes(100))
    assert name in text
    assert "PNG or JPEG" in text


def profile(x: float, y: float, gamma: float = 1.0) -> bytes:
    """Return an RGB profile whose green primary is at (x, y), made from the one of sRGB."""
    srgb = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", srgb, 128)
    tags = {srgb[132 + 12 * i : 136 + 12 * i].decode(): 132 + 12 * i for i in range(count)}
    (offset,) = struct.unpack_from(">I", srgb, tags["gXYZ"] + 4)
    xyz = struct.unpack_from(">3i", srgb, offset + 8)
    struct.pack_into(">3i", srgb, offset + 8, round(xyz[0] * x), xyz[1], round(xyz[2] * y))
    return bytes(srgb)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WIDE = profile(0.5, 0.6)


def converted(picture: Array) -> Array:
    source, target = ImageCms.ImageCmsProfile(io.BytesIO(WIDE)), ImageCms.createProfile("sRGB")
    image = ImageCms.profileToProfile(Image.fromarray(picture), source, target, ImageCms.Intent.RELATIVE_COLORIMETRIC)
    assert image is not None
    return np.asarray(image)


ICC_FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "TIFF": {},
}


@pytest.mark.parametrize("name", ICC_FORMATS)
def test_colour_profiles_are_converted_to_srgb(tmp_path: Path, name: str) -> None:
    plain = read(tmp_path, by_pillow(PICTURE, name, **ICC_FORMATS[name]))
    wide = read(tmp_path, by_pillow(PICTURE, name, icc_profile=WIDE, **ICC_FORMATS[name]))
    assert re.search("converted from .* to sRGB", wide.note)
    assert np.abs(wide.rgb - converted(plain.rgb).astype(int)).max() <= 1
    assert np.abs(wide.rgb - plain.rgb.astype(int)).max() > 10
    for same in (SRGB, b""):
        decoded = read(tmp_path, by_pillow(PICTURE, name, icc_profile=same, **ICC_FORMATS[name]))
        np.testing.assert_array_equal(decoded.rgb, plain.rgb)
        assert decoded.note == ""
    for broken in (b"not a profile", WIDE[:200]):
        decoded = read(tmp_path, by_pillow(PICTURE, name, icc_profile=broken, **ICC_FORMATS[name]))
        np.testing.assert_array_equal(decoded.rgb, plain.rgb)
        assert "profile ignored" in decoded.note


def test_a_profile_of_another_kind_of_image_is_ignored(tmp_path: Path) -> None:
    decoded = read(tmp_path, by_pillow(PICTURE[..., 0], "PNG", icc_profile=WIDE))
    assert "profile ignored" in decoded.note
    np.testing.assert_array_equal(decoded.rgb[..., 0], PICTURE[..., 0])


@pytest.mark.parametrize(("gamma", "level", "want"), [(100_000, 55, 128), (45_455, 55, 55), (55_556, 128, 147)])
def test_the_gamma_of_a_png_is_converted(tmp_path: Path, gamma: int, level: int, want: int) -> None:
    """A linear level of 55 of 255 is .2157, for which sRGB has 128; 128 at gamma 1.8 is .289, for which it has 147."""
    picture = np.full((20, 20, 3), level, np.uint8)
    gamma_chunk = chunk(b"gAMA", struct.pack(">I", gamma))
    decoded = read(tmp_path, plain_png(picture, 8, 2, gamma_chunk))
    assert np.abs(decoded.rgb.astype(int) - want).max() <= 1
    assert ("gamma" in decoded.note) == (want != level)
    srgb = read(tmp_path, plain_png(picture, 8, 2, gamma_chunk, chunk(b"sRGB", b"\0")))
    np.testing.assert_array_equal(srgb.rgb, picture)


@pytest.mark.parametrize("tag", [256, 257, 258, 277, 322])
def test_a_tiff_whose_size_is_several_numbers_takes_no_memory(tmp_path: Path, tag: int) -> None:
    """The other side, times a tuple of numbers, is a tuple that fills the memory."""
    sides = {256: 2**22, 257: 2**22, 258: 8, 259: 1, 262: 1, 277: 1, 278: 2**22, 322: 16, 323: 16}
    data = bytearray(plain_tiff(sides, bytes(100)))
    entry = data.index(struct.pack("<HHI", tag, 4, 1))
    data[entry : entry + 12] = struct.pack("<HHII", tag, 4, 9, 8)
    reason(tmp_path, bytes(data))  # loads what it imports
    tracemalloc.start()
    try:
        assert reason(tmp_path, bytes(data))
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(sys.platform == "win32", reason="libtiff is linked statically there")
@pytest.mark.parametrize("damage", ["zeros", "samples"])
def test_libtiff_and_pillow_print_nothing(tmp_path: Path, damage: str) -> None:
    data = by_pillow(NOISE, "TIFF", compression="tiff_lzw")
    if damage == "zeros":
        data = data[: len(data) // 2] + bytes(4096) + data[len(data) // 2 + 4096 :]
    else:
        three, many = (struct.pack("<HHIH", 277, 3, 1, samples) for samples in (3, 513))
        data = data.replace(three, many)
    (tmp_path / "x.tif").write_bytes(data)
    program = """
import sys
from pathlib import Path
from lesioncli.images.decode import decode
from lesioncli.errors import ImageError
from lesioncli.process import quiet_decoders
quiet_decoders()
try:
    decode(Path(sys.argv[1]), (256, 256))
except ImageError:
    sys.exit()
sys.exit("read")
"""
    command = [sys.executable, "-c", program, str(tmp_path / "x.tif")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


DEEP_INKS = INKS.astype(np.uint16) * 257
OPAQUE = np.full_like(ALPHA, 255)
PLANES = {"planarconfig": "separate"}
UNUSUAL_TIFFS: dict[str, tuple[Array, dict[str, Any], Array]] = {
    "16-bit CMYK": (DEEP_INKS, {"photometric": "separated"}, inks_to_rgb(INKS)),
    "16-bit CMYK planes": (np.moveaxis(DEEP_INKS, -1, 0), {"photometric": "separated", **PLANES}, inks_to_rgb(INKS)),
    "RGB and two more": (
        np.concatenate([PICTURE, ALPHA, ALPHA], -1),
        {"photometric": "rgb", "extrasamples": ["unspecified"] * 2},
        PICTURE,
    ),
    "big-endian BigTIFF": (PICTURE, {"photometric": "rgb", "bigtiff": True, "byteorder": ">"}, PICTURE),
    "opaque premultiplied grey": (
        np.concatenate([PICTURE[..., 1:2], OPAQUE], -1),
        {"photometric": "minisblack", "extrasamples": ["assocalpha"], "planarconfig": "contig"},
        np.repeat(PICTURE[..., 1:2], 3, -1),
    ),
    "premultiplied planes": (
        np.moveaxis(np.concatenate([PICTURE, OPAQUE], -1), -1, 0),
        {"photometric": "rgb", "extrasamples": ["assocalpha"], **PLANES},
        PICTURE,
    ),
}


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("name", UNUSUAL_TIFFS)
def test_unusual_tiffs_are_right(tmp_path: Path, name: str, compression: str | None) -> None:
    samples, options, want = UNUSUAL_TIFFS[name]
    decoded = read(tmp_path, tiff(np.ascontiguousarray(samples), compression=compression, **options))
    assert np.abs(decoded.rgb - want.astype(float)).max() <= 2


def test_changed_pixels_of_a_deflated_tiff_are_an_error(tmp_path: Path) -> None:
    data = by_pillow(NOISE, "TIFF", compression="tiff_adobe_deflate")  # noise is stored as it is
    half = len(data) // 2
    assert "damaged" in reason(tmp_path, data[:half] + bytes(512) + data[half + 512 :])


def test_premultiplied_transparency_is_refused(tmp_path: Path) -> None:
    samples = np.concatenate([PICTURE[..., :1], ALPHA], -1)
    data = tiff(samples, photometric="minisblack", extrasamples=["assocalpha"], planarconfig="contig")
    assert "transparency" in reason(tmp_path, data)


def test_a_thumbnail_as_the_first_page_is_noted(tmp_path: Path) -> None:
    assert "thumbnail" in read(tmp_path, tiff(PICTURE, photometric="rgb", subfiletype=1)).note


def test_reasons_are_in_words(tmp_path: Path) -> None:
    data = tiff(PICTURE, photometric="rgb")
    compression = struct.pack("<HHIH", 259, 3, 1, 1)
    assert compression in data
    text = reason(tmp_path, data.replace(compression, compression[:-2] + struct.pack("<H", 34712)))
    assert "JPEG2000" in text
    assert not re.search(r"\(\d*\)", text)


def test_camera_raw_in_tiff_is_named(tmp_path: Path) -> None:
    data = tiff(PICTURE, photometric="rgb", extratags=[(50706, "B", 4, (1, 4, 0, 0), True)])
    assert "camera RAW" in reason(tmp_path, data)
