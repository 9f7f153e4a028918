"""Results in a bucket, read by another road than the package does."""

import csv
import io
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from helpers.command import call
from helpers.object_server import ObjectServer


def segment_into(images: Path, out: str | Path, engine: Path, *options: str | Path) -> tuple[int, str]:
    """Run `segment` in this process, into a bucket or a folder; return its exit code and output."""
    result = call("segment", images, "--out", out, "--engine", engine, *options)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def results_below(objects: Mapping[str, bytes], prefix: str) -> dict[str, bytes]:
    """Return the objects of a run by their names below a prefix, without its record, which holds times."""
    names = {key.removeprefix(prefix): content for key, content in objects.items() if key.startswith(prefix)}
    return {name: content for name, content in names.items() if not name.endswith("run.json")}


def rows_below(objects: Mapping[str, bytes], prefix: str) -> dict[str, dict[str, str]]:
    """Return the rows of the whole run by image, those of the parts of its journal over those of scores.csv."""
    files = results_below(objects, prefix)
    checks = {row["image"]: row for row in _read(files.get("checksums.csv", b""))}
    rows = {row["image"]: {**row, **checks.get(row["image"], {})} for row in _read(files.get("scores.csv", b""))}
    for name in sorted(name for name in files if name.startswith("scores.csv.parts/")):
        rows |= {row["image"]: row for row in _read(files[name])}
    return rows


def assert_promise(objects: Mapping[str, bytes], prefix: str) -> None:
    """Check that each row that says ok has its mask, and the right one."""
    for row in _read(objects.get(f"{prefix}scores.csv", b"")):
        assert row["status"] != "ok" or _mask_of(row, objects, prefix), f"{row['image']} has no mask"
    for row in rows_below(objects, prefix).values():
        if row["status"] == "ok":
            assert f"{zlib.crc32(_mask_of(row, objects, prefix)):08x}" == row["mask_crc32"], row["image"]


def _mask_of(row: Mapping[str, str], objects: Mapping[str, bytes], prefix: str) -> bytes:
    archive, mark, name = row["mask"].partition(".tar/")
    if not mark:
        return objects[prefix + row["mask"]]
    with tarfile.open(fileobj=io.BytesIO(objects[f"{prefix}{archive}.tar"])) as tar:
        member = tar.extractfile(name)
        assert member
        return member.read()


def watch_promise(server: ObjectServer, *prefixes: str) -> list[str]:
    """Check the promise after each change; return the list to which violations are added."""
    broken: list[str] = []

    def check() -> None:
        for prefix in prefixes:
            try:
                assert_promise(server.objects, prefix)
            except (AssertionError, KeyError) as error:
                broken.append(str(error))

    server.on_change = check
    return broken


def _read(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))
