"""The findings of `doctor`."""

import importlib.metadata
import json
import shlex
import sys
from pathlib import Path

import pytest

from lesioncli import doctor
from lesioncli.doctor import Finding, examine
from lesioncli.errors import install_command


def findings(folder: Path) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine(folder)}


def test_missing_packages_are_needed_or_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", not_found)
    found = findings(tmp_path)
    assert (found["numpy"].needed, found["numpy"].optional) == (True, False)
    assert (found["jinja2"].needed, found["jinja2"].optional) == (False, True)
    assert "optional" in found["jinja2"].state


def test_every_fix_is_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_checkpoint", missing_checkpoint)
    for finding in examine(tmp_path):
        if finding.fix:
            words = shlex.split(finding.fix)
            assert words[:4] == [sys.executable, "-m", "pip", "install"] or words[:2] == ["lesioncli", "build-engine"]
            assert "," not in finding.fix.replace(install_command(), "")
    assert findings(tmp_path)["shipped model"].needed


def missing_checkpoint(model: str) -> Path:
    from lesioncli.errors import InputError

    raise InputError(f"{model} is missing")


def test_empty_engine_folder_needs_no_repair(tmp_path: Path) -> None:
    engine = findings(tmp_path)["engine"]
    assert (engine.fix, engine.needed) == ("lesioncli build-engine", False)


@pytest.mark.parametrize(
    ("record", "command"),
    [
        ({"url": "file:///opt/my%20clone", "dir_info": {}}, "'/opt/my clone[report]'"),
        ({"url": "file:///opt/x", "dir_info": {"editable": True}}, "--editable '/opt/x[report]'"),
        (
            {"url": "https://example.org/x.git", "vcs_info": {"vcs": "git"}},
            "'lesioncli[report] @ git+https://example.org/x.git'",
        ),
        ({}, "'/path/to/lesioncli[report]'"),
    ],
)
def test_install_command_names_the_source_of_the_installation(
    record: dict[str, object], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Distribution:
        def read_text(self, name: str) -> str:
            assert name == "direct_url.json"
            return json.dumps(record)

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())
    assert install_command("report") == f"{shlex.quote(sys.executable)} -m pip install {command}"
