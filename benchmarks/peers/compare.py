"""Compare `segment` with scripts that do the same, in CPU time per image: `make bench-peers`.

    python benchmarks/peers/compare.py ENVIRONMENTS [FOLDER_OF_IMAGES ...] [--graph FILE.onnx]

ENVIRONMENTS holds an environment for each script. The scripts segment the same files with the same network and write
the same outputs: full-size masks as PNG, and a CSV of scores. All programs run in turn, ROUNDS times. Their CPU time,
user and system, is that of the whole process from its start. Ratios are taken within a round, because the speed of a
shared machine varies between rounds. With --graph, the scripts that use ONNX Runtime run that graph, such as one of an
earlier version, in place of the one that `segment` runs.
"""

import os
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from numpy.typing import NDArray

from lesioncli.backends.openvino import processor, read_spec
from lesioncli.demo.folder import write_demo
from lesioncli.engines import build_engine
from lesioncli.evaluation.metrics.pixels import count_pixels, jaccard
from lesioncli.options import Backend, BuildOptions, Precision
from lesioncli.process import count_cores
from lesioncli.shipped import SHIPPED_MODEL, assemble_graph, find_checkpoint

ROUNDS = 3
MIN_IMAGES = 600  # smaller sets are repeated, so that start-up does not dominate
REFERENCE = "ONNX Runtime, OpenCV"  # the program that the others are compared with
SCRIPTS = {
    "ONNX Runtime, Pillow": "ort_pillow",
    REFERENCE: "ort_opencv",
    "PyTorch DataLoader, Pillow": "torch_loader",
}

INSTRUCTIONS = {"AVX-512": "avx512f", "AVX512-VNNI": "avx512_vnni", "AVX512-BF16": "avx512_bf16", "AMX": "amx_tile"}


@dataclass(frozen=True)
class Program:
    """A program to compare; `command` lacks the folders of images and masks."""

    name: str
    command: Sequence[str]


@dataclass(frozen=True)
class Usage:
    """What a process took, in seconds of CPU time and of the wall clock."""

    cpu_s: float
    wall_s: float


def main() -> None:
    parser = ArgumentParser()
    parser.add_argument("environments", type=Path)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--graph", type=Path)
    arguments = parser.parse_args()
    folders = arguments.folders
    with TemporaryDirectory() as name:
        work = Path(name)
        if not folders:
            write_demo(work / "drawn", count=30, height=768, width=1024)
            folders = [work / "drawn" / "images"]
        programs = prepare(arguments.environments, work, arguments.graph)
        print(describe_machine())
        for number, folder in enumerate(folders):
            images = link_images(folder, work / f"images{number}")
            count = len(list(images.iterdir()))
            print(f"\n{folder.name}: {len(list(folder.iterdir()))} images, {count} with repetitions\n")
            print_table(measure(programs, images), count, agreement(programs, images))


def prepare(environments: Path, work: Path, graph: Path | None) -> list[Program]:
    """Build the engines and, unless it is given, the graph; return the programs, those of lesioncli first."""
    programs = []
    for precision in (Precision.FP32, Precision.AUTO):
        options = BuildOptions(Backend.OPENVINO, precision)
        built = build_engine(None, work / precision, options)
        lesioncli = [str(Path(sys.executable).with_name("lesioncli")), "segment", "--json", "--engine", str(built.path)]
        suffix = f" ({built.manifest.precision})" if precision is Precision.AUTO else ""
        programs.append(Program(f"lesioncli, {precision}{suffix}", lesioncli))
    shipped, checkpoint = assemble_graph(SHIPPED_MODEL, work), find_checkpoint(SHIPPED_MODEL)
    for name, script in SCRIPTS.items():
        python, path = environments / script / "bin" / "python", Path(__file__).with_name(f"{script}.py")
        onnx = shipped if script == "torch_loader" else graph or shipped
        model = checkpoint if script == "torch_loader" else onnx
        programs.append(Program(name, [str(python), str(path), str(model), str(read_spec(onnx).height)]))
    return programs


def describe_machine() -> str:
    """Return the processor and which of the instructions that matter it has."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    has = [f"{name} {'yes' if flag in flags else 'no'}" for name, flag in INSTRUCTIONS.items()]
    return f"{processor()}, {count_cores()} cores; {', '.join(has)}"


def link_images(folder: Path, target: Path) -> Path:
    """Fill `target` with links to the images of `folder`, repeated up to MIN_IMAGES."""
    target.mkdir()
    images = sorted(path for path in folder.iterdir() if path.is_file())
    for repetition in range(-(-MIN_IMAGES // len(images))):
        for image in images:
            (target / f"{image.stem}-{repetition}{image.suffix}").symlink_to(image.absolute())
    return target


def measure(programs: Sequence[Program], images: Path) -> dict[str, list[Usage]]:
    """Run all programs in turn, ROUNDS times.

    Masks are removed at the end: for minutes, ext4 makes each new file wait for a search past the removed ones.
    """
    usages: dict[str, list[Usage]] = {program.name: [] for program in programs}
    for number in range(ROUNDS):
        for program in programs:
            usages[program.name].append(run(program, images, masks_folder(program, images, number)))
    return usages


def masks_folder(program: Program, images: Path, number: int = 0) -> Path:
    return images.with_name(f"masks of {images.name} by {program.name}, {number}")


def run(program: Program, images: Path, out: Path) -> Usage:
    """Run a program in a process of its own."""
    is_peer = program.name in SCRIPTS
    command = [*program.command, str(images), *([] if is_peer else ["--out"]), str(out)]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)  # with the processes that it waited for
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return Usage(usage.ru_utime + usage.ru_stime, time.monotonic() - started)


def agreement(programs: Sequence[Program], images: Path) -> dict[str, float]:
    """Return the mean Jaccard between the masks of each program and those of the first."""
    first = sorted(masks_folder(programs[0], images).glob("*.png"))
    means = {}
    for program in programs:
        masks = sorted(masks_folder(program, images).glob("*.png"))
        pairs = zip(map(read_mask, first), map(read_mask, masks), strict=True)
        means[program.name] = float(np.mean([jaccard(count_pixels(*pair)) for pair in pairs]))
    return means


def read_mask(path: Path) -> NDArray[np.bool_]:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) > 128


def print_table(usages: dict[str, list[Usage]], count: int, agreements: dict[str, float]) -> None:
    """Print medians per image, and the median ratio of CPU times to the reference."""
    print(f"| program | CPU ms per image | wall ms per image | CPU / {REFERENCE} | mask agreement |")
    print("|---|---|---|---|---|")
    for name, runs in usages.items():
        ratio = statistics.median(
            usage.cpu_s / reference.cpu_s for usage, reference in zip(runs, usages[REFERENCE], strict=True)
        )
        cpu_ms, wall_ms = (
            1000 * statistics.median(values) / count
            for values in zip(*((u.cpu_s, u.wall_s) for u in runs), strict=True)
        )
        print(f"| {name} | {cpu_ms:.1f} | {wall_ms:.1f} | {ratio:.2f} | {agreements[name]:.4f} |")


if __name__ == "__main__":
    main()
