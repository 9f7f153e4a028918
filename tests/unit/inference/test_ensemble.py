"""Ensembles: means over engines as numpy computes them, and runs that name their engines."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from helpers.graphs import FREE_SIDE, TINY_OUTPUTS, TINY_SPEC, MakeEngine, tiny_outputs, write_graph
from helpers.pictures import SIDE, UInt8, draw, jaccard, read
from helpers.runs import assert_refused, record_of, rows_of, segment_folder, statuses
from numpy.typing import NDArray
from PIL import Image

from lesioncli.backends.base import Engine
from lesioncli.backends.build import build
from lesioncli.backends.ensemble import Ensemble, open_engines
from lesioncli.backends.manifest import StoredEngine, read_engine
from lesioncli.backends.openvino import OpenVinoEngine
from lesioncli.backends.registry import open_engine
from lesioncli.calibration import Calibration, ConfidenceMap
from lesioncli.errors import EngineError
from lesioncli.images.find import list_images
from lesioncli.inference.run import segment_images
from lesioncli.inference.trace import Trace
from lesioncli.inference.tta import PROCEDURES
from lesioncli.options import TTA, Backend, BuildOptions, Precision, Regions
from lesioncli.segmenter import Segmenter
from lesioncli.spec import CLASSES, ModelSpec


# The tiny and the free graph compute the same, of images of 32x32 and of 64x64 pixels.
def open_all(manifests: Sequence[Path], tta: TTA = TTA.NONE) -> Engine:
    return open_engines([read_engine(path) for path in manifests], 4, PROCEDURES[tta].layout)


def seen(path: Path, side: int) -> UInt8:
    """Return the input of a network, by Pillow alone."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))


def average_by_hand(path: Path) -> tuple[UInt8, NDArray[np.float64], float]:
    """Return the means of the tiny and the free graph: the map of 64x64 pixels, scores and brightness."""
    small, large = (tiny_outputs(seen(path, side)) for side in (SIDE, FREE_SIDE))
    upsampled = cv2.resize(small[0], (FREE_SIDE, FREE_SIDE), interpolation=cv2.INTER_LINEAR)
    total = upsampled.astype(int) + large[0]
    return ((total + (total % 4 == 3)) // 2).astype(np.uint8), (small[1] + large[1]) / 2, (small[2] + large[2]) / 2


@pytest.fixture
def manifests(tiny_manifest: MakeEngine, free_manifest: MakeEngine) -> list[Path]:
    return [tiny_manifest(2), free_manifest(2)]


@pytest.fixture
def ensemble(manifests: list[Path]) -> Iterator[Engine]:
    with open_all(manifests) as opened:
        yield opened


def test_a_run_has_the_means_of_its_engines(ensemble: Engine, images: Path, out: Path) -> None:
    assert statuses(images, ensemble, out, regions="all") == "oooooo"
    for name, row in rows_of(out).items():
        path = images / name
        probability, scores, brightness = average_by_hand(path)
        with Image.open(path) as image:
            upsampled = cv2.resize(probability, image.size, interpolation=cv2.INTER_LINEAR)
        mask = read(out / row["mask"]) > 0
        assert np.array_equal(mask, upsampled >= 128)
        assert [float(row[column]) for column in CLASSES] == pytest.approx(scores, abs=1e-5)
        assert float(row["agreement"]) == pytest.approx(brightness, abs=1e-5)
        maps = [tiny_outputs(seen(path, side))[0] for side in (SIDE, FREE_SIDE)]
        masks = [cv2.resize(one, (FREE_SIDE, FREE_SIDE), interpolation=cv2.INTER_LINEAR) >= 128 for one in maps]
        assert float(row["engine_agreement"]) == pytest.approx(jaccard(*masks), abs=1e-5)


@pytest.mark.parametrize("tta", [TTA.NONE, TTA.FLIPS])
def test_an_ensemble_of_one_engine_twice_changes_nothing(
    free_manifest: MakeEngine, images: Path, tmp_path: Path, tta: TTA
) -> None:
    layout = PROCEDURES[tta].layout
    with open_engine(free_manifest(2), 4, layout) as engine:
        segment_folder(images, engine, tmp_path / "single", tta=tta)
    members = [open_engine(free_manifest(2), 4, layout) for _ in range(3)]
    with Ensemble(members) as ensemble:
        segment_folder(images, ensemble, tmp_path / "ensemble", tta=tta)
    expected = {name: {**row, "engine_agreement": "1.00000"} for name, row in rows_of(tmp_path / "single").items()}
    assert rows_of(tmp_path / "ensemble") == expected
    for path in (tmp_path / "single").glob("*.png"):
        assert np.array_equal(read(path), read(tmp_path / "ensemble" / path.name))


def build_without_agreement(folder: Path) -> Path:
    """Return an engine of 32x32 pixels that has no further output."""
    folder.mkdir()
    spec = replace(TINY_SPEC, name="plain")
    outputs = {name: TINY_OUTPUTS[name] for name in ("mask", "scores")}
    onnx = write_graph(folder / "plain.onnx", outputs=outputs, spec=spec)
    options = BuildOptions(backend=Backend.OPENVINO, precision=Precision.FP32, batch=2)
    return build(onnx, folder, [draw(seed) for seed in range(3)], options).path


def test_members_of_different_outputs_and_pairwise_agreement(
    manifests: list[Path], images: Path, out: Path, tmp_path: Path
) -> None:
    three = [*manifests, build_without_agreement(tmp_path / "plain")]
    with open_all(three) as ensemble:
        assert ensemble.extra == ("agreement", "engine_agreement")
        statuses(images, ensemble, out, regions=Regions.ALL, threshold=0.6)
    for name, row in rows_of(out).items():
        path = images / name
        assert float(row["agreement"]) == pytest.approx(average_by_hand(path)[2], abs=1e-5)  # of two of the three
        maps = [tiny_outputs(seen(path, side))[0] for side in (SIDE, FREE_SIDE, SIDE)]
        masks = [cv2.resize(one, (FREE_SIDE, FREE_SIDE), interpolation=cv2.INTER_LINEAR) >= 153 for one in maps]
        pairs = [jaccard(one, other) for one, other in combinations(masks, 2)]
        assert float(row["engine_agreement"]) == pytest.approx(np.mean(pairs), abs=1e-5)


def test_run_json_names_the_engines_and_a_change_of_them_is_refused(
    manifests: list[Path], images: Path, out: Path
) -> None:
    with open_all(manifests) as ensemble:
        summary = segment_folder(images, ensemble, out)
    assert summary.engine == "free+tiny"
    record = record_of(out)
    assert record["model"] == "free+tiny"
    assert [engine["model"] for engine in record["engines"]] == ["free", "tiny"]
    hashes = [read_engine(path).manifest.sha256 for path in reversed(manifests)]
    assert [engine["engine_sha256"] for engine in record["engines"]] == hashes
    with open_all(manifests[::-1]) as swapped:
        assert statuses(images, swapped, out) == "ssssss"
    for path in manifests:
        with open_all([path]) as single:
            assert_refused(out, single, images, "engine_sha256")
    with open_all(manifests[:1]) as single:
        statuses(images, single, out, overwrite=True)
    assert "engines" not in record_of(out)
    with open_all(manifests) as ensemble:
        assert_refused(out, ensemble, images, "engine_sha256")


def test_a_broken_image_is_one_row(ensemble: Engine, images: Path, out: Path) -> None:
    (images / "001.jpg").write_bytes(b"\xff\xd8\xff none")
    assert statuses(images, ensemble, out, max_memory_mib=1) == "ofoooo"


def test_a_segmenter_gives_the_masks_of_a_run(ensemble: Engine, manifests: list[Path], images: Path, out: Path) -> None:
    segment_folder(images, ensemble, out)
    with Segmenter(manifests) as segmenter:
        for path, result in zip(sorted(images.iterdir()), segmenter.stream(sorted(images.iterdir())), strict=True):
            row = rows_of(out)[path.name]
            assert np.array_equal(result.mask, read(out / row["mask"]))
            assert result.extra["engine_agreement"] == pytest.approx(float(row["engine_agreement"]), abs=1e-5)


def test_scores_of_calibrated_engines_are_raw(manifests: list[Path], images: Path, tmp_path: Path) -> None:
    calibration = Calibration("mine", {}, ConfidenceMap(((0.0, 0.2), (1.0, 0.3)), 30))
    tiny, free = map(read_engine, manifests)
    spec = replace(TINY_SPEC, calibration=calibration)
    calibrated = StoredEngine(tiny.path, msgspec.structs.replace(tiny.manifest, spec=spec))
    for name, first in (("calibrated", calibrated), ("raw", tiny)):
        with open_engines([first, free], 4, PROCEDURES[TTA.NONE].layout) as ensemble:
            segment_folder(images, ensemble, tmp_path / name)
    assert rows_of(tmp_path / "calibrated") == rows_of(tmp_path / "raw")
    assert record_of(tmp_path / "calibrated")["calibration"] == "none"


def with_spec(engine: StoredEngine, spec: ModelSpec) -> StoredEngine:
    """Return another engine, whose files are not there."""
    return StoredEngine(engine.path, msgspec.structs.replace(engine.manifest, spec=spec, files={"x.xml": "0" * 64}))


def test_engines_that_cannot_be_combined_are_named(manifests: list[Path], tiny_manifest: MakeEngine) -> None:
    tiny, free = map(read_engine, manifests)
    layout = PROCEDURES[TTA.NONE].layout
    other_classes = replace(TINY_SPEC, classes=("melanoma", "nevus", "other"))
    refused = {
        "same engine": [tiny, tiny],
        "classes": [free, with_spec(tiny, other_classes)],
        "--batch": [free, read_engine(tiny_manifest(1))],
    }
    for named, engines in refused.items():
        with pytest.raises(EngineError, match=named):
            open_engines(engines, 4, layout)


def test_a_trace_has_tracks_of_every_member(manifests: list[Path], images: Path, out: Path, tmp_path: Path) -> None:
    engines = [read_engine(path) for path in manifests]
    with (
        open_engines(engines, 4, PROCEDURES[TTA.NONE].layout, traced=True) as ensemble,
        Trace.writing(tmp_path / "trace.json") as trace,
    ):
        segment_images(list_images([images]), ensemble, out, trace=trace)
    text = (tmp_path / "trace.json").read_text()
    assert "tiny: network, slot 0" in text
    assert "free: network, slot 0" in text


def test_an_engine_that_fails_to_open_leaves_none_open(manifests: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr(OpenVinoEngine, "close", lambda engine: closed.append(engine.spec.name))
    tiny, free = map(read_engine, manifests)
    old = msgspec.structs.replace(tiny.manifest, backend_version="2020.1")
    with pytest.raises(EngineError, match=r"2020\.1"):
        open_engines([StoredEngine(tiny.path, old), free], 4, PROCEDURES[TTA.NONE].layout)
    assert closed == ["free"]
