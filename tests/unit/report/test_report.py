"""The report's data and its HTML, read as a program reads it; test_report_page.py looks at it in a browser."""

import base64
import hashlib
import json
import os
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.command import call
from helpers.drawn_run import HEIGHT, WIDTH, DrawnRun, filled
from helpers.pictures import jaccard
from PIL import Image

from lesioncli.demo.draw import draw_case
from lesioncli.errors import InputError, MissingPackageError
from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.metrics.scores import Roc, auc, calibration_bins, calibration_error, roc
from lesioncli.evaluation.result import Evaluation
from lesioncli.images.geometry import from_upright, to_upright
from lesioncli.inference.results import write_mask
from lesioncli.options import EvaluationOptions, ProtocolName
from lesioncli.report import figures, pictures, plots
from lesioncli.report.cases import Case, choose_sources, collect, find_photographs, read_scores_csv
from lesioncli.report.page import Written, write_report
from lesioncli.report.pictures import GRID, SIDE_PX, draw, draw_all

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;'


@pytest.fixture
def run(tmp_path: Path) -> DrawnRun:
    """Twelve cases in all states: ten with truth, one without, one that failed; and a truth that nothing predicts."""
    drawn = DrawnRun(tmp_path)
    for number in range(10):
        drawn.add(f"case_{number}", number, moved_px=number, melanoma=number / 10)
    drawn.add("sub/unknown", 20, truth=False)
    drawn.add_failed("broken.jpg")
    write_mask(drawn.labels / "lonely_segmentation.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    return drawn.finish()


def judged(run: DrawnRun) -> Evaluation:
    return evaluate(run.labels, run.masks)


def cases_of(run: DrawnRun, evaluation: Evaluation | None = None) -> dict[str, Case]:
    found = collect(run.masks, read_scores_csv(run.masks), find_photographs([run.images], run.masks), evaluation)
    return {case.name: case for case in found}


def isic_run(folder: Path) -> DrawnRun:
    """As `segment --isic` leaves it: masks by the images' ids, images by names of their own; one of two failed."""
    run = DrawnRun(folder)
    for name, seed in (("ISIC_0000001", 1), ("sub/ISIC_0000003", 3)):
        run.add(name, seed)
        (run.images / f"{name}.jpg").rename(run.images / f"{name}_downsampled.jpg")
        (run.masks / f"{name}.png").rename(run.masks / f"{name}_segmentation.png")
    (run.masks / "sub" / "ISIC_0000003_segmentation.png").unlink()
    row = {**run.rows[0], "image": "ISIC_0000001_downsampled.jpg", "mask": "ISIC_0000001_segmentation.png"}
    run.rows, run.labelled = [row], [("ISIC_0000001_downsampled", 1, 0)]
    run.add_failed("sub/ISIC_0000003_downsampled.jpg", "decode: cut short")
    run.finish()
    about = json.loads((run.masks / "run.json").read_text())
    (run.masks / "run.json").write_text(json.dumps({**about, "names": "isic"}))
    return run


class Page(HTMLParser):
    """What a browser's parser finds: the names of the elements, ids, texts of scripts, attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.styles: list[str] = []
        self.text = ""
        self._inside = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = attributes, before + data
        elif self._inside == "style":
            self.styles.append(data)
        else:
            self.text += data

    def json(self, name: str) -> Any:
        return json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == name))

    @property
    def cases(self) -> dict[str, dict[str, Any]]:
        data = self.json("data")
        names = ("name", "image", "state", "reason", "note", "size", "labels", "values")
        columns = [key for key, _ in data["columns"]]
        found = [dict(zip(names, case, strict=True)) for case in data["cases"]]
        return {each["name"]: each | dict(zip(columns, each["values"], strict=True)) for each in found}

    @property
    def policy(self) -> str:
        metas = [attributes for tag, attributes in self.elements if tag == "meta"]
        return str(next(each["content"] for each in metas if each.get("http-equiv") == "Content-Security-Policy"))


def report(run: DrawnRun, evaluation: Evaluation | None = None, **options: Any) -> tuple[Written, Page]:
    path = run.masks.parent / "report.html"
    written = write_report(run.masks, path, sources=[run.images], evaluation=evaluation, **options)
    return written, Page(path)


# Cases


def test_every_row_mask_and_truth_is_one_case_the_worst_first(run: DrawnRun) -> None:
    write_mask(run.masks / "stray.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    evaluation = judged(run)
    found = cases_of(run, evaluation)
    by_jaccard = sorted((case.metrics["jaccard"], case.name) for case in evaluation.masks.cases if not case.problem)
    assert list(found) == ["broken", "lonely", *(name for _, name in by_jaccard), "sub/unknown", "stray"]
    assert {name: case.state for name, case in found.items() if not name.startswith("case_")} == {
        "broken": "failed",
        "lonely": "not judged",
        "sub/unknown": "without truth",
        "stray": "without truth",
    }
    assert found["broken"].reason == "decode: truncated: the JPEG data end too early"
    assert found["lonely"].reason == "no prediction"
    assert (found["stray"].figures, found["stray"].image) == ({}, "stray")
    assert found["sub/unknown"].photograph == run.images / "sub" / "unknown.jpg"


def test_without_truth_the_least_sure_come_first(run: DrawnRun) -> None:
    found = list(cases_of(run).values())
    assert (found[0].name, found[0].state) == ("broken", "failed")
    assert {case.state for case in found[1:]} == {"segmented"}
    confidence = [case.figures["confidence"] for case in found[1:]]
    assert confidence == sorted(confidence)


def test_a_case_has_its_figures_metrics_labels_and_files(run: DrawnRun) -> None:
    evaluation = judged(run)
    case = cases_of(run, evaluation)["case_3"]
    assert case.figures["melanoma"] == 0.3
    assert case.metrics == next(each.metrics for each in evaluation.masks.cases if each.name == "case_3")
    assert case.labels == tuple(name for name in ("melanoma", "seborrheic_keratosis") if draw_case(3).label == name)
    assert case.size == f"{WIDTH} x {HEIGHT} px"
    assert (case.prediction, case.truth) == (run.masks / "case_3.png", run.labels / "case_3_segmentation.png")
    assert cases_of(run, evaluation)["sub/unknown"].labels is None


@pytest.mark.parametrize("protocol", ["plain", "isic2017"])
def test_masks_named_as_isic_does_are_the_cases_of_their_images(protocol: str, tmp_path: Path) -> None:
    run = isic_run(tmp_path)
    evaluation = evaluate(run.labels, run.masks, EvaluationOptions(protocol=ProtocolName(protocol)))
    found = cases_of(run, evaluation)
    assert {name: (case.state, case.image) for name, case in found.items()} == {
        "sub/ISIC_0000003": ("failed", "sub/ISIC_0000003_downsampled.jpg"),
        "ISIC_0000001": ("judged", "ISIC_0000001_downsampled.jpg"),
    }
    assert found["sub/ISIC_0000003"].reason == "decode: cut short"
    assert found["sub/ISIC_0000003"].truth == run.labels / "sub" / "ISIC_0000003_segmentation.png"
    case = found["ISIC_0000001"]
    assert case.photograph == run.images / "ISIC_0000001_downsampled.jpg"
    assert case.prediction == run.masks / "ISIC_0000001_segmentation.png"
    assert (case.figures["melanoma"], case.metrics["jaccard"], case.labels) == (0.5, 1, ("melanoma",))
    assert list(cases_of(run)) == list(found), "nor does it take the truth to know"


def test_a_failed_image_of_a_run_named_as_isic_does_has_its_true_mask(tmp_path: Path) -> None:
    run = isic_run(tmp_path)
    for path in [*run.labels.rglob("*.png")]:
        path.rename(run.labels / path.name)
    for protocol in ("plain", "isic2017"):
        found = cases_of(run, evaluate(run.labels, run.masks, EvaluationOptions(protocol=ProtocolName(protocol))))
        assert len(found) == 2, protocol
        assert found["sub/ISIC_0000003"].reason == "decode: cut short"


def test_a_mask_of_a_failed_image_is_not_shown(run: DrawnRun) -> None:
    write_mask(run.masks / "broken.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    assert cases_of(run)["broken"].prediction is None


def test_photographs_may_lie_in_a_folder_called_overlays(run: DrawnRun) -> None:
    run.add("overlays/x", 1)
    run.finish()
    assert cases_of(run)["overlays/x"].prediction == run.masks / "overlays" / "x.png"


def test_a_table_of_pairs_needs_no_folder_of_masks(run: DrawnRun, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("image,truth,prediction\none,labels/case_1_segmentation.png,masks/case_1.png\n")
    nowhere = tmp_path / "nowhere"
    evaluation = evaluate(table, nowhere)
    (case,) = collect(nowhere, read_scores_csv(nowhere), {}, evaluation)
    assert (case.name, case.state, case.prediction) == ("one", "judged", tmp_path / "masks" / "case_1.png")


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    with pytest.raises(InputError, match=r"no masks and no scores\.csv; give the folder"):
        collect(tmp_path / "masks", read_scores_csv(tmp_path / "masks"), {}, None)
    with pytest.raises(InputError, match="no such folder"):
        collect(tmp_path / "gone", read_scores_csv(tmp_path / "gone"), {}, None)
    (tmp_path / "masks" / "scores.csv").write_text("image,melanoma\na,.5\n")
    with pytest.raises(InputError, match="no column status, reason"):
        read_scores_csv(tmp_path / "masks")


def test_where_the_photographs_are_and_why(run: DrawnRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert choose_sources(Path("masks"), [Path("mine")]) == ([Path("mine")], "as asked")
    assert choose_sources(Path("masks"), []) == ([Path("images")], "as run.json says")
    run.finish(sources=["../gone"])
    assert choose_sources(Path("masks"), []) == ([tmp_path / "images"], "the folder beside the masks")
    shutil.rmtree("images")
    assert choose_sources(Path("masks"), []) == ([], "none found; give them with --images")


def test_of_two_photographs_the_later_source_has_the_name(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "x.png" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        Image.fromarray(draw_case(0, 40, 40).image).save(path)
    assert find_photographs([tmp_path / "a", tmp_path / "b"], tmp_path / "masks") == {"x": paths[1]}


# Pictures


def picture_of(folder: Path, image: Image.Image, mask: np.ndarray[Any, Any], **options: Any) -> pictures.Picture:
    image.save(folder / "photograph.jpg", **options)
    write_mask(folder / "mask.png", mask.astype(np.uint8) * 255)
    return draw(Case("x", "x.jpg", "segmented", photograph=folder / "photograph.jpg", prediction=folder / "mask.png"))


def pixels(webp: bytes) -> np.ndarray[Any, Any]:
    with Image.open(BytesIO(webp)) as picture:
        assert picture.format == "WEBP"
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize(("height", "width"), [(90, 120), (300, 400), (1500, 1200)])
def test_outline_encloses_the_mask(tmp_path: Path, height: int, width: int) -> None:
    drawn = draw_case(4, height, width)
    picture = picture_of(tmp_path, Image.fromarray(drawn.image), drawn.mask)
    inside = filled(picture.prediction, picture.width, picture.height)
    assert max(picture.width, picture.height) == GRID
    mask = np.asarray(Image.fromarray(drawn.mask).resize((picture.width, picture.height), Image.Resampling.NEAREST))
    assert jaccard(inside, mask) > (0.95 if width > 120 else 0.9)
    assert len(picture.prediction) < 1500
    assert picture.problems == ()


def test_pictures_are_reduced_and_never_enlarged(tmp_path: Path) -> None:
    for (height, width), expected in {(600, 1600): (192, SIDE_PX), (40, 60): (40, 60), (3000, 2): (SIDE_PX, 1)}.items():
        photograph = Image.fromarray(draw_case(1, 64, 64).image).resize((width, height))
        picture = picture_of(tmp_path, photograph, np.zeros((height, width)))
        assert pixels(picture.webp).shape[:2] == expected
    assert picture.prediction == ""


def test_photograph_and_outline_are_upright(tmp_path: Path) -> None:
    drawn = draw_case(2, 200, 300)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = {name: from_upright(getattr(drawn, name), 6) for name in ("image", "mask")}
    assert (to_upright(stored["mask"], 6) == drawn.mask).all()
    picture = picture_of(tmp_path, Image.fromarray(stored["image"]), stored["mask"], exif=exif, quality=95)
    shown = pixels(picture.webp)
    assert shown.shape == (200, 300, 3)
    assert np.abs(shown.astype(int) - drawn.image).mean() < 8
    inside = filled(picture.prediction, picture.width, picture.height)
    assert jaccard(inside[::10, ::10], np.asarray(Image.fromarray(drawn.mask).resize((100, 67)))) > 0.9


def test_a_mask_of_another_size_is_not_drawn_over_the_photograph(tmp_path: Path) -> None:
    drawn = draw_case(2, 60, 80)
    picture = picture_of(tmp_path, Image.fromarray(drawn.image), np.ones((30, 40)))
    assert picture.prediction == ""
    assert picture.problems == ("prediction is 40x30, photograph 80x60: no outline drawn",)
    assert picture.webp


def test_what_cannot_be_read_is_a_problem_and_the_rest_is_drawn(tmp_path: Path) -> None:
    mask = draw_case(2, 60, 80).mask
    write_mask(tmp_path / "mask.png", mask.astype(np.uint8) * 255)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    case = Case("x", "x", "judged", photograph=tmp_path / "bad.png", prediction=tmp_path / "mask.png")
    picture = draw(case)
    assert (picture.webp, picture.height) == (b"", 750)
    assert picture.prediction.startswith("M")
    assert picture.problems == ("photograph: not a JPEG, PNG, BMP, WebP or TIFF image (or damaged header)",)
    (problem,) = draw(Case("x", "x", "judged", photograph=None, prediction=None)).problems
    assert problem == "no photograph found"
    assert draw(Case("x", "x", "judged", truth=tmp_path / "bad.png")).problems[1].startswith("truth unreadable")


def test_a_mask_of_noise_stays_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).random((300, 300)) < 0.2
    picture = picture_of(tmp_path, Image.fromarray(draw_case(0, 300, 300).image), noise)
    assert picture.prediction.count("M") == 200
    assert re.fullmatch(r"prediction: the largest 200 of \d+ outlines drawn", picture.problems[0])


def test_pictures_are_drawn_a_few_ahead_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "draw", lambda case: case.name)
    handed: list[Case] = []

    def cases() -> Iterator[Case]:
        for number in range(100):
            handed.append(Case(str(number), "", "segmented"))
            yield handed[-1]

    drawing: Iterator[Any] = draw_all(cases(), workers=2)
    assert next(drawing) == "0"
    assert len(handed) == 5, "two a worker, and one that is waited for"
    assert [*drawing] == [str(number) for number in range(1, 100)]


# Plots


def drawn_plots(name: str = "melanoma") -> list[str]:
    rng = np.random.default_rng(0)
    labels, weights = rng.random(80) < 0.3, np.ones(80)
    scores = np.clip(rng.random(80) * 0.7 + labels * 0.3, 0, 1)
    curve, bins = roc(labels, scores, weights), calibration_bins(labels, scores, weights)
    assert curve
    return [
        plots.jaccard_histogram(scores, name),
        plots.roc_curves({name: curve}, name),
        plots.precision_recall_curves({name: curve}, {name: 0.3}, name),
        plots.calibration({name: bins}, name),
        plots.confidence_against_jaccard(scores, scores**2, name),
    ]


@pytest.mark.parametrize("name", ["melanoma", HOSTILE, "$a^_$", "\\frac{"])
def test_plots_stand_in_one_page(name: str) -> None:
    """Well-formed, without ids in common, without what the policy forbids, in the page's own colours."""
    drawn = drawn_plots(name)
    trees = [ElementTree.fromstring(svg) for svg in drawn]  # noqa: S314 - made here
    ids = [each.get("id") for tree in trees for each in tree.iter() if each.get("id")]
    assert len(ids) == len(set(ids))
    for tree in trees:
        assert tree.get("aria-label") == name
        elements = [*tree.iter()]
        assert not any("style" in each.tag or "style" in each.attrib for each in elements)
        used = set(re.findall(r"#([\w-]+)", " ".join(value for each in elements for value in each.attrib.values())))
        assert used
        assert used <= set(ids), "nothing points out of the page, or to no place in it"
        assert not any(re.search("script|^on", key) for each in elements for key in (each.tag, *each.attrib))
    text = "".join(drawn)
    assert {"currentColor", "var(--rule)", "var(--series-1)"} <= set(re.findall(r'"(currentColor|var\([^)]*\))"', text))
    assert not re.search(r'"#[0-9a-f]{6}"', text)


def strokes(svg: str) -> set[tuple[str, str]]:
    """The colours and lines that an SVG draws with, the grey of its grid left out."""
    elements = ElementTree.fromstring(svg).iter()  # noqa: S314 - made here
    drawn = [each.attrib for each in elements if each.get("stroke", "").startswith("var(--series-")]
    return {(each["stroke"], each.get("stroke-dasharray", "")) for each in drawn}


@pytest.mark.parametrize("count", [1, 7, 9, 42])
def test_no_class_is_missing_from_a_plot_or_drawn_as_another(count: int) -> None:
    """ISIC-2018 has seven."""
    labels, scores, weights = np.array([True, False, True]), np.array([0.9, 0.1, 0.4]), np.ones(3)
    names = [f"class {number}" for number in range(count)]
    curve, bins = roc(labels, scores, weights), calibration_bins(labels, scores, weights)
    assert curve
    for svg in (
        plots.roc_curves(dict.fromkeys(names, curve), ""),
        plots.precision_recall_curves(dict.fromkeys(names, curve), dict.fromkeys(names, 0.5), ""),
        plots.calibration(dict.fromkeys(names, bins), ""),
    ):
        assert all(f">{name}<" in svg for name in names)
        assert len(strokes(svg)) == count


def test_every_colour_of_a_plot_is_one_of_the_page() -> None:
    style = (Path(plots.__file__).parent / "page.css").read_text()
    asked = {f"--series-{number}" for number, _ in enumerate(plots.SERIES, 1)}
    assert {name: style.count(f"{name}:") for name in asked} == dict.fromkeys(asked, 3), "light, dark and on paper"


def test_plots_are_the_same_each_time() -> None:
    assert drawn_plots() == drawn_plots()


def test_the_calibration_plot_and_the_calibration_error_have_the_same_bins() -> None:
    labels, scores = np.array([True, False, False, True]), np.array([0.9, 0.92, 0.1, 0.1])
    weights = np.array([1.0, 2.0, 1.0, 0.0])
    bins = calibration_bins(labels, scores, weights)
    assert bins.weights.tolist() == [0, 1, *[0] * 11, 3, 0]
    assert bins.scores[13] == pytest.approx((0.9 + 2 * 0.92) / 3)
    assert bins.positives[13] == pytest.approx(1 / 3)
    by_hand = (1 * abs(0.1 - 0) + 3 * abs((0.9 + 2 * 0.92) / 3 - 1 / 3)) / 4
    assert calibration_error(labels, scores, weights) == pytest.approx(by_hand)


# The page


def test_figures_are_those_of_evaluate(run: DrawnRun) -> None:
    evaluation = judged(run)
    _, page = report(run, evaluation)
    for key, value in evaluation.masks.means.items():
        assert f"{value:.4f}" in page.text, key
        low, high = evaluation.masks.intervals[key]
        assert f"{low:.3f} to {high:.3f}" in page.text, key
    for value in (*evaluation.scores.auc.values(), evaluation.scores.auc_mean):
        assert f"{value:.3f}" in page.text
    for metrics in evaluation.scores.per_class.values():
        assert all(f"{value:.3f}" in page.text for value in metrics.values())
    for case in evaluation.masks.cases:
        shown = page.cases[case.name]
        assert {key: shown[key] for key in case.metrics} == pytest.approx(case.metrics, abs=1e-5)


def test_figures_of_classes_have_their_intervals_and_their_confusion(run: DrawnRun) -> None:
    evaluation = judged(run)
    _, page = report(run, evaluation)
    text = " ".join(page.text.split())
    for name, intervals in evaluation.scores.per_class_intervals.items():
        for key, (low, high) in intervals.items():
            assert f"{evaluation.scores.per_class[name][key]:.3f} {low:.3f} to {high:.3f}" in text, (name, key)
    assert evaluation.scores.matrix
    for name, counts in zip(evaluation.scores.matrix.classes, evaluation.scores.matrix.counts, strict=True):
        assert f"{name.replace('_', ' ')}{''.join(map(str, counts))}" in page.text


def test_groups_are_shown_and_those_clearly_behind_are_called_so(run: DrawnRun, tmp_path: Path) -> None:
    _, page = report(run, judged(run))
    assert "Groups" not in page.text
    for number in range(10, 60):
        run.add(f"case_{number}", number, moved_px=40 if number % 2 else 0)
    table = tmp_path / "more.csv"
    sides = [(name, "<left>" if int(name[-2:].lstrip("_")) % 2 else "right") for name, *_ in run.labelled]
    table.write_text("image,side\n" + "".join(f"{name},{side}\n" for name, side in sides))
    run.finish()
    evaluation = evaluate(
        run.labels,
        run.masks,
        EvaluationOptions(
            by=(
                "side",
                "lesion_size",
            ),
            metadata=table,
        ),
    )
    groups = {group.group: group for group in evaluation.groups if group.column == "side"}
    assert groups["<left>"].behind == ("jaccard",)
    _, page = report(run, evaluation)
    text = " ".join(page.text.split())
    for name in ("<left>", "right"):
        value, low, high, _ = groups[name].figures["jaccard"]
        assert f"{name}{groups[name].images}{value:.3f} {low:.3f} to {high:.3f}" in text
    difference = groups["<left>"].differences["jaccard"]
    assert f"Jaccard {difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})" in text
    assert text.count("Jaccard -") == 1
    assert "By lesion size" in text


def test_what_a_protocol_ranks_by_stands_under_its_official_name(run: DrawnRun) -> None:
    def text() -> str:
        evaluation = evaluate(run.labels, run.masks, EvaluationOptions(protocol=ProtocolName.PH2))
        return " ".join(report(run, evaluation, protocol="ph2")[1].text.split())

    assert "No official figures of masks and scores by ph2: not every image could be judged" in text()
    (run.labels / "lonely_segmentation.png").unlink()
    value = judged(run).means["jaccard"]
    assert f"ph2 ranks masks by macro_average.jaccard: {value:.4f}" in text()
    assert "No official figures" not in text()


def test_there_are_no_official_figures_of_what_lacks_an_image_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = DrawnRun(tmp_path)
    for number in range(4):
        run.add(f"case_{number}", number)
    run.finish()
    words = ("--gt", "labels", "--protocol", "ph2")

    def said() -> str:
        command = call("evaluate", *words).stderr
        report = call("report", *words)
        assert report.exit_code == 5
        return command + " ".join(Page(Path("report.html")).text.split())

    (run.masks / "scores.csv").write_text("\n".join((run.masks / "scores.csv").read_text().splitlines()[:-1]) + "\n")
    text = said()
    assert "no official figures of scores by ph2: not every image could be judged, and the official scorer" in text
    assert "No official figures of scores by ph2: not every image could be judged" in text
    assert "ph2 ranks masks by macro_average.jaccard: 1.0000" in text
    run.finish()
    (run.masks / "case_3.png").unlink()
    text = said()
    assert "no official figures of masks by ph2: not every image could be judged" in text
    assert "No official figures of masks by ph2" in text
    assert "ph2 ranks scores by macro_average.auc" in text


def test_counts_of_all_states_are_at_the_top(run: DrawnRun) -> None:
    written, page = report(run, judged(run))
    top = " ".join(page.text[: page.text.index("A research tool, not a medical device")].split())
    assert "13 images 1 failed 1 not judged 10 judged 1 without truth 1 without a photograph" in top
    assert written.states == {"failed": 1, "not judged": 1, "judged": 10, "without truth": 1, "segmented": 0}
    assert written.problems == ("lonely: no photograph found",)
    assert written.failed
    assert (written.shown, written.size) == (13, written.path.stat().st_size)


def test_what_made_it_is_said(run: DrawnRun) -> None:
    _, page = report(run, judged(run), about={"command": "lesioncli report --gt labels"})
    for text in ("drawn", "ab" * 32, "2026-01-02", "lesioncli report --gt labels", "plain means"):
        assert text in page.text


def test_pictures_follow_in_the_order_of_the_cases(run: DrawnRun) -> None:
    evaluation = judged(run)
    _, page = report(run, evaluation)
    for number, case in enumerate(cases_of(run, evaluation).values()):
        block, drawn = page.json(f"picture-{number}"), draw(case)
        assert base64.b64decode(block["webp"]) == drawn.webp
        assert (block["truth"], block["prediction"]) == (drawn.truth, drawn.prediction)
    assert sum(str(attributes.get("id")).startswith("picture-") for attributes, _ in page.scripts) == 13


def test_the_gallery_may_have_the_worst_alone_while_all_count(run: DrawnRun) -> None:
    written, page = report(run, judged(run), gallery=3)
    assert [*page.cases] == [*cases_of(run, judged(run))][:3]
    assert written.shown == 3
    assert "The 3 worst of 13 cases are here" in page.text
    assert "13 images" in " ".join(page.text.split())


def test_without_truth_the_model_is_described(run: DrawnRun) -> None:
    _, page = report(run)
    text = " ".join(page.text.split())
    assert "12 images 1 failed 11 segmented" in text
    assert "confidence, median" in text
    assert "True outline" not in page.source
    assert page.source.count('class="plot"') == 5
    assert "jaccard" not in page.cases["case_1"]


def test_labels_alone_give_the_figures_of_the_classes(run: DrawnRun) -> None:
    evaluation = evaluate(run.labels / "labels.csv", run.masks)
    _, page = report(run, evaluation)
    assert f"{evaluation.scores.auc_mean:.3f}" in page.text
    assert "ROC curves" in page.text
    assert page.cases["case_1"]["state"] == "segmented"


def test_a_curve_is_that_of_the_figure_under_it_whatever_an_image_weighs(
    run: DrawnRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [line for line in (run.labels / "labels.csv").read_text().splitlines() if line]
    weights = ["score_weight", *(number % 3 for number in range(len(rows) - 1))]
    (run.labels / "labels.csv").write_text("".join(f"{row},{each}\n" for row, each in zip(rows, weights, strict=True)))
    evaluation = judged(run)
    drawn: dict[str, Roc] = {}
    monkeypatch.setattr(plots, "roc_curves", lambda curves, _: drawn.update(curves) or "<svg/>")
    figures.plots(list(cases_of(run, evaluation).values()), (), evaluation)
    assert {name.replace(" ", "_"): float(auc(curve)) for name, curve in drawn.items()} == pytest.approx(
        evaluation.scores.auc
    )
    assert len(drawn) == 2


def test_nothing_reaches_out(run: DrawnRun) -> None:
    """The policy allows the page's own script and style, by their hashes, and pictures that are in the file."""
    _, page = report(run, judged(run))
    (script,) = (text for attributes, text in page.scripts if "type" not in attributes)
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (page.styles[0], script)]
    assert page.policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{hashes[0]}'",
        f"script-src 'sha256-{hashes[1]}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert len(page.styles) == 1
    assert set(re.findall(r"https?://[\w./]*", page.source)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    attributes = [each for _, each in page.elements]
    assert not [each for each in attributes if "style" in each or any(key.startswith("on") for key in each)]
    places = [str(each[key]) for each in attributes for key in ("href", "src") if key in each]
    assert all(place.startswith(("#", "data:")) for place in places)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows takes no such names")
def test_names_and_reasons_are_text(tmp_path: Path) -> None:
    plain, hostile = DrawnRun(tmp_path / "plain"), DrawnRun(tmp_path / HOSTILE.replace("/", "_"))
    for run, name, reason in ((plain, "name", "reason"), (hostile, HOSTILE.replace("/", "_"), HOSTILE)):
        run.add(name, 0)
        run.add("other", 1)
        run.add_failed(f"{name}2.jpg", reason)
        run.labelled = [(name, 1, 0), ("other", 0, 1)]
        run.finish()
        (run.masks / "run.json").write_text(json.dumps({"model": reason, "device": reason}))
    given = ((plain, "x"), (hostile, HOSTILE))
    pages = [report(run, judged(run), about={"command": reason})[1] for run, reason in given]
    assert [tag for tag, _ in pages[1].elements] == [tag for tag, _ in pages[0].elements]
    assert pages[1].cases[HOSTILE.replace("/", "_") + "2"]["reason"] == HOSTILE
    assert HOSTILE in pages[1].text


def test_a_problem_of_a_picture_ends_no_script(run: DrawnRun, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = pictures.Picture(b"", 4, 3, "", "", ("</script><b>",))
    monkeypatch.setattr("lesioncli.report.page.draw_all", lambda cases, _: iter([picture] * len(cases)))
    _, page = report(run)
    assert page.json("picture-0")["problems"] == ["</script><b>"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_a_name_that_is_no_unicode_is_shown_with_its_escapes(tmp_path: Path) -> None:
    run = DrawnRun(tmp_path)
    run.add(os.fsdecode(b"caf\xe9"), 0, truth=False)
    run.rows = [{**run.rows[0], "image": "caf\\udce9.jpg", "mask": "caf\\udce9.png"}]
    _, page = report(run.finish())
    (case,) = page.cases.values()
    assert case["image"] == "caf\\udce9.jpg"
    assert page.json("picture-0")["webp"]
    assert page.json("picture-0")["prediction"]


def test_an_interrupted_report_leaves_what_was_there(run: DrawnRun) -> None:
    path = run.masks.parent / "report.html"
    path.write_text("before")

    def stop(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        report(run, judged(run), on_progress=stop)
    assert path.read_text() == "before"
    assert not [*run.masks.parent.glob(".*.part")]


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named_with_its_extra(
    run: DrawnRun, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"{package} is not installed.*lesioncli\[report\]"):
        report(run, judged(run))


# The command


def test_report_just_works_after_a_run(run: DrawnRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("report")
    assert done.exit_code == 5, "an image of the run had failed"
    assert "photographs: images (as run.json says)" in done.stderr
    assert "report.html: 1 failed, 11 segmented (" in done.stdout
    done = call("report", "masks", "--gt", "labels", "--out", "sub/mine.html", "--gallery", "4")
    assert done.exit_code == 5
    assert "10 judged" in done.stdout
    assert "the gallery has the 4 worst, --gallery shows more" in done.stdout
    done = call("report", "--gt", "labels")
    assert "not shown: lonely: no photograph found" in done.stderr
    assert Page(tmp_path / "sub" / "mine.html").cases


def test_report_is_all_right_where_all_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = DrawnRun(tmp_path)
    run.add("a", 0)
    run.finish()
    monkeypatch.chdir(tmp_path)
    assert call("report", "--gt", "labels").exit_code == 0
    shutil.rmtree("images")
    done = call("report")
    assert done.exit_code == 0, "nobody gave photographs"
    assert "none (none found; give them with --images)" in done.stderr
    assert "1</b> without a photograph" in Path("report.html").read_text()


def test_a_report_that_cannot_be_written_is_said(run: DrawnRun) -> None:
    done = call("report", str(run.masks), "--out", str(run.labels / "labels.csv" / "report.html"))
    assert done.exit_code == 3
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "labels.csv/report.html: cannot be written (" in done.stderr
    assert done.stderr.endswith("); name another with --out\n")


def test_a_file_that_is_no_html_is_not_replaced(tmp_path: Path, run: DrawnRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = run.labels / "labels.csv"
    before = table.read_text()
    done = call("report", str(run.masks), "--gt", str(run.labels), "--out", str(table))
    assert done.exit_code == 3
    assert "labels.csv: not an HTML file, so not replaced by a report; name another file with --out" in done.stderr
    assert table.read_text() == before
    (tmp_path / "empty.html").touch()
    for name in ("empty.html", "empty.html"):
        assert call("report", str(run.masks), "--out", name).exit_code == 5  # one image failed


def test_a_report_says_what_its_intervals_drew_together(
    run: DrawnRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.csv").write_text("image,patient\n" + "".join(f"{name},P\n" for name, *_ in run.labelled))
    call("report", "--gt", "labels", "--metadata", "more.csv", "--cluster", "patient")
    text = " ".join(Page(Path("report.html")).text.split())
    assert "all images of one patient are drawn together, 1 of them" in text
    assert "Intervals are percentile bootstraps over clusters of images (patient)." in text
    call("report", "--gt", "labels")
    assert "Intervals are percentile bootstraps over images." in Page(Path("report.html")).text


def test_of_many_problems_some_are_named(run: DrawnRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(22):
        write_mask(run.labels / f"alone_{number:02d}_segmentation.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    said = call("report", "--gt", "labels").stderr
    assert said.count("not shown: ") == 20
    assert "... and 3 more; each is said in its case" in said


def test_wrong_flags_of_report(run: DrawnRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrong: dict[Sequence[str], int] = {
        ("--protocol", "mine"): 2,
        ("--labels", "labels/labels.csv"): 2,
        ("--by", "sex"): 2,
        ("--gt", "labels", "--by", "sex"): 3,
        ("--cluster", "patient"): 2,
        ("--gt", "labels", "--cluster", "patient"): 3,
        ("--gallery", "-1"): 2,
        ("--images", "gone"): 3,
        ("--gt", "gone"): 3,
        ("gone",): 3,
    }
    for words, code in wrong.items():
        assert call("report", *words).exit_code == code, words
    assert not Path("report.html").exists()
