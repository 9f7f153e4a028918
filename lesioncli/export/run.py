"""Export an output folder of `segment` to another format: the one call behind `export`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lesioncli.errors import InputError
from lesioncli.export.job import ExportJob
from lesioncli.export.registry import EXPORTERS
from lesioncli.options import ExportFormat
from lesioncli.segmented import choose_image_sources, read_segmented_folder
from lesioncli.sharding import refuse_unmerged


@dataclass(frozen=True)
class Exported:
    """What was exported: the file or folder, and the number of images or tables in it.

    `problems` names the images that are missing, with the reason. `interruption` is not "" if the latest run of
    `segment` did not finish.
    """

    out: Path
    exported: int
    problems: tuple[str, ...]
    interruption: str


def export_run(
    masks: Path,
    export_format: ExportFormat,
    out: Path | None = None,
    *,
    images: Sequence[Path] = (),
    tolerance_px: float | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Export the folder `masks` to `out`, by default to the format's own name in the working directory.

    `images` are files and folders of the images; by default those that run.json names. `on_progress` receives (done,
    total). Files that exist are replaced with `overwrite` only: a person may have corrected them.

    Raises InputError if `masks` has no scores.csv, a file exists or cannot be written, and MissingPackageError if the
    format needs a package that is not installed.
    """
    exporter = EXPORTERS[export_format]
    if export_format == ExportFormat.TAR and out and out.resolve() == masks.resolve():
        raise InputError(f"{out}: has archives of masks of its own; choose another folder with --out")
    refuse_unmerged(masks)
    segmented = read_segmented_folder(masks)
    if not segmented.rows:
        raise InputError(f"{masks}: no scores.csv with images; give the folder that `lesioncli segment` wrote")
    job = ExportJob(
        segmented,
        out or Path(exporter.default_out),
        choose_image_sources(segmented, images).value,
        tolerance_px,
        on_progress,
    )
    if not overwrite:
        _refuse_existing(exporter.list_files(job))
    exporter.write(job)
    return Exported(
        job.out, job.exported, tuple(job.problems), segmented.record.describe_interruption(len(segmented.rows))
    )


def _refuse_existing(paths: Sequence[Path]) -> None:
    existing = [path for path in paths if path.exists()]
    if existing:
        more = f" and {len(existing) - 1} more files of this export" * (len(existing) > 1)
        raise InputError(
            f"{existing[0]}: exists{more}; choose another place with --out, or replace what is there with --overwrite"
        )
