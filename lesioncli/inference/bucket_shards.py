"""Shards of a run into a folder or a bucket: how far they are, and how their rows are joined."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from lesioncli.images.ignored import RUN_RECORD
from lesioncli.inference.bucket import LOCK, TABLES, fetch_rows, finish_removal, working_on
from lesioncli.inference.lease import Lease, Note, refuse_if_held
from lesioncli.inference.merge import MergedShards, merge_shards
from lesioncli.inference.rows import CHECKSUMS, SCORES
from lesioncli.inference.shards import MERGED
from lesioncli.inference.status import RunProgress, read_progress
from lesioncli.sharding import SHARDS
from lesioncli.stores import CONNECTIONS, PROBE_RETRIES, ObjectFolder
from lesioncli.urls import Place, Url


def read_progress_of(place: Place) -> list[RunProgress]:
    """Return how far the run into a folder or a bucket is, or each of its shards; see read_progress()."""
    if isinstance(place, Path):
        return read_progress(place)
    with working_on(place) as folder:
        objects = ObjectFolder(place)
        fetch_rows(ObjectFolder(place, PROBE_RETRIES), "", folder, [RUN_RECORD])
        _fetch_shards(objects, folder, [RUN_RECORD])
        return read_progress(folder)


def merge_place(place: Place, note: Note) -> MergedShards:
    """Join the rows and records of the shards of a folder or a bucket; see merge_shards()."""
    return merge_shards(place) if isinstance(place, Path) else _merge_bucket(place, note)


def _merge_bucket(url: Url, note: Note) -> MergedShards:
    """Join the rows and records of the shards of a bucket.

    Whatever stops it, the same call continues. Raises InputError, before anything is changed, as merge_shards() does.
    """
    with working_on(url) as folder:
        objects = ObjectFolder(url)
        lease = Lease(ObjectFolder(url, PROBE_RETRIES), LOCK, note)
        lease.acquire()
        with closing(lease):
            finish_removal(objects)
            parts = fetch_rows(objects, "", folder, [RUN_RECORD])
            for shard in _fetch_shards(objects, folder, TABLES):
                refuse_if_held(objects, f"{shard}/{LOCK}")
            merged = merge_shards(folder)
            if merged.shards:
                lease.check()
                for name in (CHECKSUMS, SCORES, RUN_RECORD):  # no row is ever without its checksums
                    objects.put(name, folder / name)
                objects.delete(parts)
                lease.check()
                objects.put(f"{SHARDS}/{MERGED}", b"")
                finish_removal(objects)
    return merged


def _fetch_shards(objects: ObjectFolder, folder: Path, tables: Sequence[str]) -> list[str]:
    """Fetch tables and journals of all shards; return the names of their folders."""
    shards = objects.list_folders(SHARDS)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(lambda shard: fetch_rows(objects, f"{shard}/", folder, tables), shards))
    return shards
