"""Masks go into archives while a run goes on, so that a file system never has many more files than one archive holds.

A mask is first a file with a row, as in every run. A thread writes the next archive as a whole, then the rows that name
it, and only then removes the files. So every row names a mask that is there, whatever stops the run in between; what it
leaves twice, the next run removes or writes again.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath

from lesioncli.files import crc32_of
from lesioncli.images.find import ImageFile
from lesioncli.images.mask_archives import archive_name, write_archive
from lesioncli.images.stored import StoredFile, crc32_of_image
from lesioncli.inference.pictures import is_whole, mask_path
from lesioncli.options import Shard

MASKS_PER_ARCHIVE = 10_000  # 14 MB for images of 640x480; at most so many files wait for their archive


class MaskPacker:
    """Packs the masks of a run, or of a shard, into archives, of which `first` is the number of the first.

    Each archive has the next MASKS_PER_ARCHIVE masks in the order of `images`, whichever is finished first: the same
    images give the same archives. `record` writes the rows of masks that are in an archive, and waits until they are on
    the disk; `forget` receives the paths of the files that were removed then.
    """

    def __init__(
        self,
        folder: Path,
        shard: Shard | None,
        first: int,
        images: Sequence[ImageFile],
        record: Callable[[Sequence[ImageFile], str], None],
        forget: Callable[[Sequence[Path]], None],
    ) -> None:
        self._folder, self._shard, self._number = folder, shard, first
        self._record, self._forget = record, forget
        self._images = images
        self._order = deque(images)
        self._finished: dict[str, bool] = {}  # is it a file, by name of the mask
        self._next: list[ImageFile] = []
        self._pool = ThreadPoolExecutor(1, "pack masks")
        self._job: Future[None] | None = None

    def add(self, image: ImageFile, is_file: bool) -> None:
        """Add a finished image; is_file: its mask was written as a file, which the archive will replace.

        Raises the OSError of an archive that could not be written.
        """
        self._finished[image.mask_name] = is_file
        while self._order and self._order[0].mask_name in self._finished:
            image = self._order.popleft()
            if self._finished.pop(image.mask_name):
                self._next.append(image)
            if len(self._next) == MASKS_PER_ARCHIVE:
                self._start()
        if self._job and self._job.done():
            self._wait()

    def finish(self, is_complete: bool) -> None:
        """Wait for the last archive; if all images of the run are finished, pack the masks that are left. OSError."""
        self._wait()
        if is_complete and self._next:
            self._start()
            self._wait()
        if is_complete and not self._shard:  # other shards may be writing to the folders
            self._remove_empty_folders()

    @property
    def waiting(self) -> list[ImageFile]:
        """The finished images whose masks are files that no archive has yet."""
        return [*self._next, *(image for image in self._order if self._finished.get(image.mask_name))]

    def stop(self) -> None:
        """End the thread, after the archive that it is writing."""
        self._pool.shutdown()

    def _start(self) -> None:
        """Let the thread write the next archive, after the one that it is writing."""
        self._wait()
        self._job = self._pool.submit(self._pack, self._next, archive_name(self._shard, self._number))
        self._next = []
        self._number += 1

    def _wait(self) -> None:
        job, self._job = self._job, None
        if job:
            job.result()

    def _pack(self, images: Sequence[ImageFile], archive: str) -> None:
        packed: list[ImageFile] = []
        write_archive(self._folder / archive, self._read(images, packed), self._folder)
        self._record(packed, archive)
        paths = [mask_path(self._folder, image) for image in packed]
        for path in paths:
            path.unlink(missing_ok=True)
        self._forget(paths)

    def _read(self, images: Sequence[ImageFile], packed: list[ImageFile]) -> Iterator[tuple[str, bytes]]:
        """Yield masks by name, and add their images to `packed`; one that somebody removed is made by the next run."""
        for image in images:
            with suppress(FileNotFoundError):
                content = mask_path(self._folder, image).read_bytes()
                packed.append(image)
                yield image.mask_name, content

    def _remove_empty_folders(self) -> None:
        names = {image.mask_name.rpartition("/")[0] for image in self._images} - {""}
        folders = {folder for name in names for folder in (PurePosixPath(name), *PurePosixPath(name).parents[:-1])}
        for folder in sorted(folders, reverse=True):
            with suppress(OSError):  # it is not empty
                (self._folder / folder).rmdir()


def is_left_over(path: Path, packed: StoredFile | None) -> bool:
    """Return whether a killed run left the file of a mask that it had packed: a copy, perhaps torn by a power cut.

    Another whole mask is a correction by hand.
    """
    with suppress(OSError):  # another shard removes it, too
        return packed is not None and (not is_whole(path) or crc32_of(path) == crc32_of_image(packed))
    return False
