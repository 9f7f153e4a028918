"""Verify an output folder: read every image, mask, picture and row again, and name what is not as `segment` left it."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from lesioncli.errors import ImageError, InputError
from lesioncli.files import TEMPORARY_ENDING, from_printable, printable, sync_files
from lesioncli.images import png
from lesioncli.images.archives import CUT_SHORT
from lesioncli.images.find import is_folder
from lesioncli.images.ignored import RUN_RECORD, is_output_folder
from lesioncli.images.mask_archives import (
    MaskArchives,
    is_archived,
    list_archives,
    remove_archived,
    split_path,
)
from lesioncli.images.stored import ImagePath, StoredFile, crc32_of_image, reading_errors
from lesioncli.inference.compact_dict import CompactDict
from lesioncli.inference.findings import Finding, Problem, Repair
from lesioncli.inference.inputs import ImageState, compare_status, is_there, locate_image, recorded_roots, recorded_urls
from lesioncli.inference.journal import Journal
from lesioncli.inference.outcome import without_suffix
from lesioncli.inference.packing import is_left_over
from lesioncli.inference.pictures import extra_names, is_whole, regular_file_below
from lesioncli.inference.record import read_record
from lesioncli.inference.rows import CHECKSUMS, JOURNAL, SCORES, Row, RowTables, read_names, row_key
from lesioncli.process import count_cores
from lesioncli.sharding import refuse_unmerged

TABLES = (SCORES, CHECKSUMS, RUN_RECORD, JOURNAL)
OF_OTHER_COMMANDS = ("evaluation.csv", "comparison.csv")
BATCH_ROWS = 1000
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Verification:
    """What verify() found.

    images, masks: number of files that were read. notes: what could not be compared. repaired: number of findings that
    were repaired.
    """

    folder: str
    rows: int
    images: int
    masks: int
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    repaired: int = 0

    @property
    def remaining(self) -> int:
        """Number of findings that were not repaired."""
        return len(self.findings) - self.repaired

    def to_dict(self) -> dict[str, Any]:
        """Return the values by the keys of `verify --json`."""
        problems = [
            {"problem": found.problem, "name": found.name, "detail": found.detail, "repair": found.repair}
            for found in self.findings
        ]
        names = ("folder", "rows", "images", "masks", "repaired")
        return {**{name: getattr(self, name) for name in names}, "problems": problems, "notes": list(self.notes)}


def verify(folder: Path, repair: bool = False, on_progress: Progress = lambda done, total: None) -> Verification:
    """Read every file of an output folder, and the images where run.json says that they are.

    `repair` removes what `segment` must do again: the row and the pictures of an image, a damaged picture beside a
    mask, and temporary files. Foreign files stay.

    Raises InputError if the folder has no rows, if they cannot be read, or if a run is writing to it.
    """
    if not is_folder(folder):
        raise InputError(f"{folder}: no such folder; give the output folder of lesioncli segment")
    refuse_unmerged(folder)
    tables = RowTables(folder, read_names(folder))
    with _locked(tables.journal, repair) as journal:
        check = _Check(folder, tables)
        findings = [*check.tables_and_record(), *check.rows_and_files(on_progress)]
        findings += [*check.archives(), *check.foreign_files()]
        repairable = [found for found in findings if found.repair != Repair.NONE]
        if repair and repairable and journal:
            check.repair(repairable)
            journal.clear()
    return Verification(
        str(folder),
        rows=len(check.rows),
        images=check.images,
        masks=check.masks,
        findings=tuple(findings),
        notes=tuple(check.notes()),
        repaired=len(repairable) if repair else 0,
    )


@contextmanager
def _locked(path: Path, must_lock: bool) -> Iterator[Journal | None]:
    """Keep other runs out; a folder that cannot be written needs no lock."""
    try:
        journal = Journal(path)
    except OSError as error:
        if must_lock:
            raise InputError(f"{path.parent}: cannot be written ({error.strerror}); check its permissions") from error
        yield None
        return
    with closing(journal):
        yield journal


class _Check:
    """The checks of one folder. images, masks: number of files that were read."""

    def __init__(self, folder: Path, tables: RowTables) -> None:
        self._folder, self._tables = folder, tables
        self._record = read_record(folder)
        self.rows = CompactDict(Row)
        for row in tables.read_scores():
            self._add(row)
        self._packed: dict[str, str] = {}  # archived masks of a killed run, by the names of their files
        self._unsynced: list[str] = []
        for row, is_synced in tables.read_journal():
            self._add(row)
            archive, name = split_path(row.mask)
            if archive:
                self._packed[name] = row.mask
            if not is_synced:
                self._unsynced.append(row.mask)
        self._roots = recorded_roots(folder, self._record)
        self._missing_roots = [root for root in self._roots if not is_there(root)]
        self._urls = recorded_urls(self._record)
        self._archives = MaskArchives(folder)
        self._unchecked = 0
        self.images = self.masks = 0

    def _add(self, row: Row) -> None:
        self.rows[row_key(row.image, self._record.names)] = row

    def notes(self) -> list[str]:
        """Return what could not be compared."""
        notes = [f"{root}: no such folder; images that should be in it are not checked" for root in self._missing_roots]
        notes += [f"{url}: images there were not compared; segment --check-inputs does that" for url in self._urls]
        if not self._roots and not self._urls:
            notes.append(f"{RUN_RECORD} names no folder of images: they were not compared")
        if self._unchecked:
            notes.append(f"{self._unchecked} masks of an earlier version have no checksums: only sizes were compared")
        return notes

    def tables_and_record(self) -> Iterator[Finding]:
        """Yield what is wrong with run.json, and rows that are missing."""
        if self._record.engine_sha256 is None:
            problem = Problem.UNREADABLE if (self._folder / RUN_RECORD).exists() else Problem.MISSING
            yield Finding(problem, RUN_RECORD, "without it, segment refuses to continue; restore it or use --overwrite")
        elif interruption := self._record.describe_interruption(len(self.rows)):
            yield Finding(Problem.UNFINISHED, RUN_RECORD, f"{interruption}; run segment again")
        rows = {row.image for row in self.rows.values()}
        for image, _ in self._tables.read_checks():
            if image not in rows:
                yield Finding(Problem.MISSING, image, f"its row is not in {SCORES}", Repair.ROW, image)

    def rows_and_files(self, on_progress: Progress) -> Iterator[Finding]:
        """Yield what is wrong with the image, the mask and the other pictures of each row."""
        items = self.rows.items()
        done = 0
        with ThreadPoolExecutor(count_cores()) as pool:
            while batch := list(islice(items, BATCH_ROWS)):
                for findings in pool.map(self._check_row, batch):
                    done += 1
                    yield from findings
                on_progress(done, len(self.rows))

    def _check_row(self, item: tuple[str, Row]) -> list[Finding]:
        key, row = item
        found = [*self._check_image(row), *self._check_mask(row), *self._check_extras(row)]
        return [replace(finding, row=key) if finding.repair == Repair.ROW else finding for finding in found]

    def _check_image(self, row: Row) -> Iterator[Finding]:
        path = locate_image(row.image, self._roots)
        if path is None:
            if self._roots and not self._missing_roots and not self._urls:
                yield Finding(Problem.MISSING, row.image, "the image is gone; segment --prune removes its row")
            return
        if not row.is_ok:
            return
        self.images += 1
        state = compare_status(path, row, check_content=True)
        try:
            if state == ImageState.UNSURE and crc32_of_image(path) != row.checks.image_crc32:
                state = ImageState.CHANGED
        except OSError as error:
            yield Finding(Problem.UNREADABLE, row.image, str(error.strerror))
        if state == ImageState.CHANGED:
            yield Finding(Problem.CHANGED, row.image, "the image is not that of its mask", Repair.ROW)

    def _check_mask(self, row: Row) -> Iterator[Finding]:
        if not row.is_ok:
            return
        path = self._archives.find(row.mask) or regular_file_below(self._folder, row.mask)
        if path is None and self._is_unreadable(split_path(row.mask)[0]):
            return
        if path is None:
            yield Finding(Problem.MISSING, row.mask or row.image, "its row says ok", Repair.ROW)
            return
        self.masks += 1
        try:
            is_compared = isinstance(path, StoredFile) and row.checks.mask_crc32 is not None  # reading it once suffices
            if not is_compared and not _is_whole(path):
                yield Finding(Problem.TRUNCATED, row.mask, "no PNG to its end", Repair.ROW)
            elif row.checks.mask_crc32 is None:
                self._unchecked += 1
                if self._tables.size_hw(row) != _size_hw(path):
                    yield Finding(Problem.CHANGED, row.mask, "its size is not that of its row", Repair.ROW)
            elif crc32_of_image(path) != row.checks.mask_crc32:
                yield Finding(Problem.CHANGED, row.mask, "its content is not that of its row", Repair.ROW)
        except OSError as error:
            yield Finding(Problem.UNREADABLE, row.mask, str(error.strerror))

    def _check_extras(self, row: Row) -> Iterator[Finding]:
        for name in extra_names(without_suffix(row.image), row.mask, has_maps=True):
            path = regular_file_below(self._folder, name)
            if path and not is_whole(path):
                yield Finding(Problem.TRUNCATED, name, "it does not end as its format does", Repair.FILE)
            elif path and path.suffix == ".png":
                with suppress(OSError):
                    yield from _check_chunks(name, path)

    def _is_unreadable(self, archive: str) -> bool:
        """Return whether an archive is there, but cannot be read: its masks may be whole."""
        problems = self._archives.contents(archive).problems if archive else {}
        return problems.get(str(self._folder / archive), CUT_SHORT) != CUT_SHORT

    def archives(self) -> Iterator[Finding]:
        """Yield archives that are damaged, and members that are no mask of a row, also not an earlier one."""
        in_use = {split_path(row.mask)[0] for row in self.rows.values()}
        names = {f"{key}.png" for key, _ in self.rows.items()}
        for archive in list_archives(self._folder):
            contents, path = self._archives.contents(archive), str(self._folder / archive)
            if self._is_unreadable(archive):
                yield Finding(Problem.UNREADABLE, archive, contents.problems[path])
            elif path in contents.problems:
                is_ours = archive in in_use or bool(contents.files)
                repair = Repair.FILE if is_ours else Repair.NONE
                yield Finding(Problem.TRUNCATED, archive, contents.problems[path], repair)
            members = [f"{archive}/{printable(name)}" for name in contents.files if printable(name) not in names]
            others = (member for member in contents.problems if member != path)
            members += [Path(member).relative_to(self._folder).as_posix() for member in others]
            members += [f"{archive}: {count} {kind}" for kind, count in contents.ignored.items()]
            yield from (Finding(Problem.FOREIGN, member, "no row names it") for member in members)

    def foreign_files(self) -> Iterator[Finding]:
        """Yield files that no row names, and what killed runs left."""
        expected = {*TABLES, *OF_OTHER_COMMANDS, *list_archives(self._folder)}
        for row in self.rows.values():
            if row.is_ok:
                extras = extra_names(without_suffix(row.image), row.mask, has_maps=True)
                expected.update(map(from_printable, (row.mask, *extras)))
                expected.update((row.mask, *extras))
        for directory, folders, files in os.walk(self._folder):
            folders[:] = sorted(name for name in folders if not is_output_folder(Path(directory, name)))
            for file in sorted(files):
                name = Path(directory, file).relative_to(self._folder).as_posix()
                if file.startswith("."):
                    if file.endswith(TEMPORARY_ENDING):
                        yield Finding(Problem.LEFTOVER, printable(name), "", Repair.FILE)
                elif name not in expected:
                    packed = self._packed.get(printable(name), "")
                    if packed and is_left_over(Path(directory, file), self._archives.find(packed)):
                        yield Finding(Problem.LEFTOVER, printable(name), f"in {packed}, too", Repair.FILE)
                    else:
                        yield Finding(Problem.FOREIGN, printable(name), "no row names it")

    def repair(self, findings: Sequence[Finding]) -> None:
        """Remove what `segment` must do again: pictures before their rows, so that the rows still name what is left."""
        paths = [regular_file_below(self._folder, mask) for mask in self._unsynced]
        damaged = [found.name for found in findings if found.repair == Repair.FILE and is_archived(f"{found.name}/x")]
        removed = [row.mask for found in findings if (row := self.rows.get(found.row))]
        remove_archived(self._folder, removed, damaged)
        for finding in findings:
            row = self.rows.pop(finding.row)
            if finding.name in damaged:
                continue
            names = [finding.name] if finding.repair == Repair.FILE else []
            names += [row.mask, *extra_names(without_suffix(row.image), row.mask, has_maps=True)] if row else []
            for path in filter(None, (regular_file_below(self._folder, name) for name in names)):
                path.unlink()
                paths.append(path)
        sync_files(filter(None, paths), self._folder)
        self._tables.save(self.rows.values())


def _is_whole(path: ImagePath) -> bool:
    if isinstance(path, Path):
        return is_whole(path)
    with reading_errors():
        return path.read().data.endswith(png.END)


def _size_hw(path: ImagePath) -> tuple[int, int]:
    if isinstance(path, Path):
        with path.open("rb") as file:
            data = file.read(png.HEADER_BYTES)
    else:
        with reading_errors():
            data = path.read().data
    header = png.read_header(data)
    return header.height, header.width


def _check_chunks(name: str, path: Path) -> Iterator[Finding]:
    try:
        for _ in png.chunks(path.read_bytes()):
            pass
    except ImageError as error:
        yield Finding(Problem.CHANGED, name, error.reason, Repair.FILE)
