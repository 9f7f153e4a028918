"""Write the result of `check` to one HTML file, with the images of what was found."""

import base64
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lesioncli import __version__
from lesioncli.checks.checks import Finding
from lesioncli.checks.data import Side
from lesioncli.checks.run import CheckResult, describe_side
from lesioncli.errors import ImageError
from lesioncli.files import atomic_output, printable
from lesioncli.images.decode import decode
from lesioncli.process import count_cores
from lesioncli.report.page import TEMPLATES, make_environment, policy_hash
from lesioncli.report.pictures import encode_picture

MAX_SHOWN = 60  # findings per check; --json lists all
MAX_FILES = 4  # per finding
SIDE_PX = 256


def write_check_page(
    result: CheckResult, out: Path, folders: Sequence[Path], on_progress: Callable[[int, int], None] | None = None
) -> int:
    """Write the HTML file `out`, atomically, and return its size in bytes; `on_progress` receives (done, total).

    Raises InputError if it cannot be written.
    """
    shown = {check: findings[:MAX_SHOWN] for check, findings in result.findings.items()}
    pictures = _draw({path for findings in shown.values() for path in _shown_files(findings)}, on_progress)
    style = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "check.css"))
    checks = [
        {
            "name": check.name,
            "title": check.title,
            "count": len(result.findings[check]),
            "shown": [_describe(finding, pictures) for finding in findings],
        }
        for check, findings in shown.items()
    ]
    page = (
        make_environment()
        .get_template("check.html.j2")
        .generate(
            title=printable(", ".join(str(folder) if folder.name else folder.resolve().name for folder in folders)),
            sides=[describe_side(result.data, side) for side in Side if result.data.on(side)],
            notes=list(map(printable, result.data.notes)),
            count=result.count,
            checks=checks,
            not_run={check.title: reason for check, reason in result.not_run.items()},
            style=style,
            style_hash=policy_hash(style),
            version=__version__,
        )
    )
    with atomic_output(out, "--html") as temporary:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(page)
        return temporary.stat().st_size


def _shown_files(findings: Iterable[Finding]) -> list[Path]:
    return [path for finding in findings for path in finding.files[:MAX_FILES]]


def _describe(finding: Finding, pictures: dict[Path, str]) -> dict[str, Any]:
    files = [
        {"path": printable(str(path)), "name": _short_name(path), "webp": pictures[path]}
        for path in finding.files[:MAX_FILES]
    ]
    return {"files": files, "detail": printable(finding.detail), "more": max(0, len(finding.files) - MAX_FILES)}


def _short_name(path: Path) -> str:
    """Return the file's name with that of its folder, which often tells the side of the split."""
    return printable(f"{path.parent.name}/{path.name}")


def _draw(paths: Iterable[Path], on_progress: Callable[[int, int], None] | None) -> dict[Path, str]:
    """Return images and masks as WebP in base64, "" for those that cannot be read."""
    in_order = sorted(paths)
    pictures: dict[Path, str] = {}
    with ThreadPoolExecutor(count_cores()) as pool:
        for path, picture in zip(in_order, pool.map(_draw_one, in_order), strict=True):
            pictures[path] = picture
            if on_progress:
                on_progress(len(pictures), len(in_order))
    return pictures


def _draw_one(path: Path) -> str:
    try:
        rgb = decode(path, (SIDE_PX // 2, SIDE_PX // 2)).rgb  # decode() keeps twice as much
    except ImageError:
        return ""
    return base64.b64encode(encode_picture(rgb, SIDE_PX)).decode()
