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
    assert (found["extra train"].needed, found["extra train"].optional) == (False, True)
    assert {"torch", "onnx"} <= set(re.findall(r"[\w-]+", found["extra train"].state))


def test_optional_packages_have_one_line_per_extra(tmp_path: Path) -> None:
    """onnx is of several extras, and belongs to the line of each."""
    found = findings(tmp_path)
    assert {subject for subject in found if subject.startswith("extra ")} == {f"extra {extra}" for extra in EXTRAS}
    assert not {"torch", "onnx"} & set(found)
    for extra in ("train", "rtx"):
        version = importlib.metadata.version("onnx")
        assert f"onnx {version}" in found[f"extra {extra}"].state
        assert not found[f"extra {extra}"].fix


def test_reports_need_no_extra() -> None:
    """The first steps of a new user end in a report."""
    required = [
        re.split(r"[^\w-]", text)[0] for text in importlib.metadata.requires("lesioncli") or () if "extra" not in text
    ]
    assert {"jinja2", "matplotlib"} <= set(required)


def test_extra_without_one_of_its_packages_has_its_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version

    def not_torch(name: str) -> str:
        if name == "torch":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", not_torch)
    found = findings(tmp_path)
    assert "torch" in found["extra train"].state
    assert "safetensors" not in found["extra train"].state
    assert found["extra train"].fix == install_command("train")
    assert not found["extra xlsx"].fix


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
    ("record", "requirement"),
    [
        ({"url": "file:CLONE", "dir_info": {}}, "CLONE[train]"),
        ({"url": "file:CLONE", "dir_info": {"editable": True}}, "CLONE[train]"),
        ({"url": "file:CLONE/x.whl", "archive_info": {}}, "CLONE/x.whl[train]"),
        ({"url": "file:CLONE/gone.whl", "archive_info": {}}, "lesioncli[train]"),
        (
            {"url": "https://example.org/x.git", "vcs_info": {"vcs": "git", "requested_revision": "v1"}},
            "lesioncli[train] @ git+https://example.org/x.git@v1",
        ),
        ({"url": "https://example.org/x.zip", "archive_info": {}}, "lesioncli[train] @ https://example.org/x.zip"),
        ({}, f"{Path(__file__).parents[2]}[train]"),
    ],
)
def test_install_command_names_the_source_of_the_installation(
    record: dict[str, object], requirement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command works as it is printed: no part of it is to be filled in."""
    clone = tmp_path / "my clone"
    clone.mkdir()
    (clone / "pyproject.toml").touch()
    (clone / "x.whl").touch()

    class Distribution:
        def read_text(self, name: str) -> str:
            assert name == "direct_url.json"
            return json.dumps(record).replace("file:CLONE", clone.as_uri())

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())
    words = shlex.split(install_command("train"))
    assert words[:4] == [sys.executable, "-m", "pip", "install"]
    assert words[-1] == requirement.replace("CLONE", str(clone))
    assert ("--editable" in words) == ("editable" in str(record))
