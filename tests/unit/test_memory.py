"""Memory of a process: its peak stays below a budget, whatever the images; freed memory is kept."""

import platform
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from helpers.graphs import MakeEngine
from helpers.pictures import draw, save
from helpers.trees import write_tree
from PIL import Image

from lesioncli import memory
from lesioncli.backends.registry import open_engine
from lesioncli.demo.draw import draw_case
from lesioncli.errors import ImageError, InputError
from lesioncli.evaluation.evaluate import evaluate
from lesioncli.images.decode import decode
from lesioncli.images.find import ImageFile, ImageListing
from lesioncli.inference.destination import Destination
from lesioncli.inference.earlier import EarlierResults
from lesioncli.inference.merge import merge_shards
from lesioncli.inference.outcome import Outcome, output_columns
from lesioncli.inference.record import RunIdentity, RunRecord, RunStatus, write_record
from lesioncli.inference.rows import Row, RowTables
from lesioncli.inference.run import segment_images
from lesioncli.memory import MemoryBudget, free_bytes, opencv_memory_errors
from lesioncli.options import SegmentOptions, Shard, Status
from lesioncli.report.cases import Case, CaseState
from lesioncli.report.pictures import draw as draw_case_of_report
from lesioncli.sharding import contains, shard_folder
from lesioncli.training.samples import Sample, read_sample_image, read_sample_mask

# VmHWM, not getrusage(): the latter starts from the peak of the process that started this one.
PROGRAM = """
import sys
from pathlib import Path
from lesioncli.backends.registry import open_engine
from lesioncli.images.find import list_images
from lesioncli.inference.run import segment_images
from lesioncli.options import SegmentOptions

manifest, images, out = map(Path, sys.argv[1:4])
workers, max_memory = int(sys.argv[4]), int(sys.argv[5]) or None
with open_engine(manifest, 2 * workers) as engine:
    options = SegmentOptions(workers=workers, max_memory_mib=max_memory)
    summary = segment_images(list_images([images]), engine, out, options)
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(summary.ok, peak.split()[1])
"""
MAX_GROWTH_MIB = 8


def peak_mib(manifest: Path, images: Path, count: int) -> float:
    """Return the peak of a run over `count` links to ten images; an image and its mask take 0.3 MiB, decoded."""
    images.mkdir()
    pictures = [save(images.parent / f"{images.name}-{seed}.jpg", draw(seed, 240, 320)) for seed in range(10)]
    for number in range(count):
        (images / f"{number:04d}.jpg").hardlink_to(pictures[number % len(pictures)])
    return run_mib(manifest, images, count)


def run_mib(manifest: Path, images: Path, count: int, workers: int = 2, max_memory_mib: int = 0) -> float:
    """Return the peak of a run over a folder of `count` images."""
    paths = [str(path) for path in (manifest, images, images.with_suffix(".out"))]
    command = [sys.executable, "-c", PROGRAM, *paths, str(workers), str(max_memory_mib)]
    ok, peak_kib = subprocess.run(command, check=True, capture_output=True).stdout.split()
    assert int(ok) == count
    return int(peak_kib) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thousand_images_take_no_more_memory_than_a_hundred(tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    few = peak_mib(tiny_manifest(4), tmp_path / "few", 100)
    many = peak_mib(tiny_manifest(4), tmp_path / "many", 1000)
    assert many - few < MAX_GROWTH_MIB


MAX_BYTES_PER_FINISHED_IMAGE = 250  # beside the list of images; all rows as objects would take 900


COLUMNS = output_columns(["melanoma", "nevus"])


def make_images(count: int) -> list[ImageFile]:
    return [ImageFile(Path(f"ISIC_{number:07d}.jpg"), f"ISIC_{number:07d}") for number in range(count)]


def make_rows(images: list[ImageFile], tables: RowTables) -> list[Row]:
    outcomes = (Outcome(image, Status.OK, (3, 4), 5, modified_ns=6, image_crc32=7, mask_crc32=8) for image in images)
    return [tables.make_row(outcome, [column.text(outcome) for column in COLUMNS]) for outcome in outcomes]


class Whole(Destination):
    """A folder with all masks."""

    def has(self, path: Path) -> bool:
        return True


@pytest.mark.parametrize("is_killed", [False, True])
def test_the_rows_of_earlier_runs_are_never_all_unpacked(is_killed: bool, tmp_path: Path) -> None:
    images = make_images(count := 8000)
    tables = RowTables(tmp_path, [column.name for column in COLUMNS])
    rows = make_rows(images, tables)
    if is_killed:
        tables.journal.write_text(
            "".join([tables.journal_header(), *(tables.journal_line(row, 10**9) for row in rows)])
        )
    else:
        tables.save(rows)
    del rows
    tracemalloc.start()
    try:
        earlier = EarlierResults(Whole(tmp_path), RunIdentity(), COLUMNS)
        assert set(earlier.find_masked(images, False).values()) == {None}
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(earlier.rows) == count
    assert peak_bytes / count < MAX_BYTES_PER_FINISHED_IMAGE


def test_the_rows_of_shards_are_never_all_unpacked(tmp_path: Path) -> None:
    """The rows of each shard would just fit into the blocks that a dict keeps open."""
    images = make_images(count := 8000)
    for index in range(1, 9):
        folder = shard_folder(tmp_path, shard := Shard(index, 8))
        folder.mkdir(parents=True)
        tables = RowTables(folder, [column.name for column in COLUMNS])
        tables.save(make_rows([image for image in images if contains(shard, image.name)], tables))
        write_record(folder, RunRecord(status=RunStatus.FINISHED, started="2026-11-30T00:00:00+00:00"))
    tracemalloc.start()
    try:
        assert merge_shards(tmp_path).shards == 8
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    rows = list(RowTables(tmp_path, [column.name for column in COLUMNS]).read_scores())
    assert [row.image for row in rows] == [f"{image.name}.jpg" for image in images]
    assert peak_bytes / count < MAX_BYTES_PER_FINISHED_IMAGE


LARGE_HW = (1800, 2400)


def write_large_images(folder: Path) -> None:
    """Write a photograph of 4 megapixels in every format, and in modes that differ in memory."""
    folder.mkdir()
    height, width = LARGE_HW
    rgb = np.asarray(cv2.resize(draw_case(0, 480, 640).image, (width, height)), np.uint8)
    picture, deep = Image.fromarray(rgb), rgb.astype(np.uint16) * 257
    exif = Image.Exif()
    exif[274] = 6  # on its side
    picture.save(folder / "base.jpg", exif=exif)
    picture.save(folder / "progressive.jpg", progressive=True, subsampling=0)
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.save(folder / "rgb.png", exif=exif, compress_level=1)
    picture.convert("RGBA").save(folder / "rgba.png", compress_level=1)
    picture.convert("L").save(folder / "grey.png", compress_level=1)
    picture.quantize(64).save(folder / "palette.png", compress_level=1)
    cv2.imwrite(str(folder / "16.png"), deep, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    picture.save(folder / "rgb.bmp")
    picture.save(folder / "lossy.webp", method=0)
    picture.save(folder / "lossless.webp", lossless=True, method=0, quality=0)
    tifffile.imwrite(folder / "16.tif", deep, photometric="rgb")
    tifffile.imwrite(folder / "deflate.tif", deep, photometric="rgb", compression="zlib", compressionargs={"level": 1})
    tifffile.imwrite(folder / "planes.tif", deep.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    picture.convert("CMYK").save(folder / "cmyk.tif")
    picture.save(folder / "lzw.tif", compression="tiff_lzw", exif=exif)


PEAKS = """
import sys
from pathlib import Path
from lesioncli.images.decode import decode, peak_bytes
from lesioncli.images.geometry import to_network

def status_bytes(key):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])

path = Path(sys.argv[1])
decode(path.parent / "warm.png", (64, 64))
before = status_bytes("VmRSS")
to_network(decode(path, (224, 224)).rgb, 224, 224)
print(status_bytes("VmHWM") - before, peak_bytes(path, (224, 224)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_reader_takes_more_than_its_estimate(tmp_path: Path) -> None:
    folder = tmp_path / "large"
    write_large_images(folder)
    paths = sorted(folder.iterdir())
    save(folder / "warm.png", draw(0, 40, 60))
    peaks: dict[str, tuple[int, int]] = {}
    for path in paths:
        command = [sys.executable, "-c", PEAKS, str(path)]
        measured, estimate = subprocess.run(command, check=True, capture_output=True).stdout.split()
        peaks[path.name] = int(measured), int(estimate)
    assert {name: peak for name, peak in peaks.items() if peak[0] > peak[1]} == {}
    too_high = {name: peak for name, peak in peaks.items() if peak[1] > 3 * peak[0] + 32 * 2**20}
    assert too_high == {}, "images would wait without need"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_images_wait_for_memory(tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    """Four workers would hold four 16-bit TIFFs of 72 MB, each with 100 MiB of copies."""
    images, deep = tmp_path / "images", np.full((3000, 4000, 3), 30000, np.uint16)
    images.mkdir()
    tifffile.imwrite(images / "0.tif", deep, photometric="rgb")
    for number in range(1, 6):
        (images / f"{number}.tif").hardlink_to(images / "0.tif")
    manifest = tiny_manifest(1)
    base = peak_mib(manifest, tmp_path / "few", 10)
    assert run_mib(manifest, images, 6, workers=4, max_memory_mib=400) - base < 400
    (tmp_path / "images.out").rename(tmp_path / "first")
    assert run_mib(manifest, images, 6, workers=4) - base > 400


def test_an_image_that_needs_more_than_the_budget_is_a_row(tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    """A PNG of some hundred bytes may hold 170 megapixels."""
    paths = [save(tmp_path / "a.png", draw(0, 40, 60)), tmp_path / "b.png", save(tmp_path / "c.jpg", draw(1, 40, 60))]
    save(paths[1], np.zeros((4000, 4000, 3), np.uint8))
    outcomes: list[Outcome] = []
    with open_engine(tiny_manifest(1)) as engine:
        listing = ImageListing([ImageFile(path, path.stem) for path in paths])
        options = SegmentOptions(max_memory_mib=100)
        segment_images(listing, engine, tmp_path / "out", options, on_outcome=outcomes.append)
    assert [outcome.status for outcome in outcomes] == [Status.OK, Status.FAILED, Status.OK]
    assert "--max-memory" in outcomes[1].reason


DECODED_TOGETHER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from lesioncli import memory
from lesioncli.images.decode import decode

paths = sorted(Path(sys.argv[1]).iterdir())
if len(sys.argv) > 2:
    memory.SHARED.divide(max(1, memory.SHARED._share_bytes // (int(sys.argv[2]) * 2**20)))
with ThreadPoolExecutor(4) as pool:
    sizes = list(pool.map(lambda path: decode(path, (64, 64)).stored_hw, paths))
assert len(sizes) == 6
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(peak.split()[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_images_wait_for_memory_in_other_commands_too(tmp_path: Path) -> None:
    images, deep = tmp_path / "images", np.full((3000, 4000, 3), 30000, np.uint16)
    images.mkdir()
    tifffile.imwrite(images / "0.tif", deep, photometric="rgb")
    for number in range(1, 6):
        (images / f"{number}.tif").hardlink_to(images / "0.tif")
    command = [sys.executable, "-c", DECODED_TOGETHER, str(images)]
    together, in_turn = (
        int(subprocess.run([*command, *words], check=True, capture_output=True).stdout) for words in ([], ["400"])
    )
    assert together - in_turn > 200 * 1024


def test_what_needs_more_memory_than_there_is_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of some kilobytes, as images and as masks; nothing is decoded."""
    monkeypatch.setattr(memory.SHARED, "limit_bytes", 100 * 2**20)
    image = save(tmp_path / "images" / "a.png", np.zeros((4000, 4000, 3), np.uint8))
    mask = save(tmp_path / "labels" / "a.png", np.zeros((4000, 4000), np.uint8))
    with pytest.raises(ImageError, match="not enough memory"):
        decode(image, (64, 64))
    (case,) = evaluate(mask.parent, mask.parent).masks.cases
    assert "not enough memory" in case.problem
    picture = draw_case_of_report(Case("a", "a.png", CaseState.SEGMENTED, image_path=image, prediction_path=mask))
    assert len(picture.problems) == 2
    assert all("not enough memory" in problem for problem in picture.problems)
    with pytest.raises(InputError, match=r"a\.png: not enough memory"):
        read_sample_image(Sample("a", image, mask), (64, 64))
    with pytest.raises(InputError, match=r"a\.png: .*not enough memory"):
        read_sample_mask(mask, (4000, 4000))


def test_a_budget_is_divided_among_processes() -> None:
    budget = MemoryBudget(400, 1000)
    budget.divide(4)
    with pytest.raises(MemoryError), budget.reserve(251):
        pytest.fail("the body must not run")
    with budget.reserve(250):
        assert budget.limit_bytes == 250


def test_the_error_of_opencv_for_a_lack_of_memory_is_a_memory_error() -> None:
    with pytest.raises(MemoryError), opencv_memory_errors():
        cv2.copyMakeBorder(np.zeros((1, 1), np.uint8), 0, 2**30, 0, 2**30, cv2.BORDER_CONSTANT)
    with pytest.raises(cv2.error), opencv_memory_errors():
        cv2.resize(np.zeros((0, 0), np.uint8), (1, 1))


def test_a_budget_is_shared_in_turn() -> None:
    budget, order = MemoryBudget(100, 1000), list[str]()

    def hold(name: str, size: int, ended: threading.Event) -> threading.Thread:
        def run() -> None:
            with budget.reserve(size):
                order.append(name)
                ended.wait(10)

        thread = threading.Thread(target=run)
        thread.start()
        time.sleep(0.05)
        return thread

    first, second, later = threading.Event(), threading.Event(), threading.Event()
    threads = [hold("60", 60, first), hold("40", 40, second), hold("900", 900, later), hold("1", 1, later)]
    assert order == ["60", "40"]
    first.set()
    time.sleep(0.05)
    assert order == ["60", "40"], "900 waits for all, and 1 behind it"
    second.set()
    time.sleep(0.05)
    assert order == ["60", "40", "900"]
    later.set()
    for thread in threads:
        thread.join()
    assert order == ["60", "40", "900", "1"]
    with pytest.raises(MemoryError), budget.reserve(1001):
        pytest.fail("the body must not run")


MACHINE = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no cgroups")
@pytest.mark.parametrize(
    ("files", "free"),
    [
        (MACHINE, 8000 * 1024),
        ({}, memory.UNKNOWN_BYTES),
        (
            {
                **MACHINE,
                "proc/self/cgroup": "0::/user/job\n",
                "sys/fs/cgroup/user/job/memory.max": "max\n",
                "sys/fs/cgroup/user/job/memory.current": "500\n",
                "sys/fs/cgroup/user/memory.max": "5000\n",
                "sys/fs/cgroup/user/memory.current": "3000\n",
                "sys/fs/cgroup/user/memory.stat": "anon 1\ninactive_file 700\n",
            },
            2700,
        ),
        (
            {
                **MACHINE,
                "proc/self/cgroup": "5:cpu:/a\n4:memory,hugetlb:/docker/x\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "6000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000\n",
            },
            5000,
        ),
    ],
)
def test_free_memory_is_that_of_the_smallest_limit(files: dict[str, str], free: int, tmp_path: Path) -> None:
    assert free_bytes(write_tree(tmp_path, files)) == free


KEEP_FREED_MEMORY = """
import resource
import numpy as np
from lesioncli.process import keep_freed_memory

keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**23)  # 64 MiB
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_freed_memory_is_kept() -> None:
    """The second array reuses the pages of the first, so the kernel has none to clear."""
    done = subprocess.run([sys.executable, "-c", KEEP_FREED_MEMORY], check=True, capture_output=True)
    first, second = map(int, done.stdout.split())
    assert second < first / 20
