"""ModelSpec: round trip, and everything in it that could mislead."""

import json
from typing import Any

import pytest

from lesioncli.errors import InputError
from lesioncli.spec import ModelSpec

SPEC = ModelSpec("a-model_1.0", "multitask", 256, 320, {"encoder": "googlenet", "widths": [1, 2]})


def test_round_trip() -> None:
    assert ModelSpec.from_json(SPEC.to_json(), "here") == SPEC


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "../evil"}, "evil"),
        ({"name": "a/b"}, "a/b"),
        ({"name": ".hidden"}, "hidden"),
        ({"name": 3}, "3"),
        ({"height": 250}, "multiple of 32"),
        ({"width": -32}, "multiple of 32"),
        ({"reduction": "magic"}, "magic"),
        ({"extra": 1}, "extra"),
        ({"classes": None}, "classes"),
    ],
)
def test_what_cannot_be_is_refused_with_its_source(change: dict[str, Any], said: str) -> None:
    text = json.dumps({**json.loads(SPEC.to_json()), **change})
    with pytest.raises(InputError) as caught:
        ModelSpec.from_json(text, "model.onnx")
    assert "model.onnx" in str(caught.value)
    if said != "classes":
        assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_no_spec_at_all(text: str) -> None:
    with pytest.raises(InputError, match=r"model\.onnx"):
        ModelSpec.from_json(text, "model.onnx")
