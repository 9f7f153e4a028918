"""Counts of the images of a run, and the speed and time left that follow from them."""

import time
from dataclasses import dataclass, field

from lesioncli.options import Status


@dataclass
class ImageCounts:
    """How many of the `images` of a run have an outcome, by status, and the speed since `started`."""

    images: int
    ok: int = 0
    failed: int = 0
    skipped: int = 0
    started: float = field(default_factory=time.monotonic)

    def add(self, status: Status) -> None:
        """Count one more image."""
        setattr(self, status.value, getattr(self, status.value) + 1)

    @property
    def done(self) -> int:
        """The number of images with an outcome."""
        return self.ok + self.failed + self.skipped

    @property
    def left(self) -> int:
        """The number of images without an outcome."""
        return self.images - self.done

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def images_per_second(self) -> float:
        """Images per second, without the skipped ones."""
        return (self.ok + self.failed) / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the last image, None while no speed is known."""
        speed = self.images_per_second
        return self.left / speed if speed else None
