"""The report in a real browser: with mouse and keyboard, in light and dark, printed, and on a phone.

The first test is fast and covers the everyday case: load, open an image, no errors. The others are slow.
"""

import os
import shutil
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers.drawn_run import HEIGHT, WIDTH, DrawnRun
from PIL import Image

from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.result import Evaluation
from lesioncli.inference.pictures import write_mask
from lesioncli.report.options import ReportOptions
from lesioncli.report.page import write_report
from lesioncli.segmented import read_segmented_folder

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "msedge")
# No update checks, and no sandbox for root, who has none in a container.
QUIET = ("--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update")
ARGUMENTS = [*QUIET, "--disable-sync", *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else [])]
WORST_FIRST = [f"case_{2 * shift + offset:02d}.jpg" for shift in range(29, -1, -1) for offset in (0, 1)]
HOSTILE = "<img src=x onerror=alert(1)>"

pytestmark = pytest.mark.browser
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    wanted = os.environ.get("CHROMIUM")
    program = shutil.which(wanted) if wanted else next(filter(None, map(shutil.which, PROGRAMS)), None)
    assert program or not wanted, f"CHROMIUM is {wanted}, and there is no such program"
    if not program:
        pytest.skip(f"none of {', '.join(PROGRAMS)} found; name a browser with CHROMIUM=...")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> DrawnRun:
    """Sixty images with ground truth, in the order WORST_FIRST; one failed, one without ground truth, one missing."""
    drawn = DrawnRun(tmp_path_factory.mktemp("run"))
    for number in range(60):
        case = drawn.add(f"case_{number:02d}", 3, shift_px=number // 2, melanoma=round(number * 7 % 60 / 60, 3))
        distinct = case.image // 2 + np.uint8(number)
        Image.fromarray(distinct).save(drawn.images / f"case_{number:02d}.jpg")
    drawn.add(HOSTILE, 3, truth=False)
    drawn.add_failed("broken.jpg")
    drawn.labelled = [
        (name, int(number % 3 == 0), int(number % 3 == 1)) for number, (name, *_) in enumerate(drawn.labelled)
    ]
    write_mask(drawn.labels / "lonely_segmentation.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    return drawn.finish()


@pytest.fixture(scope="module")
def evaluation(run: DrawnRun) -> Evaluation:
    return evaluate(run.labels, run.masks)


@pytest.fixture(scope="module")
def written(run: DrawnRun, evaluation: Evaluation) -> Path:
    return write(run, run.masks.parent / "report.html", evaluation)


def write(run: DrawnRun, path: Path, evaluation: Evaluation | None = None) -> Path:
    write_report(read_segmented_folder(run.masks), path, ReportOptions((run.images,)), evaluation)
    return path


class Watched:
    """A page, and the `noises` that it must not make: console messages, errors, dialogs, requests to a network."""

    def __init__(self, page: "Page", path: Path) -> None:
        self.page = page
        self.noises: list[str] = []
        page.on("console", lambda message: self.noises.append(message.text))
        page.on("pageerror", lambda error: self.noises.append(str(error)))
        page.on("dialog", lambda dialog: self.noises.append(dialog.message))
        page.on("request", lambda request: self._check(request.url))
        page.goto(path.as_uri())

    def _check(self, url: str) -> None:
        if not url.startswith(("file:", "data:")):
            self.noises.append(url)


@pytest.fixture
def page(browser: "Browser", written: Path) -> "Iterator[Page]":
    """The report in a new window; afterwards it must have made no noise."""
    context = browser.new_context(viewport={"width": 1200, "height": 800}, reduced_motion="reduce")
    watched = Watched(context.new_page(), written)
    yield watched.page
    context.close()
    assert watched.noises == []


def names(page: "Page") -> list[str]:
    """Return the names in the gallery."""
    return page.locator("#gallery .name").all_text_contents()


def ordered(page: "Page", first: str) -> list[str]:
    """Return the names in the gallery, once this one is first."""
    from playwright.sync_api import expect

    expect(page.locator("#gallery .name").first).to_have_text(first)
    return names(page)


def settled(page: "Page", count: str) -> list[str]:
    """Return the names in the gallery, once it shows this count."""
    from playwright.sync_api import expect

    expect(page.locator("#count")).to_have_text(count)
    return names(page)


def focused(page: "Page") -> str:
    return str(page.evaluate("document.activeElement.querySelector('.name')?.textContent ?? document.activeElement.id"))


def box(locator: "Locator") -> tuple[float, float, float, float]:
    found = locator.bounding_box()
    assert found
    return found["x"], found["y"], found["width"], found["height"]


def test_page_loads_opens_an_image_and_makes_no_errors(page: "Page") -> None:
    assert page.title() == f"{page.locator('h1').inner_text()}: lesioncli report"
    assert page.locator(".counts").inner_text().split("\n")[0] == "63 images"
    page.locator(".card", has_text="case_40.jpg").click()
    assert page.locator("#viewer-title").inner_text() == "case_40.jpg"
    assert page.locator("#stage img").evaluate("image => image.decode().then(() => image.naturalWidth)") == WIDTH
    assert page.locator("#stage path.predicted").count() == page.locator("#stage path.truth").count() == 2
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    page.locator("#text").fill("no such name")
    page.locator("#no-match").wait_for()


@slow
def test_page_shows_the_headline_metrics_and_plots(page: "Page", evaluation: Evaluation) -> None:
    assert page.title() == f"{page.locator('h1').inner_text()}: lesioncli report"
    tiles = page.locator(".tiles").inner_text()
    assert f"{evaluation.masks.means['jaccard']:.3f}" in tiles
    assert f"{evaluation.scores.auc_mean:.3f}" in tiles
    plots = page.locator("svg.plot")
    assert plots.count() == 6
    for plot in plots.all():
        _, _, width, height = box(plot)
        assert width > 250
        assert height > 150
        assert len(plot.get_attribute("aria-label") or "") > 20
    assert page.locator(".counts").inner_text().split("\n")[0] == "63 images"


@slow
def test_gallery_is_worst_first_and_loads_pictures_in_view(page: "Page") -> None:
    shown = settled(page, "63 images")
    assert shown == ["broken.jpg", "lonely", *WORST_FIRST, f"{HOSTILE}.jpg"]
    assert page.locator(".card img").count() == 0, "they are far below"
    page.locator("#cases").scroll_into_view_if_needed()
    card = page.locator(".card", has_text="case_59.jpg")
    card.locator("img").wait_for()
    assert (
        page.evaluate(
            "(card => card.querySelector('img').decode().then(() => card.querySelector('img').naturalWidth))"
            "(document.querySelectorAll('.card')[2])"
        )
        == WIDTH
    )
    assert card.locator("path.predicted").count() == card.locator("path.truth").count() == 2  # a line and its casing
    assert "truncated" in page.locator(".card", has_text="broken.jpg").locator(".problem").inner_text()
    page.locator(".card").last.scroll_into_view_if_needed()
    page.locator(".card").last.locator("img").wait_for()
    page.keyboard.press("Home")
    card.locator("img").wait_for(state="detached")


@slow
def test_outlines_cover_the_image(page: "Page") -> None:
    """Both have the same box, whatever the shape of the frame."""
    page.locator("#cases").scroll_into_view_if_needed()
    page.locator(".card", has_text="case_00.jpg").click()
    image, svg = page.locator("#stage img"), page.locator("#stage svg")
    assert box(image) == box(svg)
    assert page.evaluate("getComputedStyle(document.querySelector('#stage img')).objectFit") == "contain"
    ratio = svg.evaluate("svg => svg.viewBox.baseVal.width / svg.viewBox.baseVal.height")
    assert ratio == pytest.approx(WIDTH / HEIGHT, rel=0.01)


@slow
def test_sorting(page: "Page") -> None:
    page.locator("#sort").select_option("name")
    assert ordered(page, f"{HOSTILE}.jpg")[:3] == [f"{HOSTILE}.jpg", "broken.jpg", "case_00.jpg"]
    page.locator("#descending").check()
    assert ordered(page, "lonely")[:2] == ["lonely", "case_59.jpg"]
    page.locator("#sort").select_option("melanoma")
    shown = ordered(page, "case_17.jpg")  # 17 * 7 % 60 = 59, the highest
    assert set(shown[-2:]) == {"broken.jpg", "lonely"}, "what has no score is last"
    assert "melanoma 0.98" in page.locator(".card").first.inner_text()
    page.locator("#descending").uncheck()
    assert set(ordered(page, "case_00.jpg")[-2:]) == {"broken.jpg", "lonely"}


@slow
def test_filtering(page: "Page", evaluation: Evaluation) -> None:
    page.locator("#text").fill("SE_1")
    assert settled(page, "10 of 63 images") == [name for name in WORST_FIRST if "se_1" in name]
    page.locator("#text").fill("")
    for state, count in {"failed": 1, "not evaluated": 1, "evaluated": 60, "without ground truth": 1}.items():
        page.locator("#state").select_option(state)
        settled(page, f"{count} of 63 images")
    page.get_by_role("button", name="Reset").click()
    settled(page, "63 images")
    below = sum(case.metrics["jaccard"] < 0.3 for case in evaluation.masks.cases if not case.problem)
    assert 0 < below < 60
    page.locator("#below").fill("0.3")
    settled(page, f"{below} of 63 images")
    page.locator("#below").fill("")
    page.locator("#class").select_option("label:melanoma")
    settled(page, "20 of 63 images")
    page.locator("#class").select_option("score:melanoma")
    settled(page, "29 of 63 images")
    page.locator("#text").fill("nowhere")
    assert settled(page, "0 of 63 images") == []


@slow
def test_open_image_shows_all_its_values(page: "Page", evaluation: Evaluation) -> None:
    page.locator(".card", has_text="case_40.jpg").click()
    viewer = page.locator("#viewer")
    viewer.wait_for()
    assert viewer.get_by_role("heading").inner_text() == "case_40.jpg"
    text = viewer.inner_text()
    case = next(case for case in evaluation.masks.cases if case.name == "case_40")
    for value in case.metrics.values():
        assert f"{value:.4f}".rstrip("0").rstrip(".") in text
    assert f"{WIDTH} x {HEIGHT} px" in text
    assert "seborrheic keratosis" in viewer.locator("#facts").inner_text()
    assert page.evaluate("location.hash") == "#case=case_40"
    assert "case_40.jpg" in (page.locator("#stage img").get_attribute("alt") or "")


@slow
def test_outlines_can_be_hidden(page: "Page") -> None:
    page.locator(".card", has_text="case_40.jpg").click()
    for kind, label, key in (("predicted", "prediction", "p"), ("truth", "ground truth", "t")):
        line = page.locator(f"#stage path.{kind}").first
        assert line.is_visible()
        page.locator("#viewer").get_by_label(label).uncheck()
        assert not line.is_visible()
        page.keyboard.press(key)
        assert line.is_visible()


@slow
def test_zoom_with_buttons_wheel_and_keys(page: "Page") -> None:
    page.locator(".card", has_text="case_40.jpg").click()
    stage = page.locator("#stage")
    x, y, width, height = box(stage)
    page.get_by_label("Zoom in").click()
    assert box(stage)[2] == pytest.approx(1.5 * width)
    page.keyboard.press("+")
    assert box(stage)[2] == pytest.approx(2.25 * width)
    page.keyboard.press("0")
    assert box(stage) == pytest.approx((x, y, width, height))
    page.mouse.move(x + width / 4, y + height / 4)
    page.mouse.wheel(0, -400)
    deadline = time.monotonic() + 10
    while box(stage)[2] <= 2 * width and time.monotonic() < deadline:  # the wheel's event comes when it comes
        page.wait_for_timeout(20)
    zoomed = box(stage)
    assert zoomed[2] > 2 * width
    assert (x + width / 4 - zoomed[0]) / zoomed[2] == pytest.approx(1 / 4, abs=0.01), "stays under the pointer"
    page.mouse.down()
    page.mouse.move(x + width / 4 + 50, y + height / 4 + 20)
    page.mouse.up()
    assert box(stage)[0] == pytest.approx(zoomed[0] + 50, abs=1)
    page.keyboard.press("Shift+ArrowLeft")
    assert box(stage)[0] == pytest.approx(zoomed[0] + 110, abs=1)


@slow
def test_everything_works_by_keyboard(page: "Page") -> None:
    page.keyboard.press("j")
    assert focused(page) == "broken.jpg"
    for key, name in (("j", "lonely"), ("ArrowRight", WORST_FIRST[0]), ("k", "lonely"), ("ArrowRight", WORST_FIRST[0])):
        page.keyboard.press(key)
        assert focused(page) == name
    per_row = page.evaluate("cardsPerRow()")
    assert per_row > 2
    page.keyboard.press("ArrowDown")
    assert focused(page) == WORST_FIRST[per_row]
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    title = page.locator("#viewer-title")
    assert title.inner_text() == WORST_FIRST[0]
    page.keyboard.press("ArrowRight")
    assert title.inner_text() == WORST_FIRST[1]
    page.keyboard.press("k")
    page.keyboard.press("k")
    assert title.inner_text() == "lonely"
    for _ in range(30):
        page.keyboard.press("Tab")
        inside = page.evaluate("document.activeElement === document.body || viewer.contains(document.activeElement)")
        assert inside, "the page below an open case is out of reach"
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    assert focused(page) == "lonely"
    page.keyboard.press("End")
    assert focused(page) == f"{HOSTILE}.jpg"
    page.keyboard.press("/")
    assert focused(page) == "text"
    page.keyboard.type("jk?")
    assert page.locator("#text").input_value() == "jk?"


@slow
def test_help_opens_and_keys_can_be_switched_off(page: "Page") -> None:
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.get_by_label("use keys of single characters").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert not page.locator("#help").is_visible()
    page.locator("#show-help").click()
    assert page.locator("#help").is_visible()


@slow
def test_gallery_is_one_stop_of_the_tab_key(page: "Page") -> None:
    stops = page.locator("#gallery [tabindex='0']")
    assert stops.count() == 1
    page.keyboard.press("j")
    page.keyboard.press("End")
    assert stops.count() == 1
    page.keyboard.press("Tab")
    assert not page.evaluate("gallery.contains(document.activeElement)")


@slow
def test_address_of_a_case_opens_it(browser: "Browser", written: Path) -> None:
    page = browser.new_page()
    page.goto(f"{written.as_uri()}#case=case_07")
    assert page.locator("#viewer-title").inner_text() == "case_07.jpg"
    page.close()


@slow
def test_text_has_contrast_in_light_dark_and_print(browser: "Browser", written: Path) -> None:
    """Text keeps its contrast to the ground: 4.5 to 1, as WCAG 2 asks for (1.4.3)."""
    page = browser.new_page()
    page.goto(written.as_uri())
    for scheme in ("light", "dark", "print"):
        if scheme == "print":
            page.emulate_media(media="print", color_scheme="dark")
        else:
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        for selector in ("h1", ".notice", ".bad", ".interval", "figcaption", ".plot text", "#about dt", "td"):
            assert page.evaluate(CONTRAST, selector) >= 4.5, (scheme, selector)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)", "paper is white, whatever the screen is"
    page.close()


CONTRAST = """selector => {
  const light = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number).map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, channel) => sum + value * [0.2126, 0.7152, 0.0722][channel], 0);
  const element = document.querySelector(selector);
  const style = getComputedStyle(element);
  const ink = element instanceof SVGElement ? style.fill : style.color;
  const colours = [ink, getComputedStyle(document.body).backgroundColor];
  const [text, ground] = colours.map(light);
  return (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
}"""


@slow
def test_print_has_the_worst_images_with_their_pictures(browser: "Browser", written: Path) -> None:
    page = browser.new_page()
    page.goto(written.as_uri())
    pdf = page.pdf(format="A4", print_background=True)
    assert pdf.count(b"/Subtype /Image") == 22, "of the 24 worst, one cannot be read and one has no photograph"
    assert page.locator("#gallery li.printed").count() == 24
    assert page.locator("#printed").text_content() == "The first 24 of 63 images are printed."
    page.emulate_media(media="print")
    assert not page.locator("#tools").is_visible()
    assert page.locator("#gallery li:visible").count() == 24
    page.close()


@slow
def test_phone_needs_no_sideways_scrolling(browser: "Browser", written: Path) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 700})
    page.goto(written.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator(".card", has_text="case_40.jpg").click()
    assert box(page.locator("#viewer"))[2] == 360
    assert page.locator("#stage img").is_visible()
    page.close()


@slow
def test_structure_serves_screen_readers(page: "Page") -> None:
    """Landmarks, one h1, no level left out, a name for every control, tables with headers and a caption."""
    for role in ("banner", "main", "navigation"):
        assert page.get_by_role(role).count() == 1
    headings = page.locator("h1, h2, h3").all()
    levels = [int(heading.evaluate("heading => heading.tagName[1]")) for heading in headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for control in page.locator("button, select, input").all():
        name = control.evaluate("e => e.ariaLabel || e.labels?.[0]?.textContent || e.textContent")
        assert name.strip(), control.evaluate("e => e.outerHTML")
    for table in page.locator("main table").all():
        assert table.locator("caption").count() == 1
        assert table.locator("thead th[scope=col]").count() >= 2
        assert table.locator("tbody tr").count() == table.locator("tbody th[scope=row]").count()


@slow
def test_without_ground_truth_the_lowest_confidence_comes_first(
    browser: "Browser", run: DrawnRun, tmp_path: Path
) -> None:
    write(run, tmp_path / "report.html")
    page = browser.new_page()
    watched = Watched(page, tmp_path / "report.html")
    assert settled(page, "62 images")[:2] == ["broken.jpg", "case_58.jpg"]
    assert page.locator("#below").count() == page.locator(".truth").count() == 0
    page.locator(".card", has_text="case_58.jpg").click()
    page.keyboard.press("t")
    assert page.locator("#viewer-title").inner_text() == "case_58.jpg"
    page.close()
    assert watched.noises == []
