"""The CUDA stand-in, seen through pycuda: a mistake that shows on a GPU shows here.

Every mistake is tested together with the correct code. A race runs with many seeds: some must show the mistake, and
none may show it in the correct code.
"""

import ctypes
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import cuda_standin
import numpy as np
import pytest
from numpy.typing import NDArray

from lesioncli.backends.tensorrt import driver as real_driver

pytestmark = pytest.mark.skipif(not cuda_standin.SUPPORTED, reason="the CUDA stand-in is for Linux on x86-64")
SIZE = 1000
PATIENCE_S = 10  # for kernels that wait for the test, if the test fails
SEEDS = range(12)
DELAY_S = 0.01  # far above the time between two calls on a busy machine, or a missing wait would not show
UInt8 = NDArray[np.uint8]


@dataclass
class Gpu:
    """pycuda with a context, and the driver below it."""

    driver: cuda_standin.Driver
    cuda: Any
    kernels: list[Any] = field(default_factory=list)

    def pinned(self, value: int = 0, size: int = SIZE) -> UInt8:
        array: UInt8 = self.cuda.pagelocked_empty(size, np.uint8)
        array[:] = value
        return array

    def launch(self, stream: Any, *addresses: Any, does: Callable[..., object]) -> None:
        """Launch a kernel that receives SIZE bytes at each address; an illegal address ends it."""
        device_addresses = [int(address) for address in addresses]

        def kernel(_: object) -> None:
            host_addresses = [self.driver.device_memory(address, SIZE) for address in device_addresses]
            if all(host_addresses):
                does(*(np.ctypeslib.as_array((ctypes.c_uint8 * SIZE).from_address(at or 0)) for at in host_addresses))

        self.kernels.append(cuda_standin.Function(kernel))
        assert self.driver.launch(stream.handle, self.kernels[-1]) == 0


def free(pinned: UInt8) -> None:
    holder: Any = pinned.base
    holder.free()


def add_one(to: UInt8, source: UInt8) -> None:
    np.add(source, 1, out=to)


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    with cuda_standin.installed() as driver:
        cuda = import_module("pycuda.driver")
        context = cuda.Device(0).retain_primary_context()
        context.push()
        yield Gpu(driver, cuda)
        driver.library.cuCtxPopCurrent_v2(None)  # before detach(), which only takes it from pycuda's own stack
        context.detach()


def test_a_batch_comes_through_three_streams(gpu: Gpu) -> None:
    cuda, given, got = gpu.cuda, gpu.pinned(7), gpu.pinned()
    streams, events = [cuda.Stream(1) for _ in range(3)], [cuda.Event() for _ in range(3)]
    into, out = cuda.mem_alloc(SIZE), cuda.mem_alloc(SIZE)
    cuda.memcpy_htod_async(into, given, streams[0])
    events[0].record(streams[0])
    streams[1].wait_for_event(events[0])
    gpu.launch(streams[1], out, into, does=add_one)
    events[1].record(streams[1])
    streams[2].wait_for_event(events[1])
    cuda.memcpy_dtoh_async(got, out, streams[2])
    events[2].record(streams[2])
    assert not events[2].query()
    events[2].synchronize()
    assert (got == 8).all()
    assert events[0].time_till(events[2]) > 0
    ran = [row.kind for row in gpu.driver.trace() if row.bytes or row.kind == "kernel"]
    assert ran == ["copy in", "kernel", "copy out"]
    assert gpu.driver.live() == {"contexts": 1, "streams": 3, "events": 3, "device": 2, "pinned": 2}
    assert gpu.driver.memory_used() == 2 * SIZE
    del streams, events, into, out, given, got
    assert gpu.driver.live() == {"contexts": 1}
    assert gpu.driver.violations() == []
    assert gpu.driver.pageable_copies() == 0


def stale(gpu: Gpu, seed: int, waits: bool) -> bool:
    """Return whether the kernel read something else than the copy."""
    gpu.driver.set_delays(seed, DELAY_S)
    copies, computes, copied = gpu.cuda.Stream(), gpu.cuda.Stream(), gpu.cuda.Event(2)
    into, out, given, got = gpu.cuda.mem_alloc(SIZE), gpu.cuda.mem_alloc(SIZE), gpu.pinned(7), gpu.pinned()
    gpu.cuda.memcpy_htod_async(into, given, copies)
    copied.record(copies)
    if waits:
        computes.wait_for_event(copied)
    gpu.launch(computes, out, into, does=add_one)
    gpu.cuda.memcpy_dtoh_async(got, out, computes)
    gpu.cuda.Context.synchronize()
    return not (got == 8).all()


def test_a_missing_wait_between_streams_gives_stale_data(gpu: Gpu) -> None:
    assert any(stale(gpu, seed, waits=False) for seed in SEEDS)
    assert not any(stale(gpu, seed, waits=True) for seed in SEEDS)


def overwritten(gpu: Gpu, seed: int, waits: bool) -> bool:
    """Return whether a slot that was written after its copy was enqueued arrived changed."""
    gpu.driver.set_delays(seed, DELAY_S)
    stream, copied, into = gpu.cuda.Stream(), gpu.cuda.Event(), gpu.cuda.mem_alloc(SIZE)
    slot, got = gpu.pinned(7), gpu.pinned()
    gpu.cuda.memcpy_htod_async(into, slot, stream)
    copied.record(stream)
    if waits:
        copied.synchronize()
    slot[:] = 9
    gpu.cuda.memcpy_dtoh_async(got, into, stream)
    stream.synchronize()
    return bool((got == 9).any())


def test_a_slot_that_is_filled_too_early_is_sent(gpu: Gpu) -> None:
    assert any(overwritten(gpu, seed, waits=False) for seed in SEEDS)
    assert not any(overwritten(gpu, seed, waits=True) for seed in SEEDS)


def unwaited(gpu: Gpu, seed: int, waits: bool) -> bool:
    """Return whether the host read an output before it was complete."""
    gpu.driver.set_delays(seed, DELAY_S)
    stream, into, got = gpu.cuda.Stream(), gpu.cuda.mem_alloc(SIZE), gpu.pinned()
    gpu.cuda.memset_d8_async(into, 3, SIZE, stream)
    gpu.cuda.memcpy_dtoh_async(got, into, stream)
    if waits:
        stream.synchronize()
    early = got.copy()
    stream.synchronize()
    return bool((early != 3).any())


def test_an_output_that_is_read_too_early_is_not_there(gpu: Gpu) -> None:
    assert any(unwaited(gpu, seed, waits=False) for seed in SEEDS)
    assert not any(unwaited(gpu, seed, waits=True) for seed in SEEDS)


def test_an_event_stands_for_its_latest_record(gpu: Gpu) -> None:
    first, second, event, done = gpu.cuda.Stream(1), gpu.cuda.Stream(1), gpu.cuda.Event(), threading.Event()
    assert event.query()  # never recorded
    event.record(first)
    first.synchronize()
    memory = gpu.cuda.mem_alloc(SIZE)
    gpu.launch(first, memory, does=lambda _: done.wait(PATIENCE_S))
    event.record(first)
    second.wait_for_event(event)
    assert not event.query()
    assert not second.is_done()
    done.set()
    second.synchronize()
    assert event.query()


def test_the_default_stream_waits_for_blocking_streams_and_they_for_it(gpu: Gpu) -> None:
    blocking, free, memory, proceed = gpu.cuda.Stream(), gpu.cuda.Stream(1), gpu.cuda.mem_alloc(SIZE), threading.Event()
    given = gpu.pinned()
    gpu.launch(blocking, memory, does=lambda _: proceed.wait(PATIENCE_S))
    gpu.cuda.memset_d8(memory, 5, SIZE)  # on the default stream
    gpu.cuda.memset_d8_async(memory, 6, SIZE, blocking)
    gpu.cuda.memcpy_htod_async(memory, given, free)
    free.synchronize()
    proceed.set()
    gpu.cuda.Context.synchronize()
    ran = [(row.kind, row.stream == blocking.handle) for row in gpu.driver.trace()]
    assert ran == [("copy in", False), ("kernel", True), ("fill", False), ("fill", True)]


def test_events_without_timing_have_none(gpu: Gpu) -> None:
    timed, untimed = gpu.cuda.Event(), gpu.cuda.Event(gpu.cuda.event_flags.DISABLE_TIMING)
    for event in (timed, untimed):
        event.record()
        event.synchronize()
    with pytest.raises(gpu.cuda.LogicError, match="cuEventElapsedTime failed: invalid resource handle"):
        timed.time_till(untimed)


def test_the_seed_chooses_the_delays(gpu: Gpu) -> None:
    def gaps_ms(seed: int) -> list[float]:
        gpu.driver.set_delays(seed, seconds=0.03)
        before, stream, memory = len(gpu.driver.trace()), gpu.cuda.Stream(1), gpu.cuda.mem_alloc(SIZE)
        for _ in range(5):
            gpu.cuda.memset_d8_async(memory, 1, SIZE, stream)
        stream.synchronize()
        ends = [row.end_ns for row in gpu.driver.trace()[before:]]
        return [(later - earlier) / 1e6 for earlier, later in pairwise(ends)]

    def shortest_ms(seed: int) -> list[float]:
        """The gaps without what a busy machine adds to some of them."""
        return list(np.min([gaps_ms(seed) for _ in range(5)], axis=0))

    one, again, other = shortest_ms(1), shortest_ms(1), shortest_ms(2)
    assert np.abs(np.subtract(one, other)).max() > 8
    assert np.abs(np.subtract(one, again)).mean() < 4


def test_what_is_left_behind_is_counted(gpu: Gpu) -> None:
    other = gpu.cuda.Device(0).make_context()
    left = [gpu.cuda.mem_alloc(SIZE), gpu.cuda.Stream(), gpu.cuda.Event(), gpu.pinned()]
    assert gpu.driver.live() == {"contexts": 2, "device": 1, "pinned": 1, "streams": 1, "events": 1}
    other.pop()
    other.detach()
    assert gpu.driver.violations() == [
        "context destroyed with device memory in it: 1",
        "context destroyed with pinned memory in it: 1",
        "context destroyed with streams in it: 1",
        "context destroyed with events in it: 1",
    ]
    assert gpu.driver.live() == {"contexts": 1}
    del left


def test_copies_of_freed_memory_break_the_context(gpu: Gpu, capfd: pytest.CaptureFixture[str]) -> None:
    stream, memory, given = gpu.cuda.Stream(), gpu.cuda.mem_alloc(SIZE), gpu.pinned()
    address = int(memory)
    memory.free()
    gpu.cuda.memcpy_htod_async(address, given, stream)
    with pytest.raises(gpu.cuda.LogicError, match="an illegal memory access was encountered"):
        stream.synchronize()
    with pytest.raises(gpu.cuda.LogicError, match="cuMemAlloc failed: an illegal memory access"):
        gpu.cuda.mem_alloc(SIZE)
    assert gpu.driver.violations() == ["copy in of device memory that was freed"]
    del stream, given
    assert "clean-up operation failed" in capfd.readouterr().err


def test_freed_pinned_memory_is_neither_copied_nor_written_to(gpu: Gpu, capfd: pytest.CaptureFixture[str]) -> None:
    stream, memory, given, got = gpu.cuda.Stream(), gpu.cuda.mem_alloc(SIZE), gpu.pinned(), gpu.pinned()
    free(given)
    given[3] = 1
    assert gpu.driver.violations() == ["pinned memory written to after it was freed"]
    free(got)
    gpu.cuda.memcpy_dtoh_async(got, memory, stream)
    with pytest.raises(gpu.cuda.LogicError, match="illegal memory access"):
        stream.synchronize()
    assert gpu.driver.violations()[1:] == ["copy out of pinned memory that was freed"]
    del stream, memory
    assert "clean-up operation failed" in capfd.readouterr().err


def test_memory_that_is_freed_in_use_is_noted_and_lives_until_then(gpu: Gpu) -> None:
    stream, got, value = gpu.cuda.Stream(), gpu.pinned(), gpu.pinned(4)
    memory, other = gpu.cuda.mem_alloc(SIZE), gpu.cuda.mem_alloc(SIZE)
    began, proceed = threading.Event(), threading.Event()

    def wait(_: UInt8) -> None:
        began.set()
        proceed.wait(PATIENCE_S)

    gpu.launch(stream, other, does=wait)
    began.wait(PATIENCE_S)
    gpu.cuda.memcpy_htod_async(memory, value, stream)
    gpu.launch(stream, memory, other, does=add_one)
    gpu.cuda.memcpy_dtoh_async(got, memory, stream)
    for call in (memory.free, lambda: free(value), other.free):
        call()
    proceed.set()
    stream.synchronize()
    assert (got == 0xA5 + 1).all()  # new memory is not zeros
    in_use = "memory freed while an operation on its way uses it"
    by_kernel = "memory freed while a kernel on its way uses it"
    assert gpu.driver.violations() == [
        f"device {in_use}",
        f"pinned {in_use}",
        f"device {in_use}",
        f"device {by_kernel}",
        f"device {by_kernel}",
    ]
    assert gpu.driver.memory_used() == 0


def test_a_kernel_has_no_use_of_memory_that_was_freed_before(gpu: Gpu, capfd: pytest.CaptureFixture[str]) -> None:
    stream, memory = gpu.cuda.Stream(), gpu.cuda.mem_alloc(SIZE)
    address = int(memory)
    memory.free()
    gpu.launch(stream, address, does=lambda _: pytest.fail("called"))
    with pytest.raises(gpu.cuda.LogicError, match="illegal memory access"):
        stream.synchronize()
    assert gpu.driver.violations() == ["kernel uses what is not device memory any more"]
    del stream
    assert "clean-up operation failed" in capfd.readouterr().err


def test_device_memory_is_not_the_hosts(gpu: Gpu) -> None:
    given, memory = gpu.pinned(), gpu.cuda.mem_alloc(SIZE)
    for address, size in ((given.ctypes.data, SIZE), (int(memory) + 1, SIZE), (int(memory), SIZE + 1)):
        with pytest.raises(gpu.cuda.LogicError, match="cuMemcpyHtoD failed: invalid argument"):
            gpu.cuda.memcpy_htod(address, np.zeros(size, np.uint8))
    look = f"import ctypes; ctypes.string_at({int(memory)}, 1)"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == -11


def test_device_memory_is_filled_and_copied_on_the_device(gpu: Gpu) -> None:
    first, second, got = gpu.cuda.mem_alloc(SIZE), gpu.cuda.mem_alloc(SIZE), np.zeros(SIZE // 4, np.uint32)
    gpu.cuda.memset_d32(first, 0x01020304, SIZE // 4)
    gpu.cuda.memcpy_dtod(second, first, SIZE)
    gpu.cuda.memcpy_dtoh(got, second)
    assert (got == 0x01020304).all()
    gpu.cuda.memcpy_dtoh(got[:5], int(second) + 2)
    assert (got[:5] == 0x03040102).all()


@pytest.mark.parametrize(
    ("name", "code", "error", "call"),
    [
        ("cuMemAlloc", 999, "Error", lambda cuda: cuda.mem_alloc(1)),  # out of memory, it would try again
        ("cuMemHostAlloc", 2, "MemoryError", lambda cuda: cuda.pagelocked_empty(1, np.uint8)),
        ("cuStreamCreate", 100, "RuntimeError", lambda cuda: cuda.Stream()),
        ("cuEventCreate", 719, "LaunchError", lambda cuda: cuda.Event()),
        ("cuDevicePrimaryCtxRetain", 101, "LogicError", lambda cuda: cuda.Device(0).retain_primary_context().detach()),
    ],
)
def test_the_nth_call_fails_as_asked(gpu: Gpu, name: str, code: int, error: str, call: Callable[[Any], Any]) -> None:
    call(gpu.cuda)
    before = gpu.driver.calls(name)
    gpu.driver.fail(name, 2, code)
    call(gpu.cuda)
    with pytest.raises(getattr(gpu.cuda, error), match=f"^{name} failed: "):
        call(gpu.cuda)
    call(gpu.cuda)
    assert gpu.driver.calls(name) == before + 3


def test_memory_runs_out(gpu: Gpu) -> None:
    gpu.driver.limit_memory(3000)
    memory = gpu.cuda.mem_alloc(2000)
    assert gpu.cuda.mem_get_info() == (1000, 3000)
    with pytest.raises(gpu.cuda.MemoryError, match="cuMemAlloc failed: out of memory"):
        gpu.cuda.mem_alloc(1001)
    memory.free()
    gpu.cuda.mem_alloc(3000).free()


def test_an_operation_that_fails_is_noticed_when_it_is_waited_for(gpu: Gpu, capfd: pytest.CaptureFixture[str]) -> None:
    stream, memory, got = gpu.cuda.Stream(), gpu.cuda.mem_alloc(SIZE), gpu.pinned()
    gpu.driver.fail("kernel", 2, 719)
    gpu.cuda.memset_d8_async(memory, 1, SIZE, stream)
    for _ in range(2):
        gpu.launch(stream, memory, memory, does=add_one)
    gpu.cuda.memcpy_dtoh_async(got, memory, stream)
    with pytest.raises(gpu.cuda.LaunchError, match="cuStreamSynchronize failed: unspecified launch failure"):
        stream.synchronize()
    assert (got == 0).all()
    assert [row.kind for row in gpu.driver.trace()] == ["fill", "kernel"]
    del stream, memory, got
    assert capfd.readouterr().err.count("clean-up operation failed") == 3


def test_a_lost_device_stays_lost(gpu: Gpu, capfd: pytest.CaptureFixture[str]) -> None:
    stream, memory, proceed = gpu.cuda.Stream(), gpu.cuda.mem_alloc(SIZE), threading.Event()
    address = int(memory)
    gpu.launch(stream, memory, does=lambda _: proceed.wait(PATIENCE_S))
    gpu.driver.lose_device()
    proceed.set()
    for call in (
        stream.synchronize,
        gpu.cuda.Context.synchronize,
        lambda: gpu.cuda.mem_alloc(1),
        lambda: gpu.cuda.memset_d8_async(address, 0, SIZE),
        gpu.cuda.Device(0).retain_primary_context,
    ):
        with pytest.raises(gpu.cuda.LaunchError, match="unspecified launch failure"):
            call()
    del stream, memory
    assert "clean-up operation failed" in capfd.readouterr().err


def test_pageable_copies_are_counted_and_waited_for(gpu: Gpu) -> None:
    stream, memory, given, got = gpu.cuda.Stream(), gpu.cuda.mem_alloc(SIZE), np.full(SIZE, 7, np.uint8), gpu.pinned()
    gpu.cuda.memcpy_htod_async(memory, given, stream)
    given[:] = 9
    gpu.cuda.memcpy_dtoh_async(given, memory, stream)
    assert (given == 7).all()
    assert gpu.driver.pageable_copies() == 2
    gpu.cuda.memcpy_dtoh_async(got, memory, stream)
    stream.synchronize()
    assert [row.pageable for row in gpu.driver.trace()] == [True, True, False]
    gpu.cuda.memcpy_dtoh(given, memory)  # is synchronous anyway
    assert gpu.driver.pageable_copies() == 2


def test_registered_memory_is_pinned_until_it_is_not(gpu: Gpu) -> None:
    given, stream, memory = np.zeros(SIZE, np.uint8), gpu.cuda.Stream(), gpu.cuda.mem_alloc(SIZE)
    at, size, library = ctypes.c_void_p(given.ctypes.data), ctypes.c_size_t(SIZE), gpu.driver.library
    # Not by pycuda's register_host_memory, which crashes: it sets the base of an array that has one.
    assert [library.cuMemHostRegister_v2(at, size, 0) for _ in range(2)] == [0, 712]
    gpu.cuda.memcpy_htod_async(memory, given, stream)
    stream.synchronize()
    assert gpu.driver.pageable_copies() == 0
    assert gpu.driver.live()["registered"] == 1
    assert [library.cuMemHostUnregister(at) for _ in range(2)] == [0, 713]
    gpu.cuda.memcpy_htod_async(memory, given, stream)
    assert gpu.driver.pageable_copies() == 1


def test_a_second_thread_has_no_context(gpu: Gpu) -> None:
    seen: list[object] = []

    def call() -> None:
        try:
            gpu.cuda.mem_alloc(1)
        except gpu.cuda.LogicError as error:
            seen.append(str(error))
        seen.append(gpu.driver.library.cuCtxPopCurrent_v2(None))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert seen == ["cuMemAlloc failed: invalid device context", 201]


def test_a_context_is_current_to_the_thread_that_pushed_it_until_it_is_destroyed(gpu: Gpu) -> None:
    library, primary, found = gpu.driver.library, ctypes.c_uint64(0), ctypes.c_uint64(0)
    assert library.cuCtxGetCurrent(ctypes.byref(primary)) == 0
    assert library.cuCtxSetCurrent(ctypes.c_uint64(0)) == 0
    assert library.cuCtxSynchronize() == 201
    assert library.cuCtxPushCurrent_v2(ctypes.c_uint64(5)) == 201
    assert library.cuCtxSetCurrent(primary) == 0
    assert library.cuCtxSynchronize() == 0
    assert library.cuCtxCreate_v4(ctypes.byref(found), None, 0, 0) == 0
    assert library.cuCtxDestroy_v2(found) == 0
    assert [library.cuCtxDestroy_v2(found), library.cuCtxPushCurrent_v2(found)] == [201, 709]
    assert library.cuCtxGetCurrent(ctypes.byref(found)) == 0
    assert found.value == primary.value
    assert library.cuDevicePrimaryCtxSetFlags_v2(0, 4) == 0
    assert library.cuDevicePrimaryCtxReset_v2(0) == 0
    assert library.cuCtxSynchronize() == 709
    assert library.cuDevicePrimaryCtxRelease_v2(0) == 201
    assert gpu.driver.violations() == [
        "cuCtxDestroy of a context that is not there to be destroyed",
        "primary context released more often than retained",
    ]


def test_flags_of_streams_and_events_are_told_apart(gpu: Gpu) -> None:
    kept = [gpu.cuda.Stream(), gpu.cuda.Stream(1), gpu.cuda.Event(), gpu.cuda.Event(1), gpu.cuda.Event(3)]
    assert (gpu.driver.blocking_streams(), gpu.driver.spinning_events()) == (1, 1)
    kept.clear()
    assert (gpu.driver.blocking_streams(), gpu.driver.spinning_events()) == (0, 0)


def test_a_primary_context_that_stays_on_the_stack_is_a_violation(gpu: Gpu) -> None:
    """pycuda's detach() after pop() pushes it again."""
    context = gpu.cuda.Device(0).retain_primary_context()
    assert gpu.driver.stack_depth() == 1
    context.detach()  # the driver's own reference is left
    assert gpu.driver.stack_depth() == 2
    assert gpu.driver.violations() == []
    assert gpu.driver.library.cuDevicePrimaryCtxRelease_v2(0) == 0
    assert gpu.driver.violations() == ["primary context released while it is on the stack of the thread"]
    assert gpu.driver.library.cuCtxPopCurrent_v2(None) == 0
    assert gpu.driver.library.cuDevicePrimaryCtxRetain(ctypes.byref(ctypes.c_uint64()), 0) == 0  # for the fixture


def test_a_context_that_is_destroyed_takes_what_is_queued_with_it(gpu: Gpu) -> None:
    other, proceed, began = gpu.cuda.Device(0).make_context(), threading.Event(), threading.Event()
    stream, memory, got = gpu.cuda.Stream(), gpu.cuda.mem_alloc(SIZE), gpu.pinned()

    def wait(_: UInt8) -> None:
        began.set()
        proceed.wait(PATIENCE_S)

    gpu.launch(stream, memory, does=wait)
    gpu.cuda.memcpy_dtoh_async(got, memory, stream)
    began.wait(PATIENCE_S)
    other.pop()
    other.detach()
    proceed.set()
    assert gpu.driver.violations()[0] == "context destroyed while operations were on their way"
    assert len(gpu.driver.violations()) == 4  # and everything in it
    until = time.monotonic() + PATIENCE_S
    while (got != 0xDD).any() and time.monotonic() < until:  # what freed memory holds
        time.sleep(0.001)
    assert [row.kind for row in gpu.driver.trace()] == ["kernel"]
    assert (got == 0xDD).all()
    del stream, memory, got


def test_objects_that_outlive_a_reset_can_be_dropped(gpu: Gpu, capfd: pytest.CaptureFixture[str]) -> None:
    left: list[Any] = [gpu.cuda.Stream(), gpu.pinned()]
    other = gpu.cuda.Device(0).make_context()
    left += [gpu.cuda.mem_alloc(SIZE), gpu.cuda.Event()]
    other.pop()
    gpu.driver.reset()
    assert left[1][0] == 0  # no fault
    left.clear()  # pycuda ends the process where it cannot push the context of an object
    assert capfd.readouterr().err.count("a clean-up operation failed") == 4
    other.detach()


def test_what_is_not_there_is_not_freed_or_used_again(gpu: Gpu) -> None:
    library, handle = gpu.driver.library, ctypes.c_uint64(0)
    for create, destroy, use, code in (
        (library.cuStreamCreate, library.cuStreamDestroy_v2, library.cuStreamQuery, 400),
        (library.cuEventCreate, library.cuEventDestroy_v2, library.cuEventQuery, 400),
    ):
        assert create(ctypes.byref(handle), 0) == 0
        assert [use(handle), destroy(handle), use(handle), destroy(handle)] == [0, 0, code, code]
    for allocate, free in (
        (library.cuMemAlloc_v2, library.cuMemFree_v2),
        (library.cuMemHostAlloc, library.cuMemFreeHost),
        (library.cuMemAllocHost_v2, library.cuMemFreeHost),
    ):
        assert allocate(ctypes.byref(handle), ctypes.c_size_t(SIZE), 0) == 0
        assert [free(handle), free(handle)] == [0, 1]
    assert len(gpu.driver.violations()) == 7


def test_a_kernel_cannot_call_the_driver(gpu: Gpu) -> None:
    stream, memory, codes = gpu.cuda.Stream(), gpu.cuda.mem_alloc(SIZE), []
    gpu.launch(stream, memory, does=lambda _: codes.append(gpu.driver.library.cuCtxSynchronize()))
    stream.synchronize()
    assert codes == [800]
    assert gpu.driver.violations() == ["cuCtxSynchronize called from a kernel"]


def test_host_functions_run_in_a_streams_order(gpu: Gpu) -> None:
    stream, memory = gpu.cuda.Stream(), gpu.cuda.mem_alloc(SIZE)
    called: list[int] = []
    function = cuda_standin.Function(lambda _: called.append(len(gpu.driver.trace())))
    gpu.cuda.memset_d8_async(memory, 1, SIZE, stream)
    assert gpu.driver.library.cuLaunchHostFunc(ctypes.c_uint64(stream.handle), function, None) == 0
    stream.synchronize()
    assert called == [1]


def test_costs_show_what_overlaps(gpu: Gpu) -> None:
    cuda, size = gpu.cuda, 100_000
    gpu.driver.set_costs(in_rate=size / 0.02, out_rate=size / 0.02, kernel_seconds=0.02)
    streams = [cuda.Stream(1) for _ in range(4)]
    given, got, into, out = gpu.pinned(size=size), gpu.pinned(size=size), cuda.mem_alloc(size), cuda.mem_alloc(size)
    cuda.memcpy_htod_async(into, given, streams[0])
    cuda.memcpy_htod_async(into, given, streams[1])  # the way in is one
    gpu.launch(streams[2], out, does=lambda _: None)
    cuda.memcpy_dtoh_async(got, out, streams[3])
    cuda.Context.synchronize()
    rows = gpu.driver.trace()
    took = {row.stream: row.end_ns - row.start_ns for row in rows}
    assert all(ns >= 2e7 for ns in took.values())
    first, second = sorted((row for row in rows if row.kind == "copy in"), key=lambda row: row.start_ns)
    assert second.start_ns >= first.end_ns
    for row in rows:
        assert row is second or row.start_ns < first.end_ns


def test_the_device_is_what_the_test_says(gpu: Gpu) -> None:
    assert gpu.cuda.Device(0).compute_capability() == (8, 6)
    gpu.driver.set_device(devices=2, capability=(7, 5))
    assert gpu.cuda.Device.count() == 2
    assert gpu.cuda.Device(1).get_attribute(gpu.cuda.device_attribute.COMPUTE_CAPABILITY_MAJOR) == 7
    gpu.driver.set_device(devices=0)
    with pytest.raises(gpu.cuda.RuntimeError, match="no CUDA-capable device"):
        gpu.cuda.init()


def test_each_device_has_its_own_primary_context_memory_and_engines(gpu: Gpu) -> None:
    gpu.driver.set_device(devices=2, models=1)
    assert gpu.cuda.Device(0).name() == gpu.cuda.Device(1).name()
    gpu.driver.limit_memory(4 * SIZE)
    gpu.driver.set_costs(kernel_seconds=0.2)
    stream, memory = gpu.cuda.Stream(), gpu.cuda.mem_alloc(3 * SIZE)  # more than half of the memory of a device
    gpu.launch(stream, does=lambda: None)

    second = gpu.cuda.Device(1).retain_primary_context()
    second.push()
    assert second.get_device() == gpu.cuda.Device(1)
    second_stream, second_memory = gpu.cuda.Stream(), gpu.cuda.mem_alloc(3 * SIZE)
    gpu.launch(second_stream, does=lambda: None)
    second_stream.synchronize()
    with pytest.raises(gpu.cuda.MemoryError):
        gpu.cuda.mem_alloc(2 * SIZE)
    del second_stream, second_memory
    gpu.driver.library.cuCtxPopCurrent_v2(None)
    second.detach()
    assert gpu.driver.live()["contexts"] == 1

    stream.synchronize()
    del stream, memory
    first_kernel, second_kernel = (row for row in gpu.driver.trace() if row.kind == "kernel")
    assert second_kernel.start_ns < first_kernel.end_ns, "a device waits for the other"
    assert gpu.driver.violations() == []


def test_the_installed_driver_and_pycuda_are_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    own = type(sys)("pycuda")
    monkeypatch.setitem(sys.modules, "pycuda", own)
    with cuda_standin.installed():
        assert cuda_standin.HOME in Path(import_module("pycuda").__file__ or "").parents
        with suppress(OSError):
            assert ctypes.CDLL("libcuda.so.1")._handle != cuda_standin.driver().library._handle
    assert sys.modules["pycuda"] is own
    assert "pycuda.driver" not in sys.modules
    assert str(cuda_standin.HOME) not in sys.path


def test_the_program_finds_the_gpu_of_a_driver_it_is_told(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(real_driver.DRIVERS, "Linux", str(gpu.driver.path))
    expected = (real_driver.Gpu("Stand-in GPU 0", "sm86"),)
    assert real_driver.find_gpus() == real_driver.GpuListing(expected, cuda_version=(13, 0))
    gpu.driver.set_cuda_version(12, 8)
    assert real_driver.find_gpus().cuda_version == (12, 8)


def test_without_a_compiler_or_pycuda_the_tests_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="no C compiler"):
        cuda_standin.compile_driver(tmp_path)
    monkeypatch.setattr(cuda_standin, "HOME", tmp_path)
    with pytest.raises(RuntimeError, match="make test"), cuda_standin.installed():
        pass
