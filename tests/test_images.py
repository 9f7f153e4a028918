"""Every picture is drawn here and written by an encoder that is not the decoder under test, or by hand."""

import os
import struct
import zlib
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ExifTags import Base as Tag

from lesioncli.errors import ImageError, InputError
from lesioncli.inference import images
from lesioncli.inference.images import ImageFile, decode, find_images

Array = NDArray[Any]
FULL = (10**6, 10**6)  # more than any picture here has, so that none is reduced
HEIGHT, WIDTH = 40, 56
wild = settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def draw(height: int = HEIGHT, width: int = WIDTH) -> Array:
    """Draw a smooth picture (h, w, 3), different in each channel and corner."""
    y, x = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    return np.stack([255 * y, 255 * x, 200 * (1 - y) * x + 30], axis=-1).round().astype(np.uint8)


PICTURE = draw()
GREY = PICTURE[..., 1]
ALPHA = (255 * (PICTURE[..., :1] > 99)).astype(np.uint8)
RGBA = np.concatenate([PICTURE, ALPHA], axis=-1)


def gray_rgb(grey: Array) -> Array:
    return np.repeat(grey[..., None], 3, axis=-1)


def pillow(array: Array, form: str, mode: str | None = None, **options: Any) -> bytes:
    image = Image.fromarray(array)
    buffer = BytesIO()
    (image.convert(mode) if mode else image).save(buffer, form, **options)
    return buffer.getvalue()


def tiff(array: Array, **options: Any) -> bytes:
    buffer = BytesIO()
    tifffile.imwrite(buffer, array, metadata=None, **options)
    return buffer.getvalue()


def opencv(suffix: str, rgb: Array) -> bytes:
    return cv2.imencode(suffix, np.ascontiguousarray(rgb[..., ::-1]))[1].tobytes()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(header: tuple[int, ...], scanlines: bytes, *extra: bytes) -> bytes:
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *header))
    return start + b"".join(extra) + chunk(b"IDAT", zlib.compress(scanlines)) + chunk(b"IEND", b"")


def scanlines(samples: Array, depth: int) -> bytes:
    """Pack samples (h, w, c) as PNG's filter 0 lines."""
    bits = (samples.reshape(len(samples), -1, 1) >> np.arange(depth)[::-1]) & 1
    lines = np.packbits(bits.astype(np.uint8).reshape(len(samples), -1), axis=1)
    return b"".join(b"\0" + line.tobytes() for line in lines)


def plain_png(samples: Array, depth: int, color_type: int, *extra: bytes) -> bytes:
    height, width = samples.shape[:2]
    return png((width, height, depth, color_type, 0, 0, 0), scanlines(samples, depth), *extra)


def interlaced_png(samples: Array) -> bytes:
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    lines = b"".join(scanlines(samples[y::dy, x::dx], 8) for y, x, dy, dx in passes)
    return png((WIDTH, HEIGHT, 8, 2, 0, 0, 1), lines)


def plain_tiff(tags: dict[int, int], strip: bytes) -> bytes:
    """Write a little-endian TIFF of one strip by hand; every tag is one LONG."""
    tags = {**tags, 273: 8 + 2 + 12 * (len(tags) + 2) + 4, 279: len(strip)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + strip


def inks_to_rgb(inks: Array) -> Array:
    c, m, y, k = (255.0 - inks[..., i] for i in range(4))
    return np.stack([c * k, m * k, y * k], axis=-1) / 255


INKS = np.concatenate([PICTURE, 80 - PICTURE[..., :1] // 4], axis=-1)


def ycck_jpeg() -> bytes:
    # Adobe stores inks inverted, and YCCK turns their first three to YCbCr: both are undone by a decoder. Pillow
    # inverts what it writes, so it gets the complement, and the marker's transform is changed from none to YCCK.
    ycc = np.asarray(Image.fromarray(INKS[..., :3]).convert("YCbCr"))
    stored = Image.fromarray(np.concatenate([255 - ycc, INKS[..., 3:]], axis=-1), "CMYK")
    buffer = BytesIO()
    stored.save(buffer, "JPEG", quality=98, subsampling=0)
    data = bytearray(buffer.getvalue())
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def cmyk(form: str, **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(INKS, "CMYK").save(buffer, form, **options)
    return buffer.getvalue()


def save(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


Case = tuple[bytes, Array, int]  # file, picture, tolerance


def depths() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for depth in (1, 2, 4, 8):
        grey = GREY >> (8 - depth)
        cases[f"png grey {depth}"] = plain_png(grey[..., None], depth, 0), gray_rgb(grey) * (255 // (2**depth - 1)), 0
        colors = draw(16, 16).reshape(-1, 3)[: 2**depth]
        palette = [chunk(b"PLTE", colors.tobytes()), chunk(b"tRNS", bytes(range(0, 2**depth, 2)))]
        cases[f"png palette {depth}"] = plain_png(grey[..., None], depth, 3, *palette), colors[grey], 0
    return cases


DEEP = PICTURE.astype(np.uint16) * 257 - (PICTURE > 0) * np.uint16(100)  # rounds to PICTURE; truncated it would not
PILLOW_CASES: dict[str, Case] = {
    "jpeg rgb": (pillow(PICTURE, "JPEG", quality=95, subsampling=0), PICTURE, 6),
    "jpeg 4:2:0": (pillow(PICTURE, "JPEG", quality=95), PICTURE, 12),
    "jpeg progressive": (pillow(PICTURE, "JPEG", quality=95, subsampling=0, progressive=True), PICTURE, 6),
    "jpeg grey": (pillow(GREY, "JPEG", quality=95), gray_rgb(GREY), 4),
    "jpeg opencv": (opencv(".jpg", PICTURE), PICTURE, 12),
    "jpeg cmyk": (cmyk("JPEG", quality=98, subsampling=0), inks_to_rgb(INKS), 6),
    "jpeg ycck": (ycck_jpeg(), inks_to_rgb(INKS), 6),
    **depths(),
    "png rgb": (plain_png(PICTURE, 8, 2), PICTURE, 0),
    "png rgba": (plain_png(RGBA, 8, 6), PICTURE, 0),
    "png grey alpha": (plain_png(RGBA[..., [1, 3]], 8, 4), gray_rgb(GREY), 0),
    "png transparent color": (plain_png(PICTURE, 8, 2, chunk(b"tRNS", bytes(6))), PICTURE, 0),
    "png interlaced": (interlaced_png(PICTURE), PICTURE, 0),
    "bmp rgb": (pillow(PICTURE, "BMP"), PICTURE, 0),
    "bmp opencv": (opencv(".bmp", PICTURE), PICTURE, 0),
    "bmp rgba": (pillow(RGBA, "BMP"), PICTURE, 0),
    "bmp grey": (pillow(GREY, "BMP"), gray_rgb(GREY), 0),
    "bmp bilevel": (pillow(GREY, "BMP", "1"), gray_rgb(np.asarray(Image.fromarray(GREY).convert("1")) * np.uint8(255)), 0),
    "webp lossless": (pillow(PICTURE, "WEBP", lossless=True), PICTURE, 0),
    "webp alpha": (pillow(RGBA, "WEBP", lossless=True, exact=True), PICTURE, 0),
    "webp lossy": (opencv(".webp", PICTURE), PICTURE, 3),
    "tiff bilevel": (
        pillow(GREY, "TIFF", "1", compression="group4"),
        gray_rgb(np.asarray(Image.fromarray(GREY).convert("1")) * np.uint8(255)),
        0,
    ),
    "tiff cmyk": (cmyk("TIFF"), inks_to_rgb(INKS), 2),
    "tiff cmyk lzw": (cmyk("TIFF", compression="tiff_lzw"), inks_to_rgb(INKS), 2),
    "tiff jpeg": (pillow(PICTURE, "TIFF", compression="jpeg", quality=95), PICTURE, 12),
    **{
        f"tiff {name} {compression}": (pillow(source, "TIFF", compression=compression), want, 0)
        for compression in ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate")
        for name, source, want in (("grey", GREY, gray_rgb(GREY)), ("rgb", PICTURE, PICTURE), ("rgba", RGBA, PICTURE))
    },
    "tiff palette": (
        pillow(PICTURE, "TIFF", "P"),
        np.asarray(Image.fromarray(PICTURE).convert("P").convert("RGB")),
        0,
    ),
    "tiff bigtiff": (tiff(PICTURE, bigtiff=True, photometric="rgb"), PICTURE, 0),
}
DEEP_CASES: dict[str, Case] = {
    "png grey": (plain_png(DEEP[..., 1:2], 16, 0), gray_rgb(GREY), 0),
    # Pillow keeps the high byte of 16-bit colour: at most one step of 255 too low.
    "png rgb": (opencv(".png", DEEP), PICTURE, 1),
    "png grey alpha": (plain_png(DEEP[..., [1, 2]], 16, 4), gray_rgb(GREY), 1),
    "tiff lzw": (opencv(".tif", DEEP), PICTURE, 1),
    "tiff lzw grey": (pillow(DEEP[..., 1], "TIFF", compression="tiff_lzw"), gray_rgb(GREY), 0),
    "tiff lzw white is zero": (
        pillow(65535 - DEEP[..., 1], "TIFF", compression="tiff_lzw", tiffinfo={262: 0}),
        gray_rgb(GREY),
        0,
    ),
}


def tiff_cases() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    sources = {8: RGBA, 16: np.concatenate([DEEP, ALPHA * np.uint16(257)], axis=-1)}
    layouts = {"grey": [1], "grey alpha": [1, 3], "rgb": [0, 1, 2], "rgba": [0, 1, 2, 3]}
    variants = product(sources, layouts, ("contig", "separate"), (None, (16, 32)), "<>", (None, "zlib"))
    for bits, layout, planes, tile, endian, compression in variants:
        if (bits, layout, planes, compression) == (8, "grey alpha", "separate", None):
            continue  # Pillow refuses it
        samples = sources[bits][..., layouts[layout]]
        options: dict[str, Any] = {"planarconfig": planes} if len(layouts[layout]) > 1 else {}
        stored = np.moveaxis(samples, -1, 0).copy() if options and planes == "separate" else samples.squeeze()
        options |= {"extrasamples": ["unassalpha"]} if "a" in layout[3:] else {}
        options |= {"tile": tile, "byteorder": endian, "compression": compression} | ({} if tile else {"rowsperstrip": 9})
        photometric = "rgb" if "rgb" in layout else "minisblack"
        want = PICTURE if "rgb" in layout else gray_rgb(GREY)
        name = f"{bits} {layout} {planes} {'tiles' if tile else 'strips'} {endian} {compression}"
        cases[name] = tiff(stored, photometric=photometric, **options), want, 0
    return cases


def assert_decodes(tmp_path: Path, case: Case, note: str = "") -> None:
    data, want, tolerance = case
    decoded = decode(save(tmp_path / "x", data), FULL)
    assert decoded.rgb.dtype == np.uint8
    assert decoded.rgb.shape == (HEIGHT, WIDTH, 3)
    assert decoded.stored_hw == (HEIGHT, WIDTH)
    assert decoded.orientation == 1
    assert decoded.note == note
    assert np.abs(decoded.rgb - np.asarray(want, float)).max() <= tolerance


@pytest.mark.parametrize("name", PILLOW_CASES)
def test_each_format_and_mode_gives_its_picture(tmp_path: Path, name: str) -> None:
    assert_decodes(tmp_path, PILLOW_CASES[name])


@pytest.mark.parametrize("name", DEEP_CASES)
def test_16_bits_are_scaled(tmp_path: Path, name: str) -> None:
    assert_decodes(tmp_path, DEEP_CASES[name], "16-bit scaled to 8")


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in tiff_cases().items()])
def test_tiff_layouts(tmp_path: Path, case: Case, request: pytest.FixtureRequest) -> None:
    assert_decodes(tmp_path, case, "16-bit scaled to 8" if "[16" in request.node.name else "")
