"""A power cut after every system call that changes the output folder: the next run ends as an undisturbed one does."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.graphs import MakeEngine
from helpers.pictures import draw, save, save_many
from helpers.power_cut import Disk, Loss, can_record, record, write_state
from helpers.runs import files_of, rows_of, statuses

from lesioncli.backends.base import Engine
from lesioncli.backends.registry import open_engine
from lesioncli.inference import packing
from lesioncli.options import MaskStorage

pytestmark = pytest.mark.slow

MASKS_PER_ARCHIVE = 2

# A group of masks is synced after two or three images.
PROGRAM = f"""
import sys, time
from lesioncli.inference import durability, packing, results

durability.SYNC_INTERVAL_S = 0.1
packing.MASKS_PER_ARCHIVE = {MASKS_PER_ARCHIVE}
add = results.ResultStore.add

def add_slowly(store, outcome):
    time.sleep(0.04)
    add(store, outcome)

results.ResultStore.add = add_slowly
from lesioncli.__main__ import main
main()
"""


def cut_everywhere(images: Path, engine: Engine, manifest: Path, out: Path, **asked: Any) -> list[int]:
    """Record a run into `out`; resume what each power cut leaves, and compare it with an undisturbed run.

    Return how many images the resumed run skipped after each call, where everything that was not synced was lost.
    """
    work, disk = out.parent, Disk(out)
    options = [word for name, value in asked.items() for word in (f"--{name}", value) if isinstance(word, str)]
    if out.exists():
        shutil.copytree(out, work / "whole")
    words = ["segment", str(images), "--out", str(out), "--engine", str(manifest), "--workers", "2", *options]
    calls = record([sys.executable, "-c", PROGRAM, *words], work / "log")
    statuses(images, engine, work / "whole", **asked)
    expected = files_of(work / "whole")
    assert files_of(out) == expected
    skipped: list[int] = []
    skipped_after: dict[int, int] = {}
    for index, call in enumerate(calls):
        for loss, state in disk.states() if disk.apply(index, call) else ():
            identity = hash(frozenset(state.items()))
            if identity not in skipped_after:
                write_state(work / "cut", state)
                skipped_after[identity] = statuses(images, engine, work / "cut", **asked).count("s")
                assert files_of(work / "cut") == expected, f"{loss} lost after {call.name}({call.arguments[:200]})"
                shutil.rmtree(work / "cut")
            skipped += [skipped_after[identity]] if loss == Loss.ALL else []
    shutil.rmtree(work / "whole")
    return skipped


@pytest.mark.parametrize("masks", MaskStorage)
def test_nothing_torn_is_taken_for_done(
    tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, masks: MaskStorage
) -> None:
    monkeypatch.setattr(packing, "MASKS_PER_ARCHIVE", MASKS_PER_ARCHIVE)
    if not can_record(tmp_path):
        pytest.skip("strace is not installed, or may not trace")
    images, out = tmp_path / "images", tmp_path / "out"
    save_many(images / "sub", 5)
    save_many(images, 4)
    manifest = tiny_manifest(1)
    with open_engine(manifest) as engine:
        skipped = cut_everywhere(images, engine, manifest, out, masks=masks)
        assert skipped == sorted(skipped), "what was on the disk was done again"
        assert len(set(skipped)) >= 4, "there were too few groups for this test"
        assert skipped[-1] == 9
        # A run that replaces, removes and adds rows and masks.
        save(images / "001.jpg", draw(77, 50, 70))
        (images / "002.jpg").write_bytes(b"")
        (images / "sub" / "003.jpg").unlink()
        save(images / "004.jpg", draw(78, 50, 70))
        cut_everywhere(images, engine, manifest, out, masks=masks, prune=True)
        assert len(rows_of(out)) == 9
