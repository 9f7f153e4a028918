"""run.json: what it holds, and what is read from one of an earlier or later version."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lesioncli.errors import InputError
from lesioncli.inference.record import (
    ImageConfidence,
    MaskNames,
    RunRecord,
    RunStatus,
    RunSummary,
    read_record,
    write_record,
)
from lesioncli.options import TTA, Regions

RECORD = RunRecord(
    engine_sha256="ab",
    precision="fp32",
    threshold=0.5,
    tta=TTA.FLIPS,
    regions=Regions.LARGEST,
    names=MaskNames.ISIC,
    classes=("melanoma", "nevus"),
    sources=("../images", os.fsdecode(b"h\xe4ut")),
    ignored={".gif": 2},
    status=RunStatus.RUNNING,
)


def write_json(folder: Path, content: Any) -> None:
    (folder / "run.json").write_text(json.dumps(content))


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path) == RECORD


def test_keys_and_values_in_the_file(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    assert json.loads((tmp_path / "run.json").read_text()) == {
        "engine_sha256": "ab",
        "precision": "fp32",
        "threshold": 0.5,
        "tta": "flips",
        "regions": "largest",
        "names": "isic",
        "calibration": "none",
        "format": 1,
        "classes": ["melanoma", "nevus"],
        "sources": ["../images", "h\udce4ut"],
        "passed_over": {".gif": 2},
        "status": "running",
    }


def test_an_early_version_kept_all_regions_of_one_view(tmp_path: Path) -> None:
    write_json(tmp_path, {"engine_sha256": "ab", "threshold": 1, "later": True})
    expected = RunRecord(
        engine_sha256="ab", threshold=1.0, tta=TTA.NONE, regions=Regions.ALL, names=MaskNames.IMAGES, classes=None
    )
    assert read_record(tmp_path) == expected


@pytest.mark.parametrize("content", ["", "{", "7", "[]", '{"threshold": "high"}', '{"tta": "twice"}'])
def test_an_unreadable_record_is_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    assert read_record(tmp_path) == read_record(tmp_path / "missing") == RunRecord()


def test_the_record_of_a_later_version_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path, {"format": 2})
    with pytest.raises(InputError, match=r"run\.json.*2"):
        read_record(tmp_path)


def test_the_summary_has_the_keys_of_json_output() -> None:
    summary = RunSummary(
        images=3,
        ok=1,
        failed=1,
        skipped=1,
        seconds=4.0,
        cpu_seconds={"decode": 1.0},
        engine="tiny",
        device="CPU",
        precision="fp32",
        tta=TTA.NONE,
        out="masks",
        ignored={".gif": 2},
        least_confident=[ImageConfidence("x.jpg", 0.5)],
    )
    assert json.loads(json.dumps(summary.to_dict())) == {
        "images": 3,
        "ok": 1,
        "failed": 1,
        "skipped": 1,
        "seconds": 4.0,
        "cpu_seconds": {"decode": 1.0},
        "engine": "tiny",
        "device": "CPU",
        "precision": "fp32",
        "tta": "none",
        "out": "masks",
        "passed_over": {".gif": 2},
        "unreadable": [],
        "changed": 0,
        "gone": 0,
        "pruned": 0,
        "look_first": [["x.jpg", 0.5]],
        "images_per_second": 0.5,
    }
