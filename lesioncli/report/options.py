"""Options of a report."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ReportOptions:
    """Options of write_report().

    `sources` are files and folders of the images. `about` are further facts about the report, by title. The gallery
    shows the `gallery` worst cases; all cases count in the metrics. `workers` 0: one thread per core.
    """

    sources: tuple[Path, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)
    gallery: int = 3000
    workers: int = 0
