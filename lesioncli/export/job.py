"""What every exporter gets: the images of a run with their masks, where to write, and where to report problems."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

import numpy as np

from lesioncli.errors import ImageError
from lesioncli.evaluation.reading.masks import MaskRole, read_mask
from lesioncli.images.geometry import UInt8
from lesioncli.inference.outcome import without_suffix
from lesioncli.options import Status
from lesioncli.segmented import SegmentedFolder, find_image_files

LABEL = "lesion"


@dataclass(frozen=True, eq=False)
class ExportedImage:
    """An image with a mask.

    image: its name in scores.csv. mask: uint8 (H, W), 0 or 1, in the orientation in which the image is stored. values:
    the numbers in its row.
    """

    image: str
    mask: UInt8
    values: Mapping[str, float]

    @property
    def name(self) -> str:
        """The image's name without suffix."""
        return without_suffix(self.image)


@dataclass
class ExportJob:
    """One export of an output folder of `segment` to the file or folder `out`.

    `sources` are files and folders of the images. `tolerance_px` is the largest distance of an outline from the points
    that it leaves out; None is the default of the format. An exporter counts in `exported` what it wrote; `problems`
    names images that are missing, with the reason.
    """

    segmented: SegmentedFolder
    out: Path
    sources: tuple[Path, ...] = ()
    tolerance_px: float | None = None
    on_progress: Callable[[int, int], None] = lambda done, total: None
    problems: list[str] = field(default_factory=list)
    exported: int = 0

    def reject(self, image: str, reason: str) -> None:
        """Record that an image is missing from the export."""
        self.problems.append(f"{image}: {reason}")

    def find_files(self) -> dict[str, Path]:
        """Return the files of the images by name without suffix; InputError if a source has none."""
        return find_image_files(self.sources, self.segmented.folder, self.segmented.roots)

    def path_of(self, name: str, suffix: str) -> Path:
        """Return the path to write for one image, given its name without suffix."""
        return self.out / f"{name}{suffix}"

    def paths_of_images(self, suffix: str) -> list[Path]:
        """Return the paths to write for all images that `segment` finished."""
        rows = self.segmented.rows.values()
        return [self.path_of(without_suffix(row["image"]), suffix) for row in rows if row["status"] == Status.OK]

    def read_images(self) -> Iterator[ExportedImage]:
        """Yield every image with a mask, in the order of scores.csv; record a problem for each other one."""
        rows = self.segmented.rows
        for done, (name, row) in enumerate(rows.items()):
            self.on_progress(done, len(rows))
            mask = self._read_mask(name, row)
            if isinstance(mask, str):
                self.reject(row["image"], mask)
                continue
            values = {column: value for column, value in self.segmented.values(name).items() if isfinite(value)}
            yield ExportedImage(row["image"], mask, values)

    def _read_mask(self, name: str, row: Mapping[str, str]) -> UInt8 | str:
        """Return the mask of a row as 0 and 1, or the reason why there is none."""
        if row["status"] != Status.OK:
            return row["reason"] or "failed"
        try:
            lesion = read_mask(self.segmented.locate_mask(name), MaskRole.PREDICTION).lesion
        except ImageError as error:
            return error.reason
        height, width = lesion.shape
        recorded = row.get("width", ""), row.get("height", "")
        if recorded[0] and recorded != (str(width), str(height)):
            return f"its mask has {width} x {height} pixels, not {recorded[0]} x {recorded[1]}; run lesioncli segment"
        return lesion.view(np.uint8)
