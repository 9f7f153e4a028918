"""The result store of a run: masks, overlays, scores.csv and run.json in one output folder.

Every file is written under a temporary name and then renamed. During a run, rows are appended to scores.csv.part, each
after its mask has its final name: a row means that the mask is complete, unless a power cut or another program has cut
it since. Whatever stops a run, the next one continues from scores.csv and that file.
"""

import csv
import heapq
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lesioncli.errors import InputError
from lesioncli.files import atomic_write
from lesioncli.images.find import CROPS, OVERLAYS, RUN_RECORD, ImageFile
from lesioncli.inference.earlier import JOURNAL, TABLE, EarlierResults, csv_line
from lesioncli.inference.journal import Journal
from lesioncli.inference.outcome import Column, Outcome, without_suffix
from lesioncli.inference.pictures import crop_name, mask_path, overlay_name, probability_name
from lesioncli.inference.record import ImageConfidence, RunIdentity, RunRecord, read_record, write_record
from lesioncli.options import SegmentOptions, Status


class ResultStore:
    """The output folder of a run: rows, masks and the run record. One run at a time may have it open.

    Raises InputError, before anything is changed, if the folder holds masks with another `identity`, if the file of an
    image that is done has changed, or if an image would take the mask or map of another; `overwrite` removes the
    earlier results instead.

    images: the images of this run; `missing` tells which of them have no row that is ok or no whole mask. columns: see
    output_columns(). may_have_extras: pictures of earlier runs may lie beside the masks.
    """

    def __init__(
        self,
        folder: Path,
        identity: RunIdentity,
        columns: Sequence[Column],
        images: Sequence[ImageFile] = (),
        options: SegmentOptions = SegmentOptions(),
    ) -> None:
        self.folder = folder
        self._options = options
        self._columns = columns
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(folder / JOURNAL)
            try:
                if options.overwrite:  # at once: a killed run must not leave rows of another engine to the next one
                    self._remove_earlier()
                self.earlier = EarlierResults(folder, identity, columns)
                self.may_have_extras = self.has_maps or any((folder / name).is_dir() for name in (CROPS, OVERLAYS))
                self.earlier.check_pictures(images, options)
                self.missing = self.earlier.find_masked(images)
                self._rows = self.earlier.rows
                self._save_rows()
                self._journal.clear()
                self._journal.append(csv_line(self.earlier.names))
            except BaseException:
                self._journal.close()
                raise
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written ({error.strerror}); choose another folder with --out"
            ) from error

    @property
    def has_maps(self) -> bool:
        """Return whether this run or an earlier one writes probability maps."""
        return self._options.save_probabilities or bool(self.earlier.record.probabilities)

    def add(self, outcome: Outcome) -> None:
        """Record an outcome. A skipped image keeps its row; a failed one loses its pictures of earlier runs.

        Raises InputError if the folder was removed or renamed, or if the row cannot be written.
        """
        if outcome.status == Status.SKIPPED:
            return
        self._check_in_place()
        if outcome.status == Status.FAILED:
            with suppress(OSError):  # a mask that cannot be written often cannot be removed either
                mask_path(self.folder, outcome.image).unlink(missing_ok=True)
                self.remove_extras(outcome.image)
        row = self.earlier.parse([column.text(outcome) for column in self._columns])
        self._rows[self.earlier.key(row.image)] = row
        with _reporting_full_disk(self.earlier.part):
            self._journal.append(row.line)

    def remove_extras(self, image: ImageFile) -> None:
        """Remove an image's pictures beside its mask, if it has them. Raises OSError."""
        names = [overlay_name(image.name), crop_name(image.name)]
        names += [probability_name(image.mask_name)] if self.has_maps else []
        for name in names:
            if path := _regular_file_below(self.folder, name):
                path.unlink()

    def least_confident(self, count: int) -> list[ImageConfidence]:
        """Return the images, of all runs into this folder, whose masks have the lowest confidence, the lowest first."""
        rows = (row for row in self._rows.values() if row.is_ok and not math.isnan(row.confidence))
        lowest = heapq.nsmallest(count, rows, key=lambda row: (row.confidence, row.image))
        return [ImageConfidence(row.image, row.confidence) for row in lowest]

    def write_record(self, record: RunRecord) -> None:
        """Write run.json; a run does so when it starts, so that an interrupted one is known."""
        with _reporting_full_disk(self.folder / RUN_RECORD):
            write_record(self.folder, record)

    def finish(self, record: RunRecord) -> None:
        """Write the rows to scores.csv, in order, and the record to run.json; then release the folder.

        If scores.csv cannot be written, the journal keeps the rows of this run for the next one. Raises InputError.
        """
        try:
            self._check_in_place()
            with _reporting_full_disk(self.earlier.csv):
                self._save_rows()
                self._journal.clear()
            self.write_record(record)
        finally:
            self._journal.close()

    def _check_in_place(self) -> None:
        if not self._journal.is_in_place():
            raise InputError(
                f"{self.folder}: was removed or renamed during the run; if it was renamed, continue with --out and its"
                " new name"
            )

    def _remove_earlier(self) -> None:
        """Remove all pictures before the tables: whatever stops this, the rows still name the files left."""
        has_maps = bool(read_record(self.folder).probabilities)
        tables = (self.folder / TABLE, self.folder / JOURNAL)
        for name in (name for table in tables for name in _files_named_in(table, has_maps)):
            if path := _regular_file_below(self.folder, name):
                path.unlink()
        for path in (self.folder / TABLE, self.folder / RUN_RECORD):
            path.unlink(missing_ok=True)
        self._journal.clear()

    def _save_rows(self) -> None:
        if not self._rows:
            return
        with atomic_write(self.earlier.csv) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            file.write(csv_line(self.earlier.names))
            file.writelines(self._rows[key].line for key in sorted(self._rows))


@contextmanager
def _reporting_full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); free disk space, then run the same command again"
        ) from error


def _files_named_in(table: Path, has_maps: bool) -> Iterator[str]:
    """Yield the masks and the pictures beside them that a scores.csv of any version names."""
    if not table.exists():
        return
    with table.open(newline="", encoding="utf-8", errors="replace") as file, suppress(csv.Error):
        for row in csv.DictReader(file):
            if (mask := row.get("mask") or "").endswith(".png"):
                yield mask
                if has_maps:
                    yield probability_name(mask)
            name = without_suffix(row.get("image") or "")
            yield overlay_name(name)
            yield crop_name(name)


def _regular_file_below(folder: Path, name: str) -> Path | None:
    """Return the regular file `name` below a folder; None if there is none or a link leads elsewhere.

    A table may come from anybody, and the files that it names are to be removed.
    """
    path = folder / name
    if not os.path.isfile(path) or os.path.islink(path):  # noqa: PTH113, PTH114 - pathlib raises on an invalid name
        return None
    real_folder, real_path = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    return path if real_path.is_relative_to(real_folder) and real_path == real_folder / name else None
