"""Shards: parts of the images of a run, for several processes or machines that write into one output folder.

The rows, the journal and run.json of shard 2 of 8 are in shards/2-of-8/ of the output folder, until they are merged.
Masks have their final places at once.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lesioncli.errors import InputError
from lesioncli.options import Decision, Shard

SHARDS = "shards"  # folder of an output folder
AUTO = "auto"
HASH_BYTES = 8
_FILES = ("run.json", "scores.csv.part")  # from its first moment on, a shard has one of them


def contains(shard: Shard, key: str) -> bool:
    """Return whether a shard has the image whose row has this key; each image is in one shard of a given count.

    The key is the path of the image relative to its root, without suffix. Only its hash decides, so images that are
    added later move no others.
    """
    digest = hashlib.blake2b(key.encode(), digest_size=HASH_BYTES).digest()
    return int.from_bytes(digest, "big") % shard.count + 1 == shard.index


def shard_folder(out: Path, shard: Shard | None) -> Path:
    """Return the folder of the rows and the record of a shard; that of a whole run is the output folder itself."""
    return out / SHARDS / f"{shard.index}-of-{shard.count}" if shard else out


def find_shards(out: Path) -> list[Shard]:
    """Return the shards that an output folder has, in order."""
    folder = out / SHARDS
    if not folder.is_dir():
        return []
    used = (path for path in folder.iterdir() if any((path / name).exists() for name in _FILES))
    matches = (re.fullmatch(r"(\d+)-of-(\d+)", path.name) for path in used)
    numbers = sorted((int(match[2]), int(match[1])) for match in matches if match)
    return [Shard(index, count) for count, index in numbers if 1 <= index <= count]


def find_parts(out: Path) -> list[Path]:
    """Return the folders of the rows of an output folder: it itself and, until they are merged, those of its shards.

    A row of a later folder replaces one of the same image.
    """
    return [out, *(shard_folder(out, shard) for shard in find_shards(out))]


def refuse_unmerged(out: Path) -> None:
    """Raise InputError if an output folder has shards: its scores.csv lacks their rows."""
    if shards := find_shards(out):
        raise InputError(
            f"{out}: has {len(shards)} shards of a run that are not merged; run lesioncli merge {out}, which names"
            " those that are not finished"
        )


@dataclass(frozen=True)
class _Scheduler:
    """Environment variables of the tasks of an array job; "" where a scheduler has none.

    index: number of the task. first, last, step: those of the array; count: number of tasks. first_index: number of the
    first task if no variable tells.
    """

    name: str
    index: str
    first: str = ""
    last: str = ""
    step: str = ""
    count: str = ""
    first_index: int = 1


SCHEDULERS = (
    _Scheduler(
        "Slurm",
        "SLURM_ARRAY_TASK_ID",
        "SLURM_ARRAY_TASK_MIN",
        "SLURM_ARRAY_TASK_MAX",
        "SLURM_ARRAY_TASK_STEP",
        "SLURM_ARRAY_TASK_COUNT",
    ),
    _Scheduler("AWS Batch", "AWS_BATCH_JOB_ARRAY_INDEX", count="AWS_BATCH_JOB_ARRAY_SIZE", first_index=0),
    _Scheduler("Grid Engine", "SGE_TASK_ID", "SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE"),
    _Scheduler("Kubernetes", "JOB_COMPLETION_INDEX", first_index=0),
    _Scheduler("PBS", "PBS_ARRAY_INDEX"),
    _Scheduler("Torque", "PBS_ARRAYID"),
)
_NOT_AN_ARRAY = ("", "undefined")  # Grid Engine sets SGE_TASK_ID=undefined outside array jobs


def choose_shard(text: str, environment: Mapping[str, str]) -> Decision[Shard]:
    """Return the shard that `--shard` names: `2/8`, or `auto` or `auto/8` for that of a task of an array job.

    Kubernetes and PBS tell a task its number but not how many there are, so they need `auto/8`.

    Raises ValueError if the text or the environment does not tell which shard it is.
    """
    word, slash, count = text.partition("/")
    if word != AUTO:
        return Decision(Shard.parse(text), "as asked")
    found = [entry for entry in SCHEDULERS if environment.get(entry.index, "") not in _NOT_AN_ARRAY]
    if len(found) != 1:
        problem = f"several array jobs ({', '.join(entry.index for entry in found)})" if found else "no array job"
        raise ValueError(f"found {problem} in the environment; name the shard as in 2/8")
    scheduler = found[0]
    if slash and not (count.isascii() and count.isdecimal()):
        raise ValueError(f"{text!r} is not auto or auto/N")
    shard = _shard_of(scheduler, environment, int(count) if slash else None)
    return Decision(shard, f"{scheduler.name}, {scheduler.index}={environment[scheduler.index]}")


def _shard_of(scheduler: _Scheduler, environment: Mapping[str, str], count: int | None) -> Shard:
    def read(variable: str, default: int | None = None) -> int | None:
        text = environment.get(variable, "")
        if not text:
            return default
        if not (text.isascii() and text.isdecimal()):
            raise ValueError(f"{variable} is {text!r}, not a number; name the shard as in 2/8")
        return int(text)

    index = read(scheduler.index) or 0
    if count is not None:  # tasks may be a part of the array, as when some are done again: their numbers are final
        if scheduler.first_index and read(scheduler.first) == 0:
            raise ValueError(f"{scheduler.first} is 0; number the tasks from 1 to {count}")
        return _checked(scheduler, index, index - scheduler.first_index + 1, count)
    first, step = read(scheduler.first, scheduler.first_index) or 0, read(scheduler.step, 1) or 1
    last, total = read(scheduler.last), read(scheduler.count)
    if last is None and total is None:
        raise ValueError(f"{scheduler.name} does not tell the number of tasks; name it as in auto/8")
    expected = total if last is None else (last - first) // step + 1
    if expected is None or total not in (None, expected):
        raise ValueError(f"the tasks of the array have gaps: {total} from {first} to {last}; name the shard as in 2/8")
    return _checked(scheduler, index, (index - first) // step + 1, expected)


def _checked(scheduler: _Scheduler, index: int, number: int, count: int) -> Shard:
    if not 1 <= number <= count:
        raise ValueError(f"{scheduler.index}={index} is not one of {count} tasks; name the shard as in 2/8")
    return Shard(number, count)
