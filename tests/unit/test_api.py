"""The Python API: its names, its agreement with the command line, and the examples of docs/python.md."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.command import call
from helpers.graphs import MakeEngine
from helpers.pictures import UInt8, draw, read, save

import lesioncli
from lesioncli.demo.folder import write_demo
from lesioncli.inference.results import ResultStore

ROOT = Path(__file__).parents[2]
NAMES = {
    "TTA", "Backend", "BuildOptions", "CalibrationOptions", "EngineError", "EvaluationOptions", "ImageError",
    "InputError", "LesionError", "MaskStorage", "MissingPackageError", "Precision", "ProtocolName", "Regions",
    "SegmentOptions", "Segmentation", "Segmenter",
    "build_engine", "calibrate", "ensure_engine", "evaluate", "read_mask", "read_results",
    "segment_folder", "verify_results",
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, tiny_manifest: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an engine of the tiny graph, for batches of three."""
    shutil.copytree(tiny_manifest(3).parent, tmp_path / "engines")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def images(here: Path) -> Path:
    """Eight small images of several formats, sizes and orientations."""
    for number, suffix in enumerate((".jpg", ".png", ".tif", ".bmp"), start=1):
        save(here / "images" / f"{number}{suffix}", draw(number, 300 + number, 400))
        save(here / "images" / f"{number}-turned.jpg", draw(-number % 97, 200, 300 + number), orientation=2 * number)
    return here / "images"


def test_public_names_are_these_and_can_be_imported() -> None:
    assert set(lesioncli.__all__) == NAMES
    assert set(dir(lesioncli)) == {*NAMES, "__version__"}
    assert all(getattr(lesioncli, name) is not None for name in NAMES)
    with pytest.raises(AttributeError, match="segment_all"):
        _ = lesioncli.segment_all  # type: ignore[attr-defined]  # there is none
    assert (Path(lesioncli.__file__).parent / "py.typed").is_file()


def test_import_is_lazy() -> None:
    code = (
        "import sys, lesioncli; lesioncli.SegmentOptions; sys.exit(bool({'numpy', 'cv2', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("tta", ["none", "flips"])
def test_segmenter_gives_the_masks_and_scores_that_segment_writes(images: Path, tta: lesioncli.TTA) -> None:
    options = lesioncli.SegmentOptions(tta=tta, regions=lesioncli.Regions.ALL)
    lesioncli.segment_folder(images, "masks", options)
    results = lesioncli.read_results("masks")
    with lesioncli.Segmenter(tta=tta, regions=options.regions) as segmenter:
        streamed = list(segmenter.stream(images / name for name in results.image))
        single = segmenter(images / results.image[3])
    assert len(streamed) == len(results) == 8
    np.testing.assert_array_equal(single.mask, streamed[3].mask)
    for result, row in zip(streamed, results.itertuples(), strict=True):
        np.testing.assert_array_equal(result.mask, read(Path(str(row.mask_path))))
        assert result.mask.dtype == result.probability.dtype == np.uint8
        assert result.probability.shape == result.mask.shape == (row.height, row.width)
        assert (result.confidence, result.scores["melanoma"]) == pytest.approx((row.confidence, row.melanoma), abs=1e-5)


def test_segmenter_gives_an_array_the_mask_of_its_png(here: Path) -> None:
    rgb = draw(5, 301, 333)
    path = save(here / "image.png", rgb)
    with lesioncli.Segmenter() as segmenter:
        from_array, reversed_rows = segmenter(rgb), segmenter(rgb[::-1])
        np.testing.assert_array_equal(from_array.mask, segmenter(path).mask)
        assert from_array.mask.any()
        assert (from_array.mask != reversed_rows.mask).any()


def test_results_keep_their_arrays_when_later_images_follow(here: Path) -> None:
    with lesioncli.Segmenter() as segmenter:
        first = segmenter(draw(1, 64, 64))
        copy = first.mask.copy(), first.probability.copy()
        list(segmenter.stream(draw(seed, 64, 64) for seed in range(2, 20)))
    np.testing.assert_array_equal(first.mask, copy[0])
    np.testing.assert_array_equal(first.probability, copy[1])


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), 3],
    ids=["grey", "RGBA", "float", "empty", "number"],
)
def test_segmenter_refuses_what_is_not_an_rgb_image_and_stays_usable(here: Path, image: Any) -> None:
    with lesioncli.Segmenter() as segmenter:
        with pytest.raises(lesioncli.InputError, match="image"):
            segmenter(image)
        assert segmenter(draw(1, 64, 64)).mask.shape == (64, 64)


def test_an_unreadable_file_ends_a_stream_with_its_name(here: Path) -> None:
    (here / "text.jpg").write_text("not an image")

    def images() -> Iterator[UInt8 | str]:
        yield draw(1, 64, 64)
        yield "text.jpg"

    with lesioncli.Segmenter() as segmenter:
        with pytest.raises(lesioncli.ImageError, match=re.escape("text.jpg")):
            list(segmenter.stream(images()))
        stream = segmenter.stream([draw(1, 64, 64), draw(2, 64, 64)])
        next(stream)
        with pytest.raises(RuntimeError):
            segmenter(draw(3, 64, 64))
        stream.close()
        assert segmenter(draw(3, 64, 64)).mask.shape == (64, 64)


def test_nothing_is_printed_unless_asked(images: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (images / "text.jpg").write_text("not an image")
    lesioncli.segment_folder(images, "masks")
    assert capfd.readouterr() == ("", "")
    lesioncli.segment_folder(images, "masks", progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "text.jpg" in shown.err
    counts: list[tuple[int, int]] = []
    lesioncli.segment_folder(images, "masks", progress=lambda done, total: counts.append((done, total)))
    assert counts == [(number, 9) for number in range(1, 10)]


def test_command_line_and_api_write_the_same_files(images: Path) -> None:
    lesioncli.segment_folder(str(images), "api", lesioncli.SegmentOptions(overlay=True))
    assert call("segment", images, "--out", "command", "--overlay").exit_code == 0
    files = [sorted(path.relative_to(top) for path in Path(top).rglob("*.*")) for top in ("api", "command")]
    assert files[0] == files[1]
    for name in files[0]:
        if name.name != "run.json":
            assert (Path("api") / name).read_bytes() == (Path("command") / name).read_bytes()


def test_an_interrupt_leaves_a_folder_that_continues(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = ResultStore.add

    def interrupt(self: ResultStore, outcome: Any) -> None:
        if outcome.image.name == "3":
            raise KeyboardInterrupt
        add(self, outcome)

    monkeypatch.setattr(ResultStore, "add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        lesioncli.segment_folder(images, "masks")
    monkeypatch.undo()
    monkeypatch.chdir(images.parent)
    finished = len(lesioncli.read_results("masks"))
    summary = lesioncli.segment_folder(images, "masks")
    assert (summary.skipped, summary.ok) == (finished, 8 - finished)
    assert 0 < finished < 8


def test_results_are_typed(images: Path) -> None:
    (images / "NA.jpg").write_text("not an image")
    lesioncli.segment_folder(images, "masks")
    results = lesioncli.read_results("masks")
    failed = results[results.image == "NA.jpg"].iloc[0]
    assert (failed.status, failed["mask"], failed.mask_path) == ("failed", "", None)
    assert failed.reason
    assert pd.isna(failed.width)
    assert pd.isna(failed.melanoma)
    finished = results[results.status == "ok"]
    assert set(finished.reason) == {""}
    assert all(path.is_file() for path in finished.mask_path)
    assert {str(results.dtypes[name]) for name in ("melanoma", "confidence")} == {"float64"}
    assert str(results.dtypes["width"]) == "Int64"
    with pytest.raises(lesioncli.InputError, match="nowhere"):
        lesioncli.read_results("nowhere")


def test_results_edited_by_hand_are_refused_at_their_line(images: Path) -> None:
    lesioncli.segment_folder(images, "masks")
    path = Path("masks/scores.csv")
    header, first, second, *rest = path.read_text().splitlines()
    path.write_text("\n".join(("\ufeff" + header + ",site", first + ",back", second + ",arm", *rest)) + "\n")
    assert list(lesioncli.read_results("masks").site[:2]) == ["back", "arm"]
    fields = second.split(",")
    fields[header.split(",").index("confidence")] = "abc"
    path.write_text("\n".join((header, first, ",".join(fields), *rest)) + "\n")
    with pytest.raises(lesioncli.InputError, match=r"scores\.csv, line 3: confidence is 'abc'"):
        lesioncli.read_results("masks")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (lesioncli.SegmentOptions, {"tta": "flip"}),
        (lesioncli.SegmentOptions, {"threshold": 0.0}),
        (lesioncli.Segmenter, {"threshold": 1.5}),
        (lesioncli.Segmenter, {"tta": "flip"}),
        (lesioncli.BuildOptions, {"backend": "magic"}),
        (lesioncli.EvaluationOptions, {"protocol": "isic2016"}),
    ],
)
def test_options_refuse_values_that_are_not_valid(kind: Any, values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=re.escape(str(next(iter(values.values()))))):
        kind(**values)


def test_options_take_strings() -> None:
    options = lesioncli.EvaluationOptions(protocol="ph2", by="site", labels="labels.csv")  # type: ignore[arg-type]  # converted
    assert (options.protocol, options.by) == (lesioncli.ProtocolName.PH2, ("site",))
    assert options.labels == Path("labels.csv")


def test_examples_of_the_python_page_run(
    tmp_path: Path, engine_manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(engine_manifest.parent, tmp_path / "engines")
    monkeypatch.chdir(tmp_path)
    write_demo(tmp_path, count=4, height=96, width=128)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/python.md").read_text(encoding="utf-8"), re.M | re.S)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)  # noqa: S102 - the page is ours
    assert len(blocks) >= 7
    assert {"result", "areas", "summary", "results", "evaluation", "built"} <= set(names)
    assert "4 ok, 0 failed, 0 skipped" in capsys.readouterr().out
