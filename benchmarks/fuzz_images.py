"""Damage images of every format in every way, and print which of them pass as whole: `make fuzz-images`.

    python benchmarks/fuzz_images.py [PICTURES_PER_KIND [FORMAT ...]]

Images are drawn, stored in every format, damaged, and segmented with the shipped engine. For each kind of damage, the
table has the number of damaged files, how many were read (ok), how many of these with a note, and how their masks agree
with the mask of the whole file: lowest and median Jaccard, and how many are below MIN_JACCARD. Damage is `known` where
the format or the decoder can tell; the exit status is 1 if such a file passes with a mask below MIN_JACCARD. HEIC and
DICOM need the extras heif and dicom.
"""

import importlib
import io
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lesioncli.demo.draw import draw_case
from lesioncli.errors import ImageError
from lesioncli.images.decode import decode
from lesioncli.segmenter import Segmenter

PICTURES_PER_KIND = 50
MIN_JACCARD = 0.9
HEIGHT, WIDTH = 480, 640
MIN_NOISE, MAX_NOISE = 2, 8  # levels: drawn images are smoother than photographs

UInt8 = NDArray[np.uint8]
Damage = Callable[[bytes, np.random.Generator], bytes]


def zeroed(size: int) -> Damage:
    """Overwrite `size` bytes in the middle with zeros."""
    return lambda data, rng: _replaced(data, rng, size, bytes(size))


def foreign(size: int) -> Damage:
    """Overwrite `size` bytes in the middle with bytes of another file."""
    return lambda data, rng: _replaced(data, rng, size, rng.bytes(size))


def lost(size: int) -> Damage:
    """Leave out `size` bytes in the middle."""
    return lambda data, rng: _replaced(data, rng, size, b"")


def swapped(size: int) -> Damage:
    """Swap two neighbouring blocks of `size` bytes in the middle."""

    def damage(data: bytes, rng: np.random.Generator) -> bytes:
        at = _middle(data, rng, 2 * size)
        return data[:at] + data[at + size : at + 2 * size] + data[at : at + size] + data[at + 2 * size :]

    return damage


def _middle(data: bytes, rng: np.random.Generator, size: int) -> int:
    """Return a place in the second to fourth fifth of a file."""
    return int(rng.integers(len(data) // 5, max(len(data) * 4 // 5 - size, len(data) // 5 + 1)))


def _replaced(data: bytes, rng: np.random.Generator, size: int, content: bytes) -> bytes:
    at = _middle(data, rng, size)
    return data[:at] + content + data[at + size :]


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    """Leave out the second half."""
    return data[: len(data) // 2]


def half_zeros(data: bytes, rng: np.random.Generator) -> bytes:
    """Overwrite the second half with zeros, as a copy that stopped after its space was reserved."""
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


def cut_with_end(data: bytes, rng: np.random.Generator) -> bytes:
    """Leave out the second half but the last 12 bytes: the end marker of a JPEG, the last chunk of a PNG."""
    return data[: len(data) // 2] + data[-12:]


DAMAGES: dict[str, Damage] = {
    "cut": cut,
    "cut, end kept": cut_with_end,
    "half zeros": half_zeros,
    "4 kB zeroed": zeroed(4096),
    "4 kB lost": lost(4096),
    "4 kB swapped": swapped(4096),
    "512 foreign": foreign(512),
}


Encoder = Callable[[Image.Image], bytes]


@dataclass(frozen=True)
class Format:
    """A way to store an image, and the damage that its decoder cannot know of."""

    name: str
    encode: Encoder
    unknown: frozenset[str] = frozenset()


def by_pillow(name: str, **options: Any) -> Encoder:
    """Return an encoder of Pillow."""

    def encode(image: Image.Image) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, name, **options)
        return buffer.getvalue()

    return encode


def heic(image: Image.Image) -> bytes:
    """Encode as phones do."""
    file = importlib.import_module("pillow_heif").from_pillow(image)
    buffer = io.BytesIO()
    file.save(buffer, quality=90)
    return buffer.getvalue()


def dicom(syntax: str, photometric: str, encode: Encoder | None) -> Encoder:
    """Return an encoder of a DICOM file around a frame; without `encode`, around its samples."""
    pydicom = importlib.import_module("pydicom")

    def encode_file(image: Image.Image) -> bytes:
        dataset = pydicom.Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = pydicom.uid.SecondaryCaptureImageStorage, "1.2.3"
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PlanarConfiguration = *image.size[::-1], 3, 0
        dataset.PhotometricInterpretation, dataset.PixelRepresentation = photometric, 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.PixelData = pydicom.encaps.encapsulate([encode(image)]) if encode else image.tobytes()
        dataset["PixelData"].VR = "OB"
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True, implicit_vr=False, little_endian=True)
        return buffer.getvalue()

    return encode_file


SAME_SIZE = frozenset({"half zeros", "4 kB zeroed", "4 kB swapped", "512 foreign"})
# The same bits in another order: in one file of six, as many blocks come out as before.
SWAPPED = frozenset({"4 kB swapped"})
# No checksum, and any bits can be decoded.
NO_CHECKSUM = SAME_SIZE | {"4 kB lost", "cut, end kept"}
NO_ZEROS = NO_CHECKSUM - {"half zeros", "4 kB zeroed"}
CODESTREAM = by_pillow("JPEG2000", no_jp2=True, mct=1)
FORMATS = (
    Format("JPEG", by_pillow("JPEG", quality=90), SWAPPED),
    Format("JPEG 4:4:4", by_pillow("JPEG", quality=95, subsampling=0), SWAPPED),
    Format("JPEG progressive", by_pillow("JPEG", quality=90, progressive=True)),
    Format("JPEG restarts", by_pillow("JPEG", quality=90, restart_marker_rows=1)),
    Format("PNG", by_pillow("PNG")),
    Format("PNG stored", by_pillow("PNG", compress_level=0)),
    # No checksum: other bytes are other pixels.
    Format("WebP", by_pillow("WEBP", quality=90), frozenset({"4 kB swapped", "512 foreign"})),
    Format("WebP lossless", by_pillow("WEBP", lossless=True), SAME_SIZE),
    Format("BMP", by_pillow("BMP"), SAME_SIZE),
    Format("TIFF", by_pillow("TIFF"), SAME_SIZE),
    Format(
        "TIFF LZW",
        by_pillow("TIFF", compression="tiff_lzw"),
        frozenset({"4 kB swapped", "512 foreign", "4 kB lost"}),
    ),
    Format("TIFF deflate", by_pillow("TIFF", compression="tiff_adobe_deflate")),
    Format("TIFF JPEG", by_pillow("TIFF", compression="jpeg", quality=90), frozenset(DAMAGES)),
    Format("GIF", by_pillow("GIF")),
    Format("JPEG 2000", by_pillow("JPEG2000"), NO_CHECKSUM),
    Format("JPEG 2000 lossy", by_pillow("JPEG2000", irreversible=True, quality_layers=[20]), NO_CHECKSUM),
    Format("AVIF", by_pillow("AVIF", quality=80), NO_ZEROS),
    Format("HEIC", heic, NO_ZEROS),
    Format("DICOM", dicom("1.2.840.10008.1.2.1", "RGB", None), SAME_SIZE),
    Format("DICOM JPEG", dicom("1.2.840.10008.1.2.4.50", "YBR_FULL_422", by_pillow("JPEG", quality=90)), SWAPPED),
    Format("DICOM JPEG 2000", dicom("1.2.840.10008.1.2.4.90", "YBR_RCT", CODESTREAM), NO_CHECKSUM),
)


@dataclass
class Result:
    """The files of one format and one kind of damage."""

    files: int = 0
    noted: int = 0
    jaccards: list[float] = field(default_factory=list)

    @property
    def below(self) -> int:
        """Files that passed with a mask that is far off."""
        return sum(value < MIN_JACCARD for value in self.jaccards)


def main() -> None:
    pictures = int(sys.argv[1]) if len(sys.argv) > 1 else PICTURES_PER_KIND
    formats = [stored for stored in FORMATS if stored.name in (sys.argv[2:] or [stored.name])]
    results: dict[tuple[str, str], Result] = defaultdict(Result)
    with TemporaryDirectory() as work, Segmenter(verify=False) as segmenter:
        path = Path(work) / "image"
        for seed in range(pictures):
            image = Image.fromarray(_draw(seed))
            for stored in formats:
                whole = stored.encode(image)
                path.write_bytes(whole)
                mask = segmenter(path).mask
                for index, (name, damage) in enumerate(DAMAGES.items()):
                    path.write_bytes(damage(whole, np.random.default_rng([seed, index])))
                    _try(path, segmenter, mask, results[stored.name, name])
            print(f"\r{seed + 1} of {pictures} images", end="", file=sys.stderr)
    print(file=sys.stderr)
    sys.exit(_report(formats, results))


def _draw(seed: int) -> UInt8:
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, rng.uniform(MIN_NOISE, MAX_NOISE), (HEIGHT, WIDTH, 3))
    return np.asarray((draw_case(seed, HEIGHT, WIDTH).image + noise).clip(0, 255).round(), np.uint8)


def _try(path: Path, segmenter: Segmenter, whole: UInt8, result: Result) -> None:
    result.files += 1
    try:
        mask = segmenter(path).mask
    except ImageError:
        return
    result.noted += bool(decode(path, (HEIGHT, WIDTH)).note)
    same_size = mask.shape == whole.shape
    union = np.count_nonzero(mask | whole) if same_size else 1
    result.jaccards.append(np.count_nonzero(mask & whole) / union if union and same_size else float(same_size))


def _report(formats: Sequence[Format], results: dict[tuple[str, str], Result]) -> int:
    """Print the table; return 1 if damage that is known passes with a mask that is far off."""
    print(
        f"{'format':17}{'damage':15}{'known':>6}{'files':>6}{'ok':>5}{'noted':>6}{'lowest':>8}{'median':>8}{'below':>6}"
    )
    missed = 0
    for stored in formats:
        for name in DAMAGES:
            result = results[stored.name, name]
            known = name not in stored.unknown
            values = result.jaccards
            figures = f"{min(values):8.3f}{statistics.median(values):8.3f}" if values else f"{'-':>8}{'-':>8}"
            counts = f"{result.files:6}{len(values):5}{result.noted:6}{figures}{result.below:6}"
            print(f"{stored.name:17}{name:15}{'yes' if known else 'no':>6}{counts}")
            missed += known and result.below
    print(f"{missed} files with known damage passed with a mask of Jaccard below {MIN_JACCARD}")
    return int(missed > 0)


if __name__ == "__main__":
    main()
