"""Join the rows and records of shards: what one run without --shard would have left."""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import msgspec

from lesioncli.errors import InputError
from lesioncli.files import atomic_write
from lesioncli.inference.compact_dict import CompactDict
from lesioncli.inference.journal import Journal
from lesioncli.inference.outcome import sort_by_name
from lesioncli.inference.record import RunIdentity, RunRecord, RunStatus, read_record, write_record
from lesioncli.inference.rows import JOURNAL, SCORES, Row, RowTables, read_names, row_key
from lesioncli.inference.shards import MERGED, check_same_run, finish_removal
from lesioncli.options import Shard
from lesioncli.sharding import SHARDS, contains, find_shards, shard_folder

T = TypeVar("T")

MAX_SHARDS_SHOWN = 20
VERSIONS = ("lesioncli", "backend", "model", "classes", "engines")  # the same in all shards, beside RunIdentity


@dataclass(frozen=True)
class MergedShards:
    """Number of shards that were merged, 0 if that was done before, and the counts of their images."""

    shards: int
    images: int
    ok: int
    failed: int
    skipped: int


def merge_shards(out: Path) -> MergedShards:
    """Write scores.csv, checksums.csv and run.json of all shards of an output folder, and remove those of the shards.

    Whatever stops it, the same call continues.

    Raises InputError, before anything is changed, if there are no shards, if one is missing, not finished or being
    written, or if they are of different runs.
    """
    if not out.is_dir():
        raise InputError(f"{out}: no such folder; give the output folder of lesioncli segment --shard")
    with closing(Journal(out / JOURNAL)) as journal:
        finish_removal(out)
        shards = find_shards(out)
        if not shards:
            return _describe_merged(out)
        with ExitStack() as stack:
            _require_all(out, shards)
            for shard in shards:
                stack.enter_context(closing(Journal(shard_folder(out, shard) / JOURNAL)))
            records = {shard: read_record(shard_folder(out, shard)) for shard in shards}
            _require_finished(out, records)
            _require_same_run(out, records)
            tables, of_shards = _read_rows(out, records)
            merged = _merge_records(list(records.values()))
            tables.save(row for _, row in heapq.merge(*(rows.items() for rows in of_shards)))  # no key is in two
            write_record(out, merged)
            journal.clear()
            with atomic_write(out / SHARDS / MERGED) as temporary:
                temporary.touch()
        finish_removal(out)
    return _count(len(shards), merged)


def _describe_merged(out: Path) -> MergedShards:
    record = read_record(out)
    if record.engine_sha256 is None:
        raise InputError(f"{out}: has no shards; run lesioncli segment with --shard first")
    return _count(0, record)


def _count(shards: int, record: RunRecord) -> MergedShards:
    return MergedShards(shards, record.images or 0, record.ok or 0, record.failed or 0, record.skipped or 0)


def _require_all(out: Path, shards: Sequence[Shard]) -> None:
    count = shards[-1].count
    if odd := [str(shard) for shard in shards if shard.count != count]:
        raise InputError(
            f"{out / SHARDS}: shards {', '.join(odd)} overlap with those of {count}; remove the folders of one number"
        )
    present = {shard.index for shard in shards}
    _refuse(out, "missing", [Shard(index, count) for index in range(1, count + 1) if index not in present])


def _require_finished(out: Path, records: dict[Shard, RunRecord]) -> None:
    _refuse(out, "not finished", [shard for shard, record in records.items() if record.status != RunStatus.FINISHED])


def _refuse(out: Path, problem: str, shards: Sequence[Shard]) -> None:
    """Raise InputError if there are shards with a problem that their run solves."""
    if shards:
        named = ", ".join(map(str, shards[:MAX_SHARDS_SHOWN]))
        more = f" and {len(shards) - MAX_SHARDS_SHOWN} more" if len(shards) > MAX_SHARDS_SHOWN else ""
        raise InputError(
            f"{out}: shards {problem}: {named}{more}; run the same lesioncli segment command with --shard {shards[0]}"
            f"{', and so on' * (len(shards) > 1)}, then lesioncli merge {out}"
        )


def _require_same_run(out: Path, records: dict[Shard, RunRecord]) -> None:
    """Raise InputError if shards differ in engine, options or version, or listed different images."""
    (first, expected), *others = records.items()
    identity = msgspec.convert(expected.identity, RunIdentity)
    margins: dict[float, Shard] = {}
    for shard, record in records.items():
        if record.crops is not None:
            margins.setdefault(record.crops, shard)
    if len(margins) > 1:
        raise InputError(f"{out}: shards have cut-outs with different margins: {margins}; segment one of them again")
    for shard, record in others:
        check_same_run(f"shard {shard}", record.identity, identity, str(out))
        for name in VERSIONS:
            if (value := getattr(record, name)) != (own := getattr(expected, name)):
                raise InputError(
                    f"{out}: shard {first} has masks made with {name} {own}, shard {shard} with {value}; run one of"
                    " them again with --overwrite"
                )
        if record.listing_sha256 != expected.listing_sha256:
            early, late = sorted((first, shard), key=lambda one: records[one].started or "")
            raise InputError(
                f"{out}: shard {first} was one of {expected.listed} images, shard {shard} of {record.listed} or of"
                f" others: the folder has changed between {early} and {late}; run all shards again, which skips what is"
                " done, or freeze the images with lesioncli list"
            )


def _read_rows(out: Path, records: dict[Shard, RunRecord]) -> tuple[RowTables, list[CompactDict[Row]]]:
    """Return the tables of the output folder, and the rows of each shard by their key."""
    with_rows = [shard for shard in records if (shard_folder(out, shard) / SCORES).exists()]
    if not with_rows:
        raise InputError(f"{out}: no shard has rows; run all shards again")
    names = read_names(shard_folder(out, with_rows[0]))
    of_shards: list[CompactDict[Row]] = []
    for shard in with_rows:
        folder, rows = shard_folder(out, shard), CompactDict(Row)
        for row in RowTables(folder, names).read_scores():
            key = row_key(row.image, records[shard].names)
            if not contains(shard, key):
                raise InputError(
                    f"{folder / SCORES}: {row.image} is not in shard {shard}; run it again with --overwrite"
                )
            rows[key] = row
        rows.pack()
        of_shards.append(rows)
    return RowTables(out, names), of_shards


def _merge_records(records: Sequence[RunRecord]) -> RunRecord:
    """Return the record that one run would have left; times are from the first start to the last end."""
    latest = max(records, key=lambda record: record.started or "")
    started = min(record.started or "" for record in records)
    failures = [record.failures for record in records if record.failures is not None]
    cpu_seconds: Counter[str] = Counter()
    for record in records:
        cpu_seconds.update(record.cpu_seconds or {})
    return msgspec.structs.replace(
        latest,
        python=_common([record.python for record in records]),
        device=" and ".join(_union([record.device] if record.device else [] for record in records)),
        batch=_common([record.batch for record in records]),
        workers=_common([record.workers for record in records]),
        sources=_union(record.sources for record in records),
        roots=_union(record.roots for record in records),
        unreadable=_union(record.unreadable for record in records),
        images=_sum(records, lambda record: record.images),
        ok=_sum(records, lambda record: record.ok),
        failed=_sum(records, lambda record: record.failed),
        skipped=_sum(records, lambda record: record.skipped),
        started=started,
        seconds=round((max(map(_end, records)) - _parse(started)).total_seconds(), 3),
        cpu_seconds={stage: round(seconds, 3) for stage, seconds in cpu_seconds.items()},
        failures=_merge_failures(failures) if failures else None,
        probabilities=any(record.probabilities for record in records) or None,
        crops=next((record.crops for record in records if record.crops is not None), None),
        shard=None,
        listed=None,
        listing_sha256=None,
    )


def _merge_failures(failures: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return the failures of all shards, in the order of the images of a run."""
    return sort_by_name({name: reason for one in failures for name, reason in one.items()})


def _common(values: Sequence[T]) -> T | None:
    """Return the value that all shards have, None if they differ."""
    return values[0] if len(set(values)) == 1 else None


def _union(values: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for some in values for value in some))


def _sum(records: Sequence[RunRecord], count: Callable[[RunRecord], int | None]) -> int:
    return sum(count(record) or 0 for record in records)


def _parse(started: str | None) -> datetime:
    return datetime.fromisoformat(started) if started else datetime.now(UTC)


def _end(record: RunRecord) -> datetime:
    return _parse(record.started) + timedelta(seconds=record.seconds or 0)
