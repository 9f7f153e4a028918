"""Time the checks of image files alone, beside decoding and the whole work on an image.

    python benchmarks/cost_of_checks.py [FOLDER_OF_IMAGES [FORMAT ...]]

Each image of the folder, by default a drawn one, is stored in each format (JPEG, PNG, WEBP, TIFF), unless it has that
format already. The table has CPU milliseconds per image in one thread, medians over the images of the lowest of ROUNDS:
the checks; decoding, with the checks of the reader; decoding, network and mask; and the share of checks in the last.
libjpeg's warnings cost nothing: it finds them anyway.
"""

import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import deflate
from PIL import Image

from lesioncli.demo.draw import draw_case
from lesioncli.images import jpeg, png, webp
from lesioncli.images.decode import OpenedImage, decode
from lesioncli.images.find import find_images
from lesioncli.images.mask_like import has_two_levels
from lesioncli.images.pixels import describe_zeros
from lesioncli.segmenter import Segmenter

ROUNDS = 7
NEEDED_HW = (256, 256)
DRAWN_HW = (768, 1024)


def read_chunks(data: bytes) -> None:
    """Check the chunks of a PNG."""
    for _ in png.chunks(data):
        pass


READERS: dict[str, Callable[[bytes], object]] = {  # what a reader checks beside what its library does
    "JPEG": jpeg._check_scans,
    "PNG": read_chunks,
    "WEBP": webp._find_zeros,
    "TIFF": lambda data: describe_zeros(data, 3),
}


def main() -> None:
    with TemporaryDirectory() as name, Segmenter(verify=False) as segmenter:
        work = Path(name)
        images = [image.local_path for image in find_images([Path(sys.argv[1])])] if sys.argv[1:] else [_draw(work)]
        print(f"{'format':8}{'images':>7}{'checks, ms':>12}{'decoding':>10}{'all':>8}{'share':>8}")
        for kind, check in ((kind, READERS[kind]) for kind in sys.argv[2:] or READERS):
            rows = [_measure(_encode(image, kind, work), check, segmenter) for image in images]
            checks, decoding, whole = (statistics.median(column) for column in zip(*rows, strict=True))
            share = statistics.median(row[0] / row[2] for row in rows)
            print(f"{kind:8}{len(rows):7}{checks:12.3f}{decoding:10.2f}{whole:8.2f}{share:8.2%}")


def _draw(work: Path) -> Path:
    path = work / "drawn.jpg"
    Image.fromarray(draw_case(0, *DRAWN_HW).image).save(path, quality=90)
    return path


def _encode(source: Path, kind: str, work: Path) -> Path:
    """Return the image as a file of a format; a JPEG stays as it is."""
    path = work / f"image.{kind.lower()}"
    buffer = io.BytesIO(source.read_bytes())
    with Image.open(buffer) as image:
        if image.format == kind:
            return source
        image.convert("RGB").save(path, kind)
    return path


def _measure(path: Path, check: Callable[[bytes], object], segmenter: Segmenter) -> tuple[float, float, float]:
    """Return the CPU milliseconds of the checks, of decoding, and of everything."""
    data, rgb = path.read_bytes(), decode(path, NEEDED_HW).rgb

    def checks() -> None:
        with OpenedImage(path) as image:
            image.peak_bytes(NEEDED_HW)
        check(data)
        has_two_levels(rgb)
        deflate.crc32(data)

    def opening() -> None:
        with OpenedImage(path):
            pass

    opened = _time(opening)
    return _time(checks) - opened, _time(lambda: decode(path, NEEDED_HW)), _time(lambda: segmenter(path))


def _time(work: Callable[[], object]) -> float:
    """Return the CPU milliseconds of this process that one call takes, the lowest of ROUNDS."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        times.append(1000 * (time.process_time() - start))
    return min(times)


if __name__ == "__main__":
    main()
