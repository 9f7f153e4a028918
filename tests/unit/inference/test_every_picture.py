"""A drawn lesion comes back in every format, mode, bit depth, orientation and size.

The picture is white in a disc of the network's input, which the size of the image stretches, and black elsewhere. The
engine returns its red channel. So the mask must be the disc again; its edge may move by half a pixel of the network.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from helpers.encoded_images import by_opencv, by_pillow, grey_rgb, plain_png, tiff
from helpers.graphs import OpenEngine
from helpers.pictures import SIDE, UInt8, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base as Tag

from lesioncli.backends.base import Engine
from lesioncli.images.decode import decode
from lesioncli.images.find import ImageFile, ImageListing
from lesioncli.images.geometry import to_full_size, to_network
from lesioncli.inference.postprocess import apply_threshold
from lesioncli.inference.run import segment_images
from lesioncli.options import SegmentOptions

MAX_SHIFT_PX = 0.5  # of the network
FULL_HW = (10**6, 10**6)
Save = Callable[[UInt8, int], bytes]  # of grey levels and an EXIF orientation
property_test = settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[Tag.Orientation] = orientation
    return exif


def by_exif(format_name: str, mode: str, **options: Any) -> Save:
    return lambda grey, orientation: by_pillow(grey, format_name, mode, **options, exif=exif_of(orientation).tobytes())


def by_tag(dtype: type[np.generic], channels: int, **options: Any) -> Save:
    """Save a TIFF by tifffile."""

    def save(grey: UInt8, orientation: int) -> bytes:
        samples = (grey.astype(np.uint16) * 257).astype(dtype) if dtype == np.uint16 else grey
        stored = samples if channels == 1 else np.stack([samples] * channels, -1)
        kind = {"photometric": "rgb" if channels > 1 else "minisblack"}
        extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
        return tiff(stored, **{**kind, **extra, **options}, extratags=[(274, "H", 1, orientation, True)])

    return save


def inks(format_name: str, **options: Any) -> Save:
    """Save as CMYK, black ink only."""

    def save(grey: UInt8, orientation: int) -> bytes:
        buffer = BytesIO()
        stored = np.stack([np.zeros_like(grey)] * 3 + [255 - grey], -1)
        Image.fromarray(stored, "CMYK").save(buffer, format_name, **options)
        return buffer.getvalue()

    return save


ORIENTED: Mapping[str, Save] = {
    "jpeg": by_exif("JPEG", "RGB", quality=95),
    "jpeg 4:4:4": by_exif("JPEG", "RGB", quality=90, subsampling=0),
    "jpeg progressive": by_exif("JPEG", "RGB", quality=85, progressive=True),
    "jpeg grey": by_exif("JPEG", "L", quality=90),
    "png 1": by_exif("PNG", "1"),
    "png grey": by_exif("PNG", "L"),
    "png grey alpha": by_exif("PNG", "LA"),
    "png palette": by_exif("PNG", "P"),
    "png rgb": by_exif("PNG", "RGB"),
    "png rgba": by_exif("PNG", "RGBA"),
    "webp": by_exif("WEBP", "RGB", quality=90),
    "webp lossless": by_exif("WEBP", "RGBA", lossless=True),
    "avif": by_exif("AVIF", "RGB", quality=90),
    "tiff grey": by_tag(np.uint8, 1),
    "tiff rgb": by_tag(np.uint8, 3, compression="zlib"),
    "tiff rgba": by_tag(np.uint8, 4),
    "tiff planes": by_tag(np.uint8, 3, rowsperstrip=7, byteorder=">"),
    "tiff tiles": by_tag(np.uint8, 3, tile=(16, 32)),
    "tiff 16 grey": by_tag(np.uint16, 1),
    "tiff 16 rgb": by_tag(np.uint16, 3, compression="zlib", byteorder=">"),
}
UPRIGHT: Mapping[str, Save] = {
    "jpeg cmyk": inks("JPEG", quality=95),
    "png 16 grey": lambda grey, _: plain_png(grey[..., None].astype(np.int64) * 257, 16, 0),
    "png 16 rgb": lambda grey, _: by_opencv(".png", grey_rgb(grey.astype(np.uint16) * 257)),
    "png 4 grey": lambda grey, _: plain_png(grey[..., None] >> 4, 4, 0),
    "bmp": lambda grey, _: by_pillow(grey, "BMP", "RGB"),
    "bmp 1": lambda grey, _: by_pillow(grey, "BMP", "1"),
    "gif": lambda grey, _: by_pillow(grey, "GIF"),
    "jpeg2000": lambda grey, _: by_pillow(grey, "JPEG2000", "RGB"),
    "tiff cmyk": inks("TIFF"),
    "tiff lzw": lambda grey, _: by_pillow(grey, "TIFF", "RGB", compression="tiff_lzw"),
    "tiff group 4": lambda grey, _: by_pillow(grey, "TIFF", "1", compression="group4"),
    "tiff jpeg": lambda grey, _: by_pillow(grey, "TIFF", "RGB", compression="jpeg", quality=90),
}
KINDS = {**ORIENTED, **UPRIGHT}


@dataclass(frozen=True)
class Picture:
    """A file of a kind with a drawn lesion; centre and radius in pixels of the network."""

    kind: str
    height: int
    width: int
    orientation: int
    y: float
    x: float
    radius: float

    def distance(self) -> NDArray[np.float64]:
        """Return the distance (h, w) of each stored pixel from the edge, in pixels of the network, below 0 inside."""
        y, x = ((np.arange(size) + 0.5) * SIDE / size for size in (self.height, self.width))
        return np.asarray(np.hypot((y - self.y)[:, None], (x - self.x)[None]) - self.radius)

    def has_lesion(self) -> bool:
        """Return whether a pixel is in the disc; the scores of a black picture are no numbers."""
        return bool((self.distance() < 0).any())

    def save(self, path: Path) -> Path:
        grey = np.where(self.distance() < 0, 255, 0).astype(np.uint8)
        path.write_bytes(KINDS[self.kind](grey, self.orientation))
        return path

    def assert_found(self, mask: UInt8) -> None:
        distance = self.distance()
        assert mask.shape == distance.shape
        wrong = (mask > 0) != (distance < 0)
        assert np.abs(distance[wrong]).max(initial=0) < MAX_SHIFT_PX


def pictures(kinds: Sequence[str], orientations: Sequence[int]) -> st.SearchStrategy[Picture]:
    side = st.one_of(st.integers(1, 40), st.integers(41, 500))
    centre = st.floats(10, SIDE - 10)
    drawn = st.builds(
        Picture, st.sampled_from(kinds), side, side, st.sampled_from(orientations), centre, centre, st.floats(4, 9)
    )
    return drawn.filter(Picture.has_lesion)


def masks_of(engine: Engine, pictures: Sequence[Picture], folder: Path, workers: int = 1) -> list[UInt8]:
    images = [
        ImageFile(picture.save(folder / f"{number}.image"), str(number)) for number, picture in enumerate(pictures)
    ]
    summary = segment_images(ImageListing(images), engine, folder / "out", SegmentOptions(workers=workers))
    assert summary.ok == len(pictures)
    return [read(folder / "out" / f"{number}.png") for number in range(len(pictures))]


EVERY = st.one_of(pictures(sorted(ORIENTED), range(1, 9)), pictures(sorted(UPRIGHT), [1]))


@given(drawn=st.lists(EVERY, min_size=2, max_size=6))
@settings(property_test, max_examples=25)
def test_a_lesion_comes_back_where_it_was_drawn(tiny_engine: OpenEngine, drawn: list[Picture]) -> None:
    with TemporaryDirectory() as folder:
        for picture, mask in zip(drawn, masks_of(tiny_engine(1), drawn, Path(folder)), strict=True):
            picture.assert_found(mask)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_at_extreme_sizes(tiny_engine: OpenEngine, tmp_path: Path, kind: str) -> None:
    turned = 6 if kind in ORIENTED else 1
    sizes = [(1, 1), (1, 2), (1, 300), (300, 1), (31, 33), (64, 64), (300, 2000), (2000, 30)]
    drawn = [Picture(kind, *size, turned, 14.3, 18.1, 7.7) for size in sizes]
    for picture, mask in zip(drawn, masks_of(tiny_engine(3), drawn, tmp_path, workers=2), strict=True):
        picture.assert_found(mask)


@pytest.mark.parametrize("kind", ["jpeg", "jpeg progressive", "png rgb", "tiff rgb", "tiff 16 rgb", "webp lossless"])
@pytest.mark.parametrize("size", [(200, 16000), (16000, 200)])
def test_long_pictures(tiny_engine: OpenEngine, tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    scale = 1 if kind.startswith("webp") else 1.25  # WebP has at most 16383 pixels per side
    height, width = (round(side * scale) if side > 200 else side for side in size)
    drawn = Picture(kind, height, width, 8, 12, 20, 6)
    drawn.assert_found(masks_of(tiny_engine(1), [drawn], tmp_path)[0])


@given(
    picture=pictures(["jpeg", "jpeg 4:4:4", "jpeg grey", "jpeg progressive", "jpeg cmyk"], [1]),
    factor=st.integers(2, 5),
)
@settings(property_test, max_examples=12)
def test_scaled_and_full_decode_agree(tiny_engine: OpenEngine, picture: Picture, factor: int) -> None:
    """A mask of a JPEG that was decoded at a part of its size, and that of all its pixels."""
    large = Picture(
        picture.kind, picture.height * factor, picture.width * factor, 1, picture.y, picture.x, picture.radius
    )
    with TemporaryDirectory() as folder:
        (scaled,) = masks_of(tiny_engine(1), [large], Path(folder))
        decoded = decode(Path(folder) / "0.image", FULL_HW)
    assert decoded.rgb.shape[:2] == (large.height, large.width)
    full = apply_threshold(to_full_size(to_network(decoded.rgb, SIDE, SIDE)[..., 0], decoded.stored_hw), 128)
    different = np.abs(large.distance()[(scaled > 0) != (full > 0)])
    assert different.max(initial=0) < MAX_SHIFT_PX / 2


@given(
    drawn=st.lists(EVERY, min_size=3, max_size=6),
    order=st.randoms(use_true_random=False),
    batch=st.sampled_from([2, 3, 5]),
    workers=st.integers(1, 4),
)
@settings(property_test, max_examples=10)
def test_batch_order_and_workers_never_change_a_mask(
    tiny_engine: OpenEngine, drawn: list[Picture], order: Any, batch: int, workers: int
) -> None:
    shuffled = list(enumerate(drawn))
    order.shuffle(shuffled)
    with TemporaryDirectory() as folder, TemporaryDirectory() as other:
        one_by_one = masks_of(tiny_engine(1), drawn, Path(folder))
        masks = masks_of(tiny_engine(batch), [picture for _, picture in shuffled], Path(other), workers)
    for (number, _), mask in zip(shuffled, masks, strict=True):
        np.testing.assert_array_equal(mask, one_by_one[number])
