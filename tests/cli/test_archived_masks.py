"""`segment --masks tar`: every command finds in archives what it finds in files."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.command import call
from helpers.evaluation_data import write_lines
from helpers.graphs import MakeEngine
from helpers.pictures import draw, read, save
from helpers.runs import files_of, rows_of, run_on_full_disk

import lesioncli
from lesioncli.errors import ExitCode, ImageError
from lesioncli.evaluation.reading.masks import find_predicted_masks
from lesioncli.inference import packing

IMAGES = 105  # calibrate wants 100


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_manifest: MakeEngine) -> Path:
    """A folder with images, labels, and the masks of two runs: `files` and `archives`; an image failed in both."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(tiny_manifest(2).parent, folder / "engines")
    for number in range(IMAGES):
        save(folder / "images" / f"{number % 3}" / f"ISIC_{number:07}.png", draw(number, 40, 60))
    (folder / "images" / "0" / "ISIC_0000999.png").write_bytes(b"")
    words = (
        "segment",
        folder / "images",
        "--engine",
        folder / "engines" / "tiny.openvino.json",
        "--save-probabilities",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "MASKS_PER_ARCHIVE", 20)
        assert call(*words, "--out", folder / "files").exit_code == ExitCode.SOME_FAILED
        assert call(*words, "--out", folder / "archives", "--masks", "tar").exit_code == ExitCode.SOME_FAILED
    rng = np.random.default_rng(0)
    labels = ["image,melanoma"]
    for name, row in rows_of(folder / "files").items():
        labels.append(f"{Path(name).name},{int(rng.integers(2))}")
        if row["status"] == "ok":
            mask = read(folder / "files" / row["mask"]).copy()
            mask[: int(rng.integers(1, 20))] = 0
            mask[0, 0] = 255
            save(folder / "labels" / row["mask"], mask)
    write_lines(folder / "labels" / "labels.csv", *labels)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_archives_replace_files(here: Path) -> None:
    assert len(list((here / "archives").glob("masks-*.tar"))) == 6
    assert not list((here / "archives").rglob("[0-9]/*.png"))[IMAGES:]  # probability maps alone
    assert len(list((here / "files").rglob("*.png"))) == 2 * IMAGES


def both(*words: str, swap: tuple[str, str] = ("archives", "files")) -> tuple[str, str]:
    """Return what a command prints for archives and for files, with the same names of folders."""
    first = call(*words)
    second = call(*(word.replace(*swap) for word in words))
    assert first.exit_code == second.exit_code, first.output
    return first.stdout.replace(*swap), second.stdout


def test_evaluate(here: Path) -> None:
    archives, files = both("evaluate", "archives", "--gt", "labels", "--json")
    assert json.loads(archives) == json.loads(files)
    tables = [(here / folder / "evaluation.csv").read_text() for folder in ("archives", "files")]
    assert tables[0] == tables[1]
    assert len(tables[0].splitlines()) == IMAGES + 1


def test_evaluate_compares_both(here: Path) -> None:
    done = call("evaluate", "archives", "--gt", "labels", "--compare", "files", "--json")
    assert done.exit_code in (ExitCode.OK, ExitCode.SOME_FAILED), done.output
    done = call("compare", "archives", "files", "--gt", "labels")
    assert done.exit_code in (ExitCode.OK, ExitCode.SOME_FAILED), done.output


def test_report(here: Path) -> None:
    for folder in ("archives", "files"):
        done = call("report", folder, "--gt", "labels", "--out", f"{folder}.html")
        assert done.exit_code in (ExitCode.OK, ExitCode.SOME_FAILED), done.output
    archives, files = ((here / f"{folder}.html").read_text() for folder in ("archives", "files"))
    assert archives.replace("archives", "files").count("<path") == files.count("<path") > IMAGES


@pytest.mark.parametrize(
    ("export_format", "name"), [("coco", "coco.json"), ("tar", ""), ("geojson", ""), ("labelme", "")]
)
def test_export(here: Path, export_format: str, name: str) -> None:
    for folder in ("archives", "files"):
        done = call("export", folder, "--format", export_format, "--out", Path("exported", folder, name))
        assert done.exit_code == ExitCode.SOME_FAILED, done.output
    assert files_of(here / "exported/archives") == files_of(here / "exported/files") != {}


def test_exported_archives_can_be_evaluated(here: Path) -> None:
    call("export", "files", "--format", "tar", "--out", "exported")
    (here / "labels/labels.csv").unlink()
    exported, files = both("evaluate", "exported", "--gt", "labels", "--json", swap=("exported", "files"))
    means = [json.loads(text)["lesioncli"]["means"] for text in (exported, files)]
    assert means[0] == means[1] != {}


def test_an_export_does_not_write_between_the_masks(here: Path) -> None:
    before = files_of(here / "archives")
    done = call("export", "archives", "--format", "tar", "--out", "archives", "--overwrite")
    assert done.exit_code == ExitCode.INPUT
    assert files_of(here / "archives") == before


def test_submission(here: Path) -> None:
    for folder in ("archives", "files"):
        done = call("submission", folder, "--protocol", "isic2018", "--out", f"{folder}-zip")
        assert done.exit_code == ExitCode.SOME_FAILED, done.output
    names = []
    for folder in ("archives", "files"):
        with zipfile.ZipFile(here / f"{folder}-zip/segmentation.zip") as archive:
            names.append({name: archive.read(name) for name in archive.namelist()})
    assert names[0] == names[1]
    assert len(names[0]) == IMAGES


def test_calibrate(here: Path) -> None:
    for folder in ("archives", "files"):
        words = ("--engine", "tiny", "--name", f"of-{folder}", "--export", f"{folder}.json")
        done = call("calibrate", "--gt", "labels", "--pred", folder, *words)
        assert done.exit_code == ExitCode.SOME_FAILED, done.output
    assert (here / "archives.json").read_text().replace("archives", "files") == (here / "files.json").read_text()


def test_verify_names_and_repairs(here: Path) -> None:
    archives, files = both("verify", "archives", "--json")
    assert json.loads(archives) == json.loads(files)
    (here / "archives/masks-00002.tar").write_bytes((here / "archives/masks-00002.tar").read_bytes()[:9000])
    done = call("verify", "archives")
    assert done.exit_code == ExitCode.SOME_FAILED
    assert "masks-00002.tar: truncated" in done.stderr
    assert call("verify", "archives", "--repair").exit_code == ExitCode.OK
    assert call("segment", "images", "--out", "archives", "--engine", "tiny", "--masks", "tar", "--save-probabilities")
    assert call("verify", "archives").exit_code == ExitCode.OK


def test_the_python_api_reads_masks(here: Path) -> None:
    archives, files = lesioncli.read_results("archives"), lesioncli.read_results("files")
    for one, other in zip(archives.mask_path, files.mask_path, strict=True):
        if other is None:
            assert one is None
            continue
        mask = lesioncli.read_mask(one)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, read(other))
        np.testing.assert_array_equal(lesioncli.read_mask(str(other)), mask)
    for path in (
        "archives/masks-00000.tar/none.png",
        "archives/masks-00099.tar/none.png",
        "none.png",
        "labels/labels.csv",
    ):
        with pytest.raises(ImageError):
            lesioncli.read_mask(path)


def test_masks_that_no_row_names_do_not_count(here: Path) -> None:
    """A killed run may have packed a mask whose row still names a file; without a table, all masks count."""
    table = here / "archives/scores.csv"
    rows = table.read_text().splitlines()
    names = {name: str(path) for name, path in find_predicted_masks(here / "archives").masks.items()}
    assert len(names) == IMAGES
    table.write_text("\n".join([rows[0], *(row.replace("masks-00000.tar/", "") for row in rows[1:-1])]) + "\n")
    found = find_predicted_masks(here / "archives").masks
    fewer = {name: str(path) for name, path in found.items() if "probabilities" not in name}
    assert fewer == {name: path for name, path in names.items() if name in fewer}
    assert len(fewer) == IMAGES - 1
    table.unlink()
    assert {name: str(path) for name, path in find_predicted_masks(here / "archives").masks.items()} == names


def test_two_processes_leave_the_same_archives(here: Path) -> None:
    words = ("segment", "images", "--engine", "tiny", "--masks", "tar", "--processes", "2", "--out")
    assert call(*words, "two").exit_code == ExitCode.SOME_FAILED
    assert call(*words[:-3], "--out", "one").exit_code == ExitCode.SOME_FAILED
    assert files_of(here / "one") == files_of(here / "two")
    assert len(list((here / "one").iterdir())) == 4


def test_a_full_disk_while_packing(here: Path) -> None:
    words = ("segment", "images", "--out", "full", "--engine", "tiny", "--masks", "tar")
    done = run_on_full_disk(*words, max_file_bytes=64 * 1024, cwd=here)
    assert done.returncode == ExitCode.INPUT, done.stderr
    assert "masks-00000.tar: cannot be written (File too large); free disk space" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((here / "full").glob("*.tar"))
    assert "1 failed, 105 skipped" in call(*words).stdout
    assert call("verify", "full").exit_code == ExitCode.OK
