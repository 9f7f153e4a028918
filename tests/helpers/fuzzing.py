"""Files of strangers: readers, contents that they accept, and mutations of these contents.

Each reader takes bytes. It may raise LesionError for what is wrong; anything else is a bug of the program.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from helpers import dicom_files
from helpers.calibration_data import CALIBRATION
from helpers.drawn_run import DrawnRun
from helpers.encoded_images import CASES, DEEP_CASES, LAYOUTS, PICTURE, oriented, oversized
from helpers.engines import make_manifest
from helpers.graphs import TINY_SPEC
from helpers.runs import journal_of
from lesioncli.backends.manifest import read_manifest, write_manifest
from lesioncli.calibration import read_calibration, write_calibration
from lesioncli.errors import LesionError
from lesioncli.evaluation.reading.masks import MaskRole, read_mask
from lesioncli.evaluation.reading.tables import read_columns, read_labels, read_scores
from lesioncli.images.decode import decode
from lesioncli.images.ignored import is_output_folder
from lesioncli.images.image_list import read_image_list
from lesioncli.inference.record import read_record
from lesioncli.inference.rows import RowTables, read_names
from lesioncli.inference.status import read_progress
from lesioncli.spec import CLASSES, ModelSpec
from lesioncli.training.recipe import load_recipe

Read = Callable[[bytes], object]
AT_LEAST_HW = (32, 32)
WORDS = [b"\x00", b"\xff", b"\x7f", b"\x80", b"\x00\x00", b"\xff\xff", b"\x00\x01", b"\xff" * 4, b"\x7f\xff\xff\xff"]
TEXTS = [
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'"',
    b"\n",
    b",",
    b"nan",
    b"1e999",
    b"-1",
    b"\xed\xa0\x80",
    b"9" * 5000,
    b"=",
]


@dataclass(frozen=True)
class Target:
    """A reader, and contents that it accepts."""

    seeds: Sequence[bytes]
    read: Read


def mutate(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Change one to four things of a file; `other` is one to splice it with."""
    for _ in range(rng.integers(1, 5)):
        data = _MUTATIONS[rng.integers(len(_MUTATIONS))](data, other, rng)
    return data


def _place(data: bytes, rng: np.random.Generator) -> int:
    """Return a place in a file: half of the time in its header."""
    return int(rng.integers(max(1, min(len(data), 256) if rng.random() < 0.5 else len(data))))


def _flip(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(rng.integers(1, 9)):
        changed[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _write(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    at, word = _place(data, rng), WORDS[rng.integers(len(WORDS))]
    return data[:at] + word + data[at + len(word) :]


def _insert(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    at, choices = _place(data, rng), [*WORDS, *TEXTS]
    return data[:at] + choices[rng.integers(len(choices))] + data[at:]


def _cut(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return data[: _place(data, rng)]


def _drop(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + int(rng.integers(1, 200)) :]


def _repeat(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    at, size = _place(data, rng), int(rng.integers(1, 200))
    return data[:at] + data[at : at + size] * int(rng.integers(2, 6)) + data[at + size :]


def _zero(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    at, size = _place(data, rng), int(rng.integers(1, 500))
    return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]


def _splice(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return data[: _place(data, rng)] + other[_place(other, rng) :]


_MUTATIONS = (_flip, _flip, _write, _insert, _cut, _drop, _repeat, _zero, _splice)


def mutations(target: Target, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield mutated contents, the same ones for the same arguments."""
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        data, other = (target.seeds[int(index)] for index in rng.integers(len(target.seeds), size=2))
        yield mutate(data, other, rng)


def check(target: Target, data: bytes) -> bool:
    """Read a content; return whether it was accepted. Raises whatever is a bug."""
    try:
        target.read(data)
    except LesionError as error:
        if not str(error):
            raise AssertionError("an error without words") from error
        return False
    return True


def header_size_wh(data: bytes) -> tuple[int, int] | None:
    """Return width and height in the header of an image, by Pillow; None if it cannot tell."""
    try:
        with Image.open(BytesIO(data)) as image:
            # Of a TIFF, Pillow gives the size in upright orientation.
            return (image.tag_v2[256], image.tag_v2[257]) if isinstance(image, TiffImageFile) else image.size
    except Exception:  # Pillow raises anything for a damaged header
        return None


def _as_file(name: str, read: Callable[[Path], object]) -> Read:
    """Return a reader of bytes that gives them to a reader of a file, alone in a folder."""
    path = Path(mkdtemp()) / name

    def read_bytes(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return read_bytes


def read_image(path: Path) -> None:
    """Decode an image; its size must be that of the header."""
    decoded = decode(path, AT_LEAST_HW)
    size_wh = header_size_wh(path.read_bytes())
    assert size_wh is None or decoded.stored_hw == size_wh[::-1], f"{decoded.stored_hw} is not {size_wh}"


def image_seeds() -> list[bytes]:
    """Return images of every format, mode and layout."""
    cases: list[Any] = [
        case
        for group in (CASES, DEEP_CASES, LAYOUTS, dicom_files.CASES, dicom_files.DEEP_CASES)
        for case in group.values()
    ]
    turned = [data for orientation in (3, 6) for data in oriented(orientation)[0].values()]
    return [*(case[0] for case in cases), *turned, *oversized().values(), _heic()]


def _heic() -> bytes:
    import pillow_heif

    buffer = BytesIO()
    pillow_heif.from_pillow(Image.fromarray(PICTURE)).save(buffer, quality=80)
    return buffer.getvalue()


def _drawn_run() -> dict[str, bytes]:
    """Return the tables of a drawn run by name, the journal among them."""
    with TemporaryDirectory() as name:
        run = DrawnRun(Path(name))
        for number in range(4):
            run.add(f"ISIC_000000{number}", number)
        run.add_failed('broken, "quoted".jpg')
        run.finish()
        tables = {path.name: path.read_bytes() for path in run.masks.glob("*.*")}
        return {**tables, "labels.csv": (run.labels / "labels.csv").read_bytes(), "journal": journal_of(run.masks, 99)}


def _read_tables(path: Path) -> None:
    tables = RowTables(path.parent, read_names(path.parent))
    list(tables.read_scores())
    list(tables.read_journal())
    list(tables.read_checks())


def _read_weights(path: Path) -> None:
    from lesioncli.training.checkpoint import load_checkpoint, read_weights  # imports torch

    read_weights(path)
    load_checkpoint(path)


def _weights() -> bytes:
    import torch
    from safetensors.torch import save

    return save({"a.weight": torch.ones(2, 3), "b": torch.zeros(1, dtype=torch.float16)}, {"lesioncli.spec": "{}"})


def _manifest() -> bytes:
    with TemporaryDirectory() as folder:
        write_manifest(Path(folder) / "x.json", make_manifest())
        return (Path(folder) / "x.json").read_bytes()


def _calibration() -> bytes:
    with TemporaryDirectory() as folder:
        write_calibration(Path(folder) / "x.json", CALIBRATION, "--export")
        return (Path(folder) / "x.json").read_bytes()


@cache
def targets() -> Mapping[str, Target]:
    """Return all readers by name."""
    tables = _drawn_run()
    masks = [content for name, content in tables.items() if name.endswith(".png")]
    recipes = [path.read_bytes() for path in sorted((Path(__file__).parents[2] / "engines").glob("*.toml"))]
    listed = b"image,folder,bytes,image_crc32,root\r\na.jpg,,12,0a0b0c0d,images\r\nb/c.jpg,b,1,,\r\n"
    return {
        "images": Target(image_seeds(), _as_file("x", read_image)),
        "masks": Target(masks, _as_file("x.png", lambda path: read_mask(path, MaskRole.PREDICTION))),
        "scores": Target([tables["scores.csv"]], _as_file("scores.csv", _read_tables)),
        "journal": Target([tables["journal"]], _as_file("scores.csv.part", _read_tables)),
        "submission": Target([tables["scores.csv"]], _as_file("scores.csv", lambda path: read_scores(path, CLASSES))),
        "labels": Target([tables["labels.csv"]], _as_file("labels.csv", read_labels)),
        "metadata": Target([tables["labels.csv"]], _as_file("x.csv", lambda path: read_columns(path, ["melanoma"]))),
        "list": Target([listed, b"a.jpg\nb/c.jpg\n"], _as_file("list.csv", read_image_list)),
        "recipe": Target(recipes, _as_file("x.toml", load_recipe)),
        "manifest": Target([_manifest()], _as_file("x.openvino.json", read_manifest)),
        "record": Target(
            [tables["run.json"], json.dumps({"format": 2, "images": 3}).encode()],
            _as_file("run.json", lambda path: read_record(path.parent)),
        ),
        "calibration": Target([_calibration()], _as_file("x.json", read_calibration)),
        "spec": Target([TINY_SPEC.to_json().encode()], lambda data: ModelSpec.from_json(data.decode("latin-1"), "x")),
        "folder": Target([tables["run.json"]], _as_file("run.json", lambda path: is_output_folder(path.parent))),
        "status": Target([tables["journal"]], _as_file("scores.csv.part", lambda path: read_progress(path.parent))),
        "weights": Target([_weights()], _as_file("x.safetensors", _read_weights)),
    }
