"""What a run would do, found without writing anything: the call behind `segment --dry-run`."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lesioncli.backends.base import Engine
from lesioncli.errors import EngineError
from lesioncli.files import printable
from lesioncli.images.find import ImageListing
from lesioncli.inference.destination import Destination
from lesioncli.inference.earlier import EarlierResults, ToDo, find_to_do, has_results
from lesioncli.inference.outcome import image_name
from lesioncli.inference.pictures import extra_paths
from lesioncli.inference.run import make_columns, make_identity
from lesioncli.inference.shards import check_shards
from lesioncli.options import SegmentOptions


@dataclass(frozen=True)
class RunPlan:
    """What a run would do.

    images: number of images. to_do: why an image would be segmented, by its name in scores.csv. left: number of images
    that are not done and would be left as they are; all others are done.
    gone: number of rows whose image is gone. engine, device: "" if an engine would be built first. removes: earlier
    results would be removed. ignored: number of files that are not images, by kind. unreadable: folders whose images
    could not be listed.
    """

    images: int
    to_do: Mapping[str, ToDo]
    left: int
    gone: int
    engine: str
    device: str
    out: str
    removes: bool
    ignored: Mapping[str, int]
    unreadable: tuple[str, ...]

    @property
    def done(self) -> int:
        """The number of images that would be skipped."""
        return self.images - len(self.to_do) - self.left

    @property
    def reasons(self) -> dict[ToDo, int]:
        """The number of images to segment for each reason."""
        counts = Counter(self.to_do.values())
        return {reason: counts[reason] for reason in ToDo if counts[reason]}

    def to_dict(self) -> dict[str, Any]:
        """Return the values by the keys of `segment --dry-run --json`."""
        return {
            "images": self.images,
            "to_do": len(self.to_do),
            "done": self.done,
            "left": self.left,
            "reasons": self.reasons,
            **{name: getattr(self, name) for name in ("gone", "removes", "engine", "device", "out")},
            "passed_over": dict(self.ignored),
            "unreadable": list(self.unreadable),
        }


def plan_run(
    listing: ImageListing, engine: Engine | None, destination: Destination, options: SegmentOptions
) -> RunPlan:
    """Return what segment_images() would do; `engine` is None if one would be built first.

    Raises what segment_images() raises before its first image, but for an output folder that cannot be written or that
    another run writes to. Raises EngineError if there is no engine yet, but results that it might continue.
    """
    out = destination.folder
    is_continued = has_results(out, options.shard)
    if engine:
        check_shards(out, options.shard, make_identity(listing, engine, options), options.overwrite)
    to_do, left, gone = dict.fromkeys(map(image_name, listing.images), ToDo.NEW), 0, 0
    if is_continued and not options.overwrite:
        if engine is None:
            raise EngineError(f"{out}: has results, but no engine yet to continue with; run lesioncli build-engine")
        identity = make_identity(listing, engine, options)
        earlier = EarlierResults(destination, identity, make_columns(engine), options.shard)
        earlier.check_pictures(listing.images, options)
        destination.learn(earlier.paths(listing.images, lambda image: extra_paths(out, image, options)))
        missing = earlier.find_masked(listing.images, options.check_inputs)
        reasons = find_to_do(out, listing.images, missing, options, destination.has)
        pairs = zip(listing.images, reasons, strict=True)
        unfinished = {image_name(image): reason for image, reason in pairs if reason}
        is_tried = set(ToDo) if not options.retry_failed else {ToDo.FAILED}
        to_do = {name: reason for name, reason in unfinished.items() if reason in is_tried}
        left = len(unfinished) - len(to_do)
        gone = len(earlier.find_gone(listing.images, listing.root, to_prune=options.prune))
    return RunPlan(
        images=len(listing.images),
        to_do=to_do,
        left=left,
        gone=gone,
        engine=engine.spec.name if engine else "",
        device=engine.device if engine else "",
        out=str(destination.place),
        removes=is_continued and options.overwrite,
        ignored=dict(listing.ignored),
        unreadable=tuple(map(printable, listing.unreadable)),
    )
