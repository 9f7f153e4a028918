"""The same pixels as other decoders give: FFmpeg (HEVC, JPEG 2000, GIF, files of AVIF), libaom (AV1), dicomsdl (DICOM).

lesioncli reads HEVC by libde265, AV1 by dav1d, as FFmpeg does, JPEG 2000 by OpenJPEG, DICOM by pydicom and pylibjpeg.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import dicom_files
from helpers.encoded_images import CASES, DEEP_CASES, Array, by_pillow, draw
from helpers.heif_files import heif
from helpers.other_decoders import by_dicomsdl, by_ffmpeg, by_opencv
from PIL import Image

from lesioncli.images.decode import decode_content

FULL_HW = (10**6, 10**6)
LARGE = draw(300, 420)  # FFmpeg does not crop HEIC files of less than one block of 64 pixels
DEEP_LARGE = LARGE.astype(np.uint16) * 257


def photograph() -> Array:
    """Draw an image with detail, so that the filters of a decoder matter."""
    noise = np.random.default_rng(0).normal(0, 12, LARGE.shape)
    return np.asarray((LARGE + noise).clip(0, 255), np.uint8)


HEIC = {
    "flat": heif(LARGE),
    "detail": heif(photograph()),
    "lossy": heif(photograph(), quality=50),
    "10 bits": heif(DEEP_LARGE, mode="RGB;16"),
}
OTHERS = {name: case[0] for name, case in CASES.items() if name.startswith(("gif", "jpeg2000", "avif"))}
OTHERS |= {f"16 bits {name}": case[0] for name, case in DEEP_CASES.items() if name.startswith("jpeg2000")}
OTHERS |= {
    "avif detail": by_pillow(photograph(), "AVIF", quality=60, subsampling="4:4:4"),
    "jpeg2000 detail": by_pillow(photograph(), "JPEG2000", irreversible=True, quality_layers=[20]),
}


@pytest.mark.parametrize("name", [*HEIC, *OTHERS])
def test_images_are_those_of_ffmpeg(name: str) -> None:
    data = {**HEIC, **OTHERS}[name]
    ours, theirs = decode_content(data, FULL_HW).rgb, by_ffmpeg(data)
    assert ours.shape == theirs.shape
    differences = np.abs(ours.astype(int) - theirs)
    if name == "avif opencv":  # colours of half the size, which both upsample in their own way
        assert differences.mean() < 2.5
    else:
        assert differences.max() <= 1


@pytest.mark.parametrize("name", [name for name in OTHERS if name.startswith("avif")])
def test_avif_is_that_of_libaom(name: str) -> None:
    ours, theirs = decode_content(OTHERS[name], FULL_HW).rgb, by_opencv(OTHERS[name])
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def scaled(bits: int) -> Callable[[Array], Array]:
    return lambda stored: (stored.astype(float) * 255 / (2**bits - 1)).round()


def ybr_to_rgb(stored: Array) -> Array:
    return np.asarray(Image.fromarray(stored, "YCbCr").convert("RGB"))


# What a reader makes of the stored samples. dicomsdl does not read the planes of "rgb in planes".
MEANINGS: dict[str, Callable[[Array], Array]] = {
    **dict.fromkeys(("rgb", "white is 255", "jpeg", "jpeg grey", "jpeg 2000", "jpeg 2000 rgb", "rle"), lambda x: x),
    "ybr": ybr_to_rgb,
    "palette": lambda stored: np.stack([stored, 255 - stored, np.full_like(stored, 128)], -1),
    "white is 0": lambda stored: 255 - stored,
    "16 bits": scaled(16),
    "12 bits": scaled(12),
    "signed": lambda stored: scaled(12)(stored.astype(int) + 2048),
    "window": lambda stored: np.clip((stored.astype(float) - 64) / 128 * 255, 0, 255),
    "frames": lambda x: x,
}
DICOM: dict[str, Any] = {**dicom_files.CASES, **dicom_files.DEEP_CASES}


def test_every_kind_of_dicom_has_a_meaning() -> None:
    assert set(DICOM) == {*MEANINGS, "rgb in planes"}


@pytest.mark.parametrize("name", MEANINGS)
def test_dicom_is_that_of_dicomsdl(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(DICOM[name][0])
    theirs = MEANINGS[name](by_dicomsdl(path))
    theirs = np.repeat(theirs[..., None], 3, axis=-1) if theirs.ndim == 2 else theirs
    ours = decode_content(DICOM[name][0], FULL_HW).rgb
    assert np.abs(ours - theirs.astype(float)).max() <= 1
