"""Runs of `segment --processes` as programs, and the processes that they start."""

import os
import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import sys, time
from lesioncli.inference import pipeline

class SlowImage(pipeline.OpenedImage):
    def decode(self, at_least_hw):
        time.sleep({delay})
        return super().decode(at_least_hw)

pipeline.OpenedImage = SlowImage  # in the processes that are started, too: they import this file
if __name__ == "__main__":
    from lesioncli.__main__ import main
    main()
"""


def start_processes(folder: Path, *arguments: str | Path, delay: float) -> subprocess.Popen[bytes]:
    """Start lesioncli in `folder`, in a session of its own; all its processes take `delay` seconds per image."""
    program = folder / "program.py"
    program.write_text(_PROGRAM.format(delay=delay))
    return subprocess.Popen(
        [sys.executable, program.name, *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def list_children(pid: int) -> list[int]:
    """Return the processes with work that a program has started, by their numbers (Linux)."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"spawn_main" in command:
                found.append(int(child))
    return sorted(found)


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that has ended and was not waited for does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
