"""Settings of the process and its threads: cores, scheduling, memory, threads of OpenCV, warnings of image decoders.

The Python API and the command line apply those of the process once, at the edge; nothing below them changes it.
"""

import ctypes
import logging
import math
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lesioncli.cgroups import find_cgroups, read_text

_own_cores: int | None = None


def use_cores(count: int) -> None:
    """Let this process count on so many cores from now on: others use the rest."""
    global _own_cores
    _own_cores = count


def count_cores(root: Path = Path("/")) -> int:
    """Return the cores that this process may use; on a cluster they are often fewer than the machine has.

    A container may use all cores, but only for a part of the time, its quota: more threads would wait for each other.
    """
    if _own_cores is not None:
        return _own_cores
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _cpu_quotas(root))]))


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quota, in cores, of each cgroup of this process that has one."""
    for folder in find_cgroups("cpu", root):
        in_version_1 = [read_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
        for quota, period in filter(None, (read_text(folder / "cpu.max").split(), in_version_1)):
            if quota.isdecimal() and period.isdecimal():  # not "max" or -1
                yield int(quota) / int(period)


def start_no_blas_threads() -> None:
    """Let numpy's OpenBLAS start no threads of its own, before numpy is imported; the user's setting has priority.

    They use the processor while they wait for work: a sixth of the CPU time of a run over one image on two cores. torch
    and OpenVINO have threads of their own, and a build in int8 takes as long with one thread.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def run_as_batch() -> None:
    """Let the calling thread wait for its turn when it wakes up, in place of a thread that computes.

    For threads that hand work to each other many times per image: each such preemption takes time and the processor's
    caches. Only Linux has this; a thread that a user has given another scheduling policy keeps it.
    """
    if sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with suppress(OSError):  # a sandbox may not allow it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next allocation; other C libraries are left alone.

    By default glibc returns every large array to the system, and the kernel clears each page again. On two cores that
    took a third of a training step of multitask-lite and a tenth of `evaluate` on 12-megapixel masks.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**28)


def quiet_decoders() -> None:
    """Silence Pillow, tifffile, libtiff and pydicom: what is wrong with a file is in its row of scores.csv."""
    from PIL import _imaging  # a heavy import, which `--help` does without

    for library in ("PIL", "pydicom"):
        warnings.filterwarnings("ignore", module=library)
    for library in ("PIL", "tifffile", "pydicom"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    # Pillow has no option for the lines that its libtiff prints to stderr. On Windows the symbols are not exported.
    with suppress(AttributeError, OSError):
        libtiff = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            getattr(libtiff, name)(None)


def skip_openvino_converter() -> None:
    """Let `import openvino` leave out its model converter, half of the time that it takes.

    It has no `openvino.convert_model` then, so this is for a process that runs no code of others.
    """
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]  # None makes the import fail


@contextmanager
def opencv_on_one_thread() -> Iterator[None]:
    """Let every OpenCV call use one thread inside: a pool of threads already uses all cores."""
    import cv2  # a heavy import, which `--help` does without

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
