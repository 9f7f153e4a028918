"""How far a run is, or each shard of it, read from its folder while it runs."""

import csv
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from lesioncli.errors import InputError
from lesioncli.files import from_cell, stat_file
from lesioncli.images.ignored import RUN_RECORD
from lesioncli.images.mask_archives import is_archived
from lesioncli.inference.record import RunRecord, RunStatus, read_record
from lesioncli.inference.rows import JOURNAL
from lesioncli.options import Shard, Status
from lesioncli.sharding import find_shards, shard_folder


class RunState(StrEnum):
    """State of a run or shard. One that was killed stays `running`: its last sign of life tells."""

    NOT_STARTED = "not started"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"


@dataclass(frozen=True)
class RunProgress:
    """How far a run, or a shard, is.

    images: number of its images, None before it has started. skipped: those that earlier runs finished.
    images_per_second: of the latest run, without skipped images. last_sign: when it last wrote a row or its record.
    """

    state: RunState
    shard: Shard | None = None
    images: int | None = None
    ok: int = 0
    failed: int = 0
    skipped: int = 0
    images_per_second: float = 0.0
    last_sign: datetime | None = None

    @property
    def done(self) -> int:
        """The number of images with a result."""
        return self.ok + self.failed + self.skipped

    @property
    def left(self) -> int | None:
        """The number of images without a result."""
        return None if self.images is None else max(self.images - self.done, 0)

    def to_dict(self) -> dict[str, Any]:
        """Return the values by the keys of `status --json`."""
        names = ("images", "ok", "failed", "skipped", "left")
        return {
            "shard": str(self.shard) if self.shard else None,
            "state": self.state,
            **{name: getattr(self, name) for name in names},
            "images_per_second": round(self.images_per_second, 2),
            "last_sign": self.last_sign.isoformat(timespec="seconds") if self.last_sign else None,
        }


def read_progress(out: Path) -> list[RunProgress]:
    """Return how far the run into an output folder is, or each of its shards, in order.

    Raises InputError if the folder has no run.
    """
    if shards := find_shards(out):
        counts = sorted({shard.count for shard in shards})  # several if shards overlap
        expected = [Shard(index, count) for count in counts for index in range(1, count + 1)]
        return [_read(shard_folder(out, shard), shard) for shard in expected]
    if not any((out / name).exists() for name in (RUN_RECORD, JOURNAL)):
        raise InputError(f"{out}: no run.json; give the output folder of lesioncli segment")
    return [_read(out, None)]


def _read(folder: Path, shard: Shard | None) -> RunProgress:
    """Return how far the run is whose record and rows are in a folder."""
    record = read_record(folder)
    if record.status is None:
        return RunProgress(RunState.NOT_STARTED, shard)
    last_sign = _last_sign([folder / RUN_RECORD, folder / JOURNAL])
    if record.status == RunStatus.RUNNING:
        statuses = _count_journal(folder / JOURNAL)
        ok, failed = statuses[Status.OK], statuses[Status.FAILED]
        seconds = _seconds_between(record, last_sign)
    else:
        ok, failed, seconds = record.ok or 0, record.failed or 0, record.seconds or 0.0
    return RunProgress(
        RunState(record.status),
        shard,
        images=record.images or 0,
        ok=ok,
        failed=failed,
        skipped=record.skipped or 0,
        images_per_second=(ok + failed) / seconds if seconds > 0 else 0.0,
        last_sign=last_sign,
    )


def _seconds_between(record: RunRecord, last_sign: datetime | None) -> float:
    if record.started is None or last_sign is None:
        return 0.0
    return (last_sign - datetime.fromisoformat(record.started)).total_seconds()


def _count_journal(path: Path) -> Counter[str]:
    """Count the complete rows of a journal by status; another process may be writing the last one."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        return Counter()
    reader = csv.DictReader(line for line in lines if line.endswith("\n"))
    counts: Counter[str] = Counter()
    with suppress(csv.Error):  # of a damaged line
        # A row of a mask in an archive follows that of its file, or is of an image that is counted as skipped.
        counts.update(row.get("status") or "" for row in reader if not is_archived(from_cell(row.get("mask") or "")))
    return counts


def _last_sign(paths: Sequence[Path]) -> datetime | None:
    times = [status.st_mtime for status in map(stat_file, paths) if status]
    return datetime.fromtimestamp(max(times), UTC) if times else None
