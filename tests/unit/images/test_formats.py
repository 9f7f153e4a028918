"""The table of formats: a new entry is enough for an image to be found and decoded."""

from pathlib import Path, PurePath
from typing import BinaryIO

import numpy as np
import pytest

from lesioncli.errors import ImageError
from lesioncli.images import formats
from lesioncli.images.decode import decode, peak_bytes
from lesioncli.images.find import list_images
from lesioncli.images.formats import (
    FORMATS,
    UNSUPPORTED_FORMATS,
    ImageFormat,
    UnsupportedFormat,
    format_of,
    has_supported_suffix,
    supported_suffixes,
)
from lesioncli.images.pixels import DecodedImage


def read_fake(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode "FAKE" and one byte per pixel of a square image."""
    grey = np.frombuffer(data[4:], np.uint8).reshape(2, 2)
    return DecodedImage(np.repeat(grey[..., None], 3, -1), (2, 2), 1, "")


def measure_fake(file: BinaryIO, at_least_hw: tuple[int, int]) -> int:
    """Return twice the size of the file."""
    return 2 * len(file.read())


def test_a_format_is_added_with_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.Fake"
    path.write_bytes(b"FAKE\x01\x02\x03\x04")
    (tmp_path / "y.png").write_bytes(b"any")
    assert list_images([tmp_path]).ignored == {".fake": 1}
    monkeypatch.setattr(
        formats, "FORMATS", (*FORMATS, ImageFormat("Fake", (".fake",), (b"FAKE",), read_fake, measure_fake))
    )
    listing = list_images([tmp_path])
    assert [image.path for image in listing.images] == [path, tmp_path / "y.png"]
    assert listing.ignored == {}
    assert peak_bytes(path, (2, 2)) == 8 + 16
    assert decode(path, (2, 2)).rgb[..., 0].tolist() == [[1, 2], [3, 4]]
    path.write_bytes(b"FAKE\x01")
    with pytest.raises(ImageError, match="Fake"):
        decode(path, (2, 2))


def test_an_unsupported_format_is_named_with_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(b"....FAKE")
    known = (*UNSUPPORTED_FORMATS, UnsupportedFormat("Fake", (b"FAKE",), 4))
    monkeypatch.setattr(formats, "UNSUPPORTED_FORMATS", known)
    with pytest.raises(ImageError, match="a Fake file"):
        decode(path, (2, 2))


def test_suffixes_and_signatures_belong_to_one_format_each() -> None:
    suffixes = supported_suffixes()
    assert len(suffixes) == len(set(suffixes))
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in suffixes)
    for known in FORMATS:
        assert all(format_of(bytes(known.offset) + signature + b"more") is known for signature in known.signatures)
    assert format_of(b"%PDF-1.7") is None


def test_suffixes_in_either_case() -> None:
    assert has_supported_suffix(PurePath("a.b/x.JPeG"))
    assert not any(has_supported_suffix(PurePath(name)) for name in ("jpg", "x.xcf", "x.jpg/y", ".png"))
