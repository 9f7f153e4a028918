"""MkDocs hook: show documents from outside docs/ as pages, with links that work in the clone and on the site."""

import os
import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

# Document in the repository -> its page.
OUTSIDE = {
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "lesioncli/pretrained/multitask-lite.md": "models/multitask-lite.md",
    "lesioncli/pretrained/mbdcnn-lite.md": "models/mbdcnn-lite.md",
}
ORIGINS = {page: document for document, page in OUTSIDE.items()}
LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents of OUTSIDE."""
    for document, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=os.fspath(ROOT / document)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links between docs/ and the documents of OUTSIDE at their pages."""
    here = page.file.src_uri
    folder = dirname(ORIGINS.get(here, f"docs/{here}"))

    def link(match: re.Match[str]) -> str:
        target = match[1]
        if "://" in target:
            return target
        document = normpath(join(folder, target))
        found = OUTSIDE.get(document, document.removeprefix("docs/"))
        return relpath(found, dirname(here) or ".")

    return LINK.sub(link, markdown)
