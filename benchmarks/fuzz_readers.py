"""Mutate files, give them to the readers, and print figures: `make fuzz-readers`.

    PYTHONPATH=tests python benchmarks/fuzz_readers.py [IMAGES] [OTHERS]

IMAGES mutated images of every format, mode and layout are decoded, then segmented by one run with the tiny graph of
the tests; each must be a row, with a reason unless it is ok. Every other reader of files gets OTHERS mutated files. The
exit status is 1 if a reader raises anything but an error in words, if a file takes more than MAX_SECONDS of CPU time,
if a size is not that of the header, or if the process takes more than MAX_BYTES.
"""

import csv
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from helpers.fuzzing import Target, check, mutations, targets
from helpers.graphs import write_graph
from helpers.pictures import draw

from lesioncli.api import segment_folder
from lesioncli.backends.build import build
from lesioncli.options import Backend, BuildOptions, Precision
from lesioncli.process import quiet_decoders

IMAGES, OTHERS = 20_000, 2_000
MAX_SECONDS = 5.0
MAX_BYTES = 4 * 2**30


def read_all(name: str, target: Target, count: int) -> Iterator[str]:
    """Give mutated files to a reader, print figures, and yield what is wrong."""
    accepted, slowest = 0, 0.0
    for number, data in enumerate(mutations(target, count, seed=7)):
        started = time.thread_time()
        try:
            accepted += check(target, data)
        except Exception as error:
            yield f"{name}, mutation {number}: {error!r}"
        seconds = time.thread_time() - started
        slowest = max(slowest, seconds)
        if seconds > MAX_SECONDS:
            yield f"{name}, mutation {number}: {seconds:.1f} s"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{name:12}{count:8}{accepted:10}{count - accepted:9}{slowest:10.2f}{peak:9.0f}", flush=True)


def run_all(count: int) -> Iterator[str]:
    """Segment the same mutated images in one run, and yield what is wrong with its rows."""
    with TemporaryDirectory() as work:
        images, out = Path(work) / "images", Path(work) / "masks"
        images.mkdir()
        for number, data in enumerate(mutations(targets()["images"], count, seed=7)):
            (images / f"{number:05d}.jpg").write_bytes(data)
        options = BuildOptions(backend=Backend.OPENVINO, precision=Precision.FP32)
        built = build(write_graph(Path(work) / "tiny.onnx"), Path(work), [draw(seed) for seed in range(3)], options)
        summary = segment_folder(images, out, engine=built.path)
        with (out / "scores.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        print(f"run: {len(rows)} rows, {summary.ok} ok, {summary.failed} failed, {summary.seconds:.0f} s")
        reasons = Counter(row["reason"].partition(" (")[0].partition(";")[0] for row in rows if row["reason"])
        print(*(f"{number:7} {reason}" for reason, number in reasons.most_common(15)), sep="\n")
        if len(rows) != count:
            yield f"{len(rows)} rows for {count} images"
        for row in rows:
            if (row["status"] == "ok") != (not row["reason"]) or (row["status"] == "ok") != bool(row["mask"]):
                yield f"{row['image']}: {row['status']}, reason {row['reason']!r}, mask {row['mask']!r}"


def main() -> None:
    images, others = map(int, sys.argv[1:3] or (IMAGES, OTHERS))
    quiet_decoders()
    warnings.simplefilter("ignore")
    print(f"{'reader':12}{'files':>8}{'accepted':>10}{'refused':>9}{'slowest':>10}{'MiB':>9}")
    problems = [
        problem
        for name, target in targets().items()
        for problem in read_all(name, target, images if name == "images" else others)
    ]
    problems += run_all(images)
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10 > MAX_BYTES:
        problems.append("the process takes too much memory")
    print(*problems[:20], sep="\n")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
