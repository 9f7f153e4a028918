"""DICOM: pixels by other encoders, refusals in words, nothing of the patient, files without suffix.

Files are written here around frames that Pillow or the test itself encodes, or are those that pydicom comes with, which
dcmtk and gdcm wrote. The decoders are pydicom and pylibjpeg.
"""

import logging
import struct
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.dicom_files import (
    CASES,
    DEEP_CASES,
    JPEG,
    JPEG_2000,
    JPEG_LOSSLESS,
    SECRETS,
    dicom,
    jpeg_of_ybr,
    pydicom,
)
from helpers.encoded_images import HEIGHT, PICTURE, WIDTH, by_pillow
from helpers.graphs import OpenEngine
from helpers.pictures import draw
from helpers.pictures import save as save_picture
from helpers.runs import rows_of, segment_folder
from PIL import ImageCms

from lesioncli.errors import ImageError, InputError
from lesioncli.images import formats
from lesioncli.images.decode import DecodedImage, decode, peak_bytes
from lesioncli.images.find import find_images, list_images
from lesioncli.images.ignored import is_image_file

FULL_HW = (10**6, 10**6)


def read(tmp_path: Path, data: bytes) -> DecodedImage:
    (tmp_path / "x").write_bytes(data)
    return decode(tmp_path / "x", FULL_HW)


def reason(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(ImageError) as failed:
        read(tmp_path, data)
    return failed.value.reason


@pytest.mark.parametrize("name", CASES)
def test_pixels(tmp_path: Path, name: str) -> None:
    data, want, tolerance = CASES[name]
    decoded = read(tmp_path, data)
    assert np.abs(decoded.rgb - np.asarray(want, float)).max() <= tolerance
    assert (decoded.stored_hw, decoded.orientation, decoded.note) == ((HEIGHT, WIDTH), 1, "")
    assert peak_bytes(tmp_path / "x", FULL_HW) > decoded.rgb.nbytes


@pytest.mark.parametrize("name", DEEP_CASES)
def test_notes(tmp_path: Path, name: str) -> None:
    data, want, note = DEEP_CASES[name]
    decoded = read(tmp_path, data)
    assert np.abs(decoded.rgb - np.asarray(want, float)).max() <= 1
    assert decoded.note == note


# Row -> colour of the bars that all of these files show, as the authors of pydicom document them.
BARS = {5: (255, 0, 0), 25: (0, 255, 0), 45: (0, 0, 255), 65: (0, 0, 0), 75: (64, 64, 64), 95: (255, 255, 255)}
BY_OTHERS = (
    *("SC_rgb_jpeg_gdcm", "SC_rgb_jpeg_dcmtk", "SC_rgb_rle", "SC_rgb_rle_2frame", "SC_rgb_rle_16bit"),
    *("SC_rgb_dcmtk_+eb+cr", "SC_rgb_dcmtk_+eb+cy+n1", "SC_rgb_dcmtk_+eb+cy+s4", "SC_rgb_gdcm_KY"),
    "SC_ybr_full_422_uncompressed",
)


@pytest.mark.parametrize("name", BY_OTHERS)
def test_files_of_other_programs(name: str) -> None:
    path = Path(pydicom.data.get_testdata_file(f"{name}.dcm", download=False))
    rgb = decode(path, FULL_HW).rgb
    assert all(np.abs(rgb[row, 50].astype(int) - color).max() <= 5 for row, color in BARS.items())


def test_colour_profiles_are_applied(tmp_path: Path) -> None:
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    broken = read(tmp_path, dicom(PICTURE.tobytes(), ICCProfile=b"broken profile"))
    other = read(tmp_path, dicom(PICTURE.tobytes(), ICCProfile=wide.tobytes()))
    assert "profile" in broken.note
    assert "profile" in other.note
    np.testing.assert_array_equal(broken.rgb, PICTURE)


def oversized_codestream() -> bytes:
    stream = bytearray(by_pillow(PICTURE, "JPEG2000", no_jp2=True))
    stream[8:16] = struct.pack(">II", 60_000, 60_000)
    return bytes(stream)


def oversized_jpeg() -> bytes:
    data = bytearray(jpeg_of_ybr())
    size = data.index(struct.pack(">HH", HEIGHT, WIDTH))
    data[size : size + 4] = struct.pack(">HH", 60_000, 60_000)
    return bytes(data)


def with_length(data: bytes, length: int) -> bytes:
    """Write another length into the header of the pixel data."""
    at = data.index(b"\xe0\x7f\x10\0OB") + 8
    return data[:at] + struct.pack("<I", length) + data[at + 4 :]


RGB = CASES["rgb"][0]
MIDDLE = 3 * len(jpeg_of_ybr()) // 4
LOST_BYTES = jpeg_of_ybr()[:MIDDLE] + jpeg_of_ybr()[MIDDLE + 100 :]
HOSTILE = {
    "private codec": (dicom(b"secret", "1.2.3.4.5"), "private codec"),
    "video": (dicom(b"film", "1.2.840.10008.1.2.4.100"), "MPEG2"),
    "deflated": (RGB.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99\0"), "deflated"),
    "length of 4 GB": (with_length(RGB[:-100], 2**32 - 16), "DICOM"),
    "odd length": (with_length(RGB, 12), "DICOM"),
    "truncated": (RGB[:-100], "DICOM"),
    "without pixels": (RGB[: RGB.index(b"\xe0\x7f\x10\0OB")], "truncated"),
    "a header only": (RGB[:300], "DICOM"),
    "truncated jpeg": (CASES["jpeg"][0][:-200], "DICOM"),
    "jpeg cut inside": (dicom(jpeg_of_ybr()[:-200], JPEG, "YBR_FULL_422"), "truncated"),
    "jpeg with lost bytes": (dicom(LOST_BYTES, JPEG, "YBR_FULL_422"), "damaged"),
    "truncated jpeg 2000": (CASES["jpeg 2000"][0][:-200], "DICOM"),
    "truncated rle": (CASES["rle"][0][:-200], "DICOM"),
    "65535 x 65535": (dicom(PICTURE.tobytes(), Rows=65535, Columns=65535), "megapixels"),
    "no rows": (dicom(PICTURE.tobytes(), Rows=0), "damaged"),
    "large jpeg": (dicom(oversized_jpeg(), JPEG, "YBR_FULL_422"), "differ in size"),
    "large jpeg 2000": (dicom(oversized_codestream(), JPEG_2000), "differ in size"),
    "a report": (dicom(PICTURE.tobytes(), Rows=None, Columns=None), "without an image"),
    "32 bits": (dicom(bytes(4 * PICTURE.size), BitsAllocated=32, BitsStored=32), "32 bits"),
    "colour space": (RGB.replace(b"CS\x04\0RGB ", b"CS\x04\0XYZ "), "colour space"),
    "many frames": (dicom(PICTURE.tobytes(), NumberOfFrames=2**31 - 1), "DICOM"),
}


def test_pixels_that_end_in_zeros_are_noted(tmp_path: Path) -> None:
    """As after a copy that stopped; nothing else tells it from a black edge."""
    picture = draw(0, HEIGHT, WIDTH) | np.uint8(1)
    picture[HEIGHT // 2 :] = 0
    assert "the last 20 stored rows are exactly zero" in read(tmp_path, dicom(picture.tobytes())).note
    grey = dicom(picture[..., 0].tobytes() + bytes(WIDTH), photometric="MONOCHROME2", Rows=HEIGHT + 1)
    assert "the last 21 stored rows are exactly zero" in read(tmp_path, grey).note
    frames = dicom((picture | np.uint8(1)).tobytes() + bytes(picture.size), NumberOfFrames=2)
    assert "zero" not in read(tmp_path, frames).note


@pytest.mark.filterwarnings("ignore::UserWarning")  # as the commands do, by quiet_decoders()
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_words(tmp_path: Path, name: str) -> None:
    data, word = HOSTILE[name]
    text = reason(tmp_path, data)
    assert word in text
    assert text.isprintable()
    assert not any(secret in text for secret in SECRETS)


def test_a_wrong_length_costs_no_pixels(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(tmp_path, with_length(RGB, 2**32 - 16)).rgb, PICTURE)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["rgb", "jpeg", "jpeg 2000", "rle", "palette"])
def test_a_truncated_file_is_complete_or_an_error(tmp_path: Path, name: str) -> None:
    data, want, tolerance = CASES[name]
    for cut in range(140, len(data), max(1, len(data) // 60)):
        with suppress(ImageError):
            rgb = read(tmp_path, data[:cut]).rgb
            assert np.abs(rgb - np.asarray(want, float)).max() <= tolerance, cut
    assert reason(tmp_path, data[: len(data) // 2])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nothing_of_the_patient_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not even an invalid birth date or name, of which pydicom warns with their values."""
    caplog.set_level(logging.DEBUG)
    hidden = dicom(PICTURE.tobytes()).replace(b"19610203", b"1961-Jan")
    (tmp_path / "x").write_bytes(hidden)
    assert b"Doe^Jane" in hidden
    decoded = decode(tmp_path / "x", FULL_HW)
    assert decoded.note == ""
    secrets = (*SECRETS, "1961-Jan")
    damaged = dicom(b"broken", "1.2.3.4.5").replace(b"19610203", b"1961-Jan")
    (tmp_path / "x").write_bytes(damaged)
    with pytest.raises(ImageError) as failed:
        decode(tmp_path / "x", FULL_HW)
    texts = [caplog.text, *traceback.format_exception(failed.value)]
    assert not [secret for secret in secrets for text in texts if secret in text]


def test_jpeg_lossless_needs_a_further_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(pydicom.data.get_testdata_file("SC_rgb_jpeg_gdcm.dcm", download=False))
    dataset = pydicom.dcmread(path)
    assert dataset.file_meta.TransferSyntaxUID == JPEG_LOSSLESS
    monkeypatch.setattr(pydicom.pixels.get_decoder(JPEG_LOSSLESS), "_available", {})
    with pytest.raises(ImageError, match="pylibjpeg-libjpeg"):
        decode(path, FULL_HW)


def test_files_without_suffix_are_images_by_their_content(tmp_path: Path) -> None:
    """The files of a PACS are named by ids with dots, those of a disc IM0001."""
    for name in ("1.2.840.99.1", "1.2.840.99.2", "IM0001", "disc/DICOMDIR", "x.dcm", "slides.7"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(RGB)
    (tmp_path / "README").write_text("no image" * 99)
    (tmp_path / "v.1").write_text("short")
    (tmp_path / "a.xcf").write_bytes(RGB)
    listing = list_images([tmp_path])
    assert [image.name for image in listing.images] == ["1.2.840.99.1", "1.2.840.99.2", "IM0001", "slides.7", "x"]
    assert listing.ignored == {"without suffix": 2, ".1": 1, ".xcf": 1}
    assert listing.images[0].mask_name == "1.2.840.99.1.png"
    assert (listing.images[0].suffix, listing.images[4].suffix) == ("", ".dcm")
    assert [image.name for image in find_images([tmp_path / "IM0001"])] == ["IM0001"]
    assert is_image_file(tmp_path / "IM0001")
    assert not is_image_file(tmp_path / "README")
    with pytest.raises(InputError, match="README"):
        find_images([tmp_path / "README"])


def test_without_the_extra_files_are_counted_or_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda _: None)
    formats._has_module.cache_clear()
    try:
        for name in ("IM0001", "IM0002", "x.dcm"):
            (tmp_path / name).write_bytes(RGB)
        save_picture(tmp_path / "y.png", draw(1))
        listing = list_images([tmp_path])
        assert [image.name for image in listing.images] == ["x", "y"]
        assert listing.ignored == {"DICOM without suffix (needs the extra dicom)": 2}
        with pytest.raises(ImageError, match=r"pip install.*dicom"):
            decode(tmp_path / "x.dcm", FULL_HW)
    finally:
        formats._has_module.cache_clear()


@pytest.mark.parametrize(
    ("spacing", "scale"),
    [([0.02, 0.02], 0.02), (["0.0199999", "0.02"], 0.0199999), ([0.02, 0.03], None), ([0, 0], None), ([], None)],
)
def test_scale(tmp_path: Path, spacing: list[Any], scale: float | None) -> None:
    assert read(tmp_path, dicom(PICTURE.tobytes(), PixelSpacing=spacing)).mm_per_pixel == scale
    assert read(tmp_path, dicom(PICTURE.tobytes())).mm_per_pixel is None


def test_a_row_has_millimetres_of_the_file(tiny_engine: OpenEngine, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.dcm").write_bytes(dicom(PICTURE.tobytes(), PixelSpacing=[0.5, 0.5]))
    for options, factor in (({}, 4), ({"mm_per_pixel": 0.1}, 100)):
        segment_folder(tmp_path / "images", tiny_engine(1), tmp_path / str(factor), **options)
        row = rows_of(tmp_path / str(factor))["a.dcm"]
        assert float(row["area_mm2"]) == pytest.approx(float(row["area_px"]) / factor)
        assert float(row["area_px"]) > 0
