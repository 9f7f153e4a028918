"""`lesioncli doctor`."""

import importlib.metadata
import json
import re
import tomllib
from pathlib import Path

import pytest
from helpers.command import call

from lesioncli.errors import ExitCode, install_command


def test_findings_are_json_and_text(here: Path) -> None:
    done = call("doctor", "--json")
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    assert {"lesioncli", "openvino", "processor", "NVIDIA GPU", "engine"} <= set(findings)
    assert done.exit_code == 0
    text = call("doctor").stdout
    assert all(subject in text for subject in findings)
    assert all(finding["fix"] in text for finding in findings.values())


def test_every_package_of_pyproject_is_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    del extras["dev"], extras["docs"]

    def find_nothing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("lesioncli.doctor.importlib.metadata.version", find_nothing)
    done = call("doctor", "--json")
    assert done.exit_code == ExitCode.ENGINE
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    packages = {extra: {re.split(r"[^\w-]", line)[0] for line in lines} for extra, lines in extras.items()}
    base = {re.split(r"[^\w-]", line)[0] for line in project["dependencies"]}
    assert {name for name, finding in findings.items() if finding["needed"]} >= base
    assert all(findings[name]["fix"] == install_command() for name in base)
    for extra, names in packages.items():
        finding = findings[f"extra {extra}"]
        assert finding["fix"] == install_command(extra)
        assert set(re.findall(r"[\w-]+", finding["state"])) >= names - {"lesioncli"}
