"""Masks in tar archives: the same files at the end, whatever stops a run and in whatever order images are finished."""

import csv
import errno
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from helpers.pictures import draw, save
from helpers.runs import files_of, journal_of, record_of, rows_of, statuses

from lesioncli import files
from lesioncli.backends.base import Engine
from lesioncli.errors import InputError
from lesioncli.files import from_printable
from lesioncli.images import png
from lesioncli.images.archives import ArchiveFile, list_tar
from lesioncli.images.find import list_images
from lesioncli.images.mask_archives import MaskArchives, archive_name, is_archived, split_path
from lesioncli.images.stored import Contents
from lesioncli.inference import packing
from lesioncli.inference.destination import Destination
from lesioncli.inference.journal import Journal
from lesioncli.inference.merge import merge_shards
from lesioncli.inference.packing import MaskPacker
from lesioncli.inference.plan import plan_run
from lesioncli.inference.record import MaskNames
from lesioncli.inference.run import segment_images
from lesioncli.inference.shards import select_images
from lesioncli.inference.status import read_progress
from lesioncli.inference.verify import verify
from lesioncli.options import MaskStorage, SegmentOptions, Shard

ARCHIVES = SegmentOptions(masks=MaskStorage.TAR)


@pytest.fixture(autouse=True)
def small_archives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MASKS_PER_ARCHIVE", 2)


@pytest.fixture
def packed(engine: Engine, images: Path, out: Path) -> Path:
    """A finished run of six images: three archives of two."""
    assert statuses(images, engine, out, masks="tar") == "oooooo"
    return out


def masks_of(out: Path) -> list[str]:
    """Return the column `mask` of scores.csv."""
    return [row["mask"] for row in rows_of(out).values()]


def contents_of(out: Path) -> dict[str, bytes]:
    """Return the masks that the rows of a folder name, by image."""
    archives = MaskArchives(out)
    found = {image: archives.locate(row["mask"]) for image, row in rows_of(out).items() if row["mask"]}
    return {image: path.read_bytes() if isinstance(path, Path) else path.read().data for image, path in found.items()}


def archives_of(out: Path) -> dict[str, list[str]]:
    """Return the names in each archive."""
    found = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            found[path.name] = tar.getnames()
    return found


def test_a_run_leaves_archives_in_place_of_masks(engine: Engine, images: Path, packed: Path, tmp_path: Path) -> None:
    assert statuses(images, engine, tmp_path / "files") == "oooooo"
    assert sorted(files_of(packed)) == [
        "checksums.csv", "masks-00000.tar", "masks-00001.tar", "masks-00002.tar", "scores.csv",
    ]  # fmt: skip
    assert masks_of(packed)[2:4] == ["masks-00001.tar/002.png", "masks-00001.tar/003.png"]
    assert contents_of(packed) == contents_of(tmp_path / "files")
    checks = [(folder / "checksums.csv").read_bytes() for folder in (packed, tmp_path / "files")]
    assert checks[0] == checks[1]
    assert not verify(packed).findings


def test_a_second_run_changes_nothing(engine: Engine, images: Path, packed: Path) -> None:
    before = files_of(packed)
    assert statuses(images, engine, packed, masks="tar") == "ssssss"
    assert statuses(images, engine, packed) == "ssssss"
    assert files_of(packed) == before
    with pytest.raises(InputError, match="threshold"):
        statuses(images, engine, packed, masks="tar", threshold=0.25)


def test_failed_images_have_no_member(engine: Engine, images: Path, out: Path) -> None:
    (images / "001.jpg").write_bytes(b"")
    assert statuses(images, engine, out, masks="tar") == "ofoooo"
    assert list(archives_of(out).values()) == [["000.png", "002.png"], ["003.png", "004.png"], ["005.png"]]
    before = files_of(out)
    assert statuses(images, engine, out, masks="tar") == "sfssss"
    assert files_of(out) == before
    assert not verify(out).findings


def test_masks_in_files_are_packed_by_a_later_run(engine: Engine, images: Path, out: Path, tmp_path: Path) -> None:
    statuses(images, engine, out)
    assert statuses(images, engine, out, masks="tar") == "ssssss"
    statuses(images, engine, tmp_path / "whole", masks="tar")
    assert files_of(out) == files_of(tmp_path / "whole")


def test_images_that_are_added_go_to_further_archives(engine: Engine, images: Path, packed: Path) -> None:
    before = files_of(packed)
    save(images / "000a.jpg", draw(9, 40, 60))
    assert statuses(images, engine, packed, masks="tar") == "sosssss"
    assert archives_of(packed)["masks-00003.tar"] == ["000a.png"]
    assert {name: content for name, content in files_of(packed).items() if name in before and "tar" in name} == {
        name: content for name, content in before.items() if "tar" in name
    }
    save(images / "000b.jpg", draw(8, 40, 60))
    assert statuses(images, engine, packed) == "ssosssss"  # without --masks tar
    assert masks_of(packed)[2] == "000b.png"
    assert not verify(packed).findings


def test_a_changed_image_has_its_mask_in_a_further_archive(
    engine: Engine, images: Path, packed: Path, tmp_path: Path
) -> None:
    save(images / "002.jpg", draw(99, 50, 70))
    (images / "003.jpg").write_bytes(b"")
    assert statuses(images, engine, packed, masks="tar") == "ssofss"
    assert masks_of(packed)[2:4] == ["masks-00003.tar/002.png", ""]
    assert archives_of(packed)["masks-00001.tar"] == ["002.png", "003.png"]
    assert not verify(packed).findings, "an archive keeps masks that are replaced or of images that fail"
    statuses(images, engine, tmp_path / "whole")
    assert contents_of(packed) == contents_of(tmp_path / "whole")
    statuses(images, engine, packed, masks="tar", overwrite=True)
    statuses(images, engine, tmp_path / "again", masks="tar")
    assert files_of(packed) == files_of(tmp_path / "again")


def test_overwrite_removes_archives(engine: Engine, images: Path, packed: Path, tmp_path: Path) -> None:
    statuses(images, engine, packed, overwrite=True)
    statuses(images, engine, tmp_path / "whole")
    assert files_of(packed) == files_of(tmp_path / "whole")


def test_prune_takes_masks_out_of_their_archives(engine: Engine, images: Path, packed: Path) -> None:
    for name in ("001.jpg", "004.jpg", "005.jpg"):
        (images / name).unlink()
    assert statuses(images, engine, packed, masks="tar") == "sss"
    assert len(rows_of(packed)) == 6
    assert statuses(images, engine, packed, masks="tar", prune=True) == "sss"
    assert archives_of(packed) == {"masks-00000.tar": ["000.png"], "masks-00001.tar": ["002.png", "003.png"]}
    assert not verify(packed).findings


def test_retry_failed_packs_what_it_made(engine: Engine, images: Path, out: Path) -> None:
    content = (images / "001.jpg").read_bytes()
    (images / "001.jpg").write_bytes(b"")
    statuses(images, engine, out, masks="tar")
    (images / "001.jpg").write_bytes(content)
    assert statuses(images, engine, out, masks="tar", retry_failed=True) == "sossss"
    assert archives_of(out)["masks-00003.tar"] == ["001.png"]
    assert not verify(out).findings


def test_a_member_that_is_missing_is_made_again(engine: Engine, images: Path, packed: Path) -> None:
    (packed / "masks-00001.tar").unlink()
    with_engine = plan_run(list_images([images]), engine, Destination(packed), SegmentOptions())
    assert list(with_engine.to_do) == ["002.jpg", "003.jpg"]
    assert statuses(images, engine, packed, masks="tar") == "ssooss"
    assert masks_of(packed)[2:4] == ["masks-00003.tar/002.png", "masks-00003.tar/003.png"]


def test_masks_in_sub_folders_and_other_pictures(engine: Engine, images: Path, out: Path) -> None:
    (images / "a" / "b").mkdir(parents=True)
    for name in ("000.jpg", "001.jpg"):
        (images / name).rename(images / "a" / "b" / name)
    pictures = {"overlay": True, "save_probabilities": True, "crops": 10.0}
    assert statuses(images, engine, out, masks="tar", **pictures) == "oooooo"
    assert archives_of(out)["masks-00002.tar"] == ["a/b/000.png", "a/b/001.png"]
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["crops", "overlays", "probabilities"]
    assert statuses(images, engine, out, masks="tar", **pictures) == "ssssss"
    assert not verify(out).findings
    (images / "a" / "b" / "000.jpg").unlink()
    statuses(images, engine, out, prune=True)
    assert not list(out.rglob("000.*"))


def test_isic_names(engine: Engine, tmp_path: Path, out: Path) -> None:
    for number in range(3):
        save(tmp_path / "isic" / f"ISIC_000000{number}.jpg", draw(number, 40, 60))
    assert statuses(tmp_path / "isic", engine, out, masks="tar", isic_names=True) == "ooo"
    assert statuses(tmp_path / "isic", engine, out, masks="tar", isic_names=True) == "sss"
    assert not verify(out).findings


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
def test_names_of_any_bytes(engine: Engine, tmp_path: Path, out: Path) -> None:
    names = ["new\nline", os.fsdecode(b"not\xffUTF-8"), "ü" * 125, "=1+1", "x" * 250]
    for number, name in enumerate(names):
        save(tmp_path / "odd" / "folder" / "1.jpg", draw(number, 40, 60)).rename(tmp_path / "odd" / f"{name}.jpg")
    assert statuses(tmp_path / "odd", engine, out, masks="tar") == "ooooo"
    assert sorted(name for names in archives_of(out).values() for name in names) == sorted(f"{n}.png" for n in names)
    assert statuses(tmp_path / "odd", engine, out, masks="tar") == "sssss"
    assert not verify(out).findings
    statuses(tmp_path / "odd", engine, tmp_path / "files")
    plain = files_of(tmp_path / "files")
    assert contents_of(out) == {
        image: plain[from_printable(split_path(row["mask"])[1])] for image, row in rows_of(out).items()
    }


def test_a_mask_that_would_lie_in_an_archive_is_refused(engine: Engine, tmp_path: Path, out: Path) -> None:
    save(tmp_path / "images" / "masks-00000.tar" / "x.jpg", draw(1, 40, 60))
    with pytest.raises(InputError, match=r"masks-00000\.tar/x\.png"):
        statuses(tmp_path / "images", engine, out)


def test_archives_of_shards_stay_after_their_merge(engine: Engine, images: Path, out: Path, tmp_path: Path) -> None:
    whole = list_images([images])
    for index in (2, 1):
        shard = Shard(index, 2)
        listing = select_images(whole, shard, MaskNames.IMAGES)
        segment_images(listing, engine, out, SegmentOptions(shard=shard, masks=MaskStorage.TAR))
    merge_shards(out)
    assert {split_path(path)[0][:12] for path in masks_of(out)} == {"masks-1-of-2", "masks-2-of-2"}
    assert not list(out.glob("*.png"))
    assert not verify(out).findings
    statuses(images, engine, tmp_path / "whole")
    assert contents_of(out) == contents_of(tmp_path / "whole")
    assert statuses(images, engine, out, masks="tar") == "ssssss"
    shutil.copytree(out, tmp_path / "again")
    statuses(images, engine, tmp_path / "again", overwrite=True)
    assert files_of(tmp_path / "again") == files_of(tmp_path / "whole")
    (images / "000.jpg").unlink()
    for index in (1, 2):
        shard = Shard(index, 2)
        listing = select_images(list_images([images]), shard, MaskNames.IMAGES)
        options = SegmentOptions(shard=shard, prune=True)
        if index == (1 if "masks-1" in masks_of(out)[0] else 2):
            with pytest.raises(InputError, match="merge"):
                segment_images(listing, engine, out, options)


def test_status_counts_each_image_once(engine: Engine, images: Path, packed: Path) -> None:
    journal = journal_while_running(engine, images, packed.parent / "other")
    (packed / "scores.csv.part").write_bytes(journal)
    record = (packed / "run.json").read_text().replace('"finished"', '"running"')
    (packed / "run.json").write_text(record)
    assert (read_progress(packed)[0].ok, read_progress(packed)[0].left) == (6, 0)


def journal_while_running(engine: Engine, images: Path, out: Path) -> bytes:
    """Return the journal of a run with archives just before it is cleared."""
    kept: list[bytes] = []
    clear = Journal.clear

    def keep(journal: Journal) -> None:
        kept.append((out / "scores.csv.part").read_bytes())
        clear(journal)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "clear", keep)
        statuses(images, engine, out, masks="tar")
    return kept[-1]


# Kills: what a process leaves that ends at a moment is what is in its folder at that moment.


class InThisThread:
    """An executor that does everything at once, so that what is in the folder at a moment is what a kill leaves."""

    def __init__(self, *_: Any) -> None: ...

    def submit(self, function: Callable[..., None], *given: Any) -> Future[None]:
        future: Future[None] = Future()
        function(*given)
        future.set_result(None)
        return future

    def shutdown(self) -> None: ...


def images_in_tables(folder: Path) -> int:
    """Return the number of images with a row that says ok, in scores.csv or the journal."""
    names = set()
    for path in folder.glob("scores.csv*"):
        with path.open(newline="") as file:
            names |= {row["image"] for row in csv.DictReader(file) if row["status"] == "ok"}
    return len(names)


@pytest.fixture
def moments(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Iterator[Path]]:
    """Copy the output folder before and after each step that packing has; yield the copies."""
    copies: list[Path] = []

    def copy(step: str) -> None:
        if (out / "run.json").exists():
            copies.append(tmp_path / f"{len(copies):03d} {step}")
            shutil.copytree(out, copies[-1], ignore=shutil.ignore_patterns(".*.png.part"))

    def watch(target: Any, name: str, is_step: Callable[[Any], bool] = lambda _: True) -> None:
        real = getattr(target, name)

        def watched(first: Any, *others: Any, **named: Any) -> Any:
            if not is_step(first):
                return real(first, *others, **named)
            copy(f"before {name}")
            result = real(first, *others, **named)
            copy(f"after {name}")
            return result

        monkeypatch.setattr(target, name, watched)

    def stop() -> Iterator[Path]:
        monkeypatch.undo()
        monkeypatch.setattr(packing, "MASKS_PER_ARCHIVE", 2)
        yield from copies

    monkeypatch.setattr(packing, "ThreadPoolExecutor", InThisThread)
    watch(files, "sync_content", lambda path: path.name.endswith(".tar.part"))
    watch(Path, "replace", lambda path: path.name.endswith(".tar.part"))
    watch(Path, "unlink", lambda path: path.suffix == ".png")
    watch(Journal, "sync")
    watch(Journal, "clear")
    return stop


def test_a_run_that_is_killed_at_any_step_ends_as_an_undisturbed_one(
    engine: Engine, images: Path, out: Path, tmp_path: Path, moments: Callable[[], Iterator[Path]]
) -> None:
    (images / "001.jpg").write_bytes(b"")
    statuses(images, engine, out, masks="tar")
    seen = set()
    for left in moments():
        seen.add(left.name[4:])
        problems = {found.problem for found in verify(left).findings}
        of_masks_without_row = "foreign"
        assert problems <= {"unfinished", "temporary file of a killed run", of_masks_without_row}, left.name
        done = images_in_tables(left)
        assert statuses(images, engine, left, masks="tar").count("s") == done, left.name
        assert files_of(left) == files_of(out), left.name
    assert seen == {
        f"{when} {name}"
        for when in ("before", "after")
        for name in ("sync_content", "replace", "unlink", "sync", "clear")
    }


def test_repair_removes_the_files_of_packed_masks(
    engine: Engine, images: Path, out: Path, moments: Callable[[], Iterator[Path]]
) -> None:
    statuses(images, engine, out, masks="tar")
    repaired = 0
    for left in moments():
        repaired += verify(left, repair=True).repaired
        assert {found.problem for found in verify(left).findings} <= {"unfinished", "foreign"}, left.name
        statuses(images, engine, left, masks="tar")
        assert files_of(left) == files_of(out), left.name
    assert repaired


def test_a_run_that_is_killed_while_it_writes_the_rows_of_an_archive(
    engine: Engine, images: Path, out: Path, moments: Callable[[], Iterator[Path]]
) -> None:
    statuses(images, engine, out, masks="tar")
    states = {left.name[4:]: left for left in moments() if (left / "masks-00002.tar").exists() and masks_left(left)}
    left = states["before unlink"]
    lines = (left / "scores.csv.part").read_bytes().splitlines(keepends=True)
    assert b"masks-00002.tar" in lines[-2]
    (left / "scores.csv.part").write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    assert not [found for found in verify(left).findings if found.problem in ("missing", "changed")]
    assert statuses(images, engine, left, masks="tar") == "ssssss"
    assert files_of(left) == files_of(out)


def test_the_row_of_an_archive_that_is_gone_does_not_replace_that_of_a_file(
    engine: Engine, images: Path, packed: Path, tmp_path: Path
) -> None:
    """Both name a mask of their own, so the older row is as right as before."""
    out = tmp_path / "files"
    statuses(images, engine, out)
    before = files_of(out)
    (out / "scores.csv.part").write_bytes(journal_of(packed, 0))
    assert statuses(images, engine, out) == "ssssss"
    assert files_of(out) == before


def masks_left(folder: Path) -> bool:
    return len(list(folder.glob("*.png"))) == 2


def test_corrections_by_hand_stay_when_packing_is_killed(
    engine: Engine, images: Path, out: Path, moments: Callable[[], Iterator[Path]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "copytree", lambda *_, **__: None)
        statuses(images, engine, out)
    corrected = (out / "000.png").read_bytes()[:-12] + b"\0" + png.END
    (out / "000.png").write_bytes(corrected)
    assert statuses(images, engine, out, masks="tar") == "ssssss"
    lefts = [left for left in moments() if left.exists()]
    assert len(lefts) > 10
    for left in lefts:
        assert statuses(images, engine, left, masks="tar") == "ssssss", left.name
        assert files_of(left) == files_of(out)
        assert contents_of(left)["000.jpg"] == corrected
    assert [(found.name, found.problem) for found in verify(out).findings] == [("masks-00000.tar/000.png", "changed")]


def test_a_file_that_was_corrected_after_a_kill_stays(
    engine: Engine, images: Path, out: Path, moments: Callable[[], Iterator[Path]]
) -> None:
    statuses(images, engine, out, masks="tar")
    left = next(left for left in moments() if "before unlink" in left.name and (left / "masks-00000.tar").exists())
    (left / "001.png").write_bytes(b"torn")
    corrected = (left / "000.png").read_bytes()[:-12] + b"\0" + png.END
    (left / "000.png").write_bytes(corrected)
    statuses(images, engine, left, masks="tar")
    assert (left / "000.png").read_bytes() == corrected
    assert [(found.name, found.problem) for found in verify(left).findings] == [("000.png", "foreign")]


def test_images_that_are_finished_in_any_order_give_the_same_archives(
    engine: Engine, images: Path, out: Path, tmp_path: Path
) -> None:
    statuses(images, engine, out)
    listed = list_images([images]).images
    expected = None
    for order in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]):
        folder = tmp_path / str(order)
        shutil.copytree(out, folder)
        packer = MaskPacker(folder, None, 0, listed, lambda images, archive: None, lambda paths: None)
        for number in order:
            packer.add(listed[number], is_file=number != 2)
        packer.finish(is_complete=True)
        packer.stop()
        archives = {name: content for name, content in files_of(folder).items() if name.endswith(".tar")}
        expected = expected or archives
        assert archives == expected
    assert len(expected or ()) == 3


def test_an_interrupted_run_packs_only_whole_archives(engine: Engine, images: Path, out: Path, tmp_path: Path) -> None:
    """A last archive of fewer masks would not be that of an undisturbed run."""

    def interrupt(outcome: Any) -> None:
        if outcome.image.name == "004":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_images(
            list_images([images]),
            engine,
            out,
            ARCHIVES,
            on_outcome=interrupt,
        )
    assert record_of(out)["status"] == "interrupted"
    assert list(archives_of(out)) == ["masks-00000.tar", "masks-00001.tar"]
    assert masks_of(out) == [
        *(f"masks-00000.tar/00{number}.png" for number in (0, 1)),
        *(f"masks-00001.tar/00{number}.png" for number in (2, 3)),
        "004.png",
    ]
    statuses(images, engine, out, masks="tar")
    statuses(images, engine, tmp_path / "whole", masks="tar")
    assert files_of(out) == files_of(tmp_path / "whole")


# Faults


def fail_on_archives(path: Path) -> None:
    if path.name.endswith(".tar.part"):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))


@pytest.mark.parametrize("fault", ["sync", "write"])
def test_a_disk_that_is_full_while_packing_ends_the_run_and_loses_nothing(
    engine: Engine, images: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    if fault == "sync":
        monkeypatch.setattr("lesioncli.files.sync_content", fail_on_archives)
    else:
        full = OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr("tarfile.TarFile.addfile", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(InputError, match=r"No space left on device.*free disk space"):
        statuses(images, engine, out, masks="tar")
    assert not list(out.glob("*.tar"))
    assert not list(out.glob(".*.tar.part"))
    monkeypatch.undo()
    monkeypatch.setattr(packing, "MASKS_PER_ARCHIVE", 2)
    assert statuses(images, engine, out, masks="tar").startswith("ss")
    statuses(images, engine, tmp_path / "whole", masks="tar")
    assert files_of(out) == files_of(tmp_path / "whole")


def test_a_mask_that_is_removed_before_it_is_packed_is_made_by_the_next_run(
    engine: Engine, images: Path, out: Path
) -> None:
    def remove(outcome: Any) -> None:
        if outcome.image.name == "000":
            (out / "000.png").unlink()

    segment_images(
        list_images([images]),
        engine,
        out,
        ARCHIVES,
        on_outcome=remove,
    )
    assert statuses(images, engine, out, masks="tar") == "osssss"
    assert not verify(out).findings


def test_a_folder_that_is_removed_is_not_made_again(engine: Engine, images: Path, out: Path) -> None:
    def remove(outcome: Any) -> None:
        if outcome.image.name == "002":
            out.rename(out.with_name("renamed"))

    with pytest.raises(InputError, match="was removed or renamed"):
        segment_images(
            list_images([images]),
            engine,
            out,
            ARCHIVES,
            on_outcome=remove,
        )
    assert not out.exists()
    assert statuses(images, engine, out.with_name("renamed"), masks="tar").startswith("sss")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1600])


def cut_the_end(path: Path) -> None:
    """Cut an archive behind its last mask."""
    path.write_bytes(path.read_bytes()[:2048])


def add_foreign(path: Path) -> None:
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo("foreign.png"))


def add_name_that_leads_out(path: Path) -> None:
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo("../outside.png"))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[512 + 60] ^= 1  # of the first mask
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "named", "again"),
    [
        (cut, [("masks-00001.tar/003.png", "missing"), ("masks-00001.tar", "truncated")], "sssoss"),
        (cut_the_end, [("masks-00001.tar", "truncated")], "ssssss"),
        (Path.unlink, [("masks-00001.tar/002.png", "missing"), ("masks-00001.tar/003.png", "missing")], "ssooss"),
        (flip_a_bit, [("masks-00001.tar/002.png", "changed")], "ssosss"),
        (
            lambda path: path.write_bytes(b"no tar"),
            [
                ("masks-00001.tar/002.png", "missing"),
                ("masks-00001.tar/003.png", "missing"),
                ("masks-00001.tar", "truncated"),
            ],
            "ssooss",
        ),
    ],
    ids=["cut", "end", "gone", "bit", "no tar"],
)
def test_damage_is_named_and_repaired(
    engine: Engine,
    images: Path,
    packed: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    named: list[tuple[str, str]],
    again: str,
) -> None:
    whole = contents_of(packed)
    damage(packed / "masks-00001.tar")
    damaged = files_of(packed)
    assert [(found.name, found.problem) for found in verify(packed).findings] == named
    assert files_of(packed) == damaged
    assert verify(packed, repair=True).remaining == 0
    assert {found.problem for found in verify(packed).findings} <= {"unfinished"}
    assert statuses(images, engine, packed, masks="tar") == again
    assert not verify(packed).findings
    assert contents_of(packed) == whole


def test_masks_of_a_version_without_checksums(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    (out / "checksums.csv").unlink()
    statuses(images, engine, out, masks="tar")
    assert not verify(out).findings
    content = (out / "masks-00000.tar").read_bytes()
    (out / "masks-00000.tar").write_bytes(content.replace(png.END, b"\0" * len(png.END), 1))
    assert [(found.name, found.problem) for found in verify(out).findings] == [("masks-00000.tar/000.png", "truncated")]


def test_an_archive_that_cannot_be_read_stays(
    engine: Engine, images: Path, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def list_or_fail(archive: ArchiveFile) -> Contents:
        if archive.path.name == "masks-00001.tar":
            raise PermissionError(errno.EACCES, "Permission denied")
        return list_tar(archive)

    monkeypatch.setattr("lesioncli.images.mask_archives.list_tar", list_or_fail)
    before = files_of(packed)
    findings = verify(packed, repair=True).findings
    assert [(found.name, found.problem, found.repair) for found in findings] == [
        ("masks-00001.tar", "unreadable", "none")
    ]
    assert files_of(packed) == before
    (images / "003.jpg").unlink()
    with pytest.raises(InputError, match="Permission denied"):
        statuses(images, engine, packed, prune=True)
    assert files_of(packed) == before


@pytest.mark.parametrize(
    ("damage", "name"),
    [(add_foreign, "masks-00001.tar/foreign.png"), (add_name_that_leads_out, "masks-00001.tar/../outside.png")],
)
def test_foreign_members_are_named_and_stay(packed: Path, damage: Callable[[Path], None], name: str) -> None:
    damage(packed / "masks-00001.tar")
    before = files_of(packed)
    found = verify(packed, repair=True).findings
    assert [(finding.name, finding.problem) for finding in found] == [(name, "foreign")]
    assert files_of(packed) == before


def test_an_archive_that_is_cut_is_continued_without_repair(engine: Engine, images: Path, packed: Path) -> None:
    cut(packed / "masks-00001.tar")
    assert statuses(images, engine, packed, masks="tar") == "sssoss"
    assert masks_of(packed)[2:4] == ["masks-00001.tar/002.png", "masks-00003.tar/003.png"]


def test_paths_of_masks() -> None:
    assert split_path("masks-00012.tar/a/b.png") == ("masks-00012.tar", "a/b.png")
    assert split_path(f"{archive_name(Shard(2, 8), 0)}/b.png") == ("masks-2-of-8-00000.tar", "b.png")
    for path in ("a/masks-00012.tar/b.png", "masks-0.tar/b.png", "masks-00012.tar", "../masks-00012.tar/b.png", ""):
        assert not is_archived(path)
        assert split_path(path) == ("", path)
