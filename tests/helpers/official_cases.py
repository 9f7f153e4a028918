"""Small cases for the official scorer and for ours, and what the official scorer printed for them.

official_documents.json holds its output. To record it again, once `make test` has installed the scorer:

    .venv/bin/python tests/helpers/official_cases.py .venv/official/bin/python
"""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DOCUMENTS = Path(__file__).with_name("official_documents.json")
SCORER = Path(__file__).parents[2] / "benchmarks" / "score_officially.py"

UInt8 = NDArray[np.uint8]
Build = Callable[[Path], None]


def strip(*lesion: int) -> UInt8:
    """Return a mask of 10 x 20 pixels whose first pixels, row by row, have the levels (count, level, ...)."""
    levels = np.repeat(np.array(lesion[1::2], np.uint8), lesion[::2])
    return np.concatenate([levels, np.zeros(200 - levels.size, np.uint8)]).reshape(10, 20)


def save(path: Path, mask: UInt8 | Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(path)


def masks(*pairs: tuple[UInt8, UInt8], one_bit: bool = False) -> Build:
    """Write pairs of ground truth and prediction, numbered from 1."""

    def build(folder: Path) -> None:
        for number, pair in enumerate(pairs, 1):
            for role, mask in zip(("truth", "prediction"), pair, strict=True):
                picture = Image.fromarray(mask)
                name = f"ISIC_{number:07}_segmentation.png"
                save(folder / role / name, picture.convert("1") if one_bit else picture)

    return build


def tables(truth: Sequence[str], prediction: Sequence[str], metric: str = "auc") -> Build:
    def build(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "truth.csv").write_text("\n".join(truth) + "\n")
        (folder / "prediction.csv").write_text("\n".join(prediction) + "\n")
        (folder / "metric.txt").write_text(metric)

    return build


def ids(count: int) -> list[str]:
    return [f"ISIC_{number:07}" for number in range(1, count + 1)]


def rows(header: str, *columns: Sequence[object]) -> list[str]:
    return [header, *(",".join(map(str, fields)) for fields in zip(*columns, strict=True))]


TWO = "image,melanoma,seborrheic_keratosis"
SEVEN = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC"
MELANOMA = [float(number % 3 == 0) for number in range(40)]
KERATOSIS = [float(number % 7 == 1) for number in range(40)]
RISING = [round((number * 37 % 41) / 40, 3) for number in range(40)]
TIED = [round((number * 11 % 7) / 6, 3) for number in range(40)]
TRUTH = rows(TWO, ids(40), MELANOMA, KERATOSIS)
PREDICTION = rows(TWO, ids(40), RISING, TIED)
WEIGHTED = rows(
    f"{TWO},score_weight,validation_weight", ids(40), MELANOMA, KERATOSIS, [1.0, 0.5, 2.0, 0.0] * 10, [0.25, 1.0] * 20
)
ONE_OF_SEVEN = np.eye(7)[[number * 5 % 7 for number in range(38)]]
GUESSES = np.array([[round((row * 13 + column * 29) % 31 / 31, 3) for column in range(7)] for row in range(38)])

# Cases for which both scorers print the same digits.
SAME: Mapping[str, Build] = {
    "levels": masks(
        (strip(25, 255), strip(5, 127, 5, 128, 10, 129, 10, 255)),
        (strip(9, 128, 9, 129), strip(18, 255)),
    ),
    "around .65": masks(*((strip(100, 255), strip(count, 255)) for count in (64, 65, 66, 60))),
    "empty and full": masks(
        (strip(), strip()),
        (strip(), strip(5, 255)),
        (strip(5, 255), strip()),
        (strip(200, 255), strip(200, 255)),
        (strip(200, 255), strip(150, 255)),
        (strip(5, 255), strip(200, 255)),
    ),
    "both empty": masks((strip(), strip())),
    "one bit": masks((strip(30, 255), strip(45, 255)), (strip(60, 255), strip(3, 0, 57, 255)), one_bit=True),
    "many": masks(*((strip(n % 40, 0, 60, 255), strip(n * 7 % 50, 0, 3 * n, 255)) for n in range(1, 25))),
    "two classes": tables(TRUTH, PREDICTION),
    "two classes, balanced accuracy": tables(TRUTH, PREDICTION, "balanced_accuracy"),
    "rows in another order, with suffix": tables(
        [TRUTH[0], *reversed(TRUTH[1:])],
        [TWO, *(line.replace(",", ".jpg,", 1) for line in PREDICTION[20:] + PREDICTION[1:20])],
    ),
    "columns in another order": tables(TRUTH, rows("seborrheic_keratosis,image,melanoma", TIED, ids(40), RISING)),
    "all scores alike": tables(TRUTH, rows(TWO, ids(40), [0.5] * 40, [0.7] * 40)),
    "perfect and reversed": tables(TRUTH, rows(TWO, ids(40), MELANOMA, [1 - label for label in KERATOSIS])),
    "weights": tables(WEIGHTED, PREDICTION),
    "weights, balanced accuracy": tables(WEIGHTED, PREDICTION, "balanced_accuracy"),
    "the image that never counts": tables(
        [*TRUTH, "ISIC_0035068,1.0,1.0"], [*PREDICTION, "ISIC_0035068,0.01,0.99"]
    ),
    "seven classes": tables(
        rows(SEVEN, ids(38), *ONE_OF_SEVEN.T), rows(SEVEN, ids(38), *GUESSES.T), "balanced_accuracy"
    ),
    "seven classes, undecided": tables(
        rows(SEVEN, ids(38), *ONE_OF_SEVEN.T), rows(SEVEN, ids(38), *GUESSES.T.round(1)), "balanced_accuracy"
    ),
}  # fmt: skip


def with_file(name: str, content: bytes | UInt8 | Image.Image, base: Build | None = None) -> Build:
    """Write one good pair, or `base`, and add or replace one file."""

    def build(folder: Path) -> None:
        (base or masks((strip(50, 255), strip(40, 255))))(folder)
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            save(folder / name, content)

    return build


def without(name: str, base: Build) -> Build:
    def build(folder: Path) -> None:
        base(folder)
        (folder / name).unlink()

    return build


def png(mask: UInt8) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "png")
    return file.getvalue()


GOOD = strip(40, 255)
NOISE = np.array(
    [[(row * row * 7 + column * row * 3 + column) % 256 for column in range(20)] for row in range(10)], np.uint8
)
OURS = "prediction/ISIC_0000001_segmentation.png"
LONGER = with_file("prediction/ISIC_10000001.png", GOOD)

# Cases that the official scorer rejects or misreads. What ours does is in test_official.py.
OTHER: Mapping[str, Build] = {
    "a stray file": with_file("truth/.DS_Store", b"1"),
    "a superpixel file": with_file("truth/ISIC_0000001_superpixels.png", GOOD),
    "a longer number": LONGER,
    "a mask in colour": with_file(OURS, Image.fromarray(GOOD).convert("RGB")),
    "a mask of 16 bits": with_file(OURS, Image.fromarray(GOOD.astype(np.uint16) * 257)),
    "a mask of 0 and 1": with_file(OURS, GOOD // 255),
    "a mask without its end": with_file(OURS, png(GOOD)[:-20]),
    "half a mask": with_file(OURS, png(NOISE)[:100]),
    "a grey JPEG": without(OURS, with_file("prediction/ISIC_0000001.jpg", GOOD)),
    "another size": with_file(OURS, GOOD.T),
    "no mask": without(OURS, with_file("prediction/ISIC_0000002.png", GOOD)),
    "an empty file": with_file(OURS, b""),
    "ISIC-2017's own column": tables([TRUTH[0].replace("image", "image_id"), *TRUTH[1:]], PREDICTION),
    "integers": tables(TRUTH, rows(TWO, ids(40), MELANOMA, [int(label) for label in KERATOSIS])),
    "a blank in the header": tables(TRUTH, [PREDICTION[0].replace(",", ", "), *PREDICTION[1:]]),
    "ids with .png": tables(TRUTH, [TWO, *(line.replace(",", ".png,", 1) for line in PREDICTION[1:])]),
    "a column more": tables(TRUTH, rows(f"{TWO},nevus", ids(40), RISING, TIED, TIED)),
    "a row more": tables(TRUTH, [*PREDICTION, "ISIC_0000099,0.1,0.2"]),
    "a row less": tables(TRUTH, PREDICTION[:-1]),
    "a row twice": tables(TRUTH, [*PREDICTION, PREDICTION[1]]),
    "a missing score": tables(TRUTH, [*PREDICTION[:-1], "ISIC_0000040,,0.2"]),
    "a score above 1": tables(TRUTH, [*PREDICTION[:-1], "ISIC_0000040,1.5,0.2"]),
    "one label only": tables(rows(TWO, ids(40), MELANOMA, [0.0] * 40), PREDICTION),
    "weights in another order": tables([WEIGHTED[0], *reversed(WEIGHTED[1:])], PREDICTION),
}  # fmt: skip


def score_officially(python: Path, folder: Path) -> dict[str, Any]:
    """Return what the official scorer, in the environment of `python`, prints for the cases in `folder`."""
    done = subprocess.run([python, SCORER, folder], capture_output=True, text=True, check=True)
    documents: dict[str, Any] = json.loads(done.stdout)
    return documents


def write_cases(folder: Path, cases: Mapping[str, Build]) -> None:
    for name, build in cases.items():
        build(folder / name)


def record(python: Path) -> None:
    with TemporaryDirectory() as folder:
        write_cases(Path(folder), {**SAME, **OTHER})
        documents = score_officially(python, Path(folder))
    DOCUMENTS.write_text(json.dumps(documents, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
