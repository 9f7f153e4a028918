"""The files of examples/ that need a cluster, against the schemas of their makers and our options and exit codes."""

import json
from pathlib import Path
from typing import Any

import botocore.session
import botocore.validate
import kubernetes_validate
import pytest
import typer.main
import yaml

from lesioncli.cli.app import app
from lesioncli.errors import ExitCode
from lesioncli.options import FailureLimit
from lesioncli.sharding import choose_shard

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # typer carries its own click, untyped
KUBERNETES = sorted(EXAMPLES.glob("kubernetes/*.yaml"))
FIRST_VERSION, LATEST_VERSION = "1.31.0", "1.37.0"  # podFailurePolicy is stable since 1.31
ENDED_BY_SIGNAL = {ExitCode.INTERRUPTED, ExitCode.TERMINATED}


def parse_command(words: list[str]) -> dict[str, Any]:
    """Return the options of a command line by name; a usage error is a failure."""
    command = COMMANDS[words[0]]
    return dict(command.make_context(words[0], words[1:]).params)


def read_job(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the specification of a Job, and its container."""
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    return spec, container


@pytest.mark.parametrize("version", [FIRST_VERSION, LATEST_VERSION])
@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_kubernetes_jobs_follow_the_schema(path: Path, version: str) -> None:
    job = yaml.safe_load(path.read_text(encoding="utf-8"))
    kubernetes_validate.validate(job, version, strict=True)
    job["spec"]["podFailurePolicy"]["rules"][0]["actoin"] = "Ignore"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, version, strict=True)


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_each_exit_code_that_a_new_pod_would_repeat_has_one_rule(path: Path) -> None:
    spec, container = read_job(path)
    rules = [rule["onExitCodes"] for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert {rule["containerName"] for rule in rules} == {container["name"]}
    assert [rule["values"] for rule in rules] == [sorted(set(rule["values"])) for rule in rules]  # the server insists
    values = sorted(value for rule in rules for value in rule["values"])
    assert values == sorted(set(ExitCode) - ENDED_BY_SIGNAL - {ExitCode.OK})


def test_the_kubernetes_job_has_as_many_pods_as_shards() -> None:
    spec, container = read_job(EXAMPLES / "kubernetes/segment.yaml")
    options = parse_command(container["args"])
    shard = choose_shard(options["shard"], {"JOB_COMPLETION_INDEX": str(spec["completions"] - 1)}).value
    assert shard.index == shard.count == spec["completions"] == spec["maxFailedIndexes"]
    assert options["grace"] < spec["template"]["spec"]["terminationGracePeriodSeconds"]
    assert FailureLimit.parse(options["max_failures"]).is_percent
    _, merge = read_job(EXAMPLES / "kubernetes/merge.yaml")
    assert parse_command(merge["args"])["masks"] == options["out"]


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("job-definition", "RegisterJobDefinition"),
        ("segment", "SubmitJob"),
        ("merge", "SubmitJob"),
    ],
)
def test_aws_batch_requests_follow_the_service_model(name: str, operation: str) -> None:
    request = json.loads((EXAMPLES / f"aws-batch/{name}.json").read_text(encoding="utf-8"))
    shape = botocore.session.Session().get_service_model("batch").operation_model(operation).input_shape
    validator = botocore.validate.ParamValidator()
    assert validator.validate(request, shape).generate_report() == ""
    assert validator.validate({**request, "timeuot": 1}, shape).has_errors()


def test_aws_batch_runs_commands_that_exist() -> None:
    definition, array, merge = (
        json.loads((EXAMPLES / f"aws-batch/{name}.json").read_text(encoding="utf-8"))
        for name in ("job-definition", "segment", "merge")
    )
    options = parse_command(definition["containerProperties"]["command"])
    size = str(array["arrayProperties"]["size"])
    environment = {"AWS_BATCH_JOB_ARRAY_INDEX": "0", "AWS_BATCH_JOB_ARRAY_SIZE": size}
    assert str(choose_shard(options["shard"], environment).value) == f"1/{size}"
    assert parse_command(merge["containerOverrides"]["command"])["masks"] == options["out"]
    assert {array["jobDefinition"], merge["jobDefinition"]} == {definition["jobDefinitionName"]}
