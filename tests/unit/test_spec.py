"""ModelSpec: the same values after reading, and no values that are not valid."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from lesioncli.errors import InputError
from lesioncli.spec import ModelSpec

SPEC = ModelSpec("a-model_1.0", "multitask", 256, 320, {"encoder": "googlenet", "widths": [1, 2]})


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, licence="CC-BY-NC-4.0")])
def test_a_written_spec_is_read_back(spec: ModelSpec) -> None:
    assert ModelSpec.from_json(spec.to_json(), "model.onnx") == spec


def test_a_spec_without_licence_is_written_as_before_there_were_any() -> None:
    assert "licence" not in SPEC.to_json()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": "../evil"}, "evil"),
        ({"name": "a/b"}, "a/b"),
        ({"name": ".hidden"}, "hidden"),
        ({"name": 3}, "3"),
        ({"height": 250}, "250"),
        ({"width": -32}, "-32"),
        ({"reduction": "magic"}, "magic"),
        ({"licence": "ask me first"}, "ask me first"),
        ({"licence": 3}, "3"),
        ({"extra": 1}, "extra"),
        ({"classes": None}, "model.onnx"),
        ({"classes": ["nevus", "=cmd()"]}, "=cmd()"),
    ],
)
def test_a_value_that_is_not_valid_is_named_with_its_source(change: dict[str, Any], named: str) -> None:
    text = json.dumps({**json.loads(SPEC.to_json()), **change})
    with pytest.raises(InputError, match=re.escape("model.onnx")) as raised:
        ModelSpec.from_json(text, "model.onnx")
    assert named in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_text_that_is_not_a_spec_is_refused_with_its_source(text: str) -> None:
    with pytest.raises(InputError, match=re.escape("model.onnx")):
        ModelSpec.from_json(text, "model.onnx")
