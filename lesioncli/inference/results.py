"""The result store of a run: masks, overlays, scores.csv and run.json in one output folder.

Every file is written under a temporary name and then renamed. During a run, rows are appended to scores.csv.part, each
after its mask has its final name: a row means that the mask is complete, unless a power cut or another program has cut
it since. Whatever stops a run, the next one continues from scores.csv and that file.
"""

import csv
import heapq
import io
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from lesioncli import isic
from lesioncli.errors import InputError
from lesioncli.files import atomic_write
from lesioncli.images.find import PROBABILITIES, RUN_RECORD, ImageFile, file_bytes
from lesioncli.inference.journal import Journal
from lesioncli.inference.outcome import Column, Outcome, image_name, read_count, read_number, without_suffix
from lesioncli.inference.pictures import is_whole, mask_path, overlay_name, probability_name
from lesioncli.inference.record import ImageConfidence, MaskNames, RunIdentity, RunRecord, read_record, write_record
from lesioncli.options import Status


class _Row(NamedTuple):  # created twice as fast as a frozen dataclass, for every image of earlier runs
    """A row of scores.csv. It keeps its text: lists of fields would take a gigabyte for a million images."""

    line: str
    image: str
    is_ok: bool
    file_bytes: int | None
    confidence: float


class ResultStore:
    """The output folder of a run: rows, masks and the run record. One run at a time may have it open.

    Raises InputError, before anything is changed, if the folder holds masks with another `identity`, if the file of an
    image that is done has changed, or if an image would take the mask or map of another; `overwrite` removes the
    earlier results instead.

    images: the images of this run. earlier: the record of the run before. columns: see output_columns(). with_maps:
    this run writes probability maps.
    """

    def __init__(
        self,
        folder: Path,
        identity: RunIdentity,
        columns: Sequence[Column],
        images: Sequence[ImageFile] = (),
        *,
        overwrite: bool = False,
        with_maps: bool = False,
    ) -> None:
        self.folder = folder
        self._with_maps = with_maps
        self._identity = identity
        self._columns = columns
        self._names = [column.name for column in columns]
        self._pick_fields = itemgetter(*map(self._names.index, ("image", "status", "bytes", "confidence")))
        self._csv = folder / "scores.csv"
        self._part = folder / "scores.csv.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(self._part)
            try:
                self._start(images, overwrite)
            except BaseException:
                self._journal.close()
                raise
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written ({error.strerror}); choose another folder with --out"
            ) from error

    def _start(self, images: Sequence[ImageFile], overwrite: bool) -> None:
        """Take over the results of earlier runs, or remove them."""
        if overwrite:  # at once: a killed run must not leave rows of another engine to the next one
            self._remove_earlier()
        self.earlier = read_record(self.folder)
        self._rows = self._read_rows()
        self._check_maps(images)
        self._done = self._find_done(images)
        self._save_rows()
        self._journal.clear()
        self._journal.append(_csv_line(self._names))

    def is_done(self, image: ImageFile) -> bool:
        """Return whether an earlier run left this image's row, without failure, and its whole mask."""
        return image.name in self._done

    @property
    def has_maps(self) -> bool:
        """Return whether this run or an earlier one writes probability maps."""
        return self._with_maps or bool(self.earlier.probabilities)

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
        row = self._parse([column.text(outcome) for column in self._columns])
        self._rows[self._key(row.image)] = row
        with _reporting_full_disk(self._part):
            self._journal.append(row.line)

    def remove_extras(self, image: ImageFile) -> None:
        """Remove an image's overlay and probability map, if it has them. Raises OSError."""
        names = [overlay_name(image.name), *([probability_name(image.mask_name)] if self.has_maps else [])]
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
            with _reporting_full_disk(self._csv):
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
        for name in (name for table in (self._csv, self._part) for name in _files_named_in(table, has_maps)):
            if path := _regular_file_below(self.folder, name):
                path.unlink()
        for path in (self._csv, self.folder / RUN_RECORD):
            path.unlink(missing_ok=True)
        self._journal.clear()

    def _read_rows(self) -> dict[str, _Row]:
        """Read the rows of earlier runs; those of an interrupted one replace older ones."""
        rows = {self._key(row.image): row for path in (self._csv, self._part) for row in self._read_table(path)}
        if rows:
            self._check_identity()
        return rows

    def _read_table(self, path: Path) -> Iterator[_Row]:
        if not path.exists():
            return
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            # A crash may truncate the last row, even inside a character; its image is segmented again.
            reader = csv.reader(line for line in file if line.endswith(("\r", "\n")))
            try:
                if next(reader, []) not in ([], self._names):
                    if self.earlier.engine_sha256:  # another engine, which may have other columns, is the better reason
                        self._check_identity()
                    raise InputError(
                        f"{path}: its columns are not those of this run; choose another --out or use --overwrite"
                    )
                for fields in reader:
                    if len(fields) == len(self._names):
                        yield self._parse(fields, f"{path}, line {reader.line_num}")
                    elif path == self._csv:
                        raise InputError(
                            f"{path}, line {reader.line_num}: {len(fields)} fields, but the header has"
                            f" {len(self._names)}; correct or remove the line"
                        )
            except csv.Error as error:
                raise InputError(f"{path}, line {reader.line_num}: {error}; correct or remove the line") from error

    def _parse(self, fields: Sequence[str], location: str = "") -> _Row:
        image, status, size, confidence = self._pick_fields(fields)
        return _Row(
            line=_csv_line(fields),
            image=image,
            is_ok=status == Status.OK,
            file_bytes=read_count(size, location, "bytes"),
            confidence=read_number(confidence, location, "confidence"),
        )

    def _key(self, name: str) -> str:
        """Return the key of an image's row. All images that would have the same mask share a row: the newest."""
        stem = without_suffix(name)
        return isic.name_by_id(stem) if self._identity.names == MaskNames.ISIC else stem

    def _check_identity(self) -> None:
        for name, earlier in self.earlier.identity.items():
            value = getattr(self._identity, name)
            if earlier != value:
                raise InputError(
                    f"{self.folder}: has masks made with {name} {'unknown' if earlier is None else earlier}, this run"
                    f" has {value}; choose another --out or use --overwrite"
                )

    def _check_maps(self, images: Sequence[ImageFile]) -> None:
        """Raise InputError if there are probability maps, and an image whose mask would be in their folder."""
        names = (*(image.mask_name for image in images), *(row.image for row in self._rows.values()))
        below = next((name for name in names if name.startswith(f"{PROBABILITIES}/")), None)
        if self.has_maps and below:
            raise InputError(
                f"{self.folder}: {below} would be among the probability maps; segment the images in a folder"
                f" {PROBABILITIES}/ to another --out, or rename it"
            )

    def _find_done(self, images: Sequence[ImageFile]) -> set[str]:
        """Return the names of the images that are done.

        Raises InputError if the file of one has another size than before, or if an image would, by its ISIC number,
        take the mask of another.
        """
        done: set[str] = set()
        changed: list[str] = []
        for image in images:
            name = image_name(image)
            row = self._rows.get(self._key(name))
            if row is None:
                self._refuse_second_row(image)
            if row is None or not row.is_ok or not is_whole(mask_path(self.folder, image)):
                continue
            if row.image == name:
                done.add(image.name)
                changed += _describe_change(image, row.file_bytes)
            elif image.mask and without_suffix(row.image) != without_suffix(name):
                raise InputError(
                    f"{self.folder}: the mask {image.mask_name} belongs to {row.image}, {image.path} would replace it;"
                    " choose another --out or use --overwrite"
                )
        if changed:
            count = "1 image has" if len(changed) == 1 else f"{len(changed)} images have"
            raise InputError(
                f"{self.folder}: {count} changed since the mask was written, first"
                f" {changed[0]}; choose another --out or use --overwrite, or remove the masks of these images to"
                " segment them again"
            )
        return done

    def _refuse_second_row(self, image: ImageFile) -> None:
        """Raise InputError if an earlier version named this image by its own folder: it would have two rows."""
        own = self._rows.get(self._key(f"{image.own_name}{image.suffix}")) if image.own_name else None
        if own is None or image.own_name == image.name or own.file_bytes != file_bytes(image.path):
            return
        raise InputError(
            f"{self.folder}: has a row {own.image} for {image.path}, which is now named {image_name(image)}: names are"
            " relative to the folder that holds all images given; choose another --out or use --overwrite, or continue"
            " with one folder or file in each run"
        )

    def _save_rows(self) -> None:
        if not self._rows:
            return
        with atomic_write(self._csv) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            file.write(_csv_line(self._names))
            file.writelines(self._rows[key].line for key in sorted(self._rows))


@contextmanager
def _reporting_full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); free disk space, then run the same command again"
        ) from error


def _describe_change(image: ImageFile, earlier_bytes: int | None) -> list[str]:
    """Return one description if an image's file has another size than before; a missing file has not changed."""
    size = file_bytes(image.path)
    if size is None or size == earlier_bytes:
        return []
    earlier = "unknown" if earlier_bytes is None else earlier_bytes
    return [f"{image.path} (was {earlier} bytes, is {size} bytes)"]


def _files_named_in(table: Path, has_maps: bool) -> Iterator[str]:
    """Yield the masks, overlays and maps that a scores.csv of any version names."""
    if not table.exists():
        return
    with table.open(newline="", encoding="utf-8", errors="replace") as file, suppress(csv.Error):
        for row in csv.DictReader(file):
            if (mask := row.get("mask") or "").endswith(".png"):
                yield mask
                if has_maps:
                    yield probability_name(mask)
            yield overlay_name(without_suffix(row.get("image") or ""))


def _regular_file_below(folder: Path, name: str) -> Path | None:
    """Return the regular file `name` below a folder; None if there is none or a link leads elsewhere.

    A table may come from anybody, and the files that it names are to be removed.
    """
    path = folder / name
    if not os.path.isfile(path) or os.path.islink(path):  # noqa: PTH113, PTH114 - pathlib raises on an invalid name
        return None
    real_folder, real_path = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    return path if real_path.is_relative_to(real_folder) and real_path == real_folder / name else None


def _csv_line(fields: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(fields)
    return text.getvalue()
