"""Every picture is drawn here and written by an encoder that is not the decoder under test, or by hand."""

import os
import stat
import struct
import zlib
from io import BytesIO
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ExifTags import Base as Tag

from lesioncli.errors import ImageError, InputError
from lesioncli.images import files as images
from lesioncli.images.files import ImageFile, decode, find_images, passed_over_in_words, search

Array = NDArray[Any]
FULL = (10**6, 10**6)  # more than any picture here has, so that none is reduced
HEIGHT, WIDTH = 40, 56
wild = settings(deadline=None, database=None, derandomize=True)


def draw(height: int = HEIGHT, width: int = WIDTH) -> Array:
    """Draw a smooth picture (h, w, 3), different in each channel and corner."""
    y, x = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    return np.stack([255 * y, 255 * x, 200 * (1 - y) * x + 30], axis=-1).round().astype(np.uint8)


PICTURE = draw()
GREY = PICTURE[..., 1]
BILEVEL = (GREY > 99) * np.uint8(255)
ALPHA = (255 * (PICTURE[..., :1] > 99)).astype(np.uint8)
RGBA = np.concatenate([PICTURE, ALPHA], axis=-1)


def grey_rgb(grey: Array) -> Array:
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
        cases[f"png grey {depth}"] = plain_png(grey[..., None], depth, 0), grey_rgb(grey) * (255 // (2**depth - 1)), 0
        colors = draw(16, 16).reshape(-1, 3)[: 2**depth]
        palette = [chunk(b"PLTE", colors.tobytes()), chunk(b"tRNS", bytes(range(0, 2**depth, 2)))]
        cases[f"png palette {depth}"] = plain_png(grey[..., None], depth, 3, *palette), colors[grey], 0
    return cases


DEEP = PICTURE.astype(np.uint16) * 257 - (PICTURE > 0) * np.uint16(100)  # rounds to PICTURE; truncated it would not
CASES: dict[str, Case] = {
    "jpeg rgb": (pillow(PICTURE, "JPEG", quality=95, subsampling=0), PICTURE, 6),
    "jpeg 4:2:0": (pillow(PICTURE, "JPEG", quality=95), PICTURE, 12),
    "jpeg progressive": (pillow(PICTURE, "JPEG", quality=95, subsampling=0, progressive=True), PICTURE, 6),
    "jpeg grey": (pillow(GREY, "JPEG", quality=95), grey_rgb(GREY), 4),
    "jpeg opencv": (opencv(".jpg", PICTURE), PICTURE, 12),
    "jpeg cmyk": (cmyk("JPEG", quality=98, subsampling=0), inks_to_rgb(INKS), 6),
    "jpeg ycck": (ycck_jpeg(), inks_to_rgb(INKS), 6),
    **depths(),
    "png rgb": (plain_png(PICTURE, 8, 2), PICTURE, 0),
    "png rgba": (plain_png(RGBA, 8, 6), PICTURE, 0),
    "png grey alpha": (plain_png(RGBA[..., [1, 3]], 8, 4), grey_rgb(GREY), 0),
    "png transparent color": (plain_png(PICTURE, 8, 2, chunk(b"tRNS", bytes(6))), PICTURE, 0),
    "png interlaced": (interlaced_png(PICTURE), PICTURE, 0),
    "bmp rgb": (pillow(PICTURE, "BMP"), PICTURE, 0),
    "bmp opencv": (opencv(".bmp", PICTURE), PICTURE, 0),
    "bmp rgba": (pillow(RGBA, "BMP"), PICTURE, 0),
    "bmp grey": (pillow(GREY, "BMP"), grey_rgb(GREY), 0),
    "bmp bilevel": (pillow(BILEVEL, "BMP", "1"), grey_rgb(BILEVEL), 0),
    "bmp palette": (pillow(BILEVEL, "BMP", "P"), grey_rgb(BILEVEL), 0),
    "webp lossless": (pillow(PICTURE, "WEBP", lossless=True), PICTURE, 0),
    "webp alpha": (pillow(RGBA, "WEBP", lossless=True, exact=True), PICTURE, 0),
    "webp lossy": (opencv(".webp", PICTURE), PICTURE, 3),
    "tiff bilevel": (pillow(BILEVEL, "TIFF", "1", compression="group4"), grey_rgb(BILEVEL), 0),
    "tiff cmyk": (cmyk("TIFF"), inks_to_rgb(INKS), 2),
    "tiff cmyk lzw": (cmyk("TIFF", compression="tiff_lzw"), inks_to_rgb(INKS), 2),
    "tiff jpeg": (pillow(PICTURE, "TIFF", compression="jpeg", quality=95), PICTURE, 12),
    **{
        f"tiff {name} {compression}": (pillow(source, "TIFF", compression=compression), want, 0)
        for compression in ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate")
        for name, source, want in (("grey", GREY, grey_rgb(GREY)), ("rgb", PICTURE, PICTURE), ("rgba", RGBA, PICTURE))
    },
    "tiff palette": (pillow(PICTURE // 51 * 51, "TIFF", "P"), PICTURE // 51 * 51, 0),  # web-safe colours
    "tiff bigtiff": (tiff(PICTURE, bigtiff=True, photometric="rgb"), PICTURE, 0),
}
DEEP_CASES: dict[str, Case] = {
    "png grey": (plain_png(DEEP[..., 1:2], 16, 0), grey_rgb(GREY), 0),
    # Pillow keeps the high byte of 16-bit colour: at most one step of 255 too low.
    "png rgb": (opencv(".png", DEEP), PICTURE, 1),
    "png grey alpha": (plain_png(DEEP[..., [1, 2]], 16, 4), grey_rgb(GREY), 1),
    "tiff lzw": (opencv(".tif", DEEP), PICTURE, 1),
    "tiff lzw grey": (pillow(DEEP[..., 1], "TIFF", compression="tiff_lzw"), grey_rgb(GREY), 0),
    "tiff lzw white is zero": (
        pillow(65535 - DEEP[..., 1], "TIFF", compression="tiff_lzw", tiffinfo={262: 0}),
        grey_rgb(GREY),
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
        options |= {"tile": tile, "byteorder": endian, "compression": compression} | (
            {} if tile else {"rowsperstrip": 9}
        )
        photometric = "rgb" if "rgb" in layout else "minisblack"
        want = PICTURE if "rgb" in layout else grey_rgb(GREY)
        name = f"{bits} {layout} {planes} {'tiles' if tile else 'strips'} {endian} {compression}"
        cases[name] = tiff(stored, photometric=photometric, **options), want, 0
    return cases


LAYOUTS = tiff_cases()


def assert_decodes(tmp_path: Path, case: Case, note: str = "") -> None:
    data, want, tolerance = case
    decoded = decode(save(tmp_path / "x", data), FULL)
    assert decoded.rgb.dtype == np.uint8
    assert decoded.rgb.shape == (HEIGHT, WIDTH, 3)
    assert decoded.stored_hw == (HEIGHT, WIDTH)
    assert decoded.orientation == 1
    assert decoded.note == note
    assert np.abs(decoded.rgb - np.asarray(want, float)).max() <= tolerance


@pytest.mark.parametrize("name", CASES)
def test_each_format_and_mode_gives_its_picture(tmp_path: Path, name: str) -> None:
    assert_decodes(tmp_path, CASES[name])


@pytest.mark.parametrize("name", DEEP_CASES)
def test_16_bits_are_scaled(tmp_path: Path, name: str) -> None:
    assert_decodes(tmp_path, DEEP_CASES[name], "16-bit scaled to 8")


@pytest.mark.parametrize("name", LAYOUTS)
def test_tiff_layouts(tmp_path: Path, name: str) -> None:
    assert_decodes(tmp_path, LAYOUTS[name], "16-bit scaled to 8" if name.startswith("16") else "")


@pytest.mark.parametrize(("values", "endian"), [(GREY, "<"), (GREY, ">"), (DEEP[..., 1], "<"), (DEEP[..., 1], ">")])
def test_white_is_zero_is_inverted(tmp_path: Path, values: Array, endian: str) -> None:
    data = tiff(np.iinfo(values.dtype).max - values, photometric="miniswhite", byteorder=endian)
    decoded = decode(save(tmp_path / "x.tif", data), FULL)
    np.testing.assert_array_equal(decoded.rgb, grey_rgb(GREY))


def test_12_bits_are_scaled_by_their_own_range(tmp_path: Path) -> None:
    values = np.array([[0, 4095], [2048, 1024]])
    bits = (values.reshape(-1, 1) >> np.arange(12)[::-1]) & 1
    tags = {256: 2, 257: 2, 258: 12, 259: 1, 262: 1, 277: 1, 278: 2}
    decoded = decode(save(tmp_path / "x.tif", plain_tiff(tags, np.packbits(bits).tobytes())), FULL)
    np.testing.assert_array_equal(decoded.rgb[..., 0], [[0, 255], [128, 64]])
    assert decoded.note == "12-bit scaled to 8"


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint32, np.int16])
def test_other_pixel_types_are_refused(tmp_path: Path, dtype: type) -> None:
    with pytest.raises(ImageError, match="save it as 8 or 16-bit"):
        decode(save(tmp_path / "x.tif", tiff(GREY.astype(dtype), photometric="minisblack")), FULL)


def test_first_of_several_pages_and_frames(tmp_path: Path) -> None:
    more = [Image.fromarray(255 - PICTURE), Image.fromarray(PICTURE[::-1])]
    pages = pillow(PICTURE, "TIFF", save_all=True, append_images=more)
    frames = pillow(PICTURE, "WEBP", save_all=True, append_images=more, lossless=True)
    assert_decodes(tmp_path, (pages, PICTURE, 0), "first of 3 pages")
    assert_decodes(tmp_path, (frames, PICTURE, 0), "first of 3 frames")
    deep = tiff(np.stack([DEEP, DEEP[::-1]]), photometric="rgb")
    assert_decodes(tmp_path, (deep, PICTURE, 0), "first of 2 pages; 16-bit scaled to 8")


def oriented(orientation: Any) -> tuple[dict[str, bytes], Array]:
    image = Image.fromarray(PICTURE)
    exif = image.getexif()
    exif[Tag.Orientation] = orientation
    tag = [(274, "H", 1, orientation, True)]
    lzw = pillow(PICTURE, "TIFF", compression="tiff_lzw", tiffinfo={274: 1})  # libtiff writes 1 to 8 only
    before, after = (struct.pack("<HHIH", 274, 3, 1, value) for value in (1, orientation))
    files = {
        "jpeg": pillow(PICTURE, "JPEG", quality=95, exif=exif),
        "png": pillow(PICTURE, "PNG", exif=exif),
        "webp": pillow(PICTURE, "WEBP", lossless=True, exif=exif),
        "tiff": tiff(PICTURE, photometric="rgb", extratags=tag),
        "tiff lzw": lzw.replace(before, after),
        "tiff 16": tiff(DEEP, photometric="rgb", extratags=tag),
    }
    return files, np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    files, upright = oriented(orientation)
    for name, data in files.items():
        decoded = decode(save(tmp_path / name, data), FULL)
        assert decoded.orientation == orientation, name
        assert decoded.stored_hw == (HEIGHT, WIDTH), name
        assert decoded.rgb.shape == upright.shape, name
        assert np.abs(decoded.rgb - upright.astype(float)).max() <= (12 if name == "jpeg" else 0), name


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_turn_nothing(tmp_path: Path, orientation: int) -> None:
    for name, data in oriented(orientation)[0].items():
        assert decode(save(tmp_path / name, data), FULL).orientation == 1, name


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
def test_large_jpegs_are_reduced_to_twice_what_is_needed(
    tmp_path: Path, stored_hw: tuple[int, int], orientation: int, at_least_hw: tuple[int, int], factor: int, mode: str
) -> None:
    exif = Image.Exif()
    exif[Tag.Orientation] = orientation
    path = save(tmp_path / "x.jpg", pillow(draw(*stored_hw), "JPEG", mode, quality=90, exif=exif))
    full, reduced = decode(path, FULL), decode(path, at_least_hw)
    height, width = full.rgb.shape[:2]
    assert full.stored_hw == reduced.stored_hw == stored_hw
    assert reduced.rgb.shape == (-(-height // factor), -(-width // factor), 3)
    by_averaging = cv2.resize(full.rgb, reduced.rgb.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(by_averaging - reduced.rgb.astype(float)).max() <= 6


NOISE = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)  # Pillow reads 64 KB at a time
LARGE_JPEGS = {
    name: pillow(NOISE, "JPEG", quality=95, progressive=progressive)
    for name, progressive in (("baseline", False), ("progressive", True))
}
FRAGILE = {
    name: {**CASES, **DEEP_CASES, **LAYOUTS}[name][0]
    for name in (
        *("jpeg rgb", "jpeg progressive", "jpeg grey", "jpeg cmyk"),
        *("png rgba", "png palette 4", "png interlaced", "png grey"),
        *("bmp rgb", "bmp palette", "webp lossless", "webp alpha", "webp lossy"),
        *("tiff rgb raw", "tiff rgb tiff_lzw", "tiff jpeg", "tiff palette", "tiff bilevel", "tiff bigtiff", "tiff lzw"),
        *("16 rgb contig strips < None", "16 rgb separate strips > zlib", "16 rgba separate tiles > None"),
        *("8 rgb separate strips < None", "8 rgba contig tiles < zlib"),
    )
}


def decode_bytes(data: bytes, at_least_hw: tuple[int, int] = FULL) -> Array | None:
    """Decode from a stand-in for a path that can be read once, without the disk; None for an ImageError."""
    is_file = SimpleNamespace(st_mode=stat.S_IFREG)
    path = cast(Path, SimpleNamespace(stat=lambda: is_file, read_bytes=iter([data]).__next__))
    try:
        return decode(path, at_least_hw).rgb
    except ImageError as error:
        if error.stage == "decode" and error.reason.isprintable() and len(error.reason) > 10:
            return None
        raise


# Pillow describes some damage in a warning and goes on; as errors, these would hide what a run gets to see.
damaging = pytest.mark.filterwarnings("ignore::UserWarning")


@damaging
@pytest.mark.parametrize("name", FRAGILE)
def test_a_file_cut_short_is_whole_or_an_error(name: str) -> None:
    data = FRAGILE[name]
    whole = decode_bytes(data)
    assert whole is not None
    cuts = {*range(0, len(data), max(1, len(data) // 150)), *range(len(data) - 20, len(data))}
    for cut in sorted(cuts):
        rgb = decode_bytes(data[:cut])
        assert rgb is None or np.array_equal(rgb, whole), f"{cut} of {len(data)} bytes"


@damaging
@wild
@given(
    part=st.floats(0, 1, exclude_max=True), name=st.sampled_from(sorted(LARGE_JPEGS)), need=st.sampled_from([20, 999])
)
def test_a_large_jpeg_cut_short_is_an_error_also_if_reduced(part: float, name: str, need: int) -> None:
    data = LARGE_JPEGS[name]
    assert decode_bytes(data[: int(part * len(data))], (need, need)) is None


@pytest.mark.parametrize("name", LARGE_JPEGS)
@pytest.mark.parametrize("zeros", [16, 1000, 50_000])
def test_a_jpeg_that_ends_in_zeros_is_an_error(tmp_path: Path, name: str, zeros: int) -> None:
    data = LARGE_JPEGS[name]
    with pytest.raises(ImageError, match="truncated"):
        decode(save(tmp_path / "x.jpg", data[:-zeros] + bytes(zeros)), FULL)


def test_bytes_after_the_end_of_a_jpeg_are_ignored() -> None:
    data = CASES["jpeg rgb"][0]
    whole = decode_bytes(data)
    for appended in (bytes(100), b"a film \xff\xda", data + bytes(100)):
        np.testing.assert_array_equal(decode_bytes(data + appended), whole)


@damaging
@wild
@given(data=st.data(), name=st.sampled_from(sorted(FRAGILE)))
def test_damage_raises_nothing_but_image_errors(data: st.DataObject, name: str) -> None:
    damaged = bytearray(FRAGILE[name])
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, data.draw(st.sampled_from([40, 400, len(damaged)]))))
        damaged[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    decode_bytes(bytes(damaged))


@wild
@given(magic=st.sampled_from([*images._READERS, b"RIFF\x40\0\0\0WEBPVP8 "]), rest=st.binary(max_size=200))
def test_a_right_beginning_with_anything_after_it_is_an_error(magic: bytes, rest: bytes) -> None:
    assert decode_bytes(magic + rest) is None


def test_content_decides_not_suffix(tmp_path: Path) -> None:
    np.testing.assert_array_equal(decode(save(tmp_path / "x.jpg", CASES["png rgb"][0]), FULL).rgb, PICTURE)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "file is empty"),
        (b"<html>not found</html>", "not a JPEG, PNG, BMP, WebP or TIFF image"),
        (pillow(PICTURE, "GIF"), "not a JPEG, PNG, BMP, WebP or TIFF image"),
        (CASES["jpeg rgb"][0][:-100], "^truncated: the [A-Z]+ data end too early"),
        (CASES["png rgb"][0][:-100], "^truncated: the [A-Z]+ data end too early"),
        (CASES["tiff rgb raw"][0][:-100], "^truncated: the [A-Z]+ data end too early"),
        (CASES["tiff rgb tiff_lzw"][0][:200], "^truncated: the TIFF data end before their directory"),
    ],
)
def test_reasons(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode(save(tmp_path / "x.jpg", data), FULL)


def test_what_cannot_be_read_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^cannot be read: No such file") as missing:
        decode(tmp_path / "none.jpg", FULL)
    assert "none.jpg" not in missing.value.reason
    with pytest.raises(ImageError, match=r"^cannot be read"):
        decode(tmp_path, FULL)


def test_running_out_of_memory_is_not_an_image_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(images, "_to_rgb", run_out)
    with pytest.raises(MemoryError):
        decode(save(tmp_path / "x.png", CASES["png rgb"][0]), FULL)


def oversized() -> dict[str, bytes]:
    """Write headers of 15000 x 15000 pixels or more, with hardly any data behind them."""
    jpeg, bmp = bytearray(CASES["jpeg rgb"][0]), bytearray(CASES["bmp rgb"][0])
    size = jpeg.index(struct.pack(">HH", HEIGHT, WIDTH))
    jpeg[size : size + 4] = struct.pack(">HH", 60_000, 60_000)
    bmp[18:26] = struct.pack("<ii", 50_000, 50_000)
    tags = {256: 15_000, 257: 15_000, 259: 1, 262: 1, 277: 1, 278: 15_000}
    webp = bytearray(pillow(PICTURE, "WEBP", save_all=True, append_images=[Image.fromarray(RGBA)]))
    webp[24:30] = (15_999).to_bytes(3, "little") * 2  # the canvas, which may be larger than its frames
    return {
        "jpeg": bytes(jpeg),
        "bmp": bytes(bmp),
        "png": png((100_000, 100_000, 8, 2, 0, 0, 0), b""),
        "tiff": plain_tiff({**tags, 258: 8}, b"x"),
        "tiff 16": plain_tiff({**tags, 258: 16}, b"x"),
        "webp": bytes(webp),
    }


@pytest.mark.parametrize("name", oversized())
def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match="more than 179 megapixels"):
        decode(save(tmp_path / name, oversized()[name]), FULL)


@pytest.mark.parametrize("name", FRAGILE)
def test_pictures_below_the_limit_raise_no_warning(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH - 1)  # Pillow warns from here to twice as many
    assert decode_bytes(FRAGILE[name]) is not None
    assert Image.MAX_IMAGE_PIXELS == HEIGHT * WIDTH - 1


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        save(folder / name, b"any")
    return folder


def names(found: list[ImageFile]) -> list[str]:
    return [image.name for image in found]


def test_folders_are_searched_to_the_bottom_in_order(tmp_path: Path) -> None:
    folder = tree(tmp_path, "b.jpg", "a/z.PNG", "a/b/c.tiff", "a.d/x.y.jpeg", "C.webp", "notes.txt", "x.csv", "jpg")
    found = find_images([folder])
    assert names(found) == ["C", "a.d/x.y", "a/b/c", "a/z", "b"]
    assert found[3] == ImageFile(folder / "a/z.PNG", "a/z")


def test_every_suffix_is_found_in_either_case(tmp_path: Path) -> None:
    wanted = [f"{i}{suffix}" for i, suffix in enumerate(sorted(images.SUFFIXES))]
    tree(tmp_path, *wanted, *(f"upper{name.upper()}" for name in wanted))
    assert len(find_images([tmp_path])) == 16


def test_what_is_not_an_image_of_its_own_is_passed_over(tmp_path: Path) -> None:
    tree(tmp_path, "x.jpg", "._x.jpg", ".hidden/y.jpg", "x_superpixels.png", "sub/.z.png")
    assert names(find_images([tmp_path])) == ["x"]


def test_what_is_passed_over_in_folders_is_counted_by_kind(tmp_path: Path) -> None:
    tree(tmp_path, "a/x.jpg", "a/b/1.gif", "a/2.GIF", "a/3.jp2", "a/README", "a/c.d/v.1", "a/.hidden", "a/.h/4.gif")
    tree(tmp_path, "a/x_superpixels.png", "a/out/scores.csv", "one.jpg")
    found = search([tmp_path / "a", tmp_path / "a" / "b", tmp_path / "one.jpg"], exclude=tmp_path / "a" / "out")
    assert names(found.images) == ["one", "x"]
    expected = {".gif": 2, ".jp2": 1, ".1": 1, "without suffix": 1, "*_superpixels.png": 1}
    assert found.passed_over == expected
    assert next(iter(found.passed_over)) == ".gif"
    words = passed_over_in_words(found.passed_over)
    assert words.startswith("not read: 2 .gif, 1 ")
    with pytest.raises(InputError, match=r"no images in .*; not read: 1 \.gif"):
        search([tmp_path / "a" / "b"])


def test_masks_are_no_photographs(tmp_path: Path) -> None:
    """Those of ISIC, and whole folders that an earlier run left, but for what is a source itself."""
    tree(tmp_path, "x.jpg", "x_segmentation.png", "old/sub/x.png", "old/overlays/x.jpg", "mine/y.png", "list/z.png")
    (tmp_path / "old" / "run.json").write_text('{"engine_sha256": "ab"}')
    (tmp_path / "mine" / "run.json").write_text('{"epoch": 7}')
    (tmp_path / "list" / "run.json").write_text("7")
    found = search([tmp_path])
    assert names(found.images) == ["list/z", "mine/y", "x"]
    assert found.passed_over == {"*_segmentation.png": 1, ".json": 2, "output folder(s) of segment": 1}
    assert names(search([tmp_path / "old"]).images) == ["overlays/x", "sub/x"]
    assert names(search([tmp_path / "x_segmentation.png"]).images) == ["x_segmentation"]
    assert search([tmp_path], exclude=tmp_path / "old").passed_over == {"*_segmentation.png": 1, ".json": 2}


def test_masks_of_isic_are_known_in_either_case(tmp_path: Path) -> None:
    """The challenge of 2016 has a capital."""
    tree(tmp_path, "x.jpg", "x_Segmentation.png", "y_SEGMENTATION.PNG", "z_Superpixels.png")
    found = search([tmp_path])
    assert names(found.images) == ["x"]
    assert found.passed_over == {"*_segmentation.png": 2, "*_superpixels.png": 1}


def test_a_file_that_is_named_is_not_passed_over(tmp_path: Path) -> None:
    tree(tmp_path, "x.jpg", "y_superpixels.png")
    found = search([tmp_path, tmp_path / "y_superpixels.png"])
    assert (names(found.images), found.passed_over) == (["x", "y_superpixels"], {})


def test_of_many_kinds_that_are_passed_over_some_are_named() -> None:
    words = passed_over_in_words({f".{number}": 1 for number in range(images.SHOWN_KINDS + 2)})
    assert words.startswith("not read: 1 .0, ")
    assert words.endswith("1 .9, and 2 more kinds")
    assert passed_over_in_words({}) == ""


def test_files_and_folders_may_be_mixed(tmp_path: Path) -> None:
    tree(tmp_path, "in/sub/a.jpg", "single.png")
    assert names(find_images([tmp_path / "single.png", tmp_path / "in"])) == ["single", "sub/a"]


def test_relative_sources_keep_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree(tmp_path, "in/sub/a.jpg"))
    assert find_images([Path("in")]) == [ImageFile(Path("in/sub/a.jpg"), "sub/a")]
    assert find_images([Path()]) == [ImageFile(Path("in/sub/a.jpg"), "in/sub/a")]


def test_the_output_folder_is_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "in/x.jpg", "in/masks/x.png", "in/masks/sub/y.png", "in/masks2/z.jpg")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "in/masks")
    for exclude in (tmp_path / "in/masks", Path("in/masks"), Path("link")):
        assert names(find_images([tmp_path / "in"], exclude)) == ["masks2/z", "x"]
    assert names(find_images([tmp_path / "in"], tmp_path / "not yet")) == ["masks/sub/y", "masks/x", "masks2/z", "x"]
    with pytest.raises(InputError, match=r"no images in .*not in the output folder in"):
        find_images([Path("in/x.jpg"), Path("in/masks")], Path("in"))


def test_a_file_that_is_named_in_the_output_folder_is_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`segment in/*/*.png in/x.jpg --out in/masks`, the second time, and what would write over its own photograph."""
    monkeypatch.chdir(tree(tmp_path, "in/x.jpg", "in/masks/x.png", "in/masks/y.png", "in/masks/z/z.png", "one.png"))
    found = search([Path("in/masks/x.png"), Path("in/masks/y.png"), Path("in")], Path("in/masks"))
    assert (names(found.images), found.passed_over) == (["x"], {"in the output folder": 2})
    with pytest.raises(InputError, match=r"no images in one\.png.*; not read: 1 in the output folder"):
        search([Path("one.png")], Path())


def test_a_file_given_twice_is_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree(tmp_path, "in/x.jpg"))
    assert names(find_images([Path("in"), tmp_path / "in", Path("in/../in/x.jpg")])) == ["x"]


def test_a_link_to_a_file_is_an_image_of_its_own(tmp_path: Path) -> None:
    tree(tmp_path, "in/x.jpg")
    (tmp_path / "in/y.jpg").symlink_to("x.jpg")
    assert names(find_images([tmp_path / "in"])) == ["x", "y"]


def test_two_links_to_one_folder_are_two_folders(tmp_path: Path) -> None:
    tree(tmp_path, "elsewhere/x.jpg", "in/z.jpg")
    for name in ("a", "b"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "elsewhere")
    assert names(find_images([tmp_path / "in"])) == ["a/x", "b/x", "z"]


def test_a_link_into_the_folder_itself_gives_no_image_twice(tmp_path: Path) -> None:
    """Only what is hidden there has no name of its own."""
    tree(tmp_path, "in/run2/x.jpg", "in/.store/y.jpg")
    (tmp_path / "in/latest").symlink_to("run2")
    (tmp_path / "in/stored").symlink_to(".store")
    assert names(find_images([tmp_path / "in"])) == ["run2/x", "stored/y"]


def test_folders_that_link_to_each_other_come_to_an_end(tmp_path: Path) -> None:
    tree(tmp_path, "a/x.jpg", "b/y.jpg")
    (tmp_path / "a/to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b/to_a").symlink_to(tmp_path / "a")
    assert names(find_images([tmp_path / "a"])) == ["to_b/y", "x"]


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    tree(tmp_path, "in/a/x.jpg", "elsewhere/y.jpg")
    (tmp_path / "in/a/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/self.jpg").symlink_to("self.jpg")
    assert names(find_images([tmp_path / "in"])) == ["a/x", "linked/y", "self"]


@pytest.mark.parametrize("clash", [("x.jpg", "x.png"), ("A.jpg", "a.png"), ("s/x.jpg", "S/X.jpg")])
def test_two_inputs_must_not_share_a_mask(tmp_path: Path, clash: tuple[str, str]) -> None:
    tree(tmp_path, "other.jpg", *clash)
    if len(list(tmp_path.rglob("*.*"))) < 3:
        pytest.skip("this file system ignores case")
    with pytest.raises(InputError) as refused:
        find_images([tmp_path])
    assert all(str(tmp_path / name) in str(refused.value) for name in clash)
    assert "other" not in str(refused.value)


def test_the_advice_about_two_inputs_of_one_mask_helps(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.jpg", "a/1.jpeg", "b/2.jpg", "c/2.jpg")
    with pytest.raises(InputError, match=r"1\.jpeg and .*1\.jpg\. Rename one of each$"):
        find_images([tmp_path / "a"])
    with pytest.raises(InputError, match=r"Rename one of each, or run the folders one by one into different --out fol"):
        find_images([tmp_path / "b", tmp_path / "c"])
    with pytest.raises(InputError, match=r"Rename one of each$"):
        find_images([tmp_path / "a", tmp_path / "b", tmp_path / "c"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes in folders")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        decode(tmp_path / "x.jpg", FULL)


def test_two_folders_must_not_share_masks_and_three_pairs_are_shown(tmp_path: Path) -> None:
    files = [f"{i}.jpg" for i in range(5)]
    sources = [tree(tmp_path / "one", *files), tree(tmp_path / "two", *files)]
    with pytest.raises(InputError, match=r"2.jpg; and 2 more. Rename .* --out") as refused:
        find_images(sources)
    assert "3.jpg" not in str(refused.value)


def test_bad_sources_are_named(tmp_path: Path) -> None:
    tree(tmp_path, "x.jpg", "x.gif", "empty/notes.txt")
    with pytest.raises(InputError, match="none: no such file or folder"):
        find_images([tmp_path, tmp_path / "none"])
    with pytest.raises(InputError, match=r"x.gif is not an image lesioncli reads; it reads .bmp .jfif .jpeg"):
        find_images([tmp_path / "x.gif"])
    with pytest.raises(InputError, match=r"no images in .*empty: looked for .bmp .jfif .jpeg"):
        find_images([tmp_path / "empty"])


def test_a_folder_that_cannot_be_opened_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: Any) -> Any:  # as root, which may run these tests, nothing is forbidden
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    tree(tmp_path, "x.jpg", "locked/y.jpg")
    with pytest.raises(InputError, match="locked cannot be read: Permission denied"):
        find_images([tmp_path])


part = st.text("aA.é_ -", min_size=1, max_size=4).filter(lambda text: text.strip(".") == text and text.strip())


@settings(wild, max_examples=30)
@given(paths=st.sets(st.lists(part, min_size=1, max_size=3).map("/".join), min_size=1, max_size=6))
def test_masks_stay_in_the_output_folder_and_apart(tmp_path_factory: pytest.TempPathFactory, paths: set[str]) -> None:
    folder = tree(tmp_path_factory.mktemp("tree"), *(f"{path}.jpg" for path in paths))
    if len({path.lower() for path in paths}) < len(paths):
        with pytest.raises(InputError):
            find_images([folder])
        return
    found = find_images([folder])
    assert {image.name for image in found} == paths
    assert names(found) == sorted(names(found))
    out = folder / "out"
    assert all((out / f"{image.name}.png").resolve().is_relative_to(out.resolve()) for image in found)
