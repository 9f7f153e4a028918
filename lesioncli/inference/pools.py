"""Which processes a run has: on the cores or the GPUs of this machine, or on a Ray cluster."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lesioncli.backends.manifest import StoredEngine
from lesioncli.backends.registry import choose_gpus
from lesioncli.errors import InputError
from lesioncli.inference.local_processes import LocalPool, divide_machine
from lesioncli.inference.processes import Pool, Processes
from lesioncli.inference.worker import Job
from lesioncli.options import ProcessOptions, SegmentOptions
from lesioncli.process import count_cores


def open_processes(
    engines: Sequence[StoredEngine], options: SegmentOptions, images: int, note: Callable[[str], None]
) -> Processes:
    """Start the processes that the options ask for, but not more than there are images.

    Raises InputError if there are fewer processes than devices, or no such cluster; EngineError if the engines do not
    run on the devices.
    """
    asked = options.processes or ProcessOptions()
    job = Job(tuple(engines), options, Path.cwd())
    return Processes(_open_pool(job, asked, max(1, images), note), note)


def _open_pool(job: Job, asked: ProcessOptions, images: int, note: Callable[[str], None]) -> Pool:
    if asked.ray is not None:
        from lesioncli.inference.ray_pool import open_ray_pool

        return open_ray_pool(job, asked.ray, asked.count, images, note)
    gpus = () if asked.devices is None else tuple(choose_gpus(job.engines, asked.devices))
    count = asked.count or len(gpus) or 1
    if count < len(gpus):
        raise InputError(f"{count} processes cannot use {len(gpus)} devices; name fewer devices or more processes")
    count = min(count, images)
    where = f"GPUs {', '.join(map(str, gpus))}" if gpus else f"cores {count_cores()}"
    note(f"processes {count}, {where}")
    return LocalPool(job, divide_machine(count, gpus))
