"""Manifests: what is written is read back, and an engine that was tampered with is refused before it is loaded."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest
from helpers.engines import make_manifest
from helpers.graphs import MakeEngine
from helpers.pictures import draw, save

from lesioncli import files
from lesioncli.api import segment_folder
from lesioncli.backends import manifest as manifest_module
from lesioncli.backends.manifest import (
    ParityCheck,
    ParityFigures,
    StoredEngine,
    read_engine,
    read_manifest,
    write_manifest,
)
from lesioncli.backends.registry import find_engine, open_engine
from lesioncli.doctor import examine
from lesioncli.errors import EngineError
from lesioncli.options import Backend, Precision

MANIFEST = "tiny.openvino.json"
Tamper = Callable[[Path], None]


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    figures = ParityFigures(images=3, mask_jaccard=1.0, worst_mask_jaccard=0.9, score_difference=0.01)
    manifest = make_manifest()
    write_manifest(tmp_path / "a.json", manifest)
    assert read_manifest(tmp_path / "a.json") == manifest
    checked = msgspec.structs.replace(manifest, parity=figures, verified={"a GPU": figures})
    write_manifest(tmp_path / "b.json", checked)
    assert read_manifest(tmp_path / "b.json") == checked
    assert json.loads((tmp_path / "b.json").read_text()) == json.loads(json.dumps(checked.to_dict()))


def test_a_manifest_of_format_1_is_read(tmp_path: Path) -> None:
    """Format 1 had `gated` for `parity_check`, and a number of images with a decimal point."""
    figures = {"images": 32.0, "mask_jaccard": 1.0, "worst_mask_jaccard": 1.0, "score_difference": 0.0}
    values = make_manifest().to_dict()
    del values["parity_check"]
    old = {**values, "format": 1, "gated": "graph", "parity": figures, "verified": {"a GPU": figures}}
    (tmp_path / "old.json").write_text(json.dumps(old))
    manifest = read_manifest(tmp_path / "old.json")
    assert manifest.parity_check is ParityCheck.GRAPH
    assert manifest.parity is not None
    assert (manifest.parity.images, manifest.verified["a GPU"].images, manifest.format) == (32, 32, 2)


def test_the_hash_of_an_engine_is_that_of_its_files_hashes_in_order() -> None:
    manifest = msgspec.structs.replace(make_manifest(), files={"b": "2", "a": "1"})
    assert manifest.sha256 == hashlib.sha256(b"12").hexdigest()


def flip_byte(name: str) -> Tamper:
    def tamper(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return tamper


def change(**fields: Any) -> Tamper:
    """Set fields of the manifest; a callable receives the old value."""

    def tamper(folder: Path) -> None:
        values = json.loads((folder / MANIFEST).read_text())
        changed = {name: value(values[name]) if callable(value) else value for name, value in fields.items()}
        (folder / MANIFEST).write_text(json.dumps({**values, **changed}))

    return tamper


def write(content: bytes) -> Tamper:
    def tamper(folder: Path) -> None:
        (folder / MANIFEST).write_bytes(content)

    return tamper


def drop_batch(folder: Path) -> None:
    values = json.loads((folder / MANIFEST).read_text())
    del values["batch"]
    (folder / MANIFEST).write_text(json.dumps(values))


def lead_outside(files: Mapping[str, str]) -> dict[str, str]:
    """Return the same hashes under names that lead out of the folder and back."""
    return {f"../engine/{name}": value for name, value in files.items()}


TAMPERINGS: Mapping[str, tuple[Tamper, str]] = {  # case -> (change, what the message names)
    "byte of .bin": (flip_byte("tiny.openvino.bin"), r"tiny\.openvino\.bin: .*sha256"),
    "byte of .xml": (flip_byte("tiny.openvino.xml"), r"tiny\.openvino\.xml: .*sha256"),
    "no .bin": (lambda folder: (folder / "tiny.openvino.bin").unlink(), r"tiny\.openvino\.bin"),
    "no .xml": (lambda folder: (folder / "tiny.openvino.xml").unlink(), r"tiny\.openvino\.xml"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), MANIFEST),
    "empty": (write(b""), MANIFEST),
    "truncated": (write(b'{"format": 1, "spec"'), MANIFEST),
    "not text": (write(b"\xff\xfe\x00"), MANIFEST),
    "a list": (write(b"[1]"), MANIFEST),
    "field missing": (drop_batch, "`batch`"),
    "unknown field": (change(colour="red"), "`colour`"),
    "format": (change(format=3), "format 3"),
    "backend": (change(backend="abacus"), "'abacus'"),
    "backend auto": (change(backend="auto"), "'auto'"),
    "backend of a plan": (change(backend="tensorrt"), r"\.plan"),
    "OpenVINO version": (change(backend_version="2024.0"), r"OpenVINO 2024\.0"),
    "hash": (change(files=lambda files: dict.fromkeys(files, "0" * 64)), "sha256"),
    "hash is no text": (change(files=lambda files: dict.fromkeys(files, None)), r"\$\.files"),
    "file outside": (change(files=lead_outside), r"'\.\./engine"),
    "file at the root": (change(files={"/etc/passwd": "0"}), "'/etc/passwd'"),
    "folder above": (change(files={"..": "0"}), r"\.\. is missing"),
    "no files": (change(files={}), r"\.xml"),
    "weights not named": (
        change(files=lambda files: {name: value for name, value in files.items() if name.endswith("xml")}),
        r"\.bin",
    ),
    "files are a list": (change(files=[]), r"\$\.files"),
    "precision": (change(precision="fp64"), "'fp64'"),
    "precision of another backend": (change(precision="fp16"), "fp32, bf16, int8"),
    "batch 0": (change(batch=0), r"\$\.batch"),
    "batch as text": (change(batch="1"), r"\$\.batch"),
    "spec": (change(spec={"name": "tiny"}), r"\$\.spec"),
    "spec is a number": (change(spec=3), r"\$\.spec"),
    "size": (change(spec=lambda spec: {**spec, "height": 33}), "33x32"),
    "parity": (change(parity={"images": 3}), r"\$\.parity"),
}


@pytest.fixture
def copied(tiny_manifest: MakeEngine, tmp_path: Path) -> Path:
    """A copy of a tiny engine's folder, to tamper with."""
    return Path(shutil.copytree(tiny_manifest(1).parent, tmp_path / "engine"))


@pytest.mark.parametrize("case", TAMPERINGS)
def test_a_tampered_engine_is_refused_before_openvino_sees_it(
    copied: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode() -> NoReturn:
        raise AssertionError("OpenVINO was called")

    tamper, named = TAMPERINGS[case]
    tamper(copied)
    monkeypatch.setattr("openvino.Core", explode)
    with pytest.raises(EngineError, match=named) as caught:
        open_engine(copied / MANIFEST)
    assert str(copied) in str(caught.value)
    assert "lesioncli build-engine" in str(caught.value)


def test_a_size_that_is_not_the_graph_s_is_an_error(copied: Path) -> None:
    change(spec=lambda spec: {**spec, "width": 64})(copied)
    with pytest.raises(EngineError, match=r"tiny\.openvino\.xml: .*\(1, 32, 64, 3\)"):
        open_engine(copied / MANIFEST)


def test_a_file_that_openvino_cannot_read_is_an_error(copied: Path) -> None:
    """Its hash is in the manifest, as after a build with a broken library."""
    xml = copied / "tiny.openvino.xml"
    xml.write_text("<net/>")
    change(files=lambda names: {**names, xml.name: files.sha256_of(xml)})(copied)
    with pytest.raises(EngineError, match=r"tiny\.openvino\.xml: OpenVINO"):
        open_engine(copied / MANIFEST)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed."""
    names: list[str] = []

    def count(path: Path) -> str:
        names.append(path.name)
        return files.sha256_of(path)

    monkeypatch.setattr(manifest_module, "sha256_of", count)
    return names


@pytest.mark.parametrize("asked", [None, "tiny", MANIFEST])
def test_every_file_is_hashed_once_from_choice_to_open_engine(
    copied: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch, asked: str | None
) -> None:
    monkeypatch.chdir(copied)
    found = find_engine(asked, Backend.OPENVINO, copied).value
    assert isinstance(found, StoredEngine)
    with open_engine(found):
        pass
    assert sorted(hashed) == ["tiny.openvino.bin", "tiny.openvino.xml"]


def test_segment_hashes_every_engine_file_once(copied: Path, hashed: list[str], tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", draw(1, 40, 60))
    summary = segment_folder(tmp_path / "images", tmp_path / "out", engine=copied / MANIFEST)
    assert summary.ok == 1
    assert sorted(hashed) == ["tiny.openvino.bin", "tiny.openvino.xml"]


def test_doctor_hashes_every_engine_file_once(copied: Path, hashed: list[str]) -> None:
    findings = examine(copied)
    assert [finding.subject for finding in findings][-2:] == ["engine", MANIFEST]
    assert sorted(hashed) == ["tiny.openvino.bin", "tiny.openvino.xml"]


def test_a_manifest_names_exactly_one_file_of_a_kind(copied: Path) -> None:
    engine = read_engine(copied / MANIFEST)
    assert engine.find_file(".xml") == copied / "tiny.openvino.xml"
    with pytest.raises(EngineError, match=rf"{MANIFEST}: .*\.plan .*build-engine"):
        engine.find_file(".plan")
    assert engine.size_bytes == sum(path.stat().st_size for path in copied.iterdir() if path.name != MANIFEST)
    assert engine.manifest.precision is Precision.FP32
