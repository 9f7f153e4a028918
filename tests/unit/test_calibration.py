"""Calibration: its maps by hand, its file, and the values that are refused."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lesioncli.calibration import (
    Calibration,
    ConfidenceMap,
    PlattScaling,
    identify,
    read_calibration,
    write_calibration,
)
from lesioncli.errors import InputError
from lesioncli.options import TTA, Regions
from lesioncli.spec import ModelSpec

CALIBRATION = Calibration(
    "mine",
    {"melanoma": PlattScaling(0.5, -1.0, 200, 0.2)},
    ConfidenceMap(((0.5, 0.4), (0.9, 0.8)), 150),
    threshold=0.4,
    tta=TTA.FLIPS,
    regions=Regions.ALL,
)


def test_platt_scaling_by_hand() -> None:
    assert PlattScaling(1, 0, 10, 0.5).apply(0.3) == pytest.approx(0.3)
    assert PlattScaling(2, 0, 10, 0.5).apply(0.75) == pytest.approx(9 / 10)  # odds of 3, squared
    assert PlattScaling(1, math.log(4), 10, 0.5).apply(0.2) == pytest.approx(0.5)  # odds of 1/4, times 4


def test_scores_of_0_and_1_have_probabilities_inside() -> None:
    low, high = (PlattScaling(1, 0, 10, 0.5).apply(score) for score in (0.0, 1.0))
    assert 0 < low < 1e-5
    assert low + high == pytest.approx(1)
    assert PlattScaling(1e6, 0, 10, 0.5).apply(0.0) == pytest.approx(0)


def test_a_confidence_is_interpolated_between_knots() -> None:
    confidence = ConfidenceMap(((0.5, 0.4), (0.9, 0.8), (1.0, 0.8)), 100)
    for raw, expected in {0: 0.4, 0.5: 0.4, 0.6: 0.5, 0.7: 0.6, 0.9: 0.8, 0.95: 0.8, 1: 0.8}.items():
        assert confidence.apply(raw) == pytest.approx(expected)
    assert ConfidenceMap(((0.5, 0.7),), 100).apply(0.9) == 0.7


def test_what_has_no_map_keeps_its_value_and_raw_values_are_kept() -> None:
    values = CALIBRATION.apply({"melanoma": 0.5, "nevus": 0.3}, 0.7)
    assert values == pytest.approx(
        {
            "melanoma": 1 / (1 + math.e),
            "nevus": 0.3,
            "confidence": 0.6,
            "raw_melanoma": 0.5,
            "raw_nevus": 0.3,
            "raw_confidence": 0.7,
        }
    )


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (PlattScaling, (0.0, 0.0, 10, 0.5)),
        (PlattScaling, (-1.0, 0.0, 10, 0.5)),
        (PlattScaling, (math.nan, 0.0, 10, 0.5)),
        (PlattScaling, (1.0, math.inf, 10, 0.5)),
        (PlattScaling, (1.0, 0.0, 0, 0.5)),
        (PlattScaling, (1.0, 0.0, 10, 0.0)),
        (ConfidenceMap, ((), 10)),
        (ConfidenceMap, (((0.5, 0.5), (0.5, 0.6)), 10)),
        (ConfidenceMap, (((0.5, 0.5), (0.6, 0.4)), 10)),
        (ConfidenceMap, (((0.5, 1.5),), 10)),
        (ConfidenceMap, (((0.5, math.nan),), 10)),
    ],
)
def test_a_map_that_does_not_rise_is_refused(kind: Any, values: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"\d|\(\)"):
        kind(*values)


def test_the_identifier_changes_with_every_value() -> None:
    others = [
        replace(CALIBRATION, name="yours"),
        replace(CALIBRATION, classes={}),
        replace(CALIBRATION, confidence=None),
        replace(CALIBRATION, threshold=0.5),
        replace(CALIBRATION, tta=TTA.NONE),
    ]
    assert len({identify(calibration) for calibration in (None, CALIBRATION, *others)}) == 7
    assert identify(replace(CALIBRATION)) == identify(CALIBRATION)
    assert CALIBRATION.identifier.startswith("mine-")


def test_options_of_other_masks_are_named() -> None:
    assert CALIBRATION.describe_mismatch(0.4, TTA.FLIPS, Regions.ALL) == ""
    mismatch = CALIBRATION.describe_mismatch(0.5, TTA.FULL, Regions.ALL)
    assert all(named in mismatch for named in ("threshold", "0.4", "0.5", "tta", "flips", "full"))
    assert "regions" not in mismatch


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    write_calibration(path, CALIBRATION, "--export")
    assert read_calibration(path) == CALIBRATION


@pytest.mark.parametrize("change", [{"classes": {"melanoma": {"slope": -1}}}, {"confidence": []}, {"tta": "magic"}])
def test_a_file_that_is_no_calibration_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({**json.loads(CALIBRATION.to_json()), **change}))
    with pytest.raises(InputError, match=r"calibration\.json"):
        read_calibration(path)
    with pytest.raises(InputError, match=r"missing\.json"):
        read_calibration(tmp_path / "missing.json")


def test_a_spec_holds_a_calibration_of_its_own_classes() -> None:
    spec = ModelSpec("model", "multitask", 32, 32)
    calibrated = replace(spec, calibration=CALIBRATION)
    assert "calibration" not in json.loads(spec.to_json())  # so that the graphs of earlier versions keep their hash
    assert ModelSpec.from_json(calibrated.to_json(), "model.onnx") == calibrated
    other_class = calibrated.to_json().replace('{"melanoma"', '{"mole"')
    with pytest.raises(InputError, match=r"model\.onnx.*mole"):
        ModelSpec.from_json(other_class, "model.onnx")
