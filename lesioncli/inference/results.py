"""The result store of a run: masks, overlays, scores.csv and run.json in one output folder.

Where they are kept for good is a Destination: the folder itself, or a bucket.

Every file is written under a temporary name and then renamed. During a run, rows are appended to scores.csv.part, each
after its mask has its final name. Whatever stops a run, the next one continues from scores.csv and that file. What a
power cut may undo is in durability.py.
"""

import csv
import heapq
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from lesioncli.errors import InputError
from lesioncli.files import DISK_FULL, from_cell, make_folder, printable, sync_files, sync_folder
from lesioncli.images.find import CROPS, OVERLAYS, ImageFile
from lesioncli.images.ignored import RUN_RECORD
from lesioncli.images.mask_archives import (
    is_archived,
    next_number,
    of_shard,
    remove_archived,
    split_path,
)
from lesioncli.inference.destination import Destination
from lesioncli.inference.earlier import EarlierResults, ToDo, find_to_do
from lesioncli.inference.outcome import Column, Outcome, image_name, without_suffix
from lesioncli.inference.packing import MaskPacker, is_left_over
from lesioncli.inference.pictures import PictureFolder, extra_names, mask_path, regular_file_below
from lesioncli.inference.record import ImageConfidence, RunIdentity, RunRecord, RunStatus, read_record, write_record
from lesioncli.inference.rows import CHECKSUMS, JOURNAL, SCORES
from lesioncli.inference.shards import open_journal
from lesioncli.options import MaskStorage, SegmentOptions, Status
from lesioncli.sharding import shard_folder
from lesioncli.urls import Place


class ResultStore:
    """The output folder of a run: rows, masks and the run record. One run at a time may have it open.

    Raises InputError, before anything is changed, if the folder holds masks with another `identity`, if an image would
    take the mask or map of another, or if rows are to be pruned while a folder of images is not there;
    `options.overwrite` removes the earlier results instead.

    images: the images of this run, with names relative to `root`; `missing` tells which of them are to be segmented
    whatever pictures are asked for. columns: see output_columns(). changed: number of images that are segmented again
    because their file has changed. gone, pruned: number of rows whose image is gone, and that are marked or removed.
    rows_folder: folder of the rows, the journal and the run record: that of a shard, or the output folder.
    pictures: where the masks and the pictures beside them are written. destination: where all is kept for good.
    """

    def __init__(
        self,
        destination: Destination,
        identity: RunIdentity,
        columns: Sequence[Column],
        images: Sequence[ImageFile] = (),
        options: SegmentOptions = SegmentOptions(),
        root: Place | None = None,
    ) -> None:
        self.folder = folder = destination.folder
        self.rows_folder = shard_folder(folder, options.shard)
        self.destination = destination
        self.gone = self.pruned = 0
        self._options = options
        self._columns = columns
        self._packer: MaskPacker | None = None
        try:
            make_folder(folder)
            self._journal = open_journal(folder, options.shard, identity, options.overwrite)
            self._sync = destination.start_sync(self._journal)
            try:
                if options.overwrite:  # at once: a killed run must not leave rows of another engine to the next one
                    self._remove_earlier()
                self.earlier = EarlierResults(destination, identity, columns, options.shard)
                may_have_extras = self.has_maps or any(map(destination.has_folder, (CROPS, OVERLAYS)))
                self.pictures = PictureFolder(folder, self.has_maps, may_have_extras)
                self._has_extras = may_have_extras or options.overlay or options.crops is not None
                self._start(images, root)
            except BaseException:
                self._journal.close()
                raise
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written ({error.strerror}); choose another folder with --out"
            ) from error

    def _start(self, images: Sequence[ImageFile], root: Place | None) -> None:
        """Take over the rows of earlier runs, without those of images whose mask is to be replaced."""
        self.destination.check_names(image.mask_name for image in images)
        self.earlier.check_pictures(images, self._options)
        self.destination.learn(self.earlier.paths(images, self._extra_paths))
        self.missing = self.earlier.find_masked(images, self._options.check_inputs)
        self._rows = self.earlier.rows
        self._handle_gone(self.earlier.find_gone(images, root, to_prune=self._options.prune))
        replaced = [image for image in images if self.missing[image.name] in (ToDo.NO_MASK, ToDo.CHANGED)]
        replaced = [] if self._options.retry_failed else replaced
        for image in replaced:
            self._rows.pop(self.earlier.key(image_name(image)))
        self.changed = sum(self.missing[image.name] == ToDo.CHANGED for image in replaced)
        unsynced = (regular_file_below(self.folder, mask) for mask in self.earlier.unsynced)
        sync_files([*filter(None, unsynced), *self._remove_packed_files()], self.folder)
        self._save_rows()
        self._journal.clear()
        self._journal.append(self.earlier.tables.journal_header())
        self._journal.sync()
        sync_folder(self.rows_folder)
        self.destination.publish_rows()
        self.earlier.archives.clear()
        if self._options.masks == MaskStorage.TAR:
            first = next_number(self._options.shard, {split_path(row.mask)[0] for row in self._rows.values()})
            self._packer = MaskPacker(
                self.folder, self._options.shard, first, images, self._record_packed, self._sync.add
            )

    def _remove_packed_files(self) -> list[Path]:
        """Remove the files of masks that a killed run had packed; return their paths."""
        removed: list[Path] = []
        for row in self.earlier.packed():
            path = regular_file_below(self.folder, split_path(row.mask)[1])
            if path and is_left_over(path, self.earlier.archives.find(row.mask)):
                path.unlink(missing_ok=True)
                removed.append(path)
        return removed

    def _handle_gone(self, keys: Sequence[str]) -> None:
        """Mark the rows of images that are gone, or remove them with their pictures; remove the marks of others."""
        gone = set(keys)
        for key in sorted(gone | self.earlier.marked):
            if row := self._rows.get(key):
                self._rows[key] = self.earlier.tables.mark(row, key in gone)
        if not self._options.prune:
            self.gone = len(keys)
            return
        rows = list(filter(None, map(self._rows.pop, keys)))
        remove_archived(self.folder, (row.mask for row in rows))
        names = ((row.mask, *extra_names(without_suffix(row.image), row.mask, self.has_maps)) for row in rows)
        self.destination.remove(chain.from_iterable(names))
        self.pruned = len(keys)

    def find_to_do(self, images: Sequence[ImageFile]) -> list[ToDo | None]:
        """Return for each image why it is to be segmented, None if it is done."""
        return find_to_do(self.folder, images, self.missing, self._options, self.destination.has)

    @property
    def has_maps(self) -> bool:
        """Return whether this run or an earlier one writes probability maps."""
        return self._options.save_probabilities or bool(self.earlier.record.probabilities)

    def add(self, outcome: Outcome) -> None:
        """Record an outcome. A skipped image keeps its row; a failed one loses its pictures of earlier runs.

        Raises InputError if the folder was removed or renamed, or if the row or an archive cannot be written.
        """
        if outcome.status != Status.SKIPPED:
            self._record(outcome)
        if self._packer:
            row = self._rows.get(self.earlier.key(image_name(outcome.image)))
            with _naming_the_file(self.folder):
                is_file = row is not None and row.is_ok and not is_archived(row.mask)
                is_here = self.destination.keeps_files or outcome.status == Status.OK
                self._packer.add(outcome.image, is_file and is_here)

    def _record(self, outcome: Outcome) -> None:
        self._check_in_place()
        if outcome.status == Status.FAILED:
            with suppress(OSError):  # a mask that cannot be written often cannot be removed either
                mask_path(self.folder, outcome.image).unlink(missing_ok=True)
                self.pictures.remove_extras(outcome.image)
        tables = self.earlier.tables
        row = tables.make_row(outcome, [column.text(outcome) for column in self._columns])
        self._rows[self.earlier.key(row.image)] = row
        with _naming_the_file(tables.journal):
            waits = bool(self._packer) and not self.destination.keeps_files and outcome.status == Status.OK
            masks = [] if waits else [mask_path(self.folder, outcome.image)]
            self._sync.add([*masks, *self._extra_paths(outcome.image)])
            self._journal.append(tables.journal_line(row, self._sync.synced_bytes))

    def _record_packed(self, images: Sequence[ImageFile], archive: str) -> None:
        """Write the rows of images whose masks are now in an archive; called by a thread."""
        tables, lines = self.earlier.tables, []
        for image in images:
            key = self.earlier.key(image_name(image))
            self._rows[key] = row = tables.move(self._rows[key], f"{archive}/{image.mask_name}")
            lines.append(tables.journal_line(row, self._sync.synced_bytes))
        if not self.destination.keeps_files:
            self._sync.add([self.folder / archive])
        self._journal.append("".join(lines))
        self._journal.sync()

    def _extra_paths(self, image: ImageFile) -> list[Path]:
        """Return the paths of the pictures beside the mask of an image, whether they exist or not."""
        extras = extra_names(image.name, image.mask_name, self.has_maps) if self._has_extras else []
        return [self.folder / name for name in extras]

    def least_confident(self, count: int) -> list[ImageConfidence]:
        """Return the images, of all runs into this folder, whose masks have the lowest confidence, the lowest first."""
        rows = (row for row in self._rows.values() if row.is_ok)
        pairs = ((row.confidence, row.image) for row in rows if row.confidence is not None)
        return [ImageConfidence(image, confidence) for confidence, image in heapq.nsmallest(count, pairs)]

    def write_record(self, record: RunRecord) -> None:
        """Write run.json; a run does so when it starts, so that an interrupted one is known."""
        with _naming_the_file(self.rows_folder / RUN_RECORD):
            write_record(self.rows_folder, record)
            self.destination.publish_record()

    def finish(self, record: RunRecord) -> None:
        """Write the rows to scores.csv, in order, and the record to run.json; then release the folder.

        If scores.csv cannot be written, the journal keeps the rows of this run for the next one. Raises InputError.
        """
        try:
            self._check_in_place()
            if self._packer:
                with _naming_the_file(self.folder):
                    self._packer.finish(record.status == RunStatus.FINISHED)
                for image in () if self.destination.keeps_files else self._packer.waiting:
                    self._rows.pop(self.earlier.key(image_name(image)))  # its mask is nowhere but here
            with _naming_the_file(self.earlier.tables.scores):
                self._sync.finish()
                self._save_rows()
                self._journal.clear()
                self.destination.publish_rows()
            self.write_record(record)
        finally:
            if self._packer:
                self._packer.stop()
            self._sync.stop()
            self._journal.close()

    def _check_in_place(self) -> None:
        if not self._journal.is_in_place():
            raise InputError(
                f"{self.folder}: was removed or renamed during the run; if it was renamed, continue with --out and its"
                " new name"
            )

    def _remove_earlier(self) -> None:
        """Remove all pictures before the tables: whatever stops this, the rows still name the files left."""
        archives, shard = self.destination.list_archives(), self._options.shard
        has_maps = bool(read_record(self.rows_folder).probabilities)
        for table in (self.rows_folder / SCORES, self.rows_folder / JOURNAL):
            self.destination.remove(_files_named_in(table, has_maps))
        self.destination.remove(of_shard(shard, archives) if shard else archives)
        for name in (SCORES, CHECKSUMS, RUN_RECORD):
            (self.rows_folder / name).unlink(missing_ok=True)
        self._journal.clear()

    def _save_rows(self) -> None:
        if self._rows or self.earlier.tables.scores.exists():
            self.earlier.tables.save(self._rows.values())


@contextmanager
def _naming_the_file(path: Path) -> Iterator[None]:
    """Turn an OSError into an InputError that names the file it names, or else `path`."""
    try:
        yield
    except OSError as error:
        where = printable(os.fsdecode(error.filename or path))
        advice = "free disk space" if error.errno in DISK_FULL else "check the disk and the permissions"
        raise InputError(
            f"{where}: cannot be written ({error.strerror}); {advice}, then run the same command again"
        ) from error


def _files_named_in(table: Path, has_maps: bool) -> Iterator[str]:
    """Yield the masks and the pictures beside them that a scores.csv of any version names."""
    if not table.exists():
        return
    with table.open(newline="", encoding="utf-8", errors="replace") as file, suppress(csv.Error):
        for row in csv.DictReader(file):
            mask = split_path(from_cell(row.get("mask") or ""))[1]
            if mask.endswith(".png"):
                yield mask
            yield from extra_names(
                without_suffix(from_cell(row.get("image") or "")), mask, has_maps and mask.endswith(".png")
            )
