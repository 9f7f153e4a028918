"""What each of several processes of a run does: it opens the engine once, then segments the images that it is given.

It writes masks and other pictures, nothing else. The process that started it hands out the images and writes the rows.
"""

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lesioncli import __version__
from lesioncli.backends.base import Engine, Member
from lesioncli.backends.manifest import StoredEngine
from lesioncli.backends.watchdog import open_watched
from lesioncli.errors import InputError, LesionError
from lesioncli.images.find import ImageFile
from lesioncli.inference.outcome import Outcome
from lesioncli.inference.pictures import PictureFolder
from lesioncli.inference.pipeline import segment_arriving
from lesioncli.inference.tta import PROCEDURES
from lesioncli.options import SegmentOptions
from lesioncli.process import count_cores, opencv_on_one_thread, quiet_decoders, use_cores
from lesioncli.signals import StopRequest
from lesioncli.spec import ModelSpec


@dataclass(frozen=True)
class RemoteEngine:
    """EngineFacts of an engine that another process has open."""

    spec: ModelSpec
    members: Sequence[Member]
    extra: Sequence[str]
    batch_size: int
    device: str

    @classmethod
    def of(cls, engine: Engine) -> "RemoteEngine":
        """Return the facts of an open engine."""
        return cls(engine.spec, engine.members, engine.extra, engine.batch_size, engine.device)


@dataclass(frozen=True)
class Job:
    """What all processes of a run are told. folder: the working directory, which relative paths start from."""

    engines: tuple[StoredEngine, ...]
    options: SegmentOptions
    folder: Path
    version: str = __version__


@dataclass(frozen=True)
class Share:
    """The part of a machine that a process has. gpu: number of a GPU, None for the first that fits the engine.

    processes: number of those that share the memory of the machine.
    """

    cores: int
    processes: int = 1
    gpu: int | None = None


class Signal(StrEnum):
    """Messages without content: a process has used up its images or is done with all, and shall stop early or end."""

    MORE = "more"
    IDLE = "idle"
    STOP = "stop"
    END = "end"


@dataclass(frozen=True)
class Failure:
    """Why a process gives up.

    is_bug: it is no error that is raised on purpose; then the text is a traceback. ends_run: the images cannot be read,
    by any process.
    """

    text: str
    is_bug: bool = False
    ends_run: bool = False


Order = PictureFolder | list[ImageFile] | Signal  # to a process: the output folder, then images; none end a stream
Report = RemoteEngine | Outcome | Signal | Failure  # from a process


def serve(
    job: Job, share: Share, receive: Callable[[], Order], send: Callable[[Report], None], stop: StopRequest
) -> None:
    """Open the engine and report it; then segment the images of each order, until Signal.END.

    Whatever fails is reported. Somebody else turns Signal.STOP into a request to `stop`.
    """
    try:
        _check_place(job)
        use_cores(share.cores)
        quiet_decoders()
        ahead, layout = 2 * (job.options.workers or count_cores()), PROCEDURES[job.options.tta].layout
        with (
            opencv_on_one_thread(),
            open_watched(job.engines, job.options.engine_timeout_s, ahead, layout, gpu=share.gpu) as engine,
        ):
            send(RemoteEngine.of(engine))
            pictures = receive()
            if isinstance(pictures, PictureFolder):
                while isinstance(images := receive(), list):
                    arriving = _arriving(images, receive, send)
                    outcomes = segment_arriving(arriving, engine, pictures, job.options, share.processes, stop)
                    with closing(outcomes):
                        for outcome in outcomes:
                            send(outcome)
                    send(Signal.IDLE)
    except LesionError as error:
        send(Failure(str(error), ends_run=isinstance(error, InputError)))
    except Exception:  # any bug: the process of the run raises it with this traceback
        send(Failure(traceback.format_exc(), is_bug=True))


def _check_place(job: Job) -> None:
    """Go to the folder of the run. Raises LesionError if it or this version of lesioncli is not that of the run."""
    if __version__ != job.version:
        raise LesionError(f"has lesioncli {__version__}, the run has {job.version}; install the same on all machines")
    try:
        os.chdir(job.folder)
    except OSError as error:
        raise LesionError(
            f"cannot enter {job.folder} ({error.strerror}); all machines need the same paths, as on a shared disk"
        ) from error


def _arriving(
    images: list[ImageFile], receive: Callable[[], Order], send: Callable[[Report], None]
) -> Iterator[ImageFile]:
    """Yield images, and those of further orders; each is asked for before the images of the last one are used up."""
    while images:
        send(Signal.MORE)
        yield from images
        order = receive()
        images = order if isinstance(order, list) else []
