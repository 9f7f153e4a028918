"""Runs with a calibrated engine: calibrated and raw values, run.json, and folders of another calibration."""

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.calibration_data import CALIBRATION, write_calibrated
from helpers.graphs import MakeEngine
from helpers.runs import assert_refused, record_of, rows_of, statuses

from lesioncli.backends.base import Engine
from lesioncli.backends.manifest import read_engine, read_manifest
from lesioncli.backends.registry import open_engine
from lesioncli.calibration import Calibration
from lesioncli.errors import EngineError
from lesioncli.segmenter import Segmenter


@pytest.fixture(scope="module")
def calibrated_manifest(tiny_manifest: MakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated") / "engines"
    shutil.copytree(tiny_manifest(2).parent, folder)
    return write_calibrated(folder / tiny_manifest(2).name, CALIBRATION, "calibrated")


@pytest.fixture
def calibrated(calibrated_manifest: Path) -> Iterator[Engine]:
    with open_engine(calibrated_manifest) as opened:
        yield opened


def test_masks_are_the_same_and_values_are_mapped(
    engine: Engine, calibrated: Engine, images: Path, out: Path, tmp_path: Path
) -> None:
    assert statuses(images, engine, tmp_path / "raw") == statuses(images, calibrated, out) == "oooooo"
    raw, rows = rows_of(tmp_path / "raw"), rows_of(out)
    assert raw.keys() == rows.keys()
    for name, row in rows.items():
        mask = raw[name]["mask"]
        assert (out / mask).read_bytes() == (tmp_path / "raw" / mask).read_bytes()
        for column, text in raw[name].items():
            if column in ("melanoma", "confidence"):
                calibration = CALIBRATION.confidence if column == "confidence" else CALIBRATION.classes[column]
                assert calibration
                assert float(row[column]) == pytest.approx(calibration.apply(float(text)), abs=2e-5)
                assert row[column] != text
                assert row[f"raw_{column}"] == text
            else:
                assert row[column] == text
        assert row["raw_nevus"] == raw[name]["nevus"]


def test_raw_columns_stand_before_the_note_of_calibrated_runs_only(
    engine: Engine, calibrated: Engine, images: Path, out: Path, tmp_path: Path
) -> None:
    statuses(images, calibrated, out)
    statuses(images, engine, tmp_path / "raw")
    added = ["raw_melanoma", "raw_seborrheic_keratosis", "raw_nevus", "raw_confidence"]
    header = (tmp_path / "raw" / "scores.csv").read_text().splitlines()[0].split(",")
    with (out / "scores.csv").open(newline="") as file:
        assert next(csv.reader(file)) == [*header[:-1], *added, "note"]


def test_run_json_names_the_calibration(calibrated: Engine, images: Path, out: Path) -> None:
    statuses(images, calibrated, out)
    record = record_of(out)
    assert record["calibration"] == CALIBRATION.identifier
    assert msgspec.convert(record["calibration_maps"], Calibration) == CALIBRATION


def test_a_folder_never_mixes_calibrations(
    engine: Engine, calibrated: Engine, images: Path, out: Path, tmp_path: Path, calibrated_manifest: Path
) -> None:
    statuses(images, calibrated, out)
    assert statuses(images, calibrated, out) == "ssssss"
    assert_refused(out, engine, images, CALIBRATION.identifier, "none")
    other = replace(CALIBRATION, confidence=None)
    with open_engine(write_calibrated(calibrated_manifest, other, "other")) as another:
        assert_refused(out, another, images, CALIBRATION.identifier, other.identifier)
    statuses(images, engine, tmp_path / "raw")
    assert_refused(tmp_path / "raw", calibrated, images, "none", CALIBRATION.identifier)


def test_a_segmenter_returns_the_values_of_segment(
    calibrated: Engine, calibrated_manifest: Path, images: Path, out: Path
) -> None:
    statuses(images, calibrated, out)
    with Segmenter(calibrated_manifest) as segmenter:
        for name, row in rows_of(out).items():
            result = segmenter(images / name)
            values = {**result.scores, **result.extra, "confidence": result.confidence}
            assert {column: f"{value:.5f}" for column, value in values.items()} == {
                column: row[column] for column in values
            }
            assert {"raw_confidence", "raw_melanoma", "agreement"} <= result.extra.keys()


def test_a_calibrated_engine_shares_its_files(calibrated_manifest: Path, tiny_manifest: MakeEngine) -> None:
    stored = read_engine(calibrated_manifest)
    assert stored.manifest.sha256 == read_engine(tiny_manifest(2)).manifest.sha256
    assert stored.manifest.spec.calibration == CALIBRATION


@pytest.mark.parametrize("change", [{"classes": {"melanoma": {"slope": -1}}}, {"classes": {"mole": None}}, {"name": 3}])
def test_a_manifest_with_an_invalid_calibration_is_refused(
    calibrated_manifest: Path, change: dict[str, Any], tmp_path: Path
) -> None:
    values = json.loads(calibrated_manifest.read_text())
    for key, value in change.items():
        if key == "classes":
            ((name, scaling),) = value.items()
            maps = values["spec"]["calibration"]["classes"]
            maps[name] = {**maps["melanoma"], **(scaling or {})}
        else:
            values["spec"]["calibration"][key] = value
    (tmp_path / "bad.json").write_text(json.dumps(values))
    with pytest.raises(EngineError, match=r"bad\.json"):
        read_manifest(tmp_path / "bad.json")
