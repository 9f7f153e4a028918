"""Find the masks of an output folder that are in tar archives."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from lesioncli.evaluation.reading.csv_table import open_table
from lesioncli.files import from_cell, from_printable
from lesioncli.images.mask_archives import MaskArchives, is_archived, list_archives
from lesioncli.images.stored import StoredFile
from lesioncli.sharding import find_parts

SCORES = "scores.csv"


def find_archived_masks(folder: Path) -> dict[str, StoredFile]:
    """Return the masks in archives by their paths relative to the folder, as if they were files there.

    An archive still holds masks that a later run replaced, or whose images failed later. So only masks that scores.csv
    names are returned. A row can name a file that a killed run has packed since: its mask is that in the last archive.
    Without scores.csv, all masks are returned.
    """
    archives = MaskArchives(folder)
    latest: dict[str, StoredFile] = {}
    for archive in list_archives(folder):
        files = archives.contents(archive).files.items()
        latest.update((name, file) for name, file in files if name.endswith(".png"))  # `export` adds JSON files
    tables = [part / SCORES for part in find_parts(folder)] if latest else []
    columns = [column for column in map(_read_paths, tables) if column is not None]
    if not columns:
        return latest
    found: dict[str, StoredFile] = {}
    for path in chain.from_iterable(columns):
        name = next((name for name in (path, from_printable(path)) if name in latest), "")
        if is_archived(path):
            if mask := archives.find(path):
                found[mask.inside] = mask
        elif name and not (folder / name).exists():
            found[name] = latest[name]
    return found


def _read_paths(path: Path) -> Iterator[str] | None:
    """Return the paths of the masks that a table names; None if there is none, or no column of them."""
    table = open_table(path) if path.exists() else None
    return (from_cell(cell) for _, (cell,) in table.pick("mask")) if table and "mask" in table.keys else None
