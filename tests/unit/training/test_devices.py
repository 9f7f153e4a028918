"""Tests of device and processes of a training run."""

from pathlib import Path

import pytest

from lesioncli.options import TrainingDevice
from lesioncli.training.devices import make_fabric


def test_slurm_on_the_machine_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is an srun, Fabric warns of a run without it; warnings are errors in these tests."""
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert make_fabric(TrainingDevice.CPU).value.world_size == 1
