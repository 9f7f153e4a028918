"""Memory of a process: its peak does not grow with the number of images, and freed memory is kept."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.graphs import MakeEngine
from helpers.pictures import draw, save

# VmHWM, not getrusage(): the latter starts from the peak of the process that started this one.
PROGRAM = """
import sys
from pathlib import Path
from lesioncli.backends.registry import open_engine
from lesioncli.images.find import list_images
from lesioncli.inference.run import segment_images
from lesioncli.options import SegmentOptions

manifest, images, out = map(Path, sys.argv[1:])
with open_engine(manifest) as engine:
    summary = segment_images(list_images([images]), engine, out, SegmentOptions(workers=2))
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
    command = [sys.executable, "-c", PROGRAM, str(manifest), str(images), str(images.with_suffix(".out"))]
    ok, peak_kib = subprocess.run(command, check=True, capture_output=True).stdout.split()
    assert int(ok) == count
    return int(peak_kib) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thousand_images_take_no_more_memory_than_a_hundred(tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    few = peak_mib(tiny_manifest(4), tmp_path / "few", 100)
    many = peak_mib(tiny_manifest(4), tmp_path / "many", 1000)
    assert many - few < MAX_GROWTH_MIB


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
