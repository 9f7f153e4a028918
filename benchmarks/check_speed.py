"""Notice a loss of speed: compare `segment` of this tree with that of another commit: `make bench-check BASE=commit`.

    python benchmarks/check_speed.py COMMIT [FOLDER_OF_IMAGES]

Both versions build their own fp32 engine and segment the same files in turn, ROUNDS times. The exit code is 1 if the
median of the ratios of CPU time, start-up included, is above MAX_RATIO.
"""

import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from peers.compare import Program, link_images, run

from lesioncli.demo.folder import write_demo

ROUNDS = 5
MAX_RATIO = 1.1
TREE = Path(__file__).parents[1]


def main() -> None:
    commit = sys.argv[1]
    with TemporaryDirectory() as name:
        work = Path(name)
        base = work / "base"
        git = ["git", "-C", str(TREE), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(base), commit], check=True)
        try:
            ratio = compare(base, work)
        finally:
            subprocess.run([*git, "remove", "--force", str(base)], check=True)
    print(f"CPU time / that of {commit}: {ratio:.3f}; the limit is {MAX_RATIO}")
    sys.exit(ratio > MAX_RATIO)


def compare(base: Path, work: Path) -> float:
    """Return the median ratio of the CPU times of this tree and of `base`."""
    if len(sys.argv) > 2:
        folder = Path(sys.argv[2])
    else:
        write_demo(work / "drawn", count=30, height=768, width=1024)
        folder = work / "drawn" / "images"
    images = link_images(folder, work / "images")
    this, other = prepare(TREE, work / "this"), prepare(base, work / "base-engine")
    ratios = []
    for number in range(ROUNDS):
        outs = (work / f"masks {number} of {version}" for version in ("this", "base"))
        this_s, other_s = (run(program, images, out).cpu_s for program, out in zip((this, other), outs, strict=True))
        print(f"round {number + 1}: {this_s:.2f} s of CPU time, {other_s:.2f} s before")
        ratios.append(this_s / other_s)
    return statistics.median(ratios)


def prepare(tree: Path, engines: Path) -> Program:
    """Build the fp32 engine of a tree; return its `segment`."""
    lesioncli = ["env", f"PYTHONPATH={tree}", str(Path(sys.executable).with_name("lesioncli"))]
    build = [*lesioncli, "build-engine", "--backend", "openvino", "--precision", "fp32", "--out", str(engines)]
    subprocess.run(build, check=True, capture_output=True)
    (manifest,) = engines.glob("*.json")
    return Program("lesioncli", [*lesioncli, "segment", "--json", "--engine", str(manifest)])


if __name__ == "__main__":
    main()
