"""Parquet files, as pyarrow and pandas read them."""

import importlib
import json
from pathlib import Path

import pandas as pd
import pytest
from helpers.drawn_run import DrawnRun

from lesioncli.api import read_results
from lesioncli.errors import InputError
from lesioncli.export.run import export_run
from lesioncli.options import ExportFormat

parquet = importlib.import_module("pyarrow.parquet")


def test_tables_have_all_rows_and_types(run: DrawnRun, tmp_path: Path) -> None:
    run.add_failed("0007.jpg")
    run.finish()
    (run.masks / "evaluation.csv").write_text("image,jaccard\n0001.jpg,0.5\nx.jpg,\n")
    exported = export_run(run.masks, ExportFormat.PARQUET, tmp_path / "out")
    assert (exported.exported, exported.problems) == (2, ())
    table = parquet.read_table(tmp_path / "out" / "scores.parquet")
    assert json.loads(table.schema.metadata[b"lesioncli.run"])["model"] == "drawn"
    frame = table.to_pandas()
    expected = read_results(run.masks).drop(columns="mask_path")
    assert list(frame.columns) == list(expected.columns)
    assert list(frame["image"]) == list(expected["image"])
    assert "failed" in list(frame["status"])
    for column in ("width", "melanoma", "confidence"):
        pd.testing.assert_series_equal(
            frame[column].astype("Float64"), expected[column].astype("Float64"), check_names=False
        )
    evaluation = parquet.read_table(tmp_path / "out" / "evaluation.parquet").to_pandas()
    assert list(evaluation["image"]) == ["0001.jpg", "x.jpg"]
    assert evaluation["jaccard"].isna().tolist() == [False, True]


def test_a_table_that_cannot_be_read_is_named(run: DrawnRun, tmp_path: Path) -> None:
    run.finish()
    (run.masks / "evaluation.csv").write_text("image,jaccard\na,0.5\nb,0.5,7\n")
    with pytest.raises(InputError, match=r"evaluation\.csv"):
        export_run(run.masks, ExportFormat.PARQUET, tmp_path / "out")
    assert not (tmp_path / "out" / "evaluation.parquet").exists()
