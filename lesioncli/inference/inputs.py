"""Images beside the rows that earlier runs left: which are as they were, which have changed, which are gone."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path

from lesioncli.files import from_printable
from lesioncli.images.find import is_folder
from lesioncli.images.sources import locate_file, source_kind
from lesioncli.images.stored import ImagePath, StoredFile, crc32_of_image, status_of
from lesioncli.inference.record import RunRecord
from lesioncli.inference.rows import Row
from lesioncli.process import count_cores
from lesioncli.stores import CONNECTIONS
from lesioncli.urls import Place, Url, is_url

_MISSING = (FileNotFoundError, NotADirectoryError)


class ImageState(StrEnum):
    """An image beside its row; `unsure` if only its content can tell. One that cannot be read counts as the same."""

    SAME = "same"
    CHANGED = "changed"
    GONE = "gone"
    UNSURE = "unsure"


def compare_images(
    pairs: Sequence[tuple[ImagePath, Row]], check_content: bool = False
) -> Iterator[tuple[ImageState, Row]]:
    """Yield for each image and its row whether it is the same, changed or gone, and the row with its present time.

    The content of an image is compared if its time is not that of the row, or with `check_content`.
    """
    states = [compare_status(path, row, check_content) for path, row in pairs]
    unsure = [pair for pair, state in zip(pairs, states, strict=True) if state == ImageState.UNSURE]
    is_remote = any(isinstance(path, StoredFile) and path.is_remote for path, _ in unsure)
    with ThreadPoolExecutor(CONNECTIONS if is_remote else count_cores()) as pool:
        compared = pool.map(_compare_content, unsure)
        for (_, row), state in zip(pairs, states, strict=True):
            yield next(compared) if state == ImageState.UNSURE else (state, row)


def compare_status(path: ImagePath, row: Row, check_content: bool) -> ImageState:
    """Compare size and time of an image with those of its row; early versions recorded only the size."""
    try:
        status = status_of(path)
    except IsADirectoryError:
        return ImageState.CHANGED
    except _MISSING:
        return ImageState.GONE
    except OSError:
        return ImageState.SAME
    if status.size_bytes != row.file_bytes:
        return ImageState.CHANGED
    if row.checks.image_crc32 is None:
        return ImageState.SAME
    is_same_time = status.modified_ns == row.checks.modified_ns
    return ImageState.SAME if is_same_time and not check_content else ImageState.UNSURE


def _compare_content(pair: tuple[ImagePath, Row]) -> tuple[ImageState, Row]:
    path, row = pair
    try:
        modified_ns = status_of(path).modified_ns  # before reading: a later change must have another time
        if crc32_of_image(path) != row.checks.image_crc32:
            return ImageState.CHANGED, row
    except OSError:
        return ImageState.SAME, row
    return ImageState.SAME, row._replace(checks=row.checks._replace(modified_ns=modified_ns))


def recorded_roots(folder: Path, record: RunRecord) -> list[Path]:
    """Return the folders and archives that names of images may be relative to; early versions had only sources."""
    sources = (folder / source for source in record.sources if not is_url(source))
    parents = (source.parent if source.is_file() and not source_kind(source) else source for source in sources)
    roots = (folder / root for root in record.roots if not is_url(root))
    return list(dict.fromkeys((*roots, *parents)))


def recorded_urls(record: RunRecord) -> list[Url]:
    """Return the URLs among the roots. They may come from anybody: make no request for them."""
    return [Url.parse(root) for root in record.roots if is_url(root)]


def locate_image(name: str, roots: Iterable[Place], listed: ImagePath | None = None) -> ImagePath | None:
    """Return the path of a row's image, `name`: `listed` or one in the folders; None if it is gone.

    The path may be that of a file in a folder that cannot be searched.
    """
    names = dict.fromkeys((name, from_printable(name)))
    candidates = [listed] if listed else (_locate(root, text) for root in roots for text in names)
    return next((path for path in candidates if path and _may_exist(path)), None)


def is_there(root: Place) -> bool:
    """Return whether a root of names is there; a URL is taken to be."""
    return isinstance(root, Url) or is_folder(root) or source_kind(root) is not None


def _locate(root: Place, name: str) -> ImagePath | None:
    try:
        return locate_file(root, name)
    except (OSError, ValueError):
        return None


def _may_exist(path: ImagePath) -> bool:
    try:
        if isinstance(path, StoredFile):
            path.status()
        else:
            path.stat()
    except _MISSING:
        return False
    except OSError:
        return True
    except ValueError:  # a name that no file can have
        return False
    return True
