"""Write a folder of demo images, masks and labels."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from lesioncli.demo.canvas import UInt8
from lesioncli.demo.draw import draw_case
from lesioncli.errors import InputError
from lesioncli.files import write_whole
from lesioncli.images.formats import has_supported_suffix
from lesioncli.spec import CLASSES

LABELLED = CLASSES[:2]  # as in ISIC 2017, where a nevus has neither label
JPEG_QUALITY = 92


def write_demo(
    folder: Path,
    count: int = 12,
    seed: int = 0,
    height: int = 480,
    width: int = 640,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the images of seeds `seed`, `seed` + 1, ... with their masks and a table of labels.

    Seed 0 becomes images/demo_0001.jpg and labels/demo_0001_segmentation.png (0 or 255); labels/labels.csv has the
    columns image, melanoma, seborrheic_keratosis (0.0 or 1.0). Other seeds give other names, so that one folder can
    train and another validate.

    `on_progress` receives (done, total) before each image. A working folder with other files may be given if it has no
    images/, no labels/ and no image files.

    Raises InputError if the folder has other contents, or if images/ or labels/ cannot be made.
    """
    images, labels = folder / "images", folder / "labels"
    _refuse_contents(folder, images, labels)
    for subfolder in (images, labels):
        _make_folder(subfolder)
    rows: list[list[object]] = [["image", *LABELLED]]
    for done, number in enumerate(range(seed, seed + count)):
        on_progress(done, count)
        case, stem = draw_case(number, height, width), f"demo_{number + 1:04d}"
        write_whole(images / f"{stem}.jpg", _encode(case.image, "JPEG"))
        write_whole(labels / f"{stem}_segmentation.png", _encode(case.mask.astype(np.uint8) * 255, "PNG"))
        rows.append([stem, *(float(case.label == name) for name in LABELLED)])
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(rows)
    write_whole(labels / "labels.csv", table.getvalue().encode())


def _refuse_contents(folder: Path, *subfolders: Path) -> None:
    """Raise InputError if demo files would lie among others."""
    existing = [subfolder for subfolder in subfolders if subfolder.is_dir()]
    for subfolder in existing:
        if any(subfolder.iterdir()):
            raise InputError(f"{subfolder}: is not empty; name a new folder, or delete this one first")
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    others = [path for path in paths if path not in subfolders and not path.name.startswith(".")]
    unwanted = others if existing else [path for path in others if has_supported_suffix(path)]
    if unwanted:
        raise InputError(f"{folder}: holds other files, such as {unwanted[0].name}; name a new folder")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); name another folder") from error


def _encode(pixels: UInt8, image_format: str) -> bytes:
    """Return the bytes of a JPEG or PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format, quality=JPEG_QUALITY)
    return file.getvalue()
