"""The cores of a process, and the scheduling of its threads."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.trees import write_tree

from lesioncli.process import count_cores, run_as_batch


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "6400000 100000\n"}, 8),
        (  # that of the pod is smaller
            {
                "proc/self/cgroup": "0::/pod/container\n",
                "sys/fs/cgroup/pod/container/cpu.max": "600000 100000\n",
                "sys/fs/cgroup/pod/cpu.max": "400000 100000\n",
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": "3:cpuset:/x\n2:cpu,cpuacct:/docker/x\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
    ],
)
def test_cores_are_those_below_the_cpu_quota(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert count_cores(write_tree(tmp_path, files)) == cores


if sys.platform == "linux":

    @pytest.mark.parametrize(("setting", "threads"), [({}, 1), ({"OPENBLAS_NUM_THREADS": "2"}, 2)])
    def test_numpy_starts_no_threads_unless_the_user_asks_for_them(setting: dict[str, str], threads: int) -> None:
        code = (
            "import os; from lesioncli.process import start_no_blas_threads; start_no_blas_threads()\n"
            "import numpy; print(len(os.listdir('/proc/self/task')))"
        )
        environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_NUM_THREADS"} | setting
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert int(done.stdout) == min(threads, len(os.sched_getaffinity(0)))

    def _policy_in_pool(initializer: Callable[[], None]) -> int:
        with ThreadPoolExecutor(1, initializer=initializer) as pool:
            return pool.submit(os.sched_getscheduler, 0).result()

    def test_threads_of_a_pool_run_as_batch_and_the_calling_thread_does_not() -> None:
        assert _policy_in_pool(run_as_batch) == os.SCHED_BATCH
        assert os.sched_getscheduler(0) == os.SCHED_OTHER

    def test_a_policy_that_the_user_has_chosen_is_kept() -> None:
        def initialize() -> None:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            run_as_batch()

        assert _policy_in_pool(initialize) == os.SCHED_IDLE

    def test_a_sandbox_that_forbids_it_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "sched_setscheduler", refuse)
        assert _policy_in_pool(run_as_batch) == os.SCHED_OTHER
