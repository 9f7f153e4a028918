"""Two small kernels for tests on a real GPU: one that takes a given time, one that writes to an illegal address.

The driver compiles them from PTX, so that neither a compiler nor torch is needed.
"""

import ctypes
import platform
from functools import cache

from lesioncli.backends.tensorrt.driver import DRIVERS

PTX = b"""
.version 6.4
.target sm_75
.address_size 64

.visible .entry spin(.param .u64 duration_ns)
{
    .reg .u64 %t<4>;
    .reg .pred %early;
    ld.param.u64 %t0, [duration_ns];
    mov.u64 %t1, %globaltimer;
again:
    mov.u64 %t2, %globaltimer;
    sub.u64 %t3, %t2, %t1;
    setp.lt.u64 %early, %t3, %t0;
    @%early bra again;
    ret;
}

.visible .entry trespass()
{
    .reg .u64 %address;
    .reg .u32 %value;
    mov.u64 %address, 16;
    mov.u32 %value, 1;
    st.global.u32 [%address], %value;
    ret;
}
"""


@cache
def load_driver() -> ctypes.CDLL:
    """Load the driver of this machine."""
    return ctypes.CDLL(DRIVERS[platform.system()])


@cache
def _load_kernel(context: int, name: bytes) -> ctypes.c_void_p:
    """Compile a kernel for a context, which must be current and must live as long as the process."""
    module, kernel = ctypes.c_void_p(), ctypes.c_void_p()
    _check(load_driver().cuModuleLoadData(ctypes.byref(module), PTX))
    _check(load_driver().cuModuleGetFunction(ctypes.byref(kernel), module, name))
    return kernel


def current_context() -> int:
    """Return the handle of the context that is current in this thread; 0: none is."""
    context = ctypes.c_void_p()
    _check(load_driver().cuCtxGetCurrent(ctypes.byref(context)))
    return context.value or 0


def spin(stream: int, seconds: float) -> None:
    """Keep a stream busy for a time."""
    _launch(b"spin", stream, ctypes.c_uint64(int(seconds * 1e9)))


def trespass(stream: int) -> None:
    """Write to an illegal address: every later call in the context fails."""
    _launch(b"trespass", stream)


def _launch(name: bytes, stream: int, *parameters: ctypes.c_uint64) -> None:
    addresses = (ctypes.c_void_p * len(parameters))(*map(ctypes.addressof, parameters))
    kernel, one, none = _load_kernel(current_context(), name), ctypes.c_uint(1), ctypes.c_uint(0)
    _check(
        load_driver().cuLaunchKernel(
            kernel, one, one, one, one, one, one, none, ctypes.c_void_p(stream), addresses, None
        )
    )


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"CUDA error {status}")
