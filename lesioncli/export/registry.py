"""The table of export formats. To add one, write its module, add its name to options.ExportFormat and a line here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lesioncli.export import coco, geojson, labelme, parquet, tar
from lesioncli.export.job import ExportJob
from lesioncli.options import ExportFormat


def _only_out(job: ExportJob) -> list[Path]:
    return [job.out]


@dataclass(frozen=True)
class Exporter:
    """A line of the table.

    `write` writes what `list_files` names. `default_out` is the file or folder to write to. `has_outlines`: outlines
    can be simplified.
    """

    write: Callable[[ExportJob], None]
    default_out: str
    list_files: Callable[[ExportJob], list[Path]] = _only_out
    has_outlines: bool = False


EXPORTERS: dict[ExportFormat, Exporter] = {
    ExportFormat.COCO: Exporter(coco.write_coco, "coco.json"),
    ExportFormat.COCO_POLYGONS: Exporter(coco.write_coco_polygons, "coco.json", has_outlines=True),
    ExportFormat.GEOJSON: Exporter(geojson.write_geojson, "geojson", geojson.list_files, has_outlines=True),
    ExportFormat.LABELME: Exporter(labelme.write_labelme, "labelme", labelme.list_files, has_outlines=True),
    ExportFormat.PARQUET: Exporter(parquet.write_parquet, "parquet", parquet.list_files),
    ExportFormat.TAR: Exporter(tar.write_tar, "tar", tar.list_files),
}
