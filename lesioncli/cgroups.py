"""The control groups of Linux that limit this process: those of containers and of schedulers."""

from collections.abc import Iterator
from pathlib import Path


def find_cgroups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of the cgroups of this process, and of those above them, that may limit a resource.

    `controller` is the one of version 1: `cpu` or `memory`. In a container, only the top may be visible.
    """
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")  # version 2 has one folder for all
        group = top / path.strip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))


def read_text(path: Path) -> str:
    """Return the content of a file, "" if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
