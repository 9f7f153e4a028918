"""The command `verify`: its exit codes and what it prints."""

import json
from pathlib import Path

from helpers.command import call, save_lesion
from helpers.graphs import MakeEngine

from lesioncli.errors import ExitCode


def test_damage_is_named_repaired_and_done_again(tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    for seed in range(3):
        save_lesion(tmp_path / "images" / f"{seed}.jpg", seed)
    out = tmp_path / "masks"
    segment = ("segment", tmp_path / "images", "--out", out, "--engine", tiny_manifest(1))
    assert call(*segment).exit_code == ExitCode.OK
    done = call("verify", out)
    assert done.exit_code == ExitCode.OK, done.stderr
    assert "no problems" in done.stdout
    (out / "1.png").write_bytes((out / "0.png").read_bytes())
    (out / "mine.txt").write_text("any")
    done = call("verify", out)
    assert done.exit_code == ExitCode.SOME_FAILED
    assert "1.png" in done.stderr
    assert "mine.txt" in done.stderr
    (out / "mine.txt").unlink()
    done = call("verify", out, "--repair", "--json")
    assert done.exit_code == ExitCode.OK, done.stderr
    document = json.loads(done.stdout)
    assert [(found["name"], found["problem"]) for found in document["problems"]] == [("1.png", "changed")]
    assert document["repaired"] == 1
    again = call(*segment, "--json")
    assert json.loads(again.stdout)["ok"] == 1
    assert call("verify", out).exit_code == ExitCode.OK


def test_a_folder_without_results_is_an_input_error(tmp_path: Path) -> None:
    done = call("verify", tmp_path)
    assert done.exit_code == ExitCode.INPUT
    assert str(tmp_path) in done.stderr
