"""The HTML file of a report: its content, its security, and how it is written. test_browser.py opens it."""

import base64
import hashlib
import json
import os
import re
import sys
from dataclasses import replace
from math import nan
from pathlib import Path

import pytest
from helpers.drawn_run import DrawnRun
from helpers.report_page import EvaluatedRun, Page, write_page

from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.protocols import PROTOCOLS
from lesioncli.options import EvaluationOptions, ProtocolName
from lesioncli.report import page as page_module
from lesioncli.report.cases import list_cases
from lesioncli.report.data import ReportData
from lesioncli.report.pictures import Picture, draw
from lesioncli.report.sections import SECTIONS, Render, Section
from lesioncli.segmented import find_image_files, read_segmented_folder

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;'


def test_page_shows_the_metrics_of_evaluate(evaluated: EvaluatedRun) -> None:
    masks, scores, page = evaluated.evaluation.masks, evaluated.evaluation.scores, evaluated.page
    for key, value in masks.means.items():
        assert f"{value:.4f}" in page.text, key
        low, high = masks.intervals[key]
        assert f"{low:.3f} to {high:.3f}" in page.text, key
    for value in (*scores.auc.values(), scores.auc_mean):
        assert f"{value:.3f}" in page.text
    for case in masks.cases:
        shown = page.cases[case.name]
        assert {key: shown[key] for key in case.metrics} == pytest.approx(case.metrics, abs=1e-5)


def test_classes_have_their_metrics_intervals_and_confusion_matrix(evaluated: EvaluatedRun) -> None:
    scores, page = evaluated.evaluation.scores, evaluated.page
    for name, intervals in scores.per_class_intervals.items():
        for key, (low, high) in intervals.items():
            assert f"{scores.per_class[name][key]:.3f} {low:.3f} to {high:.3f}" in page.words, (name, key)
    assert scores.matrix
    for name, counts in zip(scores.matrix.classes, scores.matrix.counts, strict=True):
        assert f"{name.replace('_', ' ')}{''.join(map(str, counts))}" in page.text


def test_reliability_of_scores_and_confidence_is_shown(evaluated: EvaluatedRun) -> None:
    masks, scores, page = evaluated.evaluation.masks, evaluated.evaluation.scores, evaluated.page
    tables = [masks.confidence.reliability, *scores.reliability.values()]
    assert len(tables) == 3
    for table in tables:
        assert table
        for row in table:
            interval = f"{row.interval[0]:.3f} to {row.interval[1]:.3f}"
            assert f"{row.images}{row.mean:.3f}{row.observed:.3f}{interval}" in page.text.replace("\n", "")


def test_groups_and_those_that_are_behind_are_shown(run: DrawnRun, tmp_path: Path) -> None:
    for number in range(10, 60):
        run.add(f"case_{number}", number, shift_px=40 if number % 2 else 0)
    table = tmp_path / "more.csv"
    sides = [(name, "<left>" if int(name[-2:].lstrip("_")) % 2 else "right") for name, *_ in run.labelled]
    table.write_text("image,side\n" + "".join(f"{name},{side}\n" for name, side in sides))
    run.finish()
    options = EvaluationOptions(by=("side", "lesion_size"), metadata=table)
    evaluation = evaluate(run.labels, run.masks, options)
    groups = {group.group: group for group in evaluation.groups if group.column == "side"}
    assert groups["<left>"].behind == ("jaccard",)
    _, page = write_page(run, evaluation)
    for name in ("<left>", "right"):
        estimate = groups[name].estimates["jaccard"]
        interval = f"{estimate.low:.3f} to {estimate.high:.3f}"
        assert f"{name}{groups[name].images}{estimate.value:.3f} {interval}" in page.words
    difference = groups["<left>"].differences["jaccard"]
    assert f"Jaccard {difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})" in page.words
    assert page.words.count("Jaccard -") == 1
    assert "lesion size" in page.text


def section_ids(page: Page) -> list[str | None]:
    return [attributes.get("id") for tag, attributes in page.elements if tag == "section"]


def test_ranked_metric_has_its_official_name(run: DrawnRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, ProtocolName.PH2, replace(PROTOCOLS[ProtocolName.PH2], data_set=None))

    def written() -> str:
        evaluation = evaluate(run.labels, run.masks, EvaluationOptions(ProtocolName.PH2))
        return write_page(run, evaluation)[1].words

    assert "No official figures of masks and scores by ph2" in written()
    (run.labels / "lonely_segmentation.png").unlink()
    value = evaluate(run.labels, run.masks).masks.means["jaccard"]
    assert f"macro_average.jaccard: {value:.4f}" in written()
    assert "No official figures" not in written()


def test_header_counts_all_states(evaluated: EvaluatedRun) -> None:
    written, page = evaluated.written, evaluated.page
    assert section_ids(page) == ["results", "classes", "cases", "about"]
    header = page.words[: page.words.index("not a medical device")]
    for count in ("13 images", "1 failed", "1 not evaluated", "10 evaluated", "1 without ground truth"):
        assert count in header
    assert written.states == {
        "failed": 1,
        "not evaluated": 1,
        "evaluated": 10,
        "without ground truth": 1,
        "segmented": 0,
    }
    (problem,) = written.problems
    assert problem.startswith("lonely: ")
    assert written.failed
    assert (written.shown, written.size_bytes) == (13, written.path.stat().st_size)


def test_page_names_the_run_and_the_command(run: DrawnRun) -> None:
    _, page = write_page(run, about={"command": "lesioncli report --gt labels"})
    for text in ("drawn", "ab" * 32, "2026-01-02", "lesioncli report --gt labels"):
        assert text in page.text


def test_pictures_follow_in_the_order_of_the_cases(evaluated: EvaluatedRun) -> None:
    run, evaluation, page = evaluated.run, evaluated.evaluation, evaluated.page
    cases = list_cases(read_segmented_folder(run.masks), find_image_files([run.images], run.masks), evaluation)
    for number, case in enumerate(cases):
        block, picture = page.json(f"picture-{number}"), draw(case)
        assert base64.b64decode(block["webp"]) == picture.webp
        assert (block["truth"], block["prediction"]) == (picture.truth, picture.prediction)
    assert sum(str(attributes.get("id")).startswith("picture-") for attributes, _ in page.scripts) == 13


def test_gallery_may_show_the_worst_only_while_all_count(evaluated: EvaluatedRun) -> None:
    written, page = write_page(evaluated.run, evaluated.evaluation, gallery=3)
    assert [*page.cases] == [*evaluated.page.cases][:3]
    assert written.shown == 3
    assert "3 worst of 13 images" in page.words
    assert "13 images" in page.words


def test_without_ground_truth_the_scores_are_described(run: DrawnRun) -> None:
    _, page = write_page(run)
    assert "12 images 1 failed 11 segmented" in page.words
    assert page.source.count('class="plot"') == 5
    assert "jaccard" not in page.cases["case_1"]
    assert section_ids(page) == ["results", "cases", "about"]


def test_labels_alone_give_the_metrics_of_the_classes(run: DrawnRun) -> None:
    evaluation = evaluate(run.labels / "labels.csv", run.masks)
    _, page = write_page(run, evaluation)
    assert f"{evaluation.scores.auc_mean:.3f}" in page.text
    assert "classes" in section_ids(page)
    assert page.cases["case_1"]["state"] == "segmented"


def test_a_new_section_is_one_function_and_one_line_of_the_table(
    run: DrawnRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake_section(data: ReportData, render: Render) -> Section:
        return Section("fake", "A new section", f"<p>It has {len(data.cases)} cases.</p>")

    monkeypatch.setattr(page_module, "SECTIONS", (*SECTIONS, fake_section))
    _, page = write_page(run)
    assert section_ids(page)[-1] == "fake"
    assert "#fake" in [attributes.get("href") for tag, attributes in page.elements if tag == "a"]
    assert "It has 12 cases." in page.text


def test_a_new_column_is_shown_and_is_not_a_class(run: DrawnRun) -> None:
    run.columns = (*run.columns[:8], "blur", *run.columns[8:])
    run.rows = [{**row, "blur": "0.25"} for row in run.rows]
    _, page = write_page(run.finish(), evaluate(run.labels, run.masks))
    assert page.cases["case_1"]["blur"] == 0.25
    assert page.json("data")["classes"] == ["melanoma", "seborrheic_keratosis", "nevus"]
    options = [attributes.get("value") for tag, attributes in page.elements if tag == "option"]
    assert "blur" in options
    assert "score:blur" not in options


# Security


def test_page_loads_nothing(evaluated: EvaluatedRun) -> None:
    """The policy allows only the page's own script and style, by their hashes, and images inside the file."""
    page = evaluated.page
    (script,) = (text for attributes, text in page.scripts if "type" not in attributes)
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (page.styles[0], script)]
    assert page.security_policy.split("; ") == [
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
    all_attributes = [attributes for _, attributes in page.elements]
    assert not [names for names in all_attributes if "style" in names or any(key.startswith("on") for key in names)]
    links = [str(attributes[key]) for attributes in all_attributes for key in ("href", "src") if key in attributes]
    assert all(link.startswith(("#", "data:")) for link in links)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such file names")
def test_names_and_reasons_are_text(tmp_path: Path) -> None:
    safe, hostile = DrawnRun(tmp_path / "safe"), DrawnRun(tmp_path / HOSTILE.replace("/", "_"))
    for run, name, reason in ((safe, "name", "reason"), (hostile, HOSTILE.replace("/", "_"), HOSTILE)):
        run.add(name, 0)
        run.add("other", 1)
        run.add_failed(f"{name}2.jpg", reason)
        run.labelled = [(name, 1, 0), ("other", 0, 1)]
        run.finish(model=reason, device=reason)
    pages = [
        write_page(run, evaluate(run.labels, run.masks), about={"command": text})[1]
        for run, text in ((safe, "x"), (hostile, HOSTILE))
    ]
    assert [tag for tag, _ in pages[1].elements] == [tag for tag, _ in pages[0].elements]
    assert pages[1].cases[HOSTILE.replace("/", "_") + "2"]["problem"] == HOSTILE
    assert HOSTILE in pages[1].text


def test_problem_of_a_picture_cannot_end_a_script(run: DrawnRun, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Picture(b"", 4, 3, "", "", ("</script><b>",))
    monkeypatch.setattr("lesioncli.report.gallery.draw_all", lambda cases, _: iter([picture] * len(cases)))
    _, page = write_page(run)
    assert page.json("picture-0")["problems"] == ["</script><b>"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_name_that_is_not_unicode_is_shown_with_escapes(tmp_path: Path) -> None:
    run = DrawnRun(tmp_path)
    run.add(os.fsdecode(b"caf\xe9"), 0, truth=False)
    run.rows = [{**run.rows[0], "image": "caf\\udce9.jpg", "mask": "caf\\udce9.png"}]
    _, page = write_page(run.finish())
    (case,) = page.cases.values()
    assert case["image"] == "caf\\udce9.jpg"
    assert page.json("picture-0")["webp"]
    assert page.json("picture-0")["prediction"]


# Writing


def test_interrupted_report_leaves_the_old_file(run: DrawnRun) -> None:
    path = run.masks.parent / "report.html"
    path.write_text("before")

    def interrupt(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_page(run, on_progress=interrupt)
    assert path.read_text() == "before"
    assert not [*run.masks.parent.glob(".*.part")]


def test_json_of_the_gallery_has_no_nan(run: DrawnRun) -> None:
    _, page = write_page(run)
    json.dumps(page.json("data"), allow_nan=False)


@pytest.mark.parametrize(
    ("value", "shown"), [(0.28149, "0.281"), (99.9, "99.900"), (34397.5, "34398"), (nan, "undefined")]
)
def test_numbers_of_pixels_have_no_decimals(value: float, shown: str) -> None:
    assert page_module.make_environment().filters["number"](value) == shown
