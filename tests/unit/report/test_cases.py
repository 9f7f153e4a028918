"""Cases of a report: their order, state, values and files; and the segmented folder that they come from."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.drawn_run import COLUMNS, HEIGHT, WIDTH, DrawnRun
from PIL import Image

from lesioncli.demo.draw import draw_case
from lesioncli.errors import InputError
from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.result import Evaluation
from lesioncli.inference.outcome import MEASURE_COLUMNS
from lesioncli.inference.pictures import write_mask
from lesioncli.options import EvaluationOptions, ProtocolName
from lesioncli.report.cases import Case, list_cases
from lesioncli.segmented import choose_image_sources, find_image_files, read_segmented_folder
from lesioncli.spec import CLASSES

PROTOCOLS = (ProtocolName.PLAIN, ProtocolName.ISIC2017)


def cases_of(run: DrawnRun, evaluation: Evaluation | None = None) -> dict[str, Case]:
    segmented = read_segmented_folder(run.masks)
    cases = list_cases(segmented, find_image_files([run.images], run.masks), evaluation)
    return {case.name: case for case in cases}


def isic_run(folder: Path) -> DrawnRun:
    """Return a run of `segment --isic`: masks have the ids of the images; one of two images failed."""
    run = DrawnRun(folder)
    for name, seed in (("ISIC_0000001", 1), ("sub/ISIC_0000003", 3)):
        run.add(name, seed)
        (run.images / f"{name}.jpg").rename(run.images / f"{name}_downsampled.jpg")
        (run.masks / f"{name}.png").rename(run.masks / f"{name}_segmentation.png")
    (run.masks / "sub" / "ISIC_0000003_segmentation.png").unlink()
    row = {**run.rows[0], "image": "ISIC_0000001_downsampled.jpg", "mask": "ISIC_0000001_segmentation.png"}
    run.rows, run.labelled = [row], [("ISIC_0000001_downsampled", 1, 0)]
    run.add_failed("sub/ISIC_0000003_downsampled.jpg", "decode: cut short")
    return run.finish(names="isic")


def test_labels_of_a_case_that_are_unknown(run: DrawnRun) -> None:
    evaluation = evaluate(run.labels, run.masks)
    names = [name for name in evaluation.scores.labelled.rows if name.startswith("case_")]
    table = run.labels / "labels.csv"
    header = table.read_text().splitlines()[0]
    labels = dict.fromkeys(names, "0,0") | {names[0]: "1,", names[1]: "0,", names[2]: "0,0"}
    table.write_text("\n".join([header, *(f"{name},{cells}" for name, cells in labels.items()), ""]))
    cases = cases_of(run, evaluate(run.labels, run.masks))
    assert [cases[name].labels for name in names[:3]] == [("melanoma",), None, ()]


def test_every_row_mask_and_ground_truth_is_one_case_the_worst_first(run: DrawnRun) -> None:
    write_mask(run.masks / "stray.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    evaluation = evaluate(run.labels, run.masks)
    cases = cases_of(run, evaluation)
    by_jaccard = sorted((case.metrics["jaccard"], case.name) for case in evaluation.masks.evaluated)
    assert list(cases) == ["broken", "lonely", *(name for _, name in by_jaccard), "sub/unknown", "stray"]
    assert {name: case.state for name, case in cases.items() if not name.startswith("case_")} == {
        "broken": "failed",
        "lonely": "not evaluated",
        "sub/unknown": "without ground truth",
        "stray": "without ground truth",
    }
    assert cases["broken"].problem == "decode: truncated: the JPEG data end too early"
    assert cases["lonely"].problem
    assert (cases["stray"].values, cases["stray"].image) == ({}, "stray")
    assert cases["sub/unknown"].image_path == run.images / "sub" / "unknown.jpg"


def test_without_ground_truth_the_lowest_confidence_comes_first(run: DrawnRun) -> None:
    first, *rest = cases_of(run).values()
    assert (first.name, first.state) == ("broken", "failed")
    assert {case.state for case in rest} == {"segmented"}
    confidences = [case.values["confidence"] for case in rest]
    assert confidences == sorted(confidences)


def test_case_has_its_values_metrics_labels_and_files(run: DrawnRun) -> None:
    evaluation = evaluate(run.labels, run.masks)
    case = cases_of(run, evaluation)["case_3"]
    assert case.values["melanoma"] == 0.3
    assert case.metrics == next(result.metrics for result in evaluation.masks.cases if result.name == "case_3")
    assert case.labels == tuple(name for name in ("melanoma", "seborrheic_keratosis") if draw_case(3).label == name)
    assert case.size == f"{WIDTH} x {HEIGHT} px"
    assert (case.prediction_path, case.truth_path) == (
        run.masks / "case_3.png",
        run.labels / "case_3_segmentation.png",
    )
    assert cases_of(run, evaluation)["sub/unknown"].labels is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_masks_with_isic_names_belong_to_their_images(protocol: ProtocolName, tmp_path: Path) -> None:
    run = isic_run(tmp_path)
    cases = cases_of(run, evaluate(run.labels, run.masks, EvaluationOptions(protocol)))
    assert {name: (case.state, case.image) for name, case in cases.items()} == {
        "sub/ISIC_0000003": ("failed", "sub/ISIC_0000003_downsampled.jpg"),
        "ISIC_0000001": ("evaluated", "ISIC_0000001_downsampled.jpg"),
    }
    assert cases["sub/ISIC_0000003"].problem == "decode: cut short"
    assert cases["sub/ISIC_0000003"].truth_path == run.labels / "sub" / "ISIC_0000003_segmentation.png"
    case = cases["ISIC_0000001"]
    assert case.image_path == run.images / "ISIC_0000001_downsampled.jpg"
    assert case.prediction_path == run.masks / "ISIC_0000001_segmentation.png"
    assert (case.values["melanoma"], case.metrics["jaccard"], case.labels) == (0.5, 1, ("melanoma",))
    assert list(cases_of(run)) == list(cases), "the names are the same without ground truth"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_failed_image_of_a_run_with_isic_names_has_its_ground_truth(protocol: ProtocolName, tmp_path: Path) -> None:
    run = isic_run(tmp_path)
    for path in [*run.labels.rglob("*.png")]:
        path.rename(run.labels / path.name)
    cases = cases_of(run, evaluate(run.labels, run.masks, EvaluationOptions(protocol)))
    assert len(cases) == 2
    assert cases["sub/ISIC_0000003"].problem == "decode: cut short"


def test_old_mask_of_a_failed_image_is_not_shown(run: DrawnRun) -> None:
    write_mask(run.masks / "broken.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    assert cases_of(run)["broken"].prediction_path is None


def test_images_may_lie_in_a_folder_named_overlays(run: DrawnRun) -> None:
    run.add("overlays/x", 1)
    run.finish()
    assert cases_of(run)["overlays/x"].prediction_path == run.masks / "overlays" / "x.png"


def test_table_of_pairs_needs_no_folder_of_masks(run: DrawnRun, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("image,truth,prediction\none,labels/case_1_segmentation.png,masks/case_1.png\n")
    missing = tmp_path / "missing"
    (case,) = list_cases(read_segmented_folder(missing), {}, evaluate(table, missing))
    assert (case.name, case.state, case.prediction_path) == ("one", "evaluated", tmp_path / "masks" / "case_1.png")


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_nothing_to_report_is_an_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=re.escape(str(tmp_path / name))):
        list_cases(read_segmented_folder(tmp_path / name), {}, None)


def test_table_of_another_program_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("image,melanoma\na,.5\n")
    with pytest.raises(InputError, match=r"scores\.csv.*status, reason"):
        read_segmented_folder(tmp_path)


@pytest.mark.parametrize("position", [COLUMNS.index("melanoma"), COLUMNS.index("lesion_area_fraction"), len(COLUMNS)])
@pytest.mark.parametrize("recorded", [CLASSES, None])
def test_a_new_column_is_not_a_class(position: int, recorded: tuple[str, ...] | None, tmp_path: Path) -> None:
    run = DrawnRun(tmp_path)
    run.add("a", 0)
    run.columns = (*COLUMNS[:position], "blur", *COLUMNS[position:])
    run.rows = [{**run.rows[0], "blur": 0.25}]
    run.finish(classes=recorded)
    segmented = read_segmented_folder(run.masks)
    assert segmented.classes == CLASSES
    assert set(segmented.columns) == {*CLASSES, *(column.name for column in MEASURE_COLUMNS), "blur"}
    assert cases_of(run)["a"].values["blur"] == 0.25


@pytest.mark.parametrize("column", ["confidence", "melanoma"])
def test_text_in_a_column_of_numbers_is_refused(tmp_path: Path, column: str) -> None:
    run = DrawnRun(tmp_path)
    run.add("a", 0)
    run.rows = [run.rows[0], {**run.rows[0], "image": "b.jpg", column: "high"}]
    run.finish()
    with pytest.raises(InputError, match=rf"scores\.csv, line 3: {column} .*'high'"):
        read_segmented_folder(run.masks)


def test_classes_are_those_of_the_run_record(tmp_path: Path) -> None:
    run = DrawnRun(tmp_path)
    run.columns = tuple(column if column != "nevus" else "MEL" for column in COLUMNS)
    run.add("a", 0)
    run.rows = [{("MEL" if key == "nevus" else key): value for key, value in run.rows[0].items()}]
    run.finish(classes=["MEL"])
    assert read_segmented_folder(run.masks).classes == ("mel",)


def test_image_sources_are_given_recorded_beside_or_missing(
    run: DrawnRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def choose(*given: Path) -> tuple[Path, ...]:
        return choose_image_sources(read_segmented_folder(Path("masks")), given).value

    assert choose(Path("mine")) == (Path("mine"),)
    assert choose() == (Path("images"),)
    run.finish(sources=["../gone"])
    assert choose() == (Path("images"),)
    shutil.rmtree("images")
    assert choose() == ()


def test_of_two_images_with_one_name_the_later_source_counts(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "x.png" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        Image.fromarray(draw_case(0, 40, 40).image).save(path)
    assert find_image_files([tmp_path / "a", tmp_path / "b"], tmp_path / "masks") == {"x": paths[1]}


def test_unreadable_run_record_counts_as_missing(run: DrawnRun) -> None:
    (run.masks / "run.json").write_text("{")
    assert read_segmented_folder(run.masks).record.model is None
    (run.masks / "run.json").write_text(json.dumps({"model": "drawn"}))
    assert read_segmented_folder(run.masks).record.model == "drawn"


def test_images_are_found_by_their_source_and_by_the_root_of_the_run(tmp_path: Path) -> None:
    for name in ("P01/a.jpg", "P02/a.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"any")
    sources = [tmp_path / "images" / name for name in ("P01", "P02")]
    files = find_image_files(sources, tmp_path / "masks", [tmp_path / "masks" / ".." / "images"])
    assert {name: files[name] for name in ("P01/a", "P02/a")} == {
        "P01/a": sources[0] / "a.jpg",
        "P02/a": sources[1] / "a.jpg",
    }
