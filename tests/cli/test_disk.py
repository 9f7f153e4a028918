"""Disks that are full, and folders that nobody may write to: exit code 3 with the path, from every command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command import call, save_lesion
from helpers.graphs import write_graph
from helpers.runs import run_on_full_disk
from helpers.train_command import TRAIN, write_training_folder

from lesioncli.demo.folder import write_demo
from lesioncli.errors import ExitCode

ON_UNIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits on the size of files")
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="nobody may write to /proc")


@pytest.fixture(scope="module")
def lesions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, labels, and masks as if they were predicted, named as ISIC does."""
    folder = tmp_path_factory.mktemp("disk")
    write_demo(folder, count=3, height=128, width=160)
    for kind in ("images", "labels"):
        for path in (folder / kind).iterdir():
            path.rename(path.with_name(path.name.replace("demo_", "ISIC_000")))
    labels = folder / "labels" / "labels.csv"
    labels.write_text(labels.read_text().replace("demo_", "ISIC_000"))
    (folder / "masks").mkdir()
    for path in (folder / "labels").glob("*.png"):
        (folder / "masks" / path.name).write_bytes(path.read_bytes())
    return folder


@ON_UNIX
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("demo", "new", "--size", "640", "480"), "new/images/demo_0001.jpg"),
        (("build-engine", "--out", "built"), "built"),
        (("evaluate", "--gt", "labels", "--csv", "out.csv"), "out.csv"),
        (("report", "--images", "images", "--out", "out.html"), "out.html"),
        (("submission", "--out", "sent"), "sent/segmentation.zip"),
    ],
)
def test_a_full_disk_is_no_bug(lesions: Path, words: tuple[str, ...], named: str) -> None:
    before = sorted(lesions.iterdir())
    done = run_on_full_disk(*words, max_file_bytes=200, cwd=lesions)
    assert done.returncode == ExitCode.INPUT, done.stderr
    assert f"error: {named}: " in done.stderr
    assert "Traceback" not in done.stderr
    left = {path.name for path in lesions.iterdir()} - {path.name for path in before}
    assert left <= {"limited.py", "new", "sent"}
    assert not list(lesions.rglob(".*")), "a temporary file was left"


@ON_UNIX
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("max_file_bytes", "workers", "named"),
    [(100, 0, "run/recipe.json"), (10**6, 0, "run/coarse-sn/best.safetensors"), (10**5, 1, "shared memory")],
)
def test_training_on_a_full_disk_or_shared_memory(
    tmp_path: Path, max_file_bytes: int, workers: int, named: str
) -> None:
    recipe = write_training_folder(tmp_path) / "tiny.toml"
    recipe.write_text(recipe.read_text().replace("workers = 0", f"workers = {workers}"))
    done = run_on_full_disk(*TRAIN, "--out", "run", max_file_bytes=max_file_bytes, cwd=tmp_path)
    assert done.returncode == ExitCode.INPUT, done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr


@ON_UNIX
def test_a_checkpoint_keeps_the_permissions_of_other_files(tmp_path: Path) -> None:
    import torch

    from lesioncli.files import atomic_write

    (tmp_path / "other").touch()
    from safetensors.torch import save_file

    with atomic_write(tmp_path / "weights") as temporary:
        save_file({"a": torch.zeros(2)}, temporary)
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "other").stat().st_mode


@ON_UNIX
def test_the_temporary_folder_is_not_needed_to_build_an_engine(tmp_path: Path) -> None:
    """The graph of a shipped model is larger than many a /tmp in memory; it is written beside the engine."""
    full = tmp_path / "full"
    full.mkdir()
    graph = write_graph(tmp_path / "tiny.onnx")
    watch = "import sys, tempfile\nreal = tempfile.gettempdir()\n"
    code = watch + (
        "opened = []\n"
        "sys.addaudithook(lambda name, given: opened.append(str(given[0])) if name == 'open' else None)\n"
        "from lesioncli.__main__ import main\n"
        f"sys.argv = ['lesioncli', 'build-engine', {str(graph)!r}, '--out', 'built']\n"
        "try: main()\n"
        "except SystemExit as done: assert not done.code\n"
        f"assert not [path for path in opened if path.startswith({str(full)!r})], opened\n"
    )
    environment = {**os.environ, "TMPDIR": str(full)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@ON_LINUX
@pytest.mark.parametrize(
    "words",
    [
        ("demo", "/proc/new"),
        ("build-engine", "--out", "/proc/new"),
        ("segment", "images", "--out", "/proc/new"),
        ("evaluate", "--gt", "labels", "--csv", "/proc/new.csv"),
        ("report", "--out", "/proc/new.html"),
        ("submission", "--out", "/proc/new"),
    ],
)
def test_a_folder_that_nobody_may_write_to(
    words: tuple[str, ...], lesions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lesions)
    done = call(*words)
    assert done.exit_code == ExitCode.INPUT
    assert "error: /proc/new" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["doctor", "--json"], "standard output: "),
        (["engines", "--json"], "standard output: "),
        (["--version"], "standard output: "),
        (["demo", "--help"], "No space left"),
    ],
)
def test_results_that_cannot_be_printed(words: list[str], named: str, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "lesioncli", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (ExitCode.INPUT, 1), done.stderr
    assert f"error: {named}" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
def test_a_log_that_cannot_be_written_does_not_end_a_run(here: Path) -> None:
    save_lesion(here / "images" / "a.png")
    (here / "images" / "b.png").touch()
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "lesioncli", "segment", "images", "--out", "masks"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, text=True, check=False)
    assert done.returncode == ExitCode.SOME_FAILED
    assert "1 ok, 1 failed" in done.stdout
