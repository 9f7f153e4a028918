"""What a run leaves: masks, scores.csv, run.json. Everything is written aside and renamed.

While a run goes on, its rows are appended to scores.csv.part, each after its mask has its final name. Whatever stops
the run, the next one starts from scores.csv and that file: a row means that the mask is there, whole.
"""

import csv
import heapq
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lesioncli import isic
from lesioncli.errors import InputError
from lesioncli.files import atomic_write, printable
from lesioncli.images.find import RUN_RECORD, ImageFile, file_bytes
from lesioncli.images.geometry import UInt8
from lesioncli.inference.journal import Journal

OK, FAILED, SKIPPED = "ok", "failed", "skipped"
ABOUT = ("image", "mask", "width", "height", "bytes", "status", "reason")  # columns before those of the figures
# 8 bits a pixel, 0 or 255, as the challenges' own masks: a 1-bit file is smaller, but reads as True and False in many
# programs, where "> 128" then finds no lesion. Without filters this costs a quarter of opencv's default.
PNG_OPTIONS = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)

# What a run.json means that was written before this key was.
BEFORE_IT_WAS_SAID = {"tta": "none", "names": "images", "regions": "all"}


@dataclass(frozen=True)
class Outcome:
    """One per input. A failed one says at which stage and why; a skipped one was done by an earlier run.

    stored_hw is (0, 0) where the image could not be read. file_bytes is the size that its file had when it was read,
    None where there was none. seconds are CPU seconds by stage.
    """

    image: ImageFile
    status: str
    stored_hw: tuple[int, int] = (0, 0)
    file_bytes: int | None = None
    stage: str = ""
    reason: str = ""
    note: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


class RunFolder:
    """The folder `segment --out` names: knows what is done, takes what comes, ends whole. One run at a time has it.

    `identity` is what all its masks share (engine, precision, threshold, tta, regions, names); a folder with another
    one is refused with an InputError unless `overwrite`, which starts anew. So is one where any of `images`, those of
    this run, is done but another file by now, or would take the mask of another image. `value_names` are the columns
    after the fixed ones.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        value_names: Sequence[str],
        images: Sequence[ImageFile] = (),
        *,
        overwrite: bool = False,
    ) -> None:
        self.folder = folder
        self._identity = dict(identity)
        self._columns = (*ABOUT, *value_names, "note")
        self._csv = folder / "scores.csv"
        self._part = folder / "scores.csv.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(self._part)
            try:
                self._begin(images, overwrite)
            except BaseException:
                self._journal.close()
                raise
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from error

    def _begin(self, images: Sequence[ImageFile], overwrite: bool) -> None:
        """Take over what earlier runs left, or refuse to before anything is changed; nobody else is writing here."""
        if overwrite:  # now, or a run that is killed leaves the next one rows of another engine
            self._remove_earlier()
        self._rows = self._earlier_rows()
        self._check_masks(images)
        self._check_files(images)
        self._save_rows()
        self._journal.clear()
        self._journal.append(_csv_line(self._columns))

    def is_done(self, image: ImageFile) -> bool:
        """Whether an earlier run left this image's row, without failure, and its mask."""
        return self._done_row(image) is not None

    def add(self, outcome: Outcome) -> None:
        """Record one outcome; a skipped one has its row already, a failed one no mask and no overlay, even old."""
        if outcome.status == SKIPPED:
            return
        if outcome.status == FAILED:
            with suppress(OSError):  # a mask that cannot be written often cannot be removed either
                mask_path(self.folder, outcome.image).unlink(missing_ok=True)
                self.remove_overlay(outcome.image)
        row = self._row(outcome)
        line = self._rows[self._goes_by(row[0])] = _csv_line(row)
        with _room_for(self._part):
            self._journal.append(line)

    def remove_overlay(self, image: ImageFile) -> None:
        """Remove an image's overlay, if it has one; OSError where that cannot be done."""
        if path := _below(self.folder, overlay_name(image.name)):
            path.unlink()

    def least_sure(self, count: int) -> list[tuple[str, float]]:
        """Names of the images, of all runs into this folder, whose masks have the least confidence; and that."""
        confidence = self._columns.index("confidence")
        status = self._columns.index("status")
        rows = (row for row in csv.reader(self._rows.values()) if row[status] == OK)
        return heapq.nsmallest(count, ((row[0], float(row[confidence])) for row in rows), key=lambda each: each[::-1])

    def finish(self, report: Mapping[str, Any]) -> None:
        """Rows sorted into scores.csv, `report` and identity into run.json; then another run may have the folder.

        Where scores.csv cannot be written, the journal keeps this run's rows for the next one.
        """
        try:
            with _room_for(self._csv):
                self._save_rows()
                self._journal.clear()
            self.describe(report)
        finally:
            self._journal.close()

    def describe(self, report: Mapping[str, Any]) -> None:
        """Write run.json: at the start of a run, so that an interrupted one is known, and at its end."""
        content = json.dumps({**self._identity, **report}, indent=1) + "\n"
        with _room_for(self.folder / RUN_RECORD):
            write_whole(self.folder / RUN_RECORD, content.encode())

    def _remove_earlier(self) -> None:
        """Masks and overlays first: whatever stops this, the rows still name those that are left."""
        tables = (self._csv, self._part)
        for name in (name for table in tables for name in _files_named_in(table)):
            if path := _below(self.folder, name):
                path.unlink()
        for path in (self._csv, self.folder / RUN_RECORD):
            path.unlink(missing_ok=True)
        self._journal.clear()

    def _earlier_rows(self) -> dict[str, str]:
        """Rows by what they go by, each as its line: of a million, lists of fields would take a gigabyte."""
        paths = [path for path in (self._csv, self._part) if path.exists()]
        rows = {self._goes_by(row[0]): _csv_line(row) for path in paths for row in self._read(path)}
        if rows:
            self._check_identity()
        return rows

    def _read(self, path: Path) -> Iterator[list[str]]:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            # A row that a crash cut short, maybe inside a letter, is not whole, so its image is done again.
            reader = csv.reader(line for line in file if line.endswith(("\r", "\n")))
            if tuple(next(reader, ())) not in ((), self._columns):
                raise InputError(f"{path}: has other columns than this run's; choose another --out or use --overwrite")
            yield from (row for row in reader if len(row) == len(self._columns))

    def _goes_by(self, name: str) -> str:
        """What an image's row goes by, given its name: all that would have one mask share a row, the newest."""
        bare = without_suffix(name)
        return isic.named_by_id(bare) if self._identity.get("names") == "isic" else bare

    def _row_of(self, image: ImageFile) -> Mapping[str, str]:
        """By column, the row of an image or of another that would have its mask; nothing where there is none."""
        line = self._rows.get(self._goes_by(image_name(image)))
        return dict(zip(self._columns, next(csv.reader([line])), strict=True)) if line else {}

    def _done_row(self, image: ImageFile) -> Mapping[str, str] | None:
        """The row of an image that is done, by column."""
        row = self._row_of(image)
        is_ok = row.get("image") == image_name(image) and row["status"] == OK
        return row if is_ok and mask_path(self.folder, image).is_file() else None

    def _check_masks(self, images: Sequence[ImageFile]) -> None:
        """InputError where the mask that an image would get by its number is that of an image by another name."""
        for image in (image for image in images if image.mask):
            row = self._row_of(image)
            is_other = row and row["status"] == OK and without_suffix(row["image"]) != without_suffix(image_name(image))
            if is_other and mask_path(self.folder, image).is_file():
                raise InputError(
                    f"{self.folder}: the mask {image.mask_name} is of {row['image']}, and {image.path} would take its"
                    " place; choose another --out, or --overwrite to start anew"
                )

    def _check_files(self, images: Sequence[ImageFile]) -> None:
        """InputError where an image that is done has another size by now: its mask is of another picture."""
        changed = [each for image in images if (each := self._change_of(image))]
        if changed:
            raise InputError(
                f"{self.folder}: images that are done here have other files now, {len(changed)} in all, the first"
                f" {changed[0]}; choose another --out, use --overwrite to start anew, or remove the masks of those"
                " images, and they are done again"
            )

    def _change_of(self, image: ImageFile) -> str:
        """What the file of an image that is done was and is; "" where it has the same size, or cannot be looked at."""
        row = self._done_row(image)
        now = file_bytes(image.path) if row else None
        if row is None or now is None or row["bytes"] == str(now):
            return ""
        return f"{image.path} ({row['bytes'] or 'unknown'} bytes then, {now} now)"

    def _check_identity(self) -> None:
        found = read_run(self.folder)
        for key, value in self._identity.items():
            if found.get(key) != value:
                raise InputError(
                    f"{self.folder}: holds masks made with {key} {found.get(key, 'unknown')}, this run has {value};"
                    " choose another --out, or --overwrite to start anew"
                )

    def _row(self, outcome: Outcome) -> list[str]:
        height, width = outcome.stored_hw
        mask = printable(outcome.image.mask_name) if outcome.status == OK else ""
        reason = f"{outcome.stage}: {outcome.reason}" if outcome.reason else ""
        values = [_digits(outcome.values.get(name)) for name in self._columns[len(ABOUT) : -1]]
        size = [str(width), str(height)] if width else ["", ""]
        size.append("" if outcome.file_bytes is None else str(outcome.file_bytes))
        return [image_name(outcome.image), mask, *size, outcome.status, reason, *values, outcome.note]

    def _save_rows(self) -> None:
        if not self._rows:
            return
        with atomic_write(self._csv) as aside, aside.open("w", newline="", encoding="utf-8") as file:
            file.write(_csv_line(self._columns))
            file.writelines(self._rows[name] for name in sorted(self._rows))


@contextmanager
def _room_for(path: Path) -> Iterator[None]:
    """InputError where the disk refuses what is written inside."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; make room, then run the same command again") from error


def read_run(folder: Path) -> Mapping[str, Any]:
    """What run.json says; nothing where it is not there or cannot be read."""
    try:
        return {**BEFORE_IT_WAS_SAID, **json.loads((folder / RUN_RECORD).read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError):
        return {}


def image_name(image: ImageFile) -> str:
    """How a row names its image: relative, with suffix."""
    return printable(image.name + image.path.suffix)


def _files_named_in(table: Path) -> Iterator[str]:
    """Masks and overlays of the rows of a scores.csv, of whatever version, in the folder where it lies."""
    if not table.exists():
        return
    with table.open(newline="", encoding="utf-8", errors="replace") as file, suppress(csv.Error):
        for row in csv.DictReader(file):
            if (mask := row.get("mask") or "").endswith(".png"):
                yield mask
            yield overlay_name(without_suffix(row.get("image") or ""))


def _below(folder: Path, name: str) -> Path | None:
    """The file of that name below a folder; None where there is none, or the name leads elsewhere, if only by a link.

    A table may come from anybody, and what it names is to be removed.
    """
    path = folder / name
    if not os.path.isfile(path) or os.path.islink(path):  # noqa: PTH113, PTH114 - pathlib raises where no name can be so
        return None
    real, here = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    return path if here.is_relative_to(real) and here == real / name else None


def _csv_line(fields: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(fields)
    return text.getvalue()


def without_suffix(name: str) -> str:
    """An image's name by which its mask is called: x.jpg and x.png would have one."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + (file.rpartition(".")[0] or file)


def overlay_name(name: str) -> str:
    """Of the overlay's file, below the folder of masks, for an image by its name without suffix."""
    return f"overlays/{name}.jpg"


def overlay_path(folder: Path, image: ImageFile) -> Path:
    """Where an image's overlay lies."""
    return folder / overlay_name(image.name)


def mask_path(folder: Path, image: ImageFile) -> Path:
    """Where an image's mask lies: sub-folders mirrored, never flattened."""
    return folder / image.mask_name


def write_mask(path: Path, mask: UInt8) -> None:
    """Write (H, W) 0/255 as PNG, whole or not at all. OSError where the disk or the format refuses."""
    write_picture(path, mask, PNG_OPTIONS)


def write_picture(path: Path, picture: UInt8, options: Sequence[int]) -> None:
    """Write grey or BGR pixels in the format of the suffix, whole or not at all; libpng takes 1,000,000 a side.

    OSError where the disk or the format refuses.
    """
    is_encoded, content = cv2.imencode(path.suffix, picture, options)
    if not is_encoded:
        height, width = picture.shape[:2]
        raise OSError(f"{width} x {height} pixels cannot be written as {path.suffix}; give a smaller picture")
    write_whole(path, np.asarray(content).tobytes())


def write_whole(path: Path, content: bytes) -> None:
    with atomic_write(path) as aside:
        aside.write_bytes(content)


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"
