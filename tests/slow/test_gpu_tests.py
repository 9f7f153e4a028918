"""The tests of tests/gpu run over the CUDA stand-in, so that their own code has run before it meets a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_standin import SUPPORTED

TESTS = Path(__file__).parents[1]
FIGURES = "image_size or batch_size"  # of the stand-in: they say nothing, and take a third of the time


@pytest.mark.slow
@pytest.mark.skipif(not SUPPORTED, reason="the CUDA stand-in is for Linux on x86-64")
def test_tests_on_a_gpu_pass_over_the_standin(tmp_path: Path) -> None:
    options = ["-m", "gpu", "-k", f"not ({FIGURES})", "--standin", "--figures", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "tests/gpu"],
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "14 passed" in done.stdout
    assert "not a measurement of a GPU" in (tmp_path / "figures.txt").read_text()
