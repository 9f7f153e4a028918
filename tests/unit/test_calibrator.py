"""calibrate(): the maps that it finds, the engine that it writes, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from helpers.calibration_data import IMAGES, change_column, make_engine, write_run
from helpers.evaluation_data import block, save_mask, write_lines

from lesioncli.backends.manifest import StoredEngine, read_engine, write_manifest
from lesioncli.calibration import Calibration, PlattScaling, read_calibration
from lesioncli.calibrator import MIN_IMAGES, MIN_POSITIVES, CalibrationResult, calibrate
from lesioncli.errors import InputError
from lesioncli.options import CalibrationOptions

OUTPUTS = ["melanoma", "seborrheic_keratosis", "nevus", "confidence"]


@pytest.fixture
def engine(tmp_path: Path) -> StoredEngine:
    return make_engine(tmp_path / "engines")


def run(folder: Path, engine: StoredEngine, **options: object) -> CalibrationResult:
    return calibrate(folder / "labels", folder / "masks", engine, CalibrationOptions(**options))  # type: ignore[arg-type]


def refused(folder: Path, engine: StoredEngine, named: str, **options: object) -> None:
    """Check that nothing is written and the message names something."""
    before = sorted((folder / "engines").iterdir())
    with pytest.raises(InputError, match=named):
        run(folder, engine, **options)
    assert sorted((folder / "engines").iterdir()) == before


def test_outputs_come_closer_to_what_is_observed(tmp_path: Path, engine: StoredEngine) -> None:
    write_run(tmp_path, engine)
    result = run(tmp_path, engine)
    assert list(result.outputs) == OUTPUTS
    assert (result.skipped, result.problems) == ({}, ())
    for name in OUTPUTS[:3]:
        output = result.outputs[name]
        assert output.images == IMAGES
        assert set(output.changes) == {"calibration_error", "brier", "log_loss"}
        assert output.changes["log_loss"].interval[1] < 0
        scaling = result.calibration.classes[name]
        assert scaling.prevalence == output.target
        assert scaling.slope > 1
    confidence = result.outputs["confidence"]
    assert confidence.target == pytest.approx(1 - 4.5 / 12, abs=0.03)
    assert confidence.changes["bias"].before > 0.2
    assert abs(confidence.changes["bias"].after) < 0.01
    assert confidence.changes["squared_error"].interval[1] < 0
    assert result.calibration.confidence
    assert result.calibration.confidence.apply(1 - 6 / 60) == pytest.approx(0.5, abs=0.1)


def test_an_unknown_label_counts_for_its_class_alone(tmp_path: Path, engine: StoredEngine) -> None:
    write_run(tmp_path, engine)
    whole = run(tmp_path, engine)
    path = tmp_path / "labels" / "labels.csv"
    header, *rows = path.read_text().splitlines()
    fields = [row.split(",") for row in rows]
    is_melanoma = sum(melanoma == "1" for _, melanoma, _ in fields[:30])
    write_lines(path, header, *(f"{name},{melanoma}," for name, melanoma, _ in fields[:30]), *rows[30:])
    result = run(tmp_path, engine, name="in-part")
    assert result.problems == ()
    assert [result.outputs[name].images for name in OUTPUTS[:3]] == [IMAGES, IMAGES - 30, IMAGES - 30 + is_melanoma]
    assert result.calibration.classes["melanoma"] == whole.calibration.classes["melanoma"]
    assert result.outputs["melanoma"] == whole.outputs["melanoma"]


def test_the_calibrated_engine_is_a_manifest_beside_the_same_files(tmp_path: Path, engine: StoredEngine) -> None:
    write_run(tmp_path, engine, threshold=0.4, tta="flips", regions="all")
    result = run(tmp_path, engine)
    assert result.path == tmp_path / "engines" / "tiny-calibrated.openvino.json"
    written = read_engine(result.path).manifest
    spec = replace(engine.manifest.spec, name="tiny-calibrated", calibration=result.calibration)
    assert written == msgspec.structs.replace(engine.manifest, spec=spec)
    assert result.calibration.name == "tiny-calibrated"
    fitted_with = result.calibration.threshold, result.calibration.tta, result.calibration.regions
    assert fitted_with == (0.4, "flips", "all")


def test_a_second_fit_starts_from_raw_values(tmp_path: Path, engine: StoredEngine) -> None:
    write_run(tmp_path / "first", engine)
    first = run(tmp_path / "first", engine)
    calibrated = read_engine(first.path)
    write_run(tmp_path / "second", engine, calibration=first.calibration.identifier)
    table = tmp_path / "second" / "masks" / "scores.csv"
    header, *rows = table.read_text().splitlines()
    raw_rows = [row.split(",")[7:11] for row in rows]
    columns = ["melanoma", "seborrheic_keratosis", "nevus", "confidence"]
    lines = [",".join([row[: row.rindex(",")], *raw, ""]) for row, raw in zip(rows, raw_rows, strict=True)]
    write_lines(table, ",".join([header.removesuffix(",note"), *(f"raw_{name}" for name in columns), "note"]), *lines)
    for column in columns:
        change_column(table, column, ["0.5"])
    second = run(tmp_path / "second", calibrated)
    assert second.path == first.path
    assert second.calibration == first.calibration
    for name in OUTPUTS:  # before: what the engine says now, which is not what was fitted with folds
        assert second.outputs[name].changes.keys() == first.outputs[name].changes.keys()
        change = second.outputs[name].changes["calibration_error"]
        assert change.before < first.outputs[name].changes["calibration_error"].before


def test_calibrated_values_without_raw_ones_are_refused(tmp_path: Path, engine: StoredEngine) -> None:
    write_run(tmp_path, engine, calibration="mine-0123")
    refused(tmp_path, engine, r"scores\.csv.*raw_melanoma")


def test_what_cannot_be_calibrated_keeps_its_map(tmp_path: Path, engine: StoredEngine) -> None:
    earlier = Calibration("earlier", {"melanoma": PlattScaling(1, 0, 200, 0.2), "nevus": PlattScaling(1, 0, 200, 0.2)})
    spec = replace(engine.manifest.spec, calibration=earlier)
    write_manifest(engine.path, msgspec.structs.replace(engine.manifest, spec=spec))
    write_run(tmp_path, engine)
    labels = (tmp_path / "labels" / "labels.csv").read_text().splitlines()
    write_lines(tmp_path / "labels" / "labels.csv", *(line[: line.rindex(",")] for line in labels))
    result = run(tmp_path, read_engine(engine.path))
    assert list(result.outputs) == ["melanoma", "confidence"]
    assert list(result.skipped) == ["seborrheic_keratosis", "nevus"]
    assert result.calibration.classes["nevus"] == earlier.classes["nevus"]
    assert result.calibration.classes["melanoma"] != earlier.classes["melanoma"]
    assert "seborrheic_keratosis" not in result.calibration.classes


def test_too_few_images_are_refused(tmp_path: Path, engine: StoredEngine) -> None:
    write_run(tmp_path, engine, images=MIN_IMAGES - 1)
    refused(tmp_path, engine, f"{MIN_IMAGES - 1} .*{MIN_IMAGES}")
    assert not (tmp_path / "engines" / "tiny-calibrated.openvino.json").exists()


def test_labels_alone_are_enough_for_scores(tmp_path: Path, engine: StoredEngine) -> None:
    write_run(tmp_path, engine)
    result = calibrate(tmp_path / "labels" / "labels.csv", tmp_path / "masks", engine)
    assert list(result.outputs) == OUTPUTS[:3]
    assert list(result.skipped) == ["confidence"]
    assert result.calibration.confidence is None


def test_masks_alone_are_enough_for_the_confidence(tmp_path: Path, engine: StoredEngine) -> None:
    write_run(tmp_path, engine)
    (tmp_path / "labels" / "labels.csv").unlink()
    result = run(tmp_path, engine)
    assert list(result.outputs) == ["confidence"]
    assert list(result.skipped) == OUTPUTS[:3]


@pytest.mark.parametrize("positives", [0, MIN_POSITIVES - 1, IMAGES - MIN_POSITIVES + 1, IMAGES])
def test_a_class_with_too_few_labels_of_a_kind_is_skipped(tmp_path: Path, engine: StoredEngine, positives: int) -> None:
    write_run(tmp_path, engine)
    table = tmp_path / "labels" / "labels.csv"
    change_column(table, "melanoma", [str(int(number < positives)) for number in range(IMAGES)])
    result = run(tmp_path, engine)
    assert str(positives) in result.skipped["melanoma"]
    assert "melanoma" not in result.calibration.classes
    assert "confidence" in result.outputs


def test_scores_that_fall_with_the_label_are_skipped(tmp_path: Path, engine: StoredEngine) -> None:
    write_run(tmp_path, engine)
    labels = (tmp_path / "labels" / "labels.csv").read_text().splitlines()[1:]
    scores = [f"{0.9 - 0.5 * int(line.split(',')[1])}" for line in labels]
    change_column(tmp_path / "masks" / "scores.csv", "melanoma", scores)
    assert list(run(tmp_path, engine).skipped) == ["melanoma"]


def test_images_without_confidence_or_mask_are_named(tmp_path: Path, engine: StoredEngine) -> None:
    write_run(tmp_path, engine)
    change_column(tmp_path / "masks" / "scores.csv", "confidence", ["nan", *["0.9"] * (IMAGES - 1)])
    (tmp_path / "masks" / "007.png").unlink()
    result = run(tmp_path, engine)
    assert [problem.partition(":")[0] for problem in result.problems] == ["007", "000"]
    assert result.outputs["confidence"].images == IMAGES - 2


def test_empty_masks_are_part_of_the_confidence(tmp_path: Path, engine: StoredEngine) -> None:
    write_run(tmp_path, engine)
    confidences = ["0.55" if number < 20 else "" for number in range(IMAGES)]
    for number in range(20):
        save_mask(tmp_path / "masks" / f"{number:03}.png", block(0, 0, (20, 20)))
    table = tmp_path / "masks" / "scores.csv"
    lines = table.read_text().splitlines()
    column = lines[0].split(",").index("confidence")
    kept = [line.split(",")[column] for line in lines[1:]]
    change_column(table, "confidence", [new or old for new, old in zip(confidences, kept, strict=True)])
    result = run(tmp_path, engine)
    assert result.calibration.confidence
    assert result.calibration.confidence.apply(0.55) < 0.1
    assert result.outputs["confidence"].images == IMAGES


def test_masks_of_another_engine_are_refused(tmp_path: Path, engine: StoredEngine) -> None:
    write_run(tmp_path, engine, engine_sha256="ab" * 32)
    refused(tmp_path, engine, "abab")
    write_run(tmp_path / "bf16", engine, precision="bf16")
    with pytest.raises(InputError, match="bf16"):
        run(tmp_path / "bf16", engine)


def test_a_folder_without_run_json_is_refused(tmp_path: Path, engine: StoredEngine) -> None:
    write_run(tmp_path, engine)
    (tmp_path / "masks" / "run.json").write_text("{}")
    refused(tmp_path, engine, r"run\.json")
    (tmp_path / "masks" / "run.json").unlink()
    refused(tmp_path, engine, r"run\.json")


def test_labels_of_other_images_are_refused(tmp_path: Path, engine: StoredEngine) -> None:
    write_run(tmp_path, engine)
    write_lines(tmp_path / "other.csv", "image,melanoma", *(f"x{number},{number % 2}" for number in range(IMAGES)))
    with pytest.raises(InputError, match=r"other\.csv"):
        calibrate(tmp_path / "other.csv", tmp_path / "masks", engine)


def test_a_table_of_pairs_is_refused(tmp_path: Path, engine: StoredEngine) -> None:
    write_run(tmp_path, engine)
    write_lines(tmp_path / "pairs.csv", "truth,prediction", "labels/000.png,masks/000.png")
    with pytest.raises(InputError, match=r"pairs\.csv"):
        calibrate(tmp_path / "pairs.csv", tmp_path / "masks", engine)


def test_another_engine_is_never_replaced(tmp_path: Path, engine: StoredEngine) -> None:
    write_run(tmp_path, engine)
    other = make_engine(tmp_path / "engines", "other")
    before = other.path.read_bytes()
    refused(tmp_path, engine, r"other\.openvino\.json", name="other")
    refused(tmp_path, engine, r"tiny\.openvino\.json", name="tiny")
    refused(tmp_path, engine, "a/b", name="a/b")
    assert other.path.read_bytes() == before
    first = run(tmp_path, engine, name="mine")
    assert run(tmp_path, engine, name="mine").path == first.path  # its own is


def test_the_calibration_is_exported(tmp_path: Path, engine: StoredEngine) -> None:
    write_run(tmp_path, engine)
    result = run(tmp_path, engine, export=tmp_path / "new" / "calibration.json", name="mine")
    assert read_calibration(tmp_path / "new" / "calibration.json") == result.calibration
    (tmp_path / "engines" / "mine.openvino.json").unlink()
    refused(tmp_path, engine, "--export", export=tmp_path / "engines", name="mine")


def test_clusters_widen_the_intervals(tmp_path: Path, engine: StoredEngine) -> None:
    write_run(tmp_path, engine)
    patients = (f"{number:03},p{number // 5}" for number in range(IMAGES))
    write_lines(tmp_path / "patients.csv", "image,patient", *patients)
    alone = run(tmp_path, engine).outputs["melanoma"].changes["brier"]
    together = run(tmp_path, engine, cluster="patient", metadata=tmp_path / "patients.csv")
    assert together.outputs["melanoma"].changes["brier"] != alone
    assert json.loads(json.dumps(together.to_dict()))["outputs"]["melanoma"]["images"] == IMAGES
    assert np.isfinite(together.outputs["confidence"].changes["bias"].interval).all()


@pytest.mark.parametrize("patients", [1, 4])
def test_too_few_clusters_are_refused(tmp_path: Path, engine: StoredEngine, patients: int) -> None:
    write_run(tmp_path, engine)
    rows = (f"{number:03},p{number % patients}" for number in range(IMAGES))
    write_lines(tmp_path / "patients.csv", "image,patient", *rows)
    refused(tmp_path, engine, f"{patients} clusters", cluster="patient", metadata=tmp_path / "patients.csv")
    write_lines(tmp_path / "patients.csv", "image,patient", *(f"{number:03},p{number % 5}" for number in range(IMAGES)))
    assert run(tmp_path, engine, cluster="patient", metadata=tmp_path / "patients.csv").outputs
