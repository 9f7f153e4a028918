"""Exports of any format: the table of formats, images that are missing, and files that are there already."""

from pathlib import Path

import numpy as np
import pytest
from helpers.drawn_run import DrawnRun

from lesioncli.errors import InputError
from lesioncli.export.job import ExportJob
from lesioncli.export.registry import EXPORTERS, Exporter
from lesioncli.export.run import export_run
from lesioncli.inference.pictures import write_mask
from lesioncli.options import ExportFormat

WITH_MASKS = [name for name in ExportFormat if name != ExportFormat.PARQUET]


def test_every_format_has_an_exporter() -> None:
    assert list(EXPORTERS) == list(ExportFormat)


def test_a_format_is_one_line_of_the_table(run: DrawnRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_areas(job: ExportJob) -> None:
        areas = {exported.image: exported.mask.sum() for exported in job.read_images()}
        job.out.write_text("\n".join(f"{name} {area}" for name, area in areas.items()))
        job.exported = len(areas)

    monkeypatch.setitem(EXPORTERS, ExportFormat.COCO, Exporter(write_areas, "areas.txt"))
    monkeypatch.chdir(tmp_path)
    exported = export_run(run.finish().masks, ExportFormat.COCO)
    assert (exported.out, exported.exported) == (Path("areas.txt"), 6)
    assert "full.jpg 6912" in Path("areas.txt").read_text().splitlines()


@pytest.mark.parametrize("export_format", WITH_MASKS)
def test_every_image_without_a_mask_is_named(run: DrawnRun, tmp_path: Path, export_format: ExportFormat) -> None:
    run.add_failed("bad.jpg", "decode: file is empty")
    run.finish(images=9)
    (run.masks / "ring.png").unlink()
    (run.masks / "full.png").write_bytes(b"no mask")
    write_mask(run.masks / "noise.png", np.zeros((5, 6), np.uint8))
    exported = export_run(run.masks, export_format, tmp_path / "out")
    named = {problem.partition(":")[0]: problem for problem in exported.problems}
    assert sorted(named) == ["bad.jpg", "full.jpg", "noise.jpg", "ring.jpg"]
    assert named["bad.jpg"].endswith("file is empty")
    assert "6 x 5" in named["noise.jpg"]
    assert exported.exported == 3
    assert "7 of 9" in exported.interruption


@pytest.mark.parametrize("export_format", WITH_MASKS)
def test_files_are_replaced_only_on_request(run: DrawnRun, tmp_path: Path, export_format: ExportFormat) -> None:
    """A person may have corrected them."""
    run.finish()
    out = tmp_path / "out"
    export_run(run.masks, export_format, out)
    paths = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    edited = min(paths)
    whole = edited.read_bytes()
    edited.write_text("edited")
    with pytest.raises(InputError, match="--overwrite"):
        export_run(run.masks, export_format, out)
    assert edited.read_text() == "edited"
    export_run(run.masks, export_format, out, overwrite=True)
    assert edited.read_bytes() == whole
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_of_masks_alone_is_refused(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", np.zeros((5, 6), np.uint8))
    with pytest.raises(InputError, match=r"scores\.csv"):
        export_run(tmp_path, ExportFormat.COCO, tmp_path / "coco.json")


def test_nothing_is_left_of_an_export_that_is_stopped(run: DrawnRun, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_run(run.finish().masks, ExportFormat.COCO, tmp_path / "out" / "coco.json", on_progress=interrupt)
    assert not list((tmp_path / "out").iterdir())
