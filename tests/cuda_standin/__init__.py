"""pycuda, the real one, over a CUDA driver that needs no GPU: cuda.c beside this file, compiled when it is first used.

The driver goes by a name of its own, so that it never stands in for one that is installed, nor its pycuda for the
user's: `installed()` lends both to a test. tests/standin/install.py builds that pycuda.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

SONAME = "libcuda-standin.so"
SOURCE = Path(__file__).with_name("cuda.c")
HOME = Path(sys.prefix) / "pycuda-standin"  # with a pycuda that is linked to SONAME
SUPPORTED = (sys.platform, platform.machine()) == ("linux", "x86_64")
KINDS = ("copy in", "copy out", "copy on device", "fill", "kernel", "host function", "record", "wait")
LIVE = ("contexts", "streams", "events", "device", "pinned", "registered")

Function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Row(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("asked_ns", "start_ns", "end_ns", "bytes")),
        ("stream", ctypes.c_uint64),
        *((name, ctypes.c_int32) for name in ("kind", "pageable")),
    )


@dataclass(frozen=True)
class Ran:
    """An operation that ran: its kind, one of KINDS, on which stream, and when by time.monotonic_ns()."""

    kind: str
    stream: int
    bytes: int
    pageable: bool
    asked_ns: int
    start_ns: int
    end_ns: int


def compile_driver(folder: Path) -> Path:
    """The compiled driver, in a folder of its own for each version of the source."""
    target = folder / hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16] / SONAME
    if target.is_file():
        return target
    compiler = shutil.which("cc")
    if not compiler:
        raise RuntimeError("no C compiler (cc) to build the stand-in for the CUDA driver with")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{os.getpid()}.so")
    options = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    subprocess.run([compiler, *options, f"-Wl,-soname,{SONAME}", "-o", aside, SOURCE], check=True)
    aside.replace(target)
    return target


class Driver:
    """What a test sets and sees of the driver. Names of calls are without their version, as in "cuMemAlloc"."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = ctypes.CDLL(str(path))
        number, text, size = ctypes.c_int64, ctypes.c_char_p, ctypes.c_size_t
        for name, returns, *takes in (
            ("standin_enqueue", ctypes.c_int, ctypes.c_uint64, Function, ctypes.c_void_p),
            ("standin_device_memory", ctypes.c_void_p, ctypes.c_uint64, size),
            ("standin_fail", None, text, ctypes.c_int, ctypes.c_int),
            ("standin_lose", None, ctypes.c_int),
            ("standin_device", None, ctypes.c_int, ctypes.c_int, ctypes.c_int),
            ("standin_memory", None, size),
            ("standin_delays", None, ctypes.c_uint64, ctypes.c_double),
            ("standin_costs", None, ctypes.c_double, ctypes.c_double, ctypes.c_double),
            ("standin_live", number, text),
            ("standin_calls", number, text),
            ("standin_pageable_copies", number),
            ("standin_violations", size, text, size),
            ("standin_trace", size, ctypes.POINTER(_Row), size),
            ("standin_reset", None),
        ):
            function = getattr(self.library, name)
            function.restype, function.argtypes = returns, takes

    def reset(self) -> None:
        """As if nothing had happened; what was not freed is gone."""
        self.library.standin_reset()

    def set_device(self, devices: int = 1, capability: tuple[int, int] = (8, 6)) -> None:
        self.library.standin_device(devices, *capability)

    def limit_memory(self, size: int) -> None:
        self.library.standin_memory(size)

    def set_delays(self, seed: int, seconds: float = 0.0003) -> None:
        """Random delays of up to so much before each operation."""
        self.library.standin_delays(seed, seconds)

    def set_costs(self, in_rate: float = 0, out_rate: float = 0, kernel_seconds: float = 0) -> None:
        """Durations in place of delays: rates of copies in bytes a second; 0 costs nothing."""
        self.library.standin_costs(in_rate, out_rate, kernel_seconds)

    def fail(self, name: str, nth: int, code: int) -> None:
        """The nth call of that name from now on returns `code`; of one of KINDS, the nth to run breaks its context."""
        self.library.standin_fail(name.encode(), nth, code)

    def lose_device(self, code: int = 719) -> None:
        """Nothing runs from now on, and every call that needs the device returns `code`."""
        self.library.standin_lose(code)

    def launch(self, stream: int, function: "ctypes._FuncPointer") -> int:
        """Run a Function in that stream's order, as a kernel; the caller keeps it alive. Returns CUDA's code."""
        return int(self.library.standin_enqueue(stream, function, None))

    def device_memory(self, address: int, size: int) -> int | None:
        """The host's address of the bytes behind a device address, None where it is not one; kernels may use it."""
        found = self.library.standin_device_memory(address, size)
        return None if found is None else int(found)

    def live(self) -> dict[str, int]:
        """How many there are of each of LIVE; those that are none are left out."""
        counts = {kind: self.library.standin_live(kind.encode()) for kind in LIVE}
        return {kind: count for kind, count in counts.items() if count}

    def memory_used(self) -> int:
        return int(self.library.standin_live(b"device bytes"))

    def calls(self, name: str) -> int:
        return int(self.library.standin_calls(name.encode()))

    def pageable_copies(self) -> int:
        """Asynchronous copies from or to memory that is not pinned."""
        return int(self.library.standin_pageable_copies())

    def violations(self) -> list[str]:
        """What the program did that no program must."""
        text = ctypes.create_string_buffer(self.library.standin_violations(None, 0))
        self.library.standin_violations(text, len(text))
        return text.raw.decode().splitlines()

    def trace(self) -> list[Ran]:
        """What ran, in the order in which it ended."""
        rows = (_Row * self.library.standin_trace(None, 0))()
        self.library.standin_trace(rows, len(rows))
        return [
            Ran(KINDS[row.kind], row.stream, row.bytes, bool(row.pageable), row.asked_ns, row.start_ns, row.end_ns)
            for row in rows
        ]


@cache
def driver() -> Driver:
    """Load it once in a process: pycuda finds it by its name then."""
    return Driver(compile_driver(HOME / "driver"))


_modules: dict[str, ModuleType] = {}  # once imported they stay: Boost.Python does not load an extension twice


@contextmanager
def installed() -> Iterator[Driver]:
    """Within it, `import pycuda` gives the one over the stand-in, and the driver is as new."""
    if not (HOME / "pycuda").is_dir():
        raise RuntimeError(f"no {HOME / 'pycuda'}; make test sets it up")
    lent = driver()
    lent.reset()
    others = _take_modules()
    sys.modules.update(_modules)
    sys.path.insert(0, str(HOME))
    try:
        import pycuda.driver

        pycuda.driver.init()
        yield lent
    finally:
        sys.path.remove(str(HOME))
        _modules.update(_take_modules())
        sys.modules.update(others)
        lent.reset()


def _take_modules() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] == "pycuda"]
    return {name: sys.modules.pop(name) for name in names}
