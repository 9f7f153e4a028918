"""Masks and their rows on the way to the disk; tests/slow/test_power_cut.py loses everything that is not synced."""

import errno
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import files_of, journal_of, segment_folder, statuses

from lesioncli.backends.base import Engine
from lesioncli.errors import InputError
from lesioncli.images.find import list_images
from lesioncli.inference import durability
from lesioncli.inference.outcome import Outcome
from lesioncli.inference.record import MaskNames
from lesioncli.inference.run import segment_images
from lesioncli.inference.shards import select_images
from lesioncli.options import MaskStorage, SegmentOptions, Shard

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="/proc names the files that are synced")


def leave_killed(whole: Path, out: Path, synced: int) -> None:
    """Copy a finished run as a killed one leaves it; `synced` bytes of its journal, and the masks, were on the disk."""
    shutil.copytree(whole, out)
    (out / "scores.csv.part").write_bytes(journal_of(out, synced))
    for name in ("scores.csv", "checksums.csv"):
        (out / name).unlink()


def test_a_mask_is_compared_with_its_row_unless_it_was_synced(engine: Engine, images: Path, tmp_path: Path) -> None:
    """Damage in the middle of a mask, which leaves its end."""
    statuses(images, engine, tmp_path / "whole")
    lines = journal_of(tmp_path / "whole", 999).splitlines(keepends=True)  # with offsets of three digits, as below
    one_row = len(b"".join(lines[:2]))
    for number, synced, expected in [
        (0, 0, "osssss"),
        (5, 0, "ssssso"),
        (0, one_row, "ssssss"),
        (1, one_row, "sossss"),
    ]:
        leave_killed(tmp_path / "whole", tmp_path / "out", synced)
        mask = tmp_path / "out" / f"00{number}.png"
        content = bytearray(mask.read_bytes())
        content[len(content) // 2] ^= 1
        mask.write_bytes(content)
        assert statuses(images, engine, tmp_path / "out") == expected
        shutil.rmtree(tmp_path / "out")


def test_an_older_row_does_not_stand_for_a_mask_that_a_killed_run_replaced(
    engine: Engine, images: Path, out: Path
) -> None:
    """Both rows name the same file, which a power cut left with other bytes in its middle."""
    statuses(images, engine, out)
    before = files_of(out)
    (out / "scores.csv.part").write_bytes(journal_of(out, 0))
    content = bytearray(before["002.png"])
    content[len(content) // 2] ^= 1
    (out / "002.png").write_bytes(content)
    assert statuses(images, engine, out) == "ssosss"
    assert files_of(out) == before


@pytest.fixture
def log_of_syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that are synced or renamed, in order."""
    log: list[str] = []
    sync, rename = os.fsync, Path.replace

    def log_sync(descriptor: int) -> None:
        log.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        sync(descriptor)

    def log_rename(path: Path, target: Path) -> Path:
        log.append(f"rename {path.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", log_sync)
    monkeypatch.setattr(Path, "replace", log_rename)
    return log


def wait_after_each_image(_: Outcome) -> None:
    time.sleep(0.05)


@needs_proc
def test_masks_are_synced_before_the_journal_and_the_journal_before_the_table(
    engine: Engine, images: Path, out: Path, log_of_syncs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durability, "SYNC_INTERVAL_S", 0.01)
    segment_images(list_images([images]), engine, out, on_outcome=wait_after_each_image)
    table = log_of_syncs.index("rename .scores.csv.part")
    journals = [index for index, entry in enumerate(log_of_syncs[:table]) if entry == "sync scores.csv.part"]
    assert len(journals) >= 4, "the thread synced nothing"
    for number in range(6):
        mask = log_of_syncs.index(f"sync 00{number}.png")
        assert log_of_syncs.index(f"rename .00{number}.png.part") < mask < journals[-1]
    del log_of_syncs[:]
    (images / "003.jpg").write_bytes((images / "002.jpg").read_bytes())
    segment_folder(images, engine, out)
    mask = log_of_syncs.index("rename .003.png.part")
    assert log_of_syncs[mask - 1] == "sync .003.png.part", "it replaced a mask, but was not on the disk"


@needs_proc
def test_masks_that_wait_for_their_archive_are_synced(
    engine: Engine, images: Path, out: Path, log_of_syncs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durability, "SYNC_INTERVAL_S", 0.01)
    options = SegmentOptions(masks=MaskStorage.TAR)
    segment_images(list_images([images]), engine, out, options, on_outcome=wait_after_each_image)
    assert log_of_syncs.index("sync 000.png") < log_of_syncs.index("sync .masks-00000.tar.part")


@needs_proc
def test_a_shard_syncs_the_masks_that_a_killed_run_of_all_images_left(
    engine: Engine, images: Path, tmp_path: Path, log_of_syncs: list[str]
) -> None:
    """Its rows come from two journals; the masks of the first one may not be on the disk yet."""
    statuses(images, engine, tmp_path / "whole")
    out, shard = tmp_path / "out", Shard(1, 2)
    leave_killed(tmp_path / "whole", out, 0)
    listing = select_images(list_images([images]), shard, MaskNames.IMAGES)
    del log_of_syncs[:]
    summary = segment_images(listing, engine, out, SegmentOptions(shard=shard))
    assert summary.skipped == len(listing.images) >= 2
    table = log_of_syncs.index("rename .scores.csv.part")
    synced = {entry.removeprefix("sync ") for entry in log_of_syncs[:table]}
    assert {Path(image.mask_name).name for image in listing.images} <= synced


@needs_proc
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, []),
        ({"overlay": True}, ["overlays/000.jpg"]),
        ({"save_probabilities": True}, ["probabilities/000.png"]),
        ({"crops": 10.0}, ["crops/000.jpg"]),
    ],
    ids=["masks alone", "overlay", "probabilities", "crops"],
)
def test_other_pictures_are_synced_before_the_table(
    engine: Engine, images: Path, out: Path, log_of_syncs: list[str], options: dict[str, Any], expected: list[str]
) -> None:
    segment_images(list_images([images]), engine, out, SegmentOptions(**options))
    table = log_of_syncs.index("rename .scores.csv.part")
    synced = [entry.removeprefix("sync ") for entry in log_of_syncs[:table]]
    assert [str(path.relative_to(out)) for path in sorted(out.glob("*/000.*"))] == expected
    names = Counter(name for name in synced if name.startswith("000."))
    assert names == Counter(["000.png", *(Path(name).name for name in expected)])


def fail_on_masks(path: Path) -> None:
    if path.suffix == ".png":
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("wait", [wait_after_each_image, lambda _: None], ids=["during the run", "at its end"])
def test_a_mask_that_cannot_be_synced_ends_the_run(
    engine: Engine,
    images: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait: Callable[[Outcome], None],
) -> None:
    monkeypatch.setattr(durability, "SYNC_INTERVAL_S", 0.01)
    monkeypatch.setattr("lesioncli.files.sync_content", fail_on_masks)
    with pytest.raises(InputError, match=f"{out}.*Input/output error"):
        segment_images(list_images([images]), engine, out, on_outcome=wait)
    assert not (out / "scores.csv").exists(), "a row says ok, but its mask is not on the disk"
    monkeypatch.undo()
    statuses(images, engine, out)
    statuses(images, engine, out.parent / "whole")
    assert files_of(out) == files_of(out.parent / "whole")
