"""segment_images(): the masks, scores.csv and run.json of one run, and its summary."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.graphs import tiny_outputs
from helpers.pictures import draw, read, save
from helpers.runs import files_of, record_of, rows_of, segment_folder, statuses
from PIL import Image

from lesioncli import __version__
from lesioncli.backends.base import Engine
from lesioncli.errors import InputError
from lesioncli.images.find import ImageListing, find_images, list_images, name_masks_by_isic
from lesioncli.images.geometry import to_network
from lesioncli.inference.run import segment_images
from lesioncli.options import SegmentOptions
from lesioncli.process import count_cores


def test_every_image_is_a_row(engine: Engine, tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "images"
    picture = draw(1, 40, 60)
    save(folder / "sub" / "fine.png", picture)
    save(folder / "black.png", np.zeros((40, 60, 3), np.uint8))
    (folder / "broken, sadly.jpg").write_text("no picture")
    tiff = [Image.fromarray(draw(seed)) for seed in (1, 2)]
    tiff[0].save(folder / "two.tif", save_all=True, append_images=tiff[1:])
    assert statuses(folder, engine, out) == "ffoo"
    rows = rows_of(out)
    assert list(rows) == ["black.png", "broken, sadly.jpg", "sub/fine.png", "two.tif"]

    broken, black, fine = (rows[name] for name in ("broken, sadly.jpg", "black.png", "sub/fine.png"))
    assert broken["reason"].startswith("decode: ")
    assert {name for name, text in broken.items() if text} == {"image", "bytes", "status", "reason"}
    assert black["reason"].startswith("network: ")
    assert (black["width"], black["height"], black["bytes"]) == ("60", "40", str((folder / "black.png").stat().st_size))
    assert (fine["mask"], fine["width"], fine["height"], fine["status"]) == ("sub/fine.png", "60", "40", "ok")
    assert (fine["reason"], fine["note"], rows["two.tif"]["note"]) == ("", "", "first of 2 pages")

    _, shares, brightness = tiny_outputs(to_network(picture, 32, 32))
    for name, value in zip(["melanoma", "seborrheic_keratosis", "nevus"], shares, strict=True):
        assert float(fine[name]) == pytest.approx(value, abs=6e-6)
    assert float(fine["agreement"]) == pytest.approx(brightness, abs=6e-6)
    assert float(fine["lesion_area_fraction"]) == pytest.approx((read(out / "sub/fine.png") == 255).mean(), abs=6e-6)


def test_masks_are_8_bit_grey_of_0_and_255(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    for path in out.glob("*.png"):
        with Image.open(path) as mask:
            assert (mask.format, mask.mode, mask.size) == ("PNG", "L", (60, 40))
    assert set(np.unique(read(out / "000.png"))) == {0, 255}


def test_no_temporary_file_is_left(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out, overlay=True)
    names = [f"00{number}" for number in range(6)]
    pictures = [*(f"{name}.png" for name in names), *(f"overlays/{name}.jpg" for name in names)]
    expected = sorted([*pictures, "checksums.csv", "scores.csv"])
    assert sorted(files_of(out)) == expected


def test_run_json_describes_the_run(engine: Engine, images: Path, out: Path) -> None:
    (images / "001.jpg").write_bytes(b"")
    statuses(images, engine, out)
    manifest, record = engine.manifest, record_of(out)
    cpu_seconds, seconds = record.pop("cpu_seconds"), record.pop("seconds")
    assert set(cpu_seconds) == {"decode", "write"}
    assert 0 <= sum(cpu_seconds.values()) <= seconds * (count_cores() + 1)
    assert record.pop("started")
    assert record.pop("python") == ".".join(map(str, sys.version_info[:3]))
    assert record == {
        "engine_sha256": manifest.sha256,
        "precision": "fp32",
        "threshold": 0.5,
        "tta": "none",
        "regions": "largest",
        "names": "images",
        "calibration": "none",
        "format": 1,
        "classes": ["melanoma", "seborrheic_keratosis", "nevus"],
        "lesioncli": __version__,
        "model": "tiny",
        "backend": f"openvino {manifest.backend_version}",
        "device": manifest.device,
        "batch": 2,
        "workers": 0,
        "sources": ["../images"],
        "roots": ["../images"],
        "passed_over": {},
        "status": "finished",
        "images": 6,
        "ok": 5,
        "failed": 1,
        "skipped": 0,
    }


def test_run_json_keeps_the_sources_of_all_runs(engine: Engine, images: Path, out: Path) -> None:
    listing = list_images([images])
    first, second = listing.images[0].local_path, listing.images[1].local_path
    for source in (images, first, images):
        segment_images(dataclasses.replace(listing, sources=(source,)), engine, out)
    assert [(out / source).resolve() for source in record_of(out)["sources"]] == [images, first]
    assert not Path(record_of(out)["sources"][0]).is_absolute()
    segment_images(dataclasses.replace(listing, sources=(second,)), engine, out, SegmentOptions(overwrite=True))
    assert [(out / source).resolve() for source in record_of(out)["sources"]] == [second]


def test_sources_are_relative_to_the_real_output_folder(engine: Engine, images: Path, tmp_path: Path) -> None:
    (tmp_path / "disk" / "masks").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "masks")
    segment_images(list_images([images]), engine, tmp_path / "link")
    (source,) = record_of(tmp_path / "link")["sources"]
    assert (tmp_path / "link" / source).resolve() == images


def test_ignored_files_are_in_the_summary_and_in_run_json(engine: Engine, images: Path, out: Path) -> None:
    (images / "notes.txt").write_text("any")
    assert segment_folder(images, engine, out).ignored == record_of(out)["passed_over"] == {".txt": 1}


def test_the_summary_counts_images_by_status(engine: Engine, images: Path, out: Path) -> None:
    (images / "001.jpg").write_bytes(b"")
    found = find_images([images])
    segment_images(ImageListing(found[:2]), engine, out)
    summary = segment_images(ImageListing(found), engine, out)
    assert (summary.images, summary.ok, summary.failed, summary.skipped) == (6, 4, 1, 1)
    assert (summary.engine, summary.precision, summary.tta, summary.out) == ("tiny", "fp32", "none", str(out))
    assert summary.images_per_second == pytest.approx(5 / summary.seconds)
    assert dataclasses.replace(summary, seconds=0.0).images_per_second == 0


def test_the_least_confident_images_are_those_of_all_runs(
    engine: Engine, images: Path, out: Path, tmp_path: Path
) -> None:
    (images / "001.jpg").write_bytes(b"")
    found = find_images([images])
    expected = segment_images(ImageListing(found), engine, tmp_path / "whole").least_confident
    assert len(expected) == 5
    rows = rows_of(tmp_path / "whole")
    assert [lowest.image for lowest in expected] == sorted(
        (name for name in rows if rows[name]["status"] == "ok"), key=lambda name: float(rows[name]["confidence"])
    )
    assert segment_images(ImageListing(found[:4]), engine, out).least_confident == [
        lowest for lowest in expected if lowest.image < "004.jpg"
    ]
    assert segment_images(ImageListing(found[4:]), engine, out).least_confident == expected
    assert segment_images(ImageListing(found), engine, out).least_confident == expected


def test_masks_with_isic_names(images: Path, engine: Engine, out: Path) -> None:
    (images / "sub").mkdir()
    for number in range(4):
        (images / f"{number:03}.jpg").rename(images / "sub" / f"x_{number:07}_y.jpg")
    for number in (4, 5):
        (images / f"{number:03}.jpg").rename(images / f"ISIC_{number:07}.jpg")
    named = ImageListing(name_masks_by_isic(find_images([images])))
    assert segment_images(named, engine, out).ok == 6
    masks = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    expected = {f"sub/ISIC_{number:07}_segmentation.png" for number in range(4)}
    assert masks == expected | {f"ISIC_{number:07}_segmentation.png" for number in (4, 5)}
    assert rows_of(out)["sub/x_0000001_y.jpg"]["mask"] == "sub/ISIC_0000001_segmentation.png"
    assert segment_images(named, engine, out).skipped == 6
    with pytest.raises(InputError, match=r"names isic.*images"):
        segment_folder(images, engine, out)
