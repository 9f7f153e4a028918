"""What earlier runs left in an output folder, and which images are left to do. Nothing is changed here."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from lesioncli import isic
from lesioncli.errors import InputError
from lesioncli.images.find import PROBABILITIES, ImageFile, file_bytes
from lesioncli.inference.outcome import LATER_COLUMNS, Column, image_name, read_count, read_number, without_suffix
from lesioncli.inference.pictures import extra_paths, is_whole, mask_path
from lesioncli.inference.record import MaskNames, RunIdentity, read_record
from lesioncli.options import SegmentOptions, Status

TABLE, JOURNAL = "scores.csv", "scores.csv.part"


class ToDo(StrEnum):
    """Why an image is to be segmented."""

    NEW = "new"
    FAILED = "failed before"
    NO_MASK = "mask missing or cut off"
    NO_PICTURE = "picture beside the mask missing or cut off"


class Row(NamedTuple):  # created twice as fast as a frozen dataclass, for every image of earlier runs
    """A row of scores.csv. It keeps its text: lists of fields would take a gigabyte for a million images."""

    line: str
    image: str
    is_ok: bool
    file_bytes: int | None
    confidence: float


class EarlierResults:
    """The run record and the rows of an output folder, by the key of their image; none if there is no such folder.

    `columns` are those of this run, see output_columns(). `csv` and `part` are the paths of the table and the journal.

    Raises InputError if the rows belong to another `identity` or have other columns.
    """

    def __init__(self, folder: Path, identity: RunIdentity, columns: Sequence[Column]) -> None:
        self.folder = folder
        self.csv = folder / TABLE
        self.part = folder / JOURNAL
        self.names = [column.name for column in columns]
        self._identity = identity
        self._pick_fields = itemgetter(*map(self.names.index, ("image", "status", "bytes", "confidence")))
        self.record = read_record(folder)
        # Rows of an interrupted run, in the journal, replace older ones.
        self.rows = {self.key(row.image): row for path in (self.csv, self.part) for row in self._read_table(path)}
        if self.rows:
            self._check_identity()

    def key(self, name: str) -> str:
        """Return the key of an image's row. All images that would have the same mask share a row: the newest."""
        stem = without_suffix(name)
        return isic.name_by_id(stem) if self._identity.names == MaskNames.ISIC else stem

    def parse(self, fields: Sequence[str], location: str = "") -> Row:
        """Return the row of these fields; InputError, which names its location, if one is not a number."""
        image, status, size, confidence = self._pick_fields(fields)
        return Row(
            line=csv_line(fields),
            image=image,
            is_ok=status == Status.OK,
            file_bytes=read_count(size, location, "bytes"),
            confidence=read_number(confidence, location, "confidence"),
        )

    def _read_table(self, path: Path) -> Iterator[Row]:
        if not path.exists():
            return
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            # A crash may truncate the last row, even inside a character; its image is segmented again.
            reader = csv.reader(line for line in file if line.endswith(("\r", "\n")))
            try:
                header = next(reader, [])
                self._check_columns(path, header)
                for fields in reader:
                    if len(fields) == len(header):
                        yield self.parse(self._complete(header, fields), f"{path}, line {reader.line_num}")
                    elif path == self.csv:
                        raise InputError(
                            f"{path}, line {reader.line_num}: {len(fields)} fields, but the header has"
                            f" {len(header)}; correct or remove the line"
                        )
            except csv.Error as error:
                raise InputError(f"{path}, line {reader.line_num}: {error}; correct or remove the line") from error

    def _check_columns(self, path: Path, header: Sequence[str]) -> None:
        required = [name for name in self.names if name in header or name not in LATER_COLUMNS]
        if header and header != required:
            if self.record.engine_sha256:  # another engine, which may have other columns, is the better reason
                self._check_identity()
            raise InputError(f"{path}: its columns are not those of this run; choose another --out or use --overwrite")

    def _complete(self, header: Sequence[str], fields: Sequence[str]) -> Sequence[str]:
        """Return the fields with an empty one for each column that the table of an earlier version lacks."""
        if len(header) == len(self.names):
            return fields
        by_name = dict(zip(header, fields, strict=True))
        return [by_name.get(name, "") for name in self.names]

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
        names = (*(image.mask_name for image in images), *(row.image for row in self.rows.values()))
        below = next((name for name in names if name.startswith(f"{PROBABILITIES}/")), None)
        if (options.save_probabilities or self.record.probabilities) and below:
            raise InputError(
                f"{self.folder}: {below} would be among the probability maps; segment the images in a folder"
                f" {PROBABILITIES}/ to another --out, or rename it"
            )

    def find_masked(self, images: Iterable[ImageFile]) -> dict[str, ToDo | None]:
        """Return by name of the image None if it has a row without failure and a whole mask, else what is missing.

        Raises InputError if the file of an image that has both has another size than before, or if an image would, by
        its ISIC number, take the mask of another.
        """
        missing: dict[str, ToDo | None] = {}
        changed: list[str] = []
        for image in images:
            name = image_name(image)
            row = self.rows.get(self.key(name))
            if row is None:
                self._refuse_second_row(image)
                missing[image.name] = ToDo.NEW
            elif not row.is_ok:
                missing[image.name] = ToDo.FAILED
            elif not is_whole(mask_path(self.folder, image)):
                missing[image.name] = ToDo.NO_MASK
            elif row.image == name:
                missing[image.name] = None
                changed += _describe_change(image, row.file_bytes)
            else:
                self._refuse_mask_of_another(image, row)
                missing[image.name] = ToDo.NEW
        if changed:
            count = "1 image has" if len(changed) == 1 else f"{len(changed)} images have"
            raise InputError(
                f"{self.folder}: {count} changed since the mask was written, first"
                f" {changed[0]}; choose another --out or use --overwrite, or remove the masks of these images to"
                " segment them again"
            )
        return missing

    def _refuse_mask_of_another(self, image: ImageFile, row: Row) -> None:
        if image.mask and without_suffix(row.image) != without_suffix(image_name(image)):
            raise InputError(
                f"{self.folder}: the mask {image.mask_name} belongs to {row.image}, {image.path} would replace it;"
                " choose another --out or use --overwrite"
            )

    def _refuse_second_row(self, image: ImageFile) -> None:
        """Raise InputError if an earlier version named this image by its own folder: it would have two rows."""
        own = self.rows.get(self.key(f"{image.own_name}{image.suffix}")) if image.own_name else None
        if own is None or image.own_name == image.name or own.file_bytes != file_bytes(image.path):
            return
        raise InputError(
            f"{self.folder}: has a row {own.image} for {image.path}, which is now named {image_name(image)}: names are"
            " relative to the folder that holds all images given; choose another --out or use --overwrite, or continue"
            " with one folder or file in each run"
        )


def find_to_do(
    folder: Path, images: Iterable[ImageFile], missing: Mapping[str, ToDo | None], options: SegmentOptions
) -> list[ToDo | None]:
    """Return for each image why it is to be segmented, None if it is done; `missing` is that of find_masked()."""

    def reason(image: ImageFile) -> ToDo | None:
        if problem := missing.get(image.name, ToDo.NEW):
            return problem
        return None if all(map(is_whole, extra_paths(folder, image, options))) else ToDo.NO_PICTURE

    return list(map(reason, images))


def _describe_change(image: ImageFile, earlier_bytes: int | None) -> list[str]:
    """Return one description if an image's file has another size than before; a missing file has not changed."""
    size = file_bytes(image.path)
    if size is None or size == earlier_bytes:
        return []
    earlier = "unknown" if earlier_bytes is None else earlier_bytes
    return [f"{image.path} (was {earlier} bytes, is {size} bytes)"]


def csv_line(fields: Sequence[str]) -> str:
    """Return fields as a line of a CSV."""
    text = io.StringIO(newline="")
    csv.writer(text).writerow(fields)
    return text.getvalue()
