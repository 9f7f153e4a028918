"""What verify() says about a file, and what a repair removes."""

from dataclasses import dataclass
from enum import StrEnum


class Problem(StrEnum):
    """What is wrong with a file of an output folder, or with an image."""

    MISSING = "missing"
    CHANGED = "changed"
    TRUNCATED = "truncated"
    UNREADABLE = "unreadable"
    FOREIGN = "foreign"
    LEFTOVER = "temporary file of a killed run"
    UNFINISHED = "unfinished"


class Repair(StrEnum):
    """What is to be removed so that `segment` can make it anew: nothing, an image's row and pictures, or the file."""

    NONE = "none"
    ROW = "row"
    FILE = "file"


@dataclass(frozen=True)
class Finding:
    """A problem of a file; `name` is relative to the output folder, that of an image is the one in scores.csv.

    row: key of the row to remove.
    """

    problem: Problem
    name: str
    detail: str = ""
    repair: Repair = Repair.NONE
    row: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}{f' ({self.detail})' if self.detail else ''}"
