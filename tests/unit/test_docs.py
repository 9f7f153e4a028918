"""Documents: command lines can be typed, figures agree, links lead somewhere, and the site needs no network."""

import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer.main
import yaml

from lesioncli import __version__
from lesioncli.cli.app import app

ROOT = Path(__file__).parents[2]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # typer carries its own click, untyped
CARDS = sorted((ROOT / "lesioncli/pretrained").glob("*.md"))
OUTSIDE_DOCS = [*sorted(ROOT.glob("*.md")), *CARDS, ROOT / "engines/README.md"]
DOCUMENTS = [*OUTSIDE_DOCS, *sorted((ROOT / "docs").rglob("*.md"))]


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _shown_lines() -> list[tuple[str, str]]:
    """Return the (document, line) of every line in a block of shell commands, without comments."""
    shown = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8").replace("\\\n", " ")
        for language, block in re.findall(r"^```(sh|console)\n(.*?)^```", text, re.M | re.S):
            prompts = [line for line in block.splitlines() if language == "sh" or line.startswith("$ ")]
            lines = [line.removeprefix("$ ").partition("  #")[0].strip() for line in prompts]
            shown += [(document.relative_to(ROOT).as_posix(), line) for line in lines]
    return shown


SHOWN = _shown_lines()
LESIONCLI_LINES = sorted({line for _, line in SHOWN if line.startswith("lesioncli ")})


@pytest.mark.parametrize("line", LESIONCLI_LINES)
def test_shown_line_has_a_command_and_visible_options(line: str) -> None:
    _, command, *words = shlex.split(line)
    if command.startswith("-"):
        return
    visible = {
        option
        for parameter in COMMANDS[command].params
        if not getattr(parameter, "hidden", False)
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert {word for word in words if word.startswith("--")} <= visible | {"--help"}


def test_shown_scripts_exist() -> None:
    scripts = {line.split()[1] for _, line in SHOWN if line.startswith("python benchmarks")}
    assert scripts
    assert [script for script in sorted(scripts) if not (ROOT / script).is_file()] == []


@pytest.mark.parametrize(
    "line", ["lesioncli build-engine", "lesioncli segment ./images --out masks/", "lesioncli evaluate --gt ./labels"]
)
def test_readme_shows_the_three_lines(line: str) -> None:
    assert ("README.md", line) in SHOWN


def test_make_targets_are_described() -> None:
    targets = re.findall(r"^([a-z-]+):.*##", _text("Makefile"), re.M)
    assert {"help", "demo", "test", "docs"} <= set(targets)
    described = set(re.findall(r"`make ([a-z-]+)`", _text("docs/contributing.md")))
    assert described == set(targets)


@pytest.mark.parametrize(("document", "lines"), [("README.md", 150), ("ARCHITECTURE.md", 100)])
def test_document_is_short(document: str, lines: int) -> None:
    assert len(_text(document).splitlines()) <= lines


def test_registries_in_architecture_exist() -> None:
    registries = re.findall(r"`(\w+)` in `(\w[\w/]*\.py)`", _text("ARCHITECTURE.md"))
    assert len(registries) >= 10
    assert [
        (name, module)
        for name, module in registries
        if not re.search(rf"^(class )?{name}\b", _text(f"lesioncli/{module}"), re.M)
    ] == []


def test_readme_repeats_the_figures_of_the_model_cards() -> None:
    cards = "".join(card.read_text(encoding="utf-8") for card in CARDS).replace("**", "")
    figures = re.findall(r"\.\d{3} \(\.\d{3} to \d?\.\d{3}\)", _text("README.md"))
    assert len(figures) >= 6
    assert [figure for figure in figures if figure not in cards] == []


def test_the_tests_of_promises_exist() -> None:
    tests = set(re.findall(r"`((?:unit|cli|slow)/[\w/]+\.py)`", _text("docs/reliability.md")))
    assert len(tests) >= 10
    assert [name for name in sorted(tests) if not (ROOT / "tests" / name).is_file()] == []


def test_release_documents_name_this_version() -> None:
    assert re.search(r"^## (\S+)", _text("CHANGELOG.md"), re.M)[1] == __version__  # type: ignore[index]  # None fails
    assert f"\nversion: {__version__}\n" in _text("CITATION.cff")


@pytest.mark.parametrize("page", sorted((ROOT / "docs/decisions").glob("0*.md")), ids=lambda page: page.stem)
def test_decision_has_its_parts_in_order(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    parts = re.findall(r"^## (.*)", text, re.M)
    assert parts[:2] == ["Context", "Decision"]
    assert parts[2:] in ([], ["Rejected"], ["When to look again"], ["Rejected", "When to look again"])
    assert text.startswith(f"# {page.name[:4]}: ")


@pytest.mark.parametrize("document", OUTSIDE_DOCS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_outside_the_site_lead_to_files(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[)#]", document.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (document.parent / target).exists()] == []


class _Loads(HTMLParser):
    """Collects what a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "link" and attributes.get("rel") == "canonical":
            return
        name = "href" if tag == "link" else "src"
        if tag in {"link", "script", "img", "iframe", "source"} and attributes.get(name):
            self.addresses.append(str(attributes[name]))


def test_site_builds_without_broken_links_and_loads_nothing_from_the_network(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) > 50
    loads = _Loads()
    for page in pages:
        loads.feed(page.read_text(encoding="utf-8"))
    assert loads.addresses
    assert [address for address in loads.addresses if re.match(r"(https?:)?//", address)] == []
    styles = "".join(style.read_text(encoding="utf-8") for style in tmp_path.rglob("*.css"))
    assert not re.search(r"url\(\s*['\"]?(https?:)?//|@import", styles)


@pytest.mark.parametrize("name", ["bug_report", "feature_request"])
def test_issue_forms_have_what_github_asks_for(name: str) -> None:
    form = yaml.safe_load(_text(f".github/ISSUE_TEMPLATE/{name}.yml"))
    assert {"name", "description", "body"} <= set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) >= 3
    assert all(field["type"] in ("input", "textarea") and field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)
