"""Image files in every format and mode, each with the pixels that a decoder must return.

Every image is drawn here and written by an encoder that is not the decoder under test, or by hand.
"""

import struct
import zlib
from io import BytesIO
from itertools import product
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ExifTags import Base as Tag

Array = NDArray[Any]
HEIGHT, WIDTH = 40, 56


def draw(height: int = HEIGHT, width: int = WIDTH) -> Array:
    """Draw a smooth image (h, w, 3), different in every channel and corner."""
    y, x = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    return np.stack([255 * y, 255 * x, 200 * (1 - y) * x + 30], axis=-1).round().astype(np.uint8)


PICTURE = draw()
GREY = PICTURE[..., 1]
BILEVEL = (GREY > 99) * np.uint8(255)
ALPHA = (255 * (PICTURE[..., :1] > 99)).astype(np.uint8)
RGBA = np.concatenate([PICTURE, ALPHA], axis=-1)


def grey_rgb(grey: Array) -> Array:
    """Repeat a grey channel (h, w) to (h, w, 3)."""
    return np.repeat(grey[..., None], 3, axis=-1)


def by_pillow(array: Array, format_name: str, mode: str | None = None, **options: Any) -> bytes:
    """Encode pixels with Pillow, after converting them to `mode`."""
    image = Image.fromarray(array)
    buffer = BytesIO()
    (image.convert(mode) if mode else image).save(buffer, format_name, **options)
    return buffer.getvalue()


def tiff(array: Array, **options: Any) -> bytes:
    """Encode pixels as TIFF with tifffile."""
    buffer = BytesIO()
    tifffile.imwrite(buffer, array, metadata=None, **options)
    return buffer.getvalue()


def by_opencv(suffix: str, rgb: Array) -> bytes:
    """Encode RGB pixels with OpenCV in the format of a suffix."""
    return cv2.imencode(suffix, np.ascontiguousarray(rgb[..., ::-1]))[1].tobytes()


def chunk(name: bytes, content: bytes) -> bytes:
    """Return a PNG chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(header: tuple[int, ...], scanlines: bytes, *extra: bytes) -> bytes:
    """Return a PNG of an IHDR, further chunks and one IDAT."""
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *header))
    return start + b"".join(extra) + chunk(b"IDAT", zlib.compress(scanlines)) + chunk(b"IEND", b"")


def scanlines(samples: Array, depth: int) -> bytes:
    """Pack samples (h, w, c) into PNG lines with filter 0."""
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
    """Return a little-endian TIFF of one strip; every tag is one LONG."""
    tags = {**tags, 273: 8 + 2 + 12 * (len(tags) + 2) + 4, 279: len(strip)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + strip


def inks_to_rgb(inks: Array) -> Array:
    c, m, y, k = (255.0 - inks[..., i] for i in range(4))
    return np.stack([c * k, m * k, y * k], axis=-1) / 255


INKS = np.concatenate([PICTURE, 80 - PICTURE[..., :1] // 4], axis=-1)


def ycck_jpeg() -> bytes:
    # Adobe stores inverted inks, and YCCK converts the first three to YCbCr; a decoder reverts both. Pillow inverts
    # what it writes, so it gets the complement, and the transform in the Adobe marker is changed from none to YCCK.
    ycc = np.asarray(Image.fromarray(INKS[..., :3]).convert("YCbCr"))
    stored = Image.fromarray(np.concatenate([255 - ycc, INKS[..., 3:]], axis=-1), "CMYK")
    buffer = BytesIO()
    stored.save(buffer, "JPEG", quality=98, subsampling=0)
    data = bytearray(buffer.getvalue())
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def cmyk(format_name: str, **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(INKS, "CMYK").save(buffer, format_name, **options)
    return buffer.getvalue()


Case = tuple[bytes, Array, int]  # file content, expected pixels, tolerance


def depths() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for depth in (1, 2, 4, 8):
        grey = GREY >> (8 - depth)
        cases[f"png grey {depth}"] = plain_png(grey[..., None], depth, 0), grey_rgb(grey) * (255 // (2**depth - 1)), 0
        colors = draw(16, 16).reshape(-1, 3)[: 2**depth]
        palette = [chunk(b"PLTE", colors.tobytes()), chunk(b"tRNS", bytes(range(0, 2**depth, 2)))]
        cases[f"png palette {depth}"] = plain_png(grey[..., None], depth, 3, *palette), colors[grey], 0
    return cases


DEEP = PICTURE.astype(np.uint16) * 257 - (PICTURE > 0) * np.uint16(100)  # equals PICTURE if rounded, not if truncated
CASES: dict[str, Case] = {
    "jpeg rgb": (by_pillow(PICTURE, "JPEG", quality=95, subsampling=0), PICTURE, 6),
    "jpeg 4:2:0": (by_pillow(PICTURE, "JPEG", quality=95), PICTURE, 12),
    "jpeg progressive": (by_pillow(PICTURE, "JPEG", quality=95, subsampling=0, progressive=True), PICTURE, 6),
    "jpeg grey": (by_pillow(GREY, "JPEG", quality=95), grey_rgb(GREY), 4),
    "jpeg opencv": (by_opencv(".jpg", PICTURE), PICTURE, 12),
    "jpeg cmyk": (cmyk("JPEG", quality=98, subsampling=0), inks_to_rgb(INKS), 6),
    "jpeg ycck": (ycck_jpeg(), inks_to_rgb(INKS), 6),
    **depths(),
    "png rgb": (plain_png(PICTURE, 8, 2), PICTURE, 0),
    "png rgba": (plain_png(RGBA, 8, 6), PICTURE, 0),
    "png grey alpha": (plain_png(RGBA[..., [1, 3]], 8, 4), grey_rgb(GREY), 0),
    "png transparent color": (plain_png(PICTURE, 8, 2, chunk(b"tRNS", bytes(6))), PICTURE, 0),
    "png interlaced": (interlaced_png(PICTURE), PICTURE, 0),
    "bmp rgb": (by_pillow(PICTURE, "BMP"), PICTURE, 0),
    "bmp opencv": (by_opencv(".bmp", PICTURE), PICTURE, 0),
    "bmp rgba": (by_pillow(RGBA, "BMP"), PICTURE, 0),
    "bmp grey": (by_pillow(GREY, "BMP"), grey_rgb(GREY), 0),
    "bmp bilevel": (by_pillow(BILEVEL, "BMP", "1"), grey_rgb(BILEVEL), 0),
    "bmp palette": (by_pillow(BILEVEL, "BMP", "P"), grey_rgb(BILEVEL), 0),
    "webp lossless": (by_pillow(PICTURE, "WEBP", lossless=True), PICTURE, 0),
    "webp alpha": (by_pillow(RGBA, "WEBP", lossless=True, exact=True), PICTURE, 0),
    "webp lossy": (by_opencv(".webp", PICTURE), PICTURE, 3),
    "tiff bilevel": (by_pillow(BILEVEL, "TIFF", "1", compression="group4"), grey_rgb(BILEVEL), 0),
    "tiff cmyk": (cmyk("TIFF"), inks_to_rgb(INKS), 2),
    "tiff cmyk lzw": (cmyk("TIFF", compression="tiff_lzw"), inks_to_rgb(INKS), 2),
    "tiff jpeg": (by_pillow(PICTURE, "TIFF", compression="jpeg", quality=95), PICTURE, 12),
    **{
        f"tiff {name} {compression}": (by_pillow(source, "TIFF", compression=compression), want, 0)
        for compression in ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate")
        for name, source, want in (("grey", GREY, grey_rgb(GREY)), ("rgb", PICTURE, PICTURE), ("rgba", RGBA, PICTURE))
    },
    "gif": (by_pillow(PICTURE // 51 * 51, "GIF", "P"), PICTURE // 51 * 51, 0),  # web-safe colours
    "gif grey": (by_pillow(GREY, "GIF"), grey_rgb(GREY), 0),
    "jpeg2000 rgb": (by_pillow(PICTURE, "JPEG2000"), PICTURE, 0),
    "jpeg2000 rgba": (by_pillow(RGBA, "JPEG2000"), PICTURE, 0),
    "jpeg2000 grey": (by_pillow(GREY, "JPEG2000"), grey_rgb(GREY), 0),
    "jpeg2000 lossy": (by_pillow(PICTURE, "JPEG2000", irreversible=True, quality_layers=[4]), PICTURE, 4),
    "jpeg2000 codestream": (by_pillow(PICTURE, "JPEG2000", no_jp2=True), PICTURE, 0),
    "jpeg2000 tiles": (by_pillow(PICTURE, "JPEG2000", tile_size=(16, 16)), PICTURE, 0),
    "jpeg2000 opencv": (by_opencv(".jp2", PICTURE), PICTURE, 0),
    "avif": (by_pillow(PICTURE, "AVIF", quality=100, subsampling="4:4:4"), PICTURE, 4),
    "avif rgba": (by_pillow(RGBA, "AVIF", quality=100, subsampling="4:4:4"), PICTURE, 4),
    "avif opencv": (by_opencv(".avif", PICTURE), PICTURE, 16),
    "tiff palette": (by_pillow(PICTURE // 51 * 51, "TIFF", "P"), PICTURE // 51 * 51, 0),  # web-safe colours
    "tiff bigtiff": (tiff(PICTURE, bigtiff=True, photometric="rgb"), PICTURE, 0),
}
DEEP_CASES: dict[str, Case] = {
    "png grey": (plain_png(DEEP[..., 1:2], 16, 0), grey_rgb(GREY), 0),
    # Pillow keeps the high byte of 16-bit colour: at most one step of 255 too low.
    "png rgb": (by_opencv(".png", DEEP), PICTURE, 1),
    "png grey alpha": (plain_png(DEEP[..., [1, 2]], 16, 4), grey_rgb(GREY), 1),
    "jpeg2000 grey": (by_pillow(DEEP[..., 1], "JPEG2000"), grey_rgb(GREY), 0),
    "jpeg2000 rgb": (by_opencv(".jp2", DEEP), PICTURE, 12),
    "tiff lzw": (by_opencv(".tif", DEEP), PICTURE, 1),
    "tiff lzw grey": (by_pillow(DEEP[..., 1], "TIFF", compression="tiff_lzw"), grey_rgb(GREY), 0),
    "tiff lzw white is zero": (
        by_pillow(65535 - DEEP[..., 1], "TIFF", compression="tiff_lzw", tiffinfo={262: 0}),
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


def oriented(orientation: Any) -> tuple[dict[str, bytes], Array]:
    """Return PICTURE in files with an EXIF orientation, and the upright pixels by Pillow."""
    image = Image.fromarray(PICTURE)
    exif = image.getexif()
    exif[Tag.Orientation] = orientation
    tag = [(274, "H", 1, orientation, True)]
    lzw = by_pillow(PICTURE, "TIFF", compression="tiff_lzw", tiffinfo={274: 1})  # libtiff writes 1 to 8 only
    before, after = (struct.pack("<HHIH", 274, 3, 1, value) for value in (1, orientation))
    files = {
        "jpeg": by_pillow(PICTURE, "JPEG", quality=95, exif=exif),
        "png": by_pillow(PICTURE, "PNG", exif=exif),
        "webp": by_pillow(PICTURE, "WEBP", lossless=True, exif=exif),
        "avif": by_pillow(PICTURE, "AVIF", quality=100, subsampling="4:4:4", exif=exif.tobytes()),
        "tiff": tiff(PICTURE, photometric="rgb", extratags=tag),
        "tiff lzw": lzw.replace(before, after),
        "tiff 16": tiff(DEEP, photometric="rgb", extratags=tag),
    }
    return files, np.asarray(ImageOps.exif_transpose(image))


# Pillow reads 64 KB at a time, so these files are larger.
NOISE = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
LARGE_JPEGS = {
    name: by_pillow(NOISE, "JPEG", quality=95, progressive=progressive)
    for name, progressive in (("baseline", False), ("progressive", True))
}
FRAGILE = {
    name: {**CASES, **DEEP_CASES, **LAYOUTS}[name][0]
    for name in (
        *("jpeg rgb", "jpeg progressive", "jpeg grey", "jpeg cmyk"),
        *("png rgba", "png palette 4", "png interlaced", "png grey"),
        *("bmp rgb", "bmp palette", "webp lossless", "webp alpha", "webp lossy"),
        *("gif", "jpeg2000 rgb", "jpeg2000 codestream", "jpeg2000 tiles", "avif", "avif opencv"),
        *("tiff rgb raw", "tiff rgb tiff_lzw", "tiff jpeg", "tiff palette", "tiff bilevel", "tiff bigtiff", "tiff lzw"),
        *("16 rgb contig strips < None", "16 rgb separate strips > zlib", "16 rgba separate tiles > None"),
        *("8 rgb separate strips < None", "8 rgba contig tiles < zlib"),
    )
}


def oversized() -> dict[str, bytes]:
    """Return files whose headers promise 15000 x 15000 pixels or more, with little data."""
    jpeg, bmp = bytearray(CASES["jpeg rgb"][0]), bytearray(CASES["bmp rgb"][0])
    size = jpeg.index(struct.pack(">HH", HEIGHT, WIDTH))
    jpeg[size : size + 4] = struct.pack(">HH", 60_000, 60_000)
    bmp[18:26] = struct.pack("<ii", 50_000, 50_000)
    tags = {256: 15_000, 257: 15_000, 259: 1, 262: 1, 277: 1, 278: 15_000}
    webp = bytearray(by_pillow(PICTURE, "WEBP", save_all=True, append_images=[Image.fromarray(RGBA)]))
    webp[24:30] = (15_999).to_bytes(3, "little") * 2  # the canvas, which may be larger than its frames
    gif, jp2, avif = (bytearray(CASES[name][0]) for name in ("gif", "jpeg2000 rgb", "avif"))
    gif[6:10] = struct.pack("<HH", 60_000, 60_000)
    sides = jp2.index(b"\xff\x4f\xff\x51") + 8
    jp2[sides : sides + 8] = struct.pack(">II", 60_000, 60_000)
    sides = avif.index(b"ispe") + 8
    avif[sides : sides + 8] = struct.pack(">II", 15_000, 15_000)
    return {
        "jpeg": bytes(jpeg),
        "bmp": bytes(bmp),
        "png": png((100_000, 100_000, 8, 2, 0, 0, 0), b""),
        "tiff": plain_tiff({**tags, 258: 8}, b"x"),
        "tiff 16": plain_tiff({**tags, 258: 16}, b"x"),
        "webp": bytes(webp),
        "gif": bytes(gif),
        "jpeg2000": bytes(jp2),
        "avif": bytes(avif),
    }
