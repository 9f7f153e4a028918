"""Mutated files in every reader of files of strangers: each is read, or refused in words.

`make fuzz` looks for further ones, guided by coverage; benchmarks/fuzz_readers.py mutates more of the same.
"""

import time
from pathlib import Path

import pytest
from helpers.fuzzing import TEXTS, check, image_seeds, mutations, targets
from helpers.graphs import OpenEngine
from helpers.runs import rows_of, segment_folder

from lesioncli.process import quiet_decoders

MAX_SECONDS = 5  # CPU time for one file
COUNTS = {"images": 1500, "weights": 150}
DEFAULT_COUNT = 250
TOLERANT = {"folder", "record", "status"}  # what they cannot read is as if it was not there

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # decoders warn, and a run does not mind
]


@pytest.mark.parametrize("name", sorted(targets()))
def test_mutated_files_are_read_or_refused(name: str) -> None:
    quiet_decoders()
    target = targets()[name]
    accepted = 0
    for number, data in enumerate(mutations(target, COUNTS.get(name, DEFAULT_COUNT))):
        started = time.thread_time()
        try:
            accepted += check(target, data)
        except Exception as error:
            pytest.fail(f"mutation {number} of {name}: {error!r}: {data[:200]!r}")
        assert time.thread_time() - started < MAX_SECONDS, f"mutation {number} of {name} takes too long"
    assert accepted < COUNTS.get(name, DEFAULT_COUNT) or name in TOLERANT


@pytest.mark.parametrize("name", sorted(targets().keys() - {"images", "masks", "weights"}))
def test_text_without_end_is_read_or_refused(name: str) -> None:
    """Brackets in brackets, long fields and long numbers, which parsers refuse in ways of their own."""
    for text in TEXTS:
        for data in (text, b"x = " + text, *(seed + text for seed in targets()[name].seeds[:1])):
            check(targets()[name], data)


def test_every_mutated_image_is_a_row_with_a_reason(tiny_engine: OpenEngine, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, data in enumerate(mutations(targets()["images"], 400, seed=1)):
        (images / f"{number:03d}.jpg").write_bytes(data)
    summary = segment_folder(images, tiny_engine(2), tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert (len(rows), summary.ok + summary.failed) == (400, 400)
    for row in rows.values():
        assert (row["status"] == "ok") == (not row["reason"]) == bool(row["mask"])
        assert "\n" not in row["reason"]


def test_the_seeds_are_accepted() -> None:
    for name, target in targets().items():
        refused = sum(not check(target, data) for data in target.seeds)
        assert refused <= (9 if name == "images" else 1), name  # those with absurd sizes; weights of no network
    assert len(image_seeds()) > 150
