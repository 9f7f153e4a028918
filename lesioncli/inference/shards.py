"""Shards of a run into one output folder: which images one has, and that they do not write over each other."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from lesioncli.errors import InputError
from lesioncli.files import make_folder
from lesioncli.images.find import ImageListing, WholeListing
from lesioncli.images.ignored import RUN_RECORD
from lesioncli.inference.journal import Journal, lock_of
from lesioncli.inference.outcome import image_name
from lesioncli.inference.record import MaskNames, RunIdentity, RunRecord, read_record
from lesioncli.inference.rows import CHECKSUMS, JOURNAL, SCORES, row_key
from lesioncli.options import Shard
from lesioncli.sharding import SHARDS, contains, find_shards, refuse_unmerged, shard_folder

MERGED = "merged"  # file in SHARDS: the rows are in the output folder, and those of the shards are being removed
LOCK_TIMEOUT_S = 30.0  # other shards have the lock for some milliseconds


def select_images(listing: ImageListing, shard: Shard, names: MaskNames) -> ImageListing:
    """Return the images of a shard, which may be none.

    Raises InputError if a mask would lie among the rows of shards.
    """
    mask = next((image.mask_name for image in listing.images if image.mask_name.startswith(f"{SHARDS}/")), None)
    if mask:
        raise InputError(
            f"{mask}: masks of a folder {SHARDS}/ would be among those of shards; rename it, or set --root"
        )
    own_names = list(map(image_name, listing.images))
    images = [
        image for image, name in zip(listing.images, own_names, strict=True) if contains(shard, row_key(name, names))
    ]
    digest = hashlib.sha256("\n".join(own_names).encode()).hexdigest()
    return replace(listing, images=images, whole=WholeListing(len(own_names), digest))


def open_journal(out: Path, shard: Shard | None, identity: RunIdentity, overwrite: bool) -> Journal:
    """Open the journal of a run into `out`, or of one of its shards.

    Raises InputError if another process writes there, if a whole run finds shards, or if the results of a shard could
    not be merged with those of the others. Raises OSError.
    """
    if shard is None:
        journal = Journal(out / JOURNAL)
        try:
            finish_removal(out)
            check_shards(out, None, identity, overwrite)
        except BaseException:
            journal.close()
            raise
        return journal
    with _locked(out):
        finish_removal(out)
        check_shards(out, shard, identity, overwrite)
        make_folder(shard_folder(out, shard))
        return Journal(shard_folder(out, shard) / JOURNAL)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep whole runs and merges out of the folder for a moment."""
    lock = lock_of(out / JOURNAL)
    if not lock.acquire(LOCK_TIMEOUT_S):
        raise InputError(
            f"{out}: a run without --shard or a merge is writing to this folder; wait until it ends or choose another"
            " folder with --out"
        )
    try:
        yield
    finally:
        lock.release()


def check_shards(out: Path, shard: Shard | None, identity: RunIdentity, overwrite: bool) -> None:
    """Raise InputError if a whole run finds shards, or if a shard would overlap with others or mix masks of runs."""
    if shard is None:
        refuse_unmerged(out)
        return
    others = [other for other in find_shards(out) if other != shard]
    if odd := next((other for other in others if other.count != shard.count), None):
        raise InputError(
            f"{shard_folder(out, odd)}: shard {odd} overlaps with {shard}; merge or remove the folder {out / SHARDS},"
            f" or use --shard K/{odd.count}"
        )
    if overwrite:
        if any((out / name).exists() for name in (SCORES, JOURNAL, RUN_RECORD)):
            raise InputError(
                f"{out}: has the results of a whole run, which --overwrite would not remove in a shard; choose another"
                " folder with --out"
            )
        return
    for other in others:
        folder = shard_folder(out, other)
        if (folder / RUN_RECORD).exists():
            check_same_run(f"shard {other}", read_record(folder).identity, identity, str(folder))
            return  # each was compared with an earlier one


def check_same_run(title: str, earlier: dict[str, object], identity: RunIdentity, where: str) -> None:
    """Raise InputError if the recorded values of another shard are not those of this run."""
    for name, value in earlier.items():
        own = getattr(identity, name)
        if value != own:
            raise InputError(
                f"{where}: {title} has masks made with {name} {value}, not {own}; choose another --out, or run all"
                " shards again with the same engine and options, and --overwrite"
            )


def read_shard_record(out: Path, shard: Shard | None) -> RunRecord:
    """Return the record of a shard, or before its first run that of the output folder."""
    own = shard_folder(out, shard)
    return read_record(own if (own / RUN_RECORD).exists() else out)


def finish_removal(out: Path) -> None:
    """Remove the rows and records of shards that were merged; files of anybody else stay."""
    marker = out / SHARDS / MERGED
    if not marker.exists():
        return
    for shard in find_shards(out):
        folder = shard_folder(out, shard)
        for name in (SCORES, CHECKSUMS, JOURNAL, lock_name(), RUN_RECORD):
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
    marker.unlink()
    with suppress(OSError):
        (out / SHARDS).rmdir()


def lock_name() -> str:
    """Return the name of the lock of a journal."""
    return f".{JOURNAL}.lock"
