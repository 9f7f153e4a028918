"""What sharding costs in CPU time: two shards and their merge against one process, and what a long list costs a shard.

    python benchmarks/shard_overhead.py [IMAGES_PER_SHARD]

Both segment the same links to 30 drawn images of 512 px with the same engine, in turn, ROUNDS times. CPU time is user
and system time of whole processes, so other programs on the machine matter little.
"""

import os
import statistics
import subprocess
import sys
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

from lesioncli.demo.folder import write_demo
from lesioncli.options import Shard
from lesioncli.sharding import contains

ROUNDS = 3
SHARDS = 2
DRAWN = 30
LISTED = 100_000  # images of a list of which a shard has about ten


def main() -> None:
    per_shard = int(sys.argv[1]) if len(sys.argv) > 1 else 800
    with TemporaryDirectory() as name:
        os.chdir(name)
        write_demo(Path("drawn"), count=DRAWN, height=512, width=512)
        link_images(SHARDS * per_shard)
        lesioncli("build-engine")
        lesioncli("list", "images", "--out", "images.csv")
        ratios = []
        for number in range(ROUNDS):
            one_s, shards_s, merge_s = measure()
            ratios.append((shards_s + merge_s) / one_s)
            parts = f"{SHARDS} shards {shards_s:.2f} s, merge {merge_s:.2f} s"
            print(f"round {number + 1}: one process {one_s:.2f} s, {parts}", flush=True)
        print(f"{per_shard} images per shard: median ratio {statistics.median(ratios):.3f}")
        print(
            f"a shard of 10 images of a list of {LISTED}: {read_list():.2f} s, of a list of 10: {read_list(10):.2f} s"
        )


def link_images(count: int) -> None:
    """Fill images/ with links to the drawn images."""
    Path("images").mkdir()
    drawn = sorted(Path("drawn/images").iterdir())
    for number in range(count):
        source = drawn[number % len(drawn)]
        Path(f"images/{number:06d}{source.suffix}").hardlink_to(source)


def measure() -> tuple[float, float, float]:
    """Return the CPU seconds of one process, of all shards, and of their merge."""
    for out in ("one", "masks"):
        rmtree(out, ignore_errors=True)
    words = ("segment", "--from", "images.csv", "--quiet", "--out")
    one_s = lesioncli(*words, "one")
    shards_s = sum(lesioncli(*words, "masks", "--shard", f"{index}/{SHARDS}") for index in range(1, SHARDS + 1))
    return one_s, shards_s, lesioncli("merge", "masks")


def read_list(count: int = LISTED) -> float:
    """Return the CPU seconds of a dry run of a shard with about ten of the images of a list."""
    shard, image = Shard(1, max(1, count // 10)), next(Path("drawn/images").iterdir())
    root = Path(f"listed-{count}")
    names = [f"{number % 100:02d}/{number:08d}" for number in range(count)]
    for name in names:
        if contains(shard, name):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).with_suffix(image.suffix).hardlink_to(image)
    lines = [f"{name}{image.suffix},{name.partition('/')[0]},{root}\n" for name in names]
    Path("long.csv").write_text("".join(["image,folder,root\n", *lines]))
    words = ("--from", "long.csv", "--out", f"masks-{count}", "--shard", str(shard), "--dry-run", "--quiet")
    return lesioncli("segment", *words)


def lesioncli(*words: str) -> float:
    """Run the program; return its CPU seconds."""
    with subprocess.Popen([sys.executable, "-m", "lesioncli", *words], stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"lesioncli {' '.join(words)}: exit code {process.returncode}")
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
