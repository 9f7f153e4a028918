"""Images beside the rows that earlier runs left: which are as they were, which have changed, which are gone."""

import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path

from lesioncli.files import crc32_of, from_printable
from lesioncli.inference.record import RunRecord
from lesioncli.inference.rows import Row
from lesioncli.process import count_cores

_MISSING = (FileNotFoundError, NotADirectoryError)


class ImageState(StrEnum):
    """An image beside its row; `unsure` if only its content can tell. One that cannot be read counts as the same."""

    SAME = "same"
    CHANGED = "changed"
    GONE = "gone"
    UNSURE = "unsure"


def compare_images(pairs: Sequence[tuple[Path, Row]], check_content: bool = False) -> Iterator[tuple[ImageState, Row]]:
    """Yield for each image and its row whether it is the same, changed or gone, and the row with its present time.

    The content of an image is compared if its time is not that of the row, or with `check_content`.
    """
    states = [compare_status(path, row, check_content) for path, row in pairs]
    unsure = [pair for pair, state in zip(pairs, states, strict=True) if state == ImageState.UNSURE]
    with ThreadPoolExecutor(count_cores()) as pool:
        compared = pool.map(_compare_content, unsure)
        for (_, row), state in zip(pairs, states, strict=True):
            yield next(compared) if state == ImageState.UNSURE else (state, row)


def compare_status(path: Path, row: Row, check_content: bool) -> ImageState:
    """Compare size and time of an image with those of its row; early versions recorded only the size."""
    try:
        status = path.stat()
    except _MISSING:
        return ImageState.GONE
    except OSError:
        return ImageState.SAME
    if not stat.S_ISREG(status.st_mode) or status.st_size != row.file_bytes:
        return ImageState.CHANGED
    if row.checks.image_crc32 is None:
        return ImageState.SAME
    is_same_time = status.st_mtime_ns == row.checks.modified_ns
    return ImageState.SAME if is_same_time and not check_content else ImageState.UNSURE


def _compare_content(pair: tuple[Path, Row]) -> tuple[ImageState, Row]:
    path, row = pair
    try:
        modified_ns = path.stat().st_mtime_ns  # before reading: a later change must have another time
        if crc32_of(path) != row.checks.image_crc32:
            return ImageState.CHANGED, row
    except OSError:
        return ImageState.SAME, row
    return ImageState.SAME, row._replace(checks=row.checks._replace(modified_ns=modified_ns))


def recorded_roots(folder: Path, record: RunRecord) -> list[Path]:
    """Return the folders that names of images may be relative to; early versions recorded only the sources."""
    sources = (folder / source for source in record.sources)
    parents = (source.parent if source.is_file() else source for source in sources)
    return list(dict.fromkeys((*(folder / root for root in record.roots), *parents)))


def locate_image(name: str, roots: Iterable[Path], listed: Path | None = None) -> Path | None:
    """Return the path of a row's image, `name`: `listed` or one in the folders; None if it is gone.

    The path may be that of a file in a folder that cannot be searched.
    """
    names = dict.fromkeys((name, from_printable(name)))
    candidates = [listed] if listed else (root / text for root in roots for text in names)
    return next(filter(_may_exist, candidates), None)


def _may_exist(path: Path) -> bool:
    try:
        path.stat()
    except _MISSING:
        return False
    except OSError:
        return True
    except ValueError:  # a name that no file can have
        return False
    return True
