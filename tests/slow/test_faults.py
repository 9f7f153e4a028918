"""Faults of the system below a run: system calls that fail, a full disk, lost permissions, short memory, hangs.

Each test runs the program. Whatever fails, the exit code tells it, a row that is ok has its mask, no file is half
written under its final name, and the next run ends as an undisturbed one does.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers.graphs import MakeEngine
from helpers.pictures import save, save_many
from helpers.power_cut import can_record
from helpers.runs import files_of, record_of, rows_of, segment_folder, start_program

from lesioncli.backends.base import Engine
from lesioncli.backends.registry import open_engine
from lesioncli.errors import ExitCode
from lesioncli.inference.rows import JOURNAL, SCORES, RowTables, read_names

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such faults")]

COUNT = 6
FAULTY_DISK = Path(__file__).parents[1] / "helpers" / "faulty_disk.py"
OK, INPUT, ENGINE, FAILED = ExitCode.OK, ExitCode.INPUT, ExitCode.ENGINE, ExitCode.SOME_FAILED


@dataclass(frozen=True)
class Undisturbed:
    """A folder of images, an open engine, and the files of a run that nothing disturbs."""

    images: Path
    manifest: Path
    engine: Engine
    files: dict[str, bytes]

    def words(self, out: Path) -> list[str]:
        return ["segment", str(self.images), "--out", str(out), "--engine", str(self.manifest), "--workers", "1"]

    def assert_promises_hold(self, out: Path, done: "subprocess.CompletedProcess[str]", code: int) -> set[str]:
        """Check exit code and output folder of a run; return the names of its failed images."""
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert ("error: " in done.stderr) == (code not in (OK, FAILED))
        assert {path.name for path in out.rglob(".*")} <= {".scores.csv.part.lock"}, "a temporary file was left"
        rows = all_rows(out)
        for name in rows:
            if rows[name] == "ok":
                mask = f"{Path(name).stem}.png"
                assert (out / mask).read_bytes() == self.files[mask]
        if code in (OK, FAILED):
            assert len(rows) == COUNT
            assert record_of(out)["status"] == "finished"
        return {name for name, status in rows.items() if status != "ok"}

    def assert_next_run_is_right(self, out: Path) -> None:
        assert segment_folder(self.images, self.engine, out).failed == 0
        assert files_of(out) == self.files


def all_rows(out: Path) -> dict[str, str]:
    """Return the status by image, of scores.csv and of the journal."""
    if not any((out / name).exists() for name in (SCORES, JOURNAL)):
        return {}
    tables = RowTables(out, read_names(out))
    rows = [*tables.read_scores(), *(row for row, _ in tables.read_journal())]
    return {row.image: "ok" if row.is_ok else "failed" for row in rows}


@pytest.fixture(scope="module")
def undisturbed(tiny_manifest: MakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    folder = tmp_path_factory.mktemp("undisturbed")
    save_many(folder / "images", COUNT)
    with open_engine(tiny_manifest(1)) as engine:
        segment_folder(folder / "images", engine, folder / "out")
        yield Undisturbed(folder / "images", tiny_manifest(1), engine, files_of(folder / "out"))


@dataclass(frozen=True)
class Fault:
    """A system call that fails on some files, named relative to the images or the output folder.

    failed: the images whose row says so, None if the run ends early.
    """

    call: str
    error: str
    files: Sequence[str]
    code: int
    failed: set[str] | None = None
    when: str = "1+"

    def __str__(self) -> str:
        return f"{self.call}-{self.error}-{self.files[0]}"


FAULTS = [
    Fault("openat", "EIO", ["images/002.jpg"], FAILED, {"002.jpg"}),
    Fault("read", "EIO", ["images/002.jpg", "images/004.jpg"], FAILED, {"002.jpg", "004.jpg"}),
    Fault("openat", "EINTR", ["images/002.jpg", ".003.png.part"], OK, set(), "1"),
    Fault("read", "EINTR", ["images/002.jpg"], OK, set(), "1"),
    Fault("getdents64", "EIO", ["images"], INPUT),
    Fault("openat", "EMFILE", [".003.png.part"], FAILED, {"003.jpg"}),
    Fault("write", "ENOSPC", [".003.png.part"], FAILED, {"003.jpg"}),
    Fault("write", "EDQUOT", [".003.png.part"], FAILED, {"003.jpg"}),
    Fault("write", "EINTR", [".003.png.part", "scores.csv.part", ".scores.csv.part"], OK, set(), "1"),
    Fault("rename", "EIO", [".003.png.part"], FAILED, {"003.jpg"}),
    Fault("fsync", "EIO", ["003.png"], INPUT),
    Fault("fsync", "EINTR", ["003.png", "scores.csv.part"], OK, set(), "1"),
    Fault("openat", "EACCES", ["scores.csv.part"], INPUT),
    Fault("write", "ENOSPC", ["scores.csv.part"], INPUT, None, "4+"),
    Fault("write", "EIO", ["scores.csv.part"], INPUT, None, "1"),
    Fault("fsync", "EDQUOT", ["scores.csv.part"], INPUT, None, "2+"),
    Fault("ftruncate", "EIO", ["scores.csv.part"], INPUT, None, "2+"),
    Fault("rename", "EIO", [".scores.csv.part"], INPUT),
    Fault("rename", "ENOSPC", [".checksums.csv.part"], INPUT),
    Fault("write", "EIO", [".run.json.part"], INPUT, None, "2+"),
    Fault("fsync", "EIO", [""], INPUT),
]


def inject(fault: Fault, words: Sequence[str], images: Path, out: Path) -> "subprocess.CompletedProcess[str]":
    """Run the program with a fault."""
    paths = [
        str(images / name.removeprefix("images").removeprefix("/") if name.startswith("images") else out / name)
        for name in fault.files
    ]
    command = ["strace", "-f", "-qq", "-e", f"trace={fault.call}", "-e", "signal=none", "-o", os.devnull]
    command += [word for path in paths for word in ("-P", path)]
    command += ["-e", f"inject={fault.call}:error={fault.error}:when={fault.when}"]
    command += [sys.executable, "-m", "lesioncli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_system_call_that_fails(fault: Fault, undisturbed: Undisturbed, tmp_path: Path) -> None:
    if not can_record(tmp_path):
        pytest.skip("strace is not installed, or may not trace")
    out = tmp_path / "out"
    out.mkdir()
    done = inject(fault, undisturbed.words(out), undisturbed.images, out)
    failed = undisturbed.assert_promises_hold(out, done, fault.code)
    assert fault.failed is None or failed == fault.failed
    if fault.code == INPUT:
        names = [file.removesuffix(".part").removeprefix(".") for file in fault.files]
        expected = [str(undisturbed.images), f"error: {out}: ", *(str(out / name) for name in names)]
        assert any(name in done.stderr for name in expected), done.stderr
    undisturbed.assert_next_run_is_right(out)


def run(words: Sequence[str], *, before: str = "") -> "subprocess.CompletedProcess[str]":
    """Run the program in a process of its own, after some code."""
    code = f"{before}\nfrom lesioncli.__main__ import main\nmain()"
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


HANG = """
import ctypes, os
from lesioncli.backends import openvino
real, calls = openvino.OpenVinoEngine.{method}, []

def hang(*given, **named):
    calls.append(given)
    if len(calls) == {nth}:
        ctypes.CDLL(None).pause()  # as a library that waits for a device
    return real(*given, **named)

openvino.OpenVinoEngine.{method} = hang
"""


@pytest.mark.parametrize(("method", "nth"), [("_start", 1), ("_finish", 4), ("close", 1)])
def test_an_engine_that_hangs_is_named(undisturbed: Undisturbed, tmp_path: Path, method: str, nth: int) -> None:
    out = tmp_path / "out"
    words = [*undisturbed.words(out), "--engine-timeout", "3"]
    done = run(words, before=HANG.format(method=method, nth=nth))
    assert undisturbed.assert_promises_hold(out, done, ENGINE) == set()
    assert "engine tiny on CPU" in done.stderr
    assert "hangs" in done.stderr
    if method == "close":
        assert files_of(out) == undisturbed.files
    undisturbed.assert_next_run_is_right(out)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_an_engine_that_does_not_open_is_named(
    undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: str
) -> None:
    out = tmp_path / "out"
    (tmp_path / "sitecustomize.py").write_text(HANG.format(method="__init__", nth=1))  # for all processes
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    done = run([*undisturbed.words(out), "--engine-timeout", "3", "--processes", processes])
    assert done.returncode == ENGINE, done.stderr
    assert f"opening {undisturbed.manifest} hangs" in done.stderr
    assert not out.exists()
    monkeypatch.undo()
    undisturbed.assert_next_run_is_right(out)


SHORT_OF_MEMORY = """
import resource
from pathlib import Path
from lesioncli.inference import pipeline

class Limited(pipeline.OpenedImage):
    def __init__(self, path):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, resource.RLIM_INFINITY))
        super().__init__(path)

pipeline.OpenedImage = Limited
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit address space so")
def test_an_image_for_which_memory_is_short_fails_alone(undisturbed: Undisturbed, tmp_path: Path) -> None:
    images = shutil.copytree(undisturbed.images, tmp_path / "images")
    save(images / "0025.png", np.zeros((8000, 8000, 3), np.uint8))  # 192 MB in memory
    words = ["segment", str(images), "--out", str(tmp_path / "out"), "--engine", str(undisturbed.manifest)]
    done = run([*words, "--workers", "1"], before=SHORT_OF_MEMORY)
    assert done.returncode == FAILED, done.stderr
    rows = rows_of(tmp_path / "out")
    assert [name for name, row in rows.items() if row["status"] == "failed"] == ["0025.png"]
    assert "memory" in rows["0025.png"]["reason"]
    assert len(rows) == COUNT + 1


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system in memory; skip the test where that is not allowed."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.skipif(not shutil.which("mount"), reason="has no mount")
@pytest.mark.parametrize("free_kib", [0, 8, 24])
def test_a_disk_that_fills_up(undisturbed: Undisturbed, tmp_path: Path, free_kib: int) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        (disk / "out").mkdir()
        filler = disk / "filler"
        free = shutil.disk_usage(disk).free
        filler.write_bytes(bytes(free - free_kib * 1024))
        done = run(undisturbed.words(disk / "out"))
        undisturbed.assert_promises_hold(disk / "out", done, INPUT)
        assert "No space left" in done.stderr
        filler.unlink()
        undisturbed.assert_next_run_is_right(disk / "out")


# Root may write anywhere; without this capability it is as anybody else. 24: PR_CAPBSET_DROP, 1: CAP_DAC_OVERRIDE.
WITHOUT_PRIVILEGES = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
for capability in (1, 2):
    libc.prctl(24, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1], *sys.argv[2:]])
"""
WITHOUT_PERMISSION = """
import os
from pathlib import Path
from lesioncli.inference import pipeline
out, calls = Path({out!r}), []
real = pipeline.write_runs

def write_runs(*given):
    calls.append(given)
    if len(calls) == 4:
        out.chmod({mode})
    return real(*given)

pipeline.write_runs = write_runs
"""


@pytest.mark.skipif(sys.platform != "linux", reason="root keeps its privileges")
@pytest.mark.parametrize(("mode", "named"), [(0o555, SCORES), (0, JOURNAL)])
def test_permission_that_is_lost_half_way(undisturbed: Undisturbed, tmp_path: Path, mode: int, named: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    code = WITHOUT_PERMISSION.format(out=str(out), mode=mode) + "\nfrom lesioncli.__main__ import main\nmain()"
    command = [sys.executable, "-c", WITHOUT_PRIVILEGES, code, *undisturbed.words(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    out.chmod(0o755)
    failed = undisturbed.assert_promises_hold(out, done, INPUT)
    assert f"error: {out / named}" in done.stderr
    assert "Permission denied" in done.stderr
    assert failed == ({"003.jpg", "004.jpg", "005.jpg"} if mode else set())
    undisturbed.assert_next_run_is_right(out)


@contextmanager
def faulty_disk(folder: Path, mount_point: Path) -> Iterator[Path]:
    """Mount a faulty_disk.py that shows a folder; skip the test where that is not possible."""
    mount_point.mkdir()
    with subprocess.Popen([sys.executable, FAULTY_DISK, folder, mount_point], stderr=subprocess.PIPE) as server:
        try:
            while not mount_point.is_mount():
                if server.poll() is not None:
                    pytest.skip("FUSE, or the package mfusepy, is not installed or not allowed")
                time.sleep(0.02)
            yield mount_point
        finally:
            server.kill()
            unmount = ["fusermount3", "-u", "-z"] if shutil.which("fusermount3") else ["umount", "--lazy"]
            subprocess.run([*unmount, str(mount_point)], check=False)


def test_images_on_a_faulty_file_system(undisturbed: Undisturbed, tmp_path: Path) -> None:
    folder, out = shutil.copytree(undisturbed.images, tmp_path / "real"), tmp_path / "out"
    for name in ("eio.jpg", "gone.jpg", "short.jpg"):
        shutil.copy(folder / "000.jpg", folder / name)
    words = ["segment", "--out", str(out), "--engine", str(undisturbed.manifest), "--workers", "1"]
    with faulty_disk(folder, tmp_path / "shown") as shown:
        done = run([*words, str(shown)])
    assert done.returncode == FAILED, done.stderr
    rows = rows_of(out)
    assert {name for name, row in rows.items() if row["status"] == "failed"} == {"eio.jpg", "gone.jpg", "short.jpg"}
    assert all(row["reason"] for row in rows.values() if row["status"] == "failed")
    assert {f"{number:03d}.jpg" for number in range(COUNT)} == {
        name for name, row in rows.items() if row["status"] == "ok"
    }


def test_a_file_system_that_blocks_is_left_after_the_grace_period(undisturbed: Undisturbed, tmp_path: Path) -> None:
    folder, out = shutil.copytree(undisturbed.images, tmp_path / "images"), tmp_path / "out"
    (folder / "005.jpg").rename(folder / "blocks.jpg")
    with faulty_disk(folder, tmp_path / "shown") as shown:
        words = ["segment", str(shown), "--out", str(out), "--engine", str(undisturbed.manifest), "--grace", "1"]
        with start_program(*words) as process:
            deadline = time.monotonic() + 60
            while len(list(out.glob("*.png"))) < 2 and time.monotonic() < deadline:
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=30)
    assert process.returncode == ExitCode.TERMINATED, output.decode()
    (folder / "blocks.jpg").rename(folder / "005.jpg")
    undisturbed.assert_next_run_is_right(out)


def test_output_on_a_faulty_file_system(undisturbed: Undisturbed, tmp_path: Path) -> None:
    images = shutil.copytree(undisturbed.images, tmp_path / "images")
    (images / "003.jpg").rename(images / "full.jpg")
    (tmp_path / "real").mkdir()
    with faulty_disk(tmp_path / "real", tmp_path / "shown") as shown:
        words = ["segment", str(images), "--out", str(shown), "--engine", str(undisturbed.manifest)]
        done = run(words)
    assert done.returncode == FAILED, done.stderr
    assert {name: row["reason"] for name, row in rows_of(tmp_path / "real").items() if row["status"] == "failed"} == {
        "full.jpg": "write: No space left on device"
    }
    for number in (0, 1, 2, 4, 5):
        name = f"{number:03d}.png"
        assert (tmp_path / "real" / name).read_bytes() == undisturbed.files[name]
