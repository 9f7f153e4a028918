"""A dry run: it says what the next run does, and changes nothing."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.pictures import draw, save
from helpers.runs import files_of, record_of, statuses

from lesioncli.backends.base import Engine
from lesioncli.errors import EngineError, InputError
from lesioncli.images.find import list_images
from lesioncli.inference.destination import Destination
from lesioncli.inference.earlier import ToDo
from lesioncli.inference.plan import RunPlan, plan_run
from lesioncli.options import SegmentOptions


def plan(images: Path, engine: Engine | None, out: Path, **options: Any) -> RunPlan:
    return plan_run(list_images([images]), engine, Destination(out), SegmentOptions(**options))


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return time and content of all files."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def test_nothing_is_written_into_a_folder_that_does_not_exist(engine: Engine, images: Path, out: Path) -> None:
    planned = plan(images, engine, out)
    assert not out.exists()
    assert (planned.images, planned.done, planned.reasons) == (6, 0, {ToDo.NEW: 6})
    assert (planned.engine, planned.gone, planned.removes) == ("tiny", 0, False)


def remove_a_mask(images: Path, out: Path) -> None:
    (out / "002.png").unlink()


def cut_a_mask(images: Path, out: Path) -> None:
    (out / "002.png").write_bytes((out / "002.png").read_bytes()[:-3])


def add_an_image(images: Path, out: Path) -> None:
    save(images / "0005.jpg", draw(99, 40, 60))


def replace_an_image(images: Path, out: Path) -> None:
    save(images / "002.jpg", draw(98, 50, 60))


def remove_an_overlay(images: Path, out: Path) -> None:
    (out / "overlays" / "002.jpg").unlink()


def touch_all(images: Path, out: Path) -> None:
    for path in images.iterdir():
        os.utime(path, (1, 1))


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (lambda images, out: None, {}),
        (remove_a_mask, {ToDo.NO_MASK: 1}),
        (cut_a_mask, {ToDo.NO_MASK: 1}),
        (add_an_image, {ToDo.NEW: 1}),
        (replace_an_image, {ToDo.CHANGED: 1}),
        (remove_an_overlay, {ToDo.NO_PICTURE: 1}),
        (touch_all, {}),
    ],
)
def test_the_next_run_does_what_was_planned(
    engine: Engine, images: Path, out: Path, change: Callable[[Path, Path], None], reasons: dict[ToDo, int]
) -> None:
    statuses(images, engine, out, overlay=True)
    change(images, out)
    before = snapshot(out)
    planned = plan(images, engine, out, overlay=True)
    assert snapshot(out) == before
    assert planned.reasons == reasons
    names = sorted(path.name for path in images.iterdir())
    expected = "".join("o" if name in planned.to_do else "s" for name in names)
    assert statuses(images, engine, out, overlay=True) == expected


def test_an_image_that_failed_is_planned_again(engine: Engine, images: Path, out: Path) -> None:
    (images / "003.jpg").write_bytes(b"\xff\xd8\xff none")
    statuses(images, engine, out)
    assert plan(images, engine, out).to_do == {"003.jpg": ToDo.FAILED}


def test_what_a_run_refuses_is_refused(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out, crops=10)
    for options in ({"threshold": 0.7}, {"tta": "none", "regions": "all"}, {"crops": 20}):
        with pytest.raises(InputError, match="--overwrite"):
            plan(images, engine, out, **options)
    before = files_of(out), record_of(out)
    planned = plan(images, engine, out, threshold=0.7, overwrite=True)
    assert (planned.removes, planned.reasons) == (True, {ToDo.NEW: 6})
    assert (files_of(out), record_of(out)) == before


def test_rows_of_images_that_are_gone_are_counted(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    (images / "003.jpg").unlink()
    assert plan(images, engine, out).gone == 1
    assert plan(images, engine, out, prune=True).gone == 1
    assert (out / "003.png").exists()


def test_without_an_engine_only_a_new_folder_can_be_planned(engine: Engine, images: Path, out: Path) -> None:
    planned = plan(images, None, out)
    assert (planned.engine, planned.device, planned.reasons) == ("", "", {ToDo.NEW: 6})
    statuses(images, engine, out)
    with pytest.raises(EngineError, match="build-engine"):
        plan(images, None, out)
    assert plan(images, None, out, overwrite=True).removes
