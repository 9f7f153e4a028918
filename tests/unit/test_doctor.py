"""The findings of `doctor`."""

import importlib.metadata
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from lesioncli import doctor
from lesioncli.doctor import EXTRAS, Finding, examine
from lesioncli.errors import install_command


def findings(folder: Path) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine(folder)}


def test_missing_packages_are_needed_or_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", not_found)
    found = findings(tmp_path)
    assert (found["numpy"].needed, found["numpy"].optional) == (True, False)
    assert (found["extra report"].needed, found["extra report"].optional) == (False, True)
    assert {"jinja2", "matplotlib"} <= set(re.findall(r"[\w-]+", found["extra report"].state))


def test_optional_packages_have_one_line_per_extra(tmp_path: Path) -> None:
    """matplotlib is of two extras, and belongs to the line of each."""
    found = findings(tmp_path)
    assert {subject for subject in found if subject.startswith("extra ")} == {f"extra {extra}" for extra in EXTRAS}
    assert not {"jinja2", "matplotlib", "torch", "onnx"} & set(found)
    for extra in ("report", "train"):
        version = importlib.metadata.version("matplotlib")
        assert f"matplotlib {version}" in found[f"extra {extra}"].state
        assert not found[f"extra {extra}"].fix


def test_extra_without_one_of_its_packages_has_its_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version

    def not_jinja(name: str) -> str:
        if name == "jinja2":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", not_jinja)
    found = findings(tmp_path)
    assert "jinja2" in found["extra report"].state
    assert "matplotlib" not in found["extra report"].state
    assert found["extra report"].fix == install_command("report")
    assert not found["extra train"].fix


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
