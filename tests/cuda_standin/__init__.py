"""The real pycuda on a CUDA driver that needs no GPU: cuda.c, compiled on first use. See README.md.

The driver has its own name, so neither an installed driver nor an installed pycuda is replaced; installed() lends both
to a test. install.py builds that pycuda.
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
HOME = Path(sys.prefix) / "pycuda-standin"  # holds a pycuda that is linked to SONAME
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
class Operation:
    """An operation that ran: its kind (one of KINDS), its stream, and its times by time.monotonic_ns()."""

    kind: str
    stream: int
    bytes: int
    pageable: bool
    asked_ns: int
    start_ns: int
    end_ns: int


def compile_driver(folder: Path) -> Path:
    """Compile the driver into `folder`, in a folder for each version of the source, and return its path."""
    target = folder / hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16] / SONAME
    if target.is_file():
        return target
    compiler = shutil.which("cc")
    if not compiler:
        raise RuntimeError("no C compiler (cc) to build the stand-in for the CUDA driver with")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{os.getpid()}.so")
    options = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    subprocess.run([compiler, *options, f"-Wl,-soname,{SONAME}", "-o", temporary, SOURCE], check=True)
    temporary.replace(target)
    return target


class Driver:
    """Controls and observes the driver. Names of calls have no version suffix, as in "cuMemAlloc"."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = ctypes.CDLL(str(path))
        number, text, size = ctypes.c_int64, ctypes.c_char_p, ctypes.c_size_t
        for name, returns, *arguments in (
            ("standin_enqueue", ctypes.c_int, ctypes.c_uint64, Function, ctypes.c_void_p),
            ("standin_device_memory", ctypes.c_void_p, ctypes.c_uint64, size),
            ("standin_fail", None, text, ctypes.c_int, ctypes.c_int),
            ("standin_lose", None, ctypes.c_int),
            ("standin_device", None, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int),
            ("standin_cuda_version", None, ctypes.c_int),
            ("standin_advance_clock", None, ctypes.c_double),
            ("standin_memory", None, size),
            ("standin_delays", None, ctypes.c_uint64, ctypes.c_double),
            ("standin_costs", None, ctypes.c_double, ctypes.c_double, ctypes.c_double),
            ("standin_live", number, text),
            ("standin_stack_depth", ctypes.c_int),
            ("standin_calls", number, text),
            ("standin_pageable_copies", number),
            ("standin_violations", size, text, size),
            ("standin_trace", size, ctypes.POINTER(_Row), size),
            ("standin_reset", None),
        ):
            function = getattr(self.library, name)
            function.restype, function.argtypes = returns, arguments

    def reset(self) -> None:
        """Return to the initial state; everything that was not freed is dropped."""
        self.library.standin_reset()

    def set_device(self, devices: int = 1, capability: tuple[int, int] = (8, 6), models: int | None = None) -> None:
        """Set the number of devices, up to 8, and how many models they are: by default each is another one."""
        self.library.standin_device(devices, models or max(1, devices), *capability)

    def set_cuda_version(self, major: int, minor: int) -> None:
        """Set the newest CUDA that the driver supports."""
        self.library.standin_cuda_version(1000 * major + 10 * minor)

    def advance_clock(self, seconds: float) -> None:
        """Let time pass on the device: later events have later times."""
        self.library.standin_advance_clock(seconds)

    def limit_memory(self, size: int) -> None:
        self.library.standin_memory(size)

    def set_delays(self, seed: int, seconds: float = 0.0003) -> None:
        """Set random delays of up to `seconds` before every operation."""
        self.library.standin_delays(seed, seconds)

    def set_costs(self, in_rate: float = 0, out_rate: float = 0, kernel_seconds: float = 0) -> None:
        """Set durations instead of delays: copy rates in bytes per second, seconds per kernel; 0 costs nothing."""
        self.library.standin_costs(in_rate, out_rate, kernel_seconds)

    def fail(self, name: str, nth: int, code: int) -> None:
        """Let the nth call of a function return `code`; the nth operation of one of KINDS breaks its context."""
        self.library.standin_fail(name.encode(), nth, code)

    def lose_device(self, code: int = 719) -> None:
        """Stop all work; every call that needs the device returns `code`."""
        self.library.standin_lose(code)

    def launch(self, stream: int, function: "ctypes._FuncPointer") -> int:
        """Run a Function as a kernel of a stream; the caller keeps it alive. Return the code of CUDA."""
        return int(self.library.standin_enqueue(stream, function, None))

    def device_memory(self, address: int, size: int) -> int | None:
        """Return the host address of device memory, for kernels; None if the address is not device memory."""
        host_address = self.library.standin_device_memory(address, size)
        return None if host_address is None else int(host_address)

    def live(self) -> dict[str, int]:
        """Return the number of live objects by kind (one of LIVE), without zeros."""
        counts = {kind: self.library.standin_live(kind.encode()) for kind in LIVE}
        return {kind: count for kind, count in counts.items() if count}

    def blocking_streams(self) -> int:
        """Return the number of live streams that wait for the default stream."""
        return int(self.library.standin_live(b"blocking streams"))

    def spinning_events(self) -> int:
        """Return the number of live events that use a core while a thread waits for them."""
        return int(self.library.standin_live(b"spinning events"))

    def memory_used(self) -> int:
        return int(self.library.standin_live(b"device bytes"))

    def stack_depth(self) -> int:
        """Return the number of contexts on the stack of this thread."""
        return int(self.library.standin_stack_depth())

    def calls(self, name: str) -> int:
        return int(self.library.standin_calls(name.encode()))

    def pageable_copies(self) -> int:
        """Return the number of asynchronous copies from or to memory that is not pinned."""
        return int(self.library.standin_pageable_copies())

    def violations(self) -> list[str]:
        """Return the mistakes of the program so far, one sentence each."""
        text = ctypes.create_string_buffer(self.library.standin_violations(None, 0))
        self.library.standin_violations(text, len(text))
        return text.raw.decode().splitlines()

    def trace(self) -> list[Operation]:
        """Return the operations that ran, in the order of their ends."""
        rows = (_Row * self.library.standin_trace(None, 0))()
        self.library.standin_trace(rows, len(rows))
        return [
            Operation(
                KINDS[row.kind], row.stream, row.bytes, bool(row.pageable), row.asked_ns, row.start_ns, row.end_ns
            )
            for row in rows
        ]


@cache
def driver() -> Driver:
    """Load the driver once per process; pycuda then finds it by its name."""
    return Driver(compile_driver(HOME / "driver"))


_modules: dict[str, ModuleType] = {}  # kept, because Boost.Python does not load an extension twice


@contextmanager
def installed() -> Iterator[Driver]:
    """Inside, `import pycuda` gives the one on the stand-in, and the driver is in its initial state."""
    if not (HOME / "pycuda").is_dir():
        raise RuntimeError(f"no {HOME / 'pycuda'}; make test sets it up")
    standin = driver()
    standin.reset()
    others = _take_modules()
    sys.modules.update(_modules)
    sys.path.insert(0, str(HOME))
    try:
        import pycuda.driver

        pycuda.driver.init()
        yield standin
    finally:
        sys.path.remove(str(HOME))
        _modules.update(_take_modules())
        sys.modules.update(others)
        standin.reset()


def _take_modules() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] == "pycuda"]
    return {name: sys.modules.pop(name) for name in names}
