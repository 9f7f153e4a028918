"""Cost of packing masks into tar archives, and of reading them there.

    python benchmarks/archive_overhead.py [IMAGES [ROUNDS]]

In each round, a copy of a finished folder is continued without and with `--masks tar`, which packs its masks and does
nothing else; then both are evaluated. Prints the median CPU seconds of the process and seconds, the median of the
ratios of CPU seconds, and the number of files that are left.
"""

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from timed_commands import draw_images, run

SIDES_HW = (450, 600)
STORAGES = ("files", "tar")


def main() -> None:
    count, rounds = (int(word) for word in (*sys.argv[1:], "2000", "5")[:2])
    with tempfile.TemporaryDirectory() as work:
        measure(Path(work), count, rounds)


def measure(work: Path, count: int, rounds: int) -> None:
    """Draw and segment images, then pack and evaluate copies of the masks several times in turn."""
    draw_images(work / "images", count, SIDES_HW)
    run(work, "segment", "images", "--out", "finished")
    (work / "labels").mkdir()
    for mask in (work / "finished").glob("*.png"):
        shutil.copy(mask, work / "labels")
    times: dict[str, list[dict[str, tuple[float, float]]]] = {"segment": [], "evaluate": []}
    for _ in range(rounds):
        times["segment"].append({name: pack(work, name) for name in STORAGES})
        times["evaluate"].append({name: run(work, "evaluate", name, "--gt", "labels") for name in STORAGES})
    for command, rows in times.items():
        for name in STORAGES:
            cpu, wall = (statistics.median(row[name][index] for row in rows) for index in (0, 1))
            ratio = statistics.median(row[name][0] / row["files"][0] for row in rows)
            more = statistics.median(row[name][0] - row["files"][0] for row in rows)
            per_mask = f"{1e3 * more / count:+.3f} ms per mask"
            print(f"{command:8} {name:5} CPU {cpu:6.2f} s ({ratio:.3f}, {per_mask})   wall {wall:6.2f} s")
    for name in STORAGES:
        print(f"{name:5} {sum(path.is_file() for path in (work / name).rglob('*'))} files")


def pack(work: Path, name: str) -> tuple[float, float]:
    """Continue a copy of the finished folder; return the CPU seconds of the process, and seconds."""
    shutil.rmtree(work / name, ignore_errors=True)
    shutil.copytree(work / "finished", work / name)
    return run(work, "segment", "images", "--out", name, "--masks", name)


if __name__ == "__main__":
    main()
