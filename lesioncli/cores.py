"""How many cores there are to work with."""

import os


def count_cores() -> int:
    """Cores that this process may use: on a cluster that is often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
