"""Open the engines of a run, in this process or in several, and segment its images."""

from collections.abc import Sequence
from contextlib import nullcontext

from lesioncli.backends.manifest import StoredEngine
from lesioncli.backends.watchdog import open_watched
from lesioncli.images.find import ImageListing
from lesioncli.inference.destination import Destination
from lesioncli.inference.monitoring import observed
from lesioncli.inference.record import RunSummary
from lesioncli.inference.run import OneProcess, run_images
from lesioncli.inference.trace import Trace
from lesioncli.inference.tta import PROCEDURES
from lesioncli.options import SegmentOptions
from lesioncli.process import count_cores, opencv_on_one_thread
from lesioncli.progress import Reporter


def launch(
    listing: ImageListing,
    engines: Sequence[StoredEngine],
    destination: Destination,
    options: SegmentOptions,
    reporter: Reporter,
) -> RunSummary:
    """Segment the images of a listing with the processes that the options ask for."""
    if options.processes:
        return _launch_processes(listing, engines, destination, options, reporter)
    layout, is_traced = PROCEDURES[options.tta].layout, options.trace is not None
    ahead = 2 * (options.workers or count_cores())
    with (
        opencv_on_one_thread(),
        open_watched(engines, options.engine_timeout_s, ahead, layout, is_traced) as opened,
        Trace.writing(options.trace) if options.trace else nullcontext() as trace,
        observed(len(listing.images), options, opened, reporter) as on_outcome,
    ):
        runner = OneProcess(opened, options, trace)
        return run_images(listing, runner, destination, options, on_outcome, reporter.stop)


def _launch_processes(
    listing: ImageListing,
    engines: Sequence[StoredEngine],
    destination: Destination,
    options: SegmentOptions,
    reporter: Reporter,
) -> RunSummary:
    """Share the images of a listing among several processes."""
    from lesioncli.inference.pools import open_processes  # one process does without multiprocessing

    images = len(listing.images)
    with (
        open_processes(engines, options, images, reporter.note) as processes,
        observed(images, options, processes.engine, reporter) as on_outcome,
    ):
        return run_images(listing, processes, destination, options, on_outcome, reporter.stop)
