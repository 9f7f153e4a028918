"""`segment --devices` on two GPUs that do not exist: real pycuda and runtime code over the CUDA stand-in."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_standin import SUPPORTED
from helpers.command import call
from helpers.graphs import MakeEngine, needs_rtx
from helpers.pictures import save_many
from helpers.runs import files_of, record_of

from lesioncli.errors import ExitCode

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SUPPORTED, reason="the CUDA stand-in is for Linux on x86-64"),
    needs_rtx,
]
IMAGES = 90
TESTS = Path(__file__).parents[1]
PROGRAM = """
import json, os, platform, sys, time
from multiprocessing import util
from pathlib import Path

sys.path.insert(0, {tests!r})
from cuda_standin import installed
from cuda_standin.vendor import Vendor

standin = installed()
driver = standin.__enter__()
driver.set_device(devices=2, models=1)
from lesioncli.backends.tensorrt import driver as driver_module
driver_module.DRIVERS[platform.system()] = str(driver.path)
vendor = sys.modules["tensorrt"] = Vendor(driver, b"ftrt", "10.16.1.11")

from lesioncli.backends.tensorrt import cuda
class Device(cuda.Device):
    def __init__(self, number, traced=False):
        super().__init__(number, traced)
        Path(f"opened-{{number}}-{{os.getpid()}}").touch()
        if str(number) in {failing!r}:
            driver.fail("kernel", 5, 719)
cuda.Device = Device

from lesioncli.inference import pipeline
class SlowImage(pipeline.OpenedImage):
    def decode(self, at_least_hw):
        time.sleep(0.03)
        return super().decode(at_least_hw)
pipeline.OpenedImage = SlowImage

def report():
    state = [vendor.failures, driver.violations(), driver.live(), driver.stack_depth()]
    Path(f"state-{{os.getpid()}}.json").write_text(json.dumps(state))

if __name__ == "__main__":
    from lesioncli.__main__ import main
    main()
else:  # a process of the run
    util.Finalize(None, report, exitpriority=1)
"""


class Machine:
    """Runs lesioncli on the two GPUs; `failing` are the numbers of those that fail at their fifth batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *words: str | Path, failing: str = "") -> subprocess.CompletedProcess[str]:
        program = self.folder / "program.py"
        program.write_text(PROGRAM.format(tests=str(TESTS), failing=failing))
        return subprocess.run(
            [sys.executable, "-W", "ignore", program.name, *map(str, words)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )

    def opened(self) -> list[str]:
        """Return the numbers of the GPUs that were opened, sorted, one for each process."""
        return sorted(path.name.split("-")[1] for path in self.folder.glob("opened-*"))

    def assert_clean(self) -> None:
        """Check that every process which ended in order has freed all that it had on its GPU."""
        states = [json.loads(path.read_text()) for path in self.folder.glob("state-*.json")]
        assert states
        assert states == [[[], [], {}, 0]] * len(states)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path, tiny_manifest: MakeEngine) -> Machine:
    """Images, what the CPU makes of them in the folder `one`, and a plan for both GPUs."""
    folder = tmp_path_factory.mktemp("devices")
    save_many(folder / "images", IMAGES)
    words = ("segment", folder / "images", "--out", folder / "one", "--engine", tiny_manifest(1))
    assert call(*words).exit_code == ExitCode.OK
    machine = Machine(folder)
    options = ("--backend", "tensorrt", "--batch", "3", "--precision", "fp32", "--images", "images")
    done = machine.run("build-engine", tiny_onnx, *options)
    assert done.returncode == ExitCode.OK, done.stderr
    return machine


@pytest.fixture
def machine(built: Machine) -> Machine:
    """The same, without what an earlier test has left."""
    for path in (*built.folder.glob("opened-*"), *built.folder.glob("state-*")):
        path.unlink()
    shutil.rmtree(built.folder / "two", ignore_errors=True)
    return built


WORDS = ("segment", "images", "--out", "two", "--engine", "tiny", "--workers", "1")


def test_each_device_has_a_process(machine: Machine) -> None:
    done = machine.run(*WORDS, "--devices", "all")
    assert done.returncode == ExitCode.OK, done.stderr
    assert machine.opened() == ["0", "1"]
    machine.assert_clean()
    assert files_of(machine.folder / "two") == files_of(machine.folder / "one")
    record = record_of(machine.folder / "two")
    assert (record["processes"], record["device"], "lost" in record) == (2, "Stand-in GPU 0 (sm86)", False)


def test_the_loss_of_a_device_is_not_the_loss_of_the_run(machine: Machine) -> None:
    done = machine.run(*WORDS, "--devices", "0,1", failing="1")
    assert done.returncode == ExitCode.OK, done.stderr
    assert "process 2 (GPU 1) is lost" in done.stderr
    assert "launch fail" in done.stderr
    assert machine.opened() in (["0", "1", "1"], ["0", "1", "1", "1"]), "it is tried again"
    assert files_of(machine.folder / "two") == files_of(machine.folder / "one")
    record = record_of(machine.folder / "two")
    assert (record["ok"], record["failed"], record["status"]) == (IMAGES, 0, "finished")
    assert record["lost"]
    assert all("process 2 (GPU 1): " in reason for reason in record["lost"])


def test_one_device_is_chosen_and_the_loss_of_all_ends_the_run(machine: Machine) -> None:
    """Devices that are not there are refused before."""
    done = machine.run(*WORDS, "--devices", "1,2")
    assert (done.returncode, "GPU 2" in done.stderr) == (ExitCode.ENGINE, True), done.stderr
    assert machine.opened() == []
    done = machine.run(*WORDS, "--devices", "1", failing="1")
    assert done.returncode == ExitCode.ENGINE, done.stderr
    assert "all processes are lost" in done.stderr
    assert machine.opened() == ["1", "1", "1"]
    record = record_of(machine.folder / "two")
    assert (record["status"], record["failed"]) == ("interrupted", 0)
    assert record["ok"] > 0
    assert machine.run(*WORDS).returncode == ExitCode.OK
    assert files_of(machine.folder / "two") == files_of(machine.folder / "one")
