"""The program as a whole: the README's three lines, help, exit codes, and how errors are shown."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command import call, save_lesion
from helpers.runs import rows_of
from typer.testing import CliRunner

from lesioncli import __version__
from lesioncli.cli import console
from lesioncli.cli.app import COMMANDS, make_app
from lesioncli.errors import ExitCode, InputError


def test_three_lines_work_in_a_real_shell(tmp_path: Path) -> None:
    def type_in(*words: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-c", "from lesioncli.__main__ import main; main()"]
        return subprocess.run([*program, *words], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert type_in("demo", ".", "--count", "4", "--size", "160", "120").returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"images", "labels"}
    for line in (["build-engine"], ["segment", "./images", "--out", "masks/"], ["evaluate", "--gt", "./labels"]):
        done = type_in(*line)
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "masks").glob("*.png"))) == len(rows_of(tmp_path / "masks")) == 4
    assert "jaccard" in done.stdout


def test_version_and_help() -> None:
    assert call("--version").stdout.strip() == f"lesioncli {__version__}"
    assert call().exit_code == ExitCode.USAGE
    page = call("--help").stdout
    assert "not a medical device" in page
    assert "--install-completion" in page
    assert all(f"  {name} " in page for name in COMMANDS)


def test_a_command_is_one_function_and_one_line_of_the_table() -> None:
    def greet(name: str) -> None:
        """Greet somebody."""
        raise InputError(f"{name}: unknown")

    program = make_app({**COMMANDS, "greet": greet})
    assert "Greet somebody." in CliRunner().invoke(program, ["--help"]).stdout
    done = CliRunner().invoke(program, ["greet", "Ada"])
    assert done.exit_code == ExitCode.INPUT
    assert "Ada" in done.stderr


@pytest.mark.parametrize(
    ("words", "completions"),
    [("seg", ["segment"]), ("segment x --tta f", ["flips", "full"]), ("evaluate --pr", ["--protocol"])],
)
def test_commands_options_and_choices_are_completed(words: str, completions: list[str]) -> None:
    environment = {
        **os.environ,
        "_LESIONCLI_COMPLETE": "complete_bash",
        "COMP_WORDS": f"lesioncli {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    program = [sys.executable, "-c", "from lesioncli.__main__ import main; main()"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == completions


@pytest.mark.parametrize(
    ("words", "choices"),
    [
        (["segment", ".", "--out", "masks", "--tta", "flip"], "--tta 'flip' is not one of none, flips, full"),
        (["segment", ".", "--out", "masks", "--regions", "two"], "--regions 'two' is not one of largest, all"),
        (["segment", ".", "--out", "m", "--backend", "it's"], "is not one of auto, openvino, tensorrt, tensorrt-rtx"),
        (["build-engine", "--precision", "fp8"], "--precision 'fp8' is not one of auto, fp32, bf16, fp16, int8"),
        (["evaluate", "--gt", ".", "--protocol", "x"], "--protocol 'x' is not one of plain, isic2017, isic2018, ph2"),
        (["submission", "--protocol", "plain"], "--protocol 'plain' is not one of isic2017, isic2018"),
        (
            ["train", "--recipe", "x", "--data", ".", "--out", "x", "--device", "tpu"],
            "'tpu' is not one of auto, cpu, cuda",
        ),
    ],
)
def test_a_wrong_choice_is_shown_with_the_choices(words: list[str], choices: str) -> None:
    done = call(*words)
    assert done.exit_code == ExitCode.USAGE
    assert done.stderr.strip().endswith(choices)


@pytest.mark.parametrize(
    ("words", "suggested"),
    [
        (["segment", ".", "--out", "m", "--device", "cpu"], "--devices"),
        (["evaluate", "--gt", ".", "--devise"], ""),
        (["segment", ".", "--out", "m", "--batchs", "3"], "--batch"),
        (["evaluate", "--gt", ".", "--protocols", "ph2"], "--protocol"),
    ],
)
def test_only_misspelt_options_have_suggestions(words: list[str], suggested: str) -> None:
    done = call(*words)
    assert done.exit_code == ExitCode.USAGE
    unknown = next(word for word in words[::-1] if word.startswith("--"))
    options = re.findall(r"--[\w-]+", done.stderr.partition(unknown)[2])
    assert options == ([suggested] if suggested else [])


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["segment", "nowhere", "--out", "masks"], ExitCode.INPUT, "nowhere"),
        (["segment", ".", "--out", "masks"], ExitCode.INPUT, "no images"),
        (["segment", ".", "--out", "masks", "--batch", "0"], ExitCode.USAGE, "--batch"),
        (["segment", ".", "--out", "masks", "--threshold", "1.5"], ExitCode.USAGE, "--threshold"),
        (["segment", ".", "--out", "masks", "--workers", "257"], ExitCode.USAGE, "--workers"),
        (["segment", ".", "--out", "masks", "--trace", "image.jpg"], ExitCode.USAGE, "image.jpg"),
        (["segment"], ExitCode.USAGE, "IMAGES"),
        (["evaluate", "--gt", "nowhere"], ExitCode.INPUT, "nowhere"),
        (["report", "--by", "sex"], ExitCode.USAGE, "--by"),
        (["build-engine", "nothing-of-the-kind"], ExitCode.INPUT, "nothing-of-the-kind"),
        (["build-engine", "gone.safetensors"], ExitCode.INPUT, "gone.safetensors"),
        (["train", "--recipe", "none-such", "--data", ".", "--out", "run"], ExitCode.INPUT, "none-such"),
        (["train", "--recipe", "multitask-lite", "--data", ".", "--out", "run"], ExitCode.INPUT, "images/"),
        (["frobnicate"], ExitCode.USAGE, "frobnicate"),
    ],
)
def test_an_error_has_its_exit_code_and_names_the_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: ExitCode, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(*words)
    assert done.exit_code == code
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_bug_shows_its_traceback_and_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise ZeroDivisionError("planted")

    save_lesion(tmp_path / "a.png")
    monkeypatch.setattr("lesioncli.images.find.list_images", fail)
    done = call("segment", tmp_path, "--out", tmp_path / "masks")
    assert done.exit_code == ExitCode.BUG
    assert "ZeroDivisionError" in done.stderr
    assert f"lesioncli {__version__}" in done.stderr


def test_a_closed_pipe_is_not_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """`lesioncli doctor | head -1` may close the pipe before the last line is written."""

    def fail(*args: object, **options: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("lesioncli.cli.console.stdout.print", fail)
    done = call("engines", "nowhere")
    assert (done.exit_code, done.stderr) == (1, "")


def test_only_a_command_that_continues_says_so_when_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lesioncli.demo.folder.write_demo", interrupt)
    monkeypatch.setattr("lesioncli.images.find.list_images", interrupt)
    done = call("demo", tmp_path / "data")
    assert (done.exit_code, done.stderr) == (ExitCode.INTERRUPTED, "interrupted\n")
    done = call("segment", tmp_path, "--out", tmp_path / "masks")
    assert done.exit_code == ExitCode.INTERRUPTED
    assert "continues" in done.stderr


def test_brackets_in_a_folder_name_are_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("demo", "d[red]x[/y]", "--count", "1", "--size", "64", "64")
    assert (done.exit_code, done.stdout.count("d[red]x[/y]")) == (0, 2)
    assert call("segment", "d[red]x[/y]/labels", "--out", "masks").stderr.count("d[red]x[/y]") == 1


@pytest.mark.parametrize(
    "words", [("evaluate", "--gt", "a", "--pred", "b", "--pred", "c"), ("segment", "x", "--out", "a", "--out=b")]
)
def test_an_option_with_one_value_is_not_given_twice(words: tuple[str, ...]) -> None:
    result = call(*words)
    assert result.exit_code == ExitCode.USAGE
    assert words[-2] in result.stderr or "--out" in result.stderr


def test_every_command_shows_its_progress_as_quiet_asks() -> None:
    modules = Path(console.__file__).parent.glob("*.py")
    users = {path.name for path in modules if re.search(r"\bProgressBars\(", path.read_text(encoding="utf-8"))}
    assert users == {"console.py"}
