"""What earlier runs left in an output folder, and which images are left to do. Nothing is changed here."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from itertools import chain, compress, islice
from pathlib import Path

from lesioncli.errors import InputError
from lesioncli.files import crc32_of, stat_file
from lesioncli.images.find import PROBABILITIES, ImageFile
from lesioncli.images.mask_archives import MaskArchives, is_archived, split_path
from lesioncli.inference.compact_dict import CompactDict
from lesioncli.inference.destination import Destination
from lesioncli.inference.inputs import (
    ImageState,
    compare_images,
    is_there,
    locate_image,
    recorded_roots,
    recorded_urls,
)
from lesioncli.inference.outcome import Column, image_name, without_suffix
from lesioncli.inference.packing import is_left_over
from lesioncli.inference.pictures import extra_paths, is_whole, mask_path, regular_file_below
from lesioncli.inference.record import RunIdentity
from lesioncli.inference.rows import GONE, JOURNAL, SCORES, Row, RowTables, WrongColumnsError, row_key
from lesioncli.inference.shards import read_shard_record
from lesioncli.options import SegmentOptions, Shard
from lesioncli.sharding import contains, shard_folder
from lesioncli.stores import CONNECTIONS
from lesioncli.urls import Place, Url

BATCH_ROWS = 1000  # that are looked at together: all of a large run would take a gigabyte


class ToDo(StrEnum):
    """Why an image is to be segmented."""

    NEW = "new"
    FAILED = "failed before"
    CHANGED = "image changed"
    NO_MASK = "mask missing or cut off"
    NO_PICTURE = "picture beside the mask missing or cut off"


class EarlierResults:
    """The run record and the rows of an output folder, by the key of their image; none if there is no such folder.

    Of a shard, they are its own, before its first run those of its images in the output folder. `columns` are those of
    this run, see output_columns(). `tables` reads and writes the rows. `unsynced` are the complete masks of a killed
    run that were possibly not synced. `marked` are the keys of the rows with the note GONE.

    Raises InputError if the rows belong to another `identity` or have other columns.
    """

    def __init__(
        self,
        destination: Destination,
        identity: RunIdentity,
        columns: Sequence[Column],
        shard: Shard | None = None,
    ) -> None:
        self.folder = folder = destination.folder
        self._destination = destination
        names = [column.name for column in columns]
        self.tables = RowTables(shard_folder(folder, shard), names)
        self._identity = identity
        self.record = read_shard_record(folder, shard)
        self.rows = CompactDict(Row)
        self.unsynced: list[str] = []
        self.marked: set[str] = set()
        self._named: Counter[str] = Counter()  # rows of the journals by archive
        self.archives = MaskArchives(folder)
        self._shard = shard
        if shard and not self.tables.scores.exists():
            self._read(RowTables(folder, names))
        self._read(self.tables)
        if self.rows:
            self._check_identity()

    def _read(self, tables: RowTables) -> None:
        """Add the rows of tables; those of an interrupted run replace older ones."""
        try:
            for row in tables.read_scores():
                self._add(row)
            self._read_journal(tables)
        except WrongColumnsError:
            if self.record.engine_sha256:  # another engine, which may have other columns, is the better reason
                self._check_identity()
            raise
        for row in self.packed():
            archive, name = split_path(row.mask)
            if self._named[archive] == len(self.archives.contents(archive).files):
                continue
            path = regular_file_below(self.folder, name)
            if path and is_left_over(path, self.archives.find(row.mask)):
                self._add(tables.move(row, name))  # its run was killed while it wrote these rows; the next one does so

    def _add(self, row: Row) -> None:
        key = self.key(row.image)
        if self._shard is None or contains(self._shard, key):
            self.rows[key] = row
            if GONE in row.line:
                self.marked.add(key)

    def _read_journal(self, tables: RowTables) -> None:
        for row, is_synced in tables.read_journal():
            if not is_synced:
                if not is_archived(row.mask):  # an older row of the image has another mask
                    self.rows.pop(self.key(row.image))
                if not self._has_its_mask(row):
                    continue
                self.unsynced.append(row.mask)
            if is_archived(row.mask):
                self._named[split_path(row.mask)[0]] += 1
            self._add(row)

    def packed(self) -> Iterator[Row]:
        """Yield the rows of a killed run with archived masks. A mask may exist a second time, as a file."""
        rows = self.rows.values() if self._named else iter(())
        return (row for row in rows if split_path(row.mask)[0] in self._named)

    def _has_its_mask(self, row: Row) -> bool:
        """Return whether the mask of a row has its CRC-32: a power cut may have left anything.

        An archive is on the disk before its rows are written, and may hold masks that were corrected by hand.
        """
        if is_archived(row.mask):
            return self.archives.find(row.mask) is not None
        if row.checks.mask_crc32 is None:  # failed, or of an early version
            return True
        path = regular_file_below(self.folder, row.mask)
        try:
            return path is not None and crc32_of(path) == row.checks.mask_crc32
        except OSError:
            return False

    def key(self, name: str) -> str:
        """Return the key of an image's row, given its name in scores.csv."""
        return row_key(name, self._identity.names)

    def _check_identity(self) -> None:
        for name, earlier in self.record.identity.items():
            value = getattr(self._identity, name)
            if earlier != value:
                raise InputError(
                    f"{self.folder}: has masks made with {name} {'unknown' if earlier is None else earlier}, this run"
                    f" has {'none' if value is None else value}; choose another --out or use --overwrite"
                )

    def check_pictures(self, images: Iterable[ImageFile], options: SegmentOptions) -> None:
        """Raise InputError if the pictures beside the masks do not fit those of this run.

        That is so if there are probability maps, and an image whose mask would be in their folder, or if there are
        cut-outs with another margin.
        """
        if options.crops is not None and self.record.crops not in (None, options.crops):
            raise InputError(
                f"{self.folder}: has cut-outs with a margin of {self.record.crops:g} %, this run has"
                f" {options.crops:g} %; choose another --out or use --overwrite"
            )
        masks = [image.mask_name for image in images]
        if archived := next(filter(is_archived, masks), None):
            raise InputError(
                f"{self.folder}: {archived} would be in an archive of masks; rename the folder or archive of its image"
            )
        if not (options.save_probabilities or self.record.probabilities):
            return
        names = chain(masks, (row.image for row in self.rows.values()))
        if below := next((name for name in names if name.startswith(f"{PROBABILITIES}/")), None):
            raise InputError(
                f"{self.folder}: {below} would be among the probability maps; segment the images in a folder"
                f" {PROBABILITIES}/ to another --out, or rename it"
            )

    def paths(self, images: Iterable[ImageFile], extras: Callable[[ImageFile], Iterable[Path]]) -> Iterator[Path]:
        """Yield the paths of the pictures that images with a row may have; a mask in an archive has that of it."""
        for image in images:
            if row := self.rows.get(self.key(image_name(image))):
                archive, _ = split_path(row.mask)
                yield self.folder / archive if archive else mask_path(self.folder, image)
                yield from extras(image)

    def find_masked(self, images: Iterable[ImageFile], check_content: bool) -> dict[str, ToDo | None]:
        """Return by name of the image None if its row is ok, its mask whole and its file as before, else what is not.

        A file that is gone or cannot be read counts as before. With `check_content`, the content of every file is
        compared, else only where the time differs; the rows then get the present time.

        Raises InputError if an image would, by its ISIC number, take the mask of another.
        """
        missing: dict[str, ToDo | None] = {}
        coming = iter(images)
        while batch := list(islice(coming, BATCH_ROWS)):
            missing.update(self._find_masked(batch, check_content))
        return missing

    def _find_masked(self, images: Iterable[ImageFile], check_content: bool) -> dict[str, ToDo | None]:
        missing: dict[str, ToDo | None] = {}
        finished: list[tuple[ImageFile, Row]] = []
        for image in images:
            name = image_name(image)
            row = self.rows.get(self.key(name))
            if row is None:
                self._refuse_second_row(image)
                missing[image.name] = ToDo.NEW
            elif not row.is_ok:
                missing[image.name] = ToDo.FAILED
            elif not self._is_whole(image, row):
                missing[image.name] = ToDo.NO_MASK
            elif row.image == name:
                missing[image.name] = None
                finished.append((image, row))
            else:
                self._refuse_mask_of_another(image, row)
                missing[image.name] = ToDo.NEW
        compared = compare_images([(image.path, row) for image, row in finished], check_content)
        for (image, before), (state, row) in zip(finished, compared, strict=True):
            if row != before:
                self._add(row)
            if state == ImageState.CHANGED:
                missing[image.name] = ToDo.CHANGED
        return missing

    def _is_whole(self, image: ImageFile, row: Row) -> bool:
        if not is_archived(row.mask):
            return self._destination.has(mask_path(self.folder, image))
        return self.archives.find(row.mask) is not None or self._destination.has_archive(split_path(row.mask)[0])

    def find_gone(self, images: Iterable[ImageFile], root: Place | None, *, to_prune: bool) -> list[str]:
        """Return the keys of the rows whose image is in none of the folders of this run and of earlier ones.

        There are none if earlier runs had URLs that this run has not: those are not looked at.

        Raises InputError if rows are `to_prune` while one of the folders is not there, or by a shard from archives.
        """
        if any(url != root for url in recorded_urls(self.record)):
            return []
        listed = {image_name(image): image.path for image in images} if self.rows else {}
        roots = self.roots(root)

        def is_gone(item: tuple[str, Row]) -> bool:
            return locate_image(item[1].image, roots, listed.get(item[1].image)) is None

        keys: list[str] = []
        items = self.rows.items()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            while batch := list(islice(items, BATCH_ROWS)):
                states = (pool.map if isinstance(root, Url) else map)(is_gone, batch)
                keys += [key for key, _ in compress(batch, states)]
        missing_root = next((path for path in roots if not is_there(path)), None)
        if keys and to_prune and missing_root:
            raise InputError(
                f"{missing_root}: is not there, so that images may only seem to be gone; make it available, or create"
                " it as an empty folder, then prune again"
            )
        if keys and to_prune and self._shard and any(is_archived(self.rows[key].mask) for key in keys):
            raise InputError(
                f"{self.folder}: archives of masks, which other shards may have, cannot be pruned by one; run lesioncli"
                " merge, then prune without --shard"
            )
        return keys

    def roots(self, root: Place | None) -> list[Place]:
        """Return the folders that names of images are relative to, in this run and in earlier ones."""
        return [*([root] if root else []), *recorded_roots(self.folder, self.record)]

    def _refuse_mask_of_another(self, image: ImageFile, row: Row) -> None:
        if image.mask and without_suffix(row.image) != without_suffix(image_name(image)):
            raise InputError(
                f"{self.folder}: the mask {image.mask_name} belongs to {row.image}, {image.path} would replace it;"
                " choose another --out or use --overwrite"
            )

    def _refuse_second_row(self, image: ImageFile) -> None:
        """Raise InputError if an earlier version named this image by its own folder: it would have two rows."""
        own = self.rows.get(self.key(f"{image.own_name}{image.suffix}")) if image.own_name else None
        if own is None or image.own_name == image.name:
            return
        status = stat_file(image.path) if isinstance(image.path, Path) else None
        if status is None or own.file_bytes != status.st_size:
            return
        raise InputError(
            f"{self.folder}: has a row {own.image} for {image.path}, which is now named {image_name(image)}: names are"
            " relative to the folder that holds all images given; choose another --out or use --overwrite, or continue"
            " with one folder or file in each run"
        )


def has_results(folder: Path, shard: Shard | None) -> bool:
    """Return whether an output folder, or that of a shard, has rows of an earlier run."""
    folders = {folder, shard_folder(folder, shard)}
    return any((path / name).is_file() for path in folders for name in (SCORES, JOURNAL))


def require_results(folder: Path, shard: Shard | None = None) -> None:
    """Raise InputError if there are no rows of an earlier run, see has_results()."""
    if not has_results(folder, shard):
        raise InputError(f"{folder / SCORES}: no results of an earlier run; run without --retry-failed first")


def find_to_do(
    folder: Path,
    images: Iterable[ImageFile],
    missing: Mapping[str, ToDo | None],
    options: SegmentOptions,
    has_picture: Callable[[Path], bool] = is_whole,
) -> list[ToDo | None]:
    """Return for each image why it is to be segmented, None if it is done; `missing` is that of find_masked()."""

    def reason(image: ImageFile) -> ToDo | None:
        if problem := missing.get(image.name, ToDo.NEW):
            return problem
        is_done = options.retry_failed or all(map(has_picture, extra_paths(folder, image, options)))
        return None if is_done else ToDo.NO_PICTURE

    return list(map(reason, images))
