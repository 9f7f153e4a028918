"""Results in a bucket: a run writes them to a temporary folder, and moves them.

The bucket alone tells what is done; the folder holds only what was not moved yet. Pictures come first, then the rows
that name them: every 20 seconds, the new lines of the journal become an object of their own below PARTS.
So a row in the bucket always has its mask there. Where rows are withdrawn, it is the other way round.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count, takewhile
from pathlib import Path
from tempfile import TemporaryDirectory

from lesioncli.errors import InputError
from lesioncli.files import crc32_of, printable
from lesioncli.images.ignored import RUN_RECORD
from lesioncli.images.mask_archives import archive_name, is_archived
from lesioncli.images.stored import is_safe_name
from lesioncli.inference.destination import Destination, Sync
from lesioncli.inference.journal import Journal
from lesioncli.inference.lease import Lease, Note, refuse_if_held
from lesioncli.inference.rows import CHECKSUMS, JOURNAL, SCORES
from lesioncli.inference.shards import MERGED
from lesioncli.inference.upload import Uploader
from lesioncli.options import MaskStorage, SegmentOptions, Shard
from lesioncli.sharding import SHARDS, shard_folder
from lesioncli.stores import CONNECTIONS, PROBE_RETRIES, ObjectFolder, StoreError
from lesioncli.urls import WEB, Place, Url

LOCK = "run.lock"
PARTS = "scores.csv.parts"  # folder of the parts of a journal: objects cannot grow
LARGE_BYTES = 2**22  # of files that are not read as a whole
TABLES = (SCORES, CHECKSUMS, RUN_RECORD)
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
ADVICE = "then run the same command again, which continues"


class BucketDestination(Destination):
    """Results below a URL. `rows` is the folder of the rows: "", or that of a shard with "/"."""

    keeps_files = False

    def __init__(
        self, objects: ObjectFolder, folder: Path, options: SegmentOptions, lease: Lease | None = None
    ) -> None:
        super().__init__(folder)
        self.place = objects.url
        self._objects, self._shard, self._lease = objects, options.shard, lease
        self._has_archives = options.masks == MaskStorage.TAR
        self.rows = rows_prefix(options.shard)
        self._stored_crc32: dict[str, int] = {}  # of tables, as the bucket has them
        self._parts: list[str] = []
        self._known: set[str] = set()  # pictures of earlier runs, and of this one
        self._withdrawn: set[str] = set()  # pictures to remove once no row names them

    def fetch(self) -> None:
        """Fetch rows and records of earlier runs, and note which shards there are."""
        self._parts = fetch_rows(self._objects, self.rows, self.folder)
        if self._shard and not (self.folder / self.rows / SCORES).exists():
            fetch_rows(self._objects, "", self.folder)
        for name in TABLES:
            if (path := self.folder / self.rows / name).exists():
                self._stored_crc32[name] = crc32_of(path)
        self._fetch_shards()

    def _fetch_shards(self) -> None:
        """Make the folders of other shards, and fetch a record for each number of shards, to compare with."""
        folders = self._objects.list_folders(SHARDS)
        numbers: set[str] = set()
        for name in (name for name in folders if f"{name}/" != self.rows):
            folder = self.folder / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / JOURNAL).touch()
            if (number := name.rpartition("-")[2]) not in numbers:
                record = f"{name}/{RUN_RECORD}"
                if self._objects.download(record, self.folder / record):
                    numbers.add(number)

    def check_names(self, names: Iterable[str]) -> None:
        if odd := next(filter(_CONTROL_CHARACTER.search, names), None):
            raise InputError(f"{odd!r}: no object can have a name with a control character; rename the image")

    def start_sync(self, journal: Journal) -> Sync:
        return Uploader(self, journal, self._has_archives)

    def learn(self, paths: Iterable[Path]) -> None:
        """Find out which pictures are there: by one listing, for a shard by one question each."""
        names = list(dict.fromkeys(map(self._name, paths)))
        if names and not self._shard:
            self._known.update(name for name, facts in self._objects.list_all() if facts["size"])
            return
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            answers = pool.map(self._objects.has, names)
            self._known.update(name for name, is_there in zip(names, answers, strict=True) if is_there)

    def has(self, path: Path) -> bool:
        return self._name(path) in self._known

    def has_archive(self, name: str) -> bool:
        return name in self._known

    def list_archives(self) -> Iterable[str]:
        if not self._shard:
            return [name for name, _ in self._objects.list_all() if is_archived(f"{name}/x")]
        return takewhile(self._objects.has, (archive_name(self._shard, number) for number in count()))

    def has_folder(self, name: str) -> bool:
        return next(iter(self._objects.list_all(name)), None) is not None

    def remove(self, names: Iterable[str]) -> None:
        """Remove pictures and archives when the rows are published without them; masks stay in their archives."""
        self._withdrawn.update(name for name in names if is_safe_name(name) and not is_archived(name))

    def publish_rows(self) -> None:
        self.check_lock()
        # Whatever stops this, no row is without its checksums: those of new rows are in parts, or are written first.
        for name in (SCORES, CHECKSUMS) if SCORES in self._stored_crc32 or self._parts else (CHECKSUMS, SCORES):
            self._publish(name)
        listed = (name for name, _ in self._objects.list_all(self.rows + PARTS))  # some were not listed at the start
        self._objects.delete(sorted({*self._parts, *listed}))
        self._parts.clear()
        if not (self.folder / self.rows / RUN_RECORD).exists():  # --overwrite: only when there are no rows left
            self._publish(RUN_RECORD)
        self._objects.delete(sorted(self._withdrawn))
        self._known -= self._withdrawn
        self._withdrawn.clear()

    def publish_record(self) -> None:
        self.check_lock()
        self._publish(RUN_RECORD)

    def _publish(self, name: str) -> None:
        """Make a table of the bucket what it is in the folder, where it may be missing."""
        path = self.folder / self.rows / name
        if not path.exists():
            if self._stored_crc32.pop(name, None) is not None:
                self._objects.delete([self.rows + name])
        elif (crc32 := crc32_of(path)) != self._stored_crc32.get(name):
            self._objects.put(self.rows + name, path)
            self._stored_crc32[name] = crc32

    def publish_part(self, lines: bytes) -> None:
        """Upload journal lines; the pictures that they name are already in the bucket."""
        self.check_lock()
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")  # parts are read in the order of their names
        name = f"{self.rows}{PARTS}/{now}"
        self._objects.put(name, lines)
        self._parts.append(name)

    def move(self, paths: Iterable[Path]) -> None:
        """Move the pictures of an image to the bucket; withdraw those that it has there, but not any more here."""
        self.check_lock()
        for path in paths:
            name = self._name(path)
            try:
                content = path if path.stat().st_size > LARGE_BYTES else path.read_bytes()
            except FileNotFoundError:
                if name in self._known:
                    self._withdrawn.add(name)
                continue
            self._objects.put(name, content)
            self._known.add(name)
            self._withdrawn.discard(name)
            path.unlink()

    def check_lock(self) -> None:
        """Raise InputError if another run has taken over."""
        if self._lease:
            self._lease.check()

    def name_source(self, source: Place) -> str:
        return str(source) if isinstance(source, Url) else Path(os.path.realpath(source)).as_posix()

    def _name(self, path: Path) -> str:
        return printable(path.relative_to(self.folder).as_posix())


def rows_prefix(shard: Shard | None) -> str:
    """Return the folder of the rows of a run or a shard, relative to the output folder."""
    return f"{shard_folder(Path(), shard).as_posix()}/" if shard else ""


def fetch_rows(objects: ObjectFolder, rows: str, folder: Path, tables: Sequence[str] = TABLES) -> list[str]:
    """Fetch the tables and the journal of a run or a shard; return the names of the parts of the journal."""
    for name in tables:
        objects.download(rows + name, folder / rows / name)
    parts = sorted(name for name, _ in objects.list_all(rows + PARTS))
    if parts:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            found = [part for part in pool.map(objects.read, parts) if part]
        journal = folder / rows / JOURNAL
        journal.parent.mkdir(parents=True, exist_ok=True)
        journal.write_bytes(b"".join(part.content for part in found))
        modified_s = max((part.modified_s for part in found), default=0.0)
        os.utime(journal, (modified_s, modified_s))
    return parts


@contextmanager
def open_bucket(url: Url, options: SegmentOptions, note: Note, *, to_write: bool = True) -> Iterator[BucketDestination]:
    """Yield a URL as a destination, with the rows of earlier runs; no other run may write to it meanwhile.

    Raises InputError if the store cannot be reached or another run writes there; later errors of the store are
    InputErrors, too.
    """
    with working_on(url) as folder:
        objects = ObjectFolder(url)
        lease = Lease(ObjectFolder(url, PROBE_RETRIES), rows_prefix(options.shard) + LOCK, note) if to_write else None
        bucket = BucketDestination(objects, folder, options, lease)
        if lease:
            lease.acquire()
        try:
            if lease and options.shard:
                refuse_if_held(objects, LOCK)
            if lease:
                finish_removal(objects)
            bucket.fetch()
            yield bucket
        finally:
            if lease:
                lease.close()


@contextmanager
def working_on(url: Url) -> Iterator[Path]:
    """Yield a temporary folder for the files of a bucket; errors name the bucket in its place.

    Raises InputError for errors of the store, and if the URL is that of a web server.
    """
    if url.scheme in WEB:
        raise InputError(
            f"{url}: results cannot be written to a web server; give a folder, or a URL of s3://, gs://, az://"
        )
    with TemporaryDirectory(prefix="lesioncli-", ignore_cleanup_errors=True) as name:
        folder = Path(os.path.realpath(name))
        try:
            yield folder
        except StoreError as error:
            raise InputError(f"{url}: {error.strerror}; {ADVICE}") from error
        except FileNotFoundError as error:
            if error.filename:  # of a file
                raise
            raise InputError(f"{url}: no such bucket; check the URL, and the region") from error
        except InputError as error:
            if isinstance(error.__cause__, StoreError):
                raise InputError(f"{url}: {error.__cause__.strerror}; {ADVICE}") from error
            if isinstance(error.__cause__, OSError):  # of the disk that holds the folder
                raise
            raise InputError(str(error).replace(str(folder), str(url).rstrip("/"))) from error


def finish_removal(objects: ObjectFolder) -> None:
    """Remove the objects of shards that were merged."""
    marker = f"{SHARDS}/{MERGED}"
    if (merged := objects.read(marker)) is None:
        return
    # Later ones are of a new run that found the mark of the merge, too.
    found = objects.list_all(SHARDS)
    old = [name for name, facts in found if facts["last_modified"].timestamp() <= merged.modified_s and name != marker]
    objects.delete(old)
    objects.delete([marker])
