"""Apache Parquet: the tables of an output folder with typed columns, by pyarrow (extra `parquet`)."""

import json
from pathlib import Path

from lesioncli.errors import InputError, MissingPackageError
from lesioncli.evaluation.reading.csv_table import read_header
from lesioncli.export.job import ExportJob
from lesioncli.files import atomic_write

SUFFIX = ".parquet"
TEXT_COLUMNS = ("image", "mask", "status", "reason", "note")
RECORD_KEY = "lesioncli.run"  # of the metadata that holds run.json


def list_files(job: ExportJob) -> list[Path]:
    """Return the paths that write_parquet() writes."""
    return [job.path_of(table.stem, SUFFIX) for table in _tables(job)]


def write_parquet(job: ExportJob) -> None:
    """Write each CSV of the folder as a table; failed images are rows of it, too. run.json is metadata of each.

    Raises MissingPackageError without pyarrow, and InputError if a table cannot be read.
    """
    try:
        from pyarrow import ArrowException, csv, parquet
    except ImportError as error:
        raise MissingPackageError("pyarrow", "parquet") from error

    tables = _tables(job)
    for done, path in enumerate(tables):
        job.on_progress(done, len(tables))
        types = {name: "string" for name in read_header(path) if name in TEXT_COLUMNS}
        options = csv.ConvertOptions(column_types=types, strings_can_be_null=False)
        try:
            table = csv.read_csv(path, convert_options=options)
        except ArrowException as error:
            raise InputError(
                f"{path}: cannot be read as a table ({error}); run lesioncli segment or evaluate"
            ) from error
        record = json.dumps(job.segmented.record.to_dict())
        with atomic_write(job.path_of(path.stem, SUFFIX)) as temporary:
            parquet.write_table(table.replace_schema_metadata({RECORD_KEY: record}), temporary)
        job.exported += 1


def _tables(job: ExportJob) -> list[Path]:
    return sorted(path for path in job.segmented.folder.glob("*.csv") if not path.name.startswith("."))
