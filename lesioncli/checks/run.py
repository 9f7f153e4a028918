"""Check data: read everything once, and run every check."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesioncli.checks import checks
from lesioncli.checks.checks import Check, Finding
from lesioncli.checks.data import CheckedData, Side, read_checked_data
from lesioncli.checks.measure import measure
from lesioncli.errors import install_command
from lesioncli.files import printable
from lesioncli.process import opencv_on_one_thread

FORMAT = 1  # of the JSON document


@dataclass(frozen=True)
class CheckResult:
    """What each check found, and the checks that were not run, with the reason."""

    data: CheckedData
    findings: Mapping[Check, Sequence[Finding]]
    not_run: Mapping[Check, str]

    @property
    def count(self) -> int:
        """Number of findings."""
        return sum(map(len, self.findings.values()))


def check_data(
    folders: Sequence[Path],
    validation: Sequence[Path] = (),
    workers: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> CheckResult:
    """Run all checks on folders of training data or images; `validation` are those of the other side of the split.

    `workers` 0: one thread per core. `on_progress` receives (done, total) files. Raises InputError if a folder does not
    exist or holds no images.
    """
    data = read_checked_data(folders, validation)
    with opencv_on_one_thread():
        measured = measure(data, workers, on_progress)
    findings: dict[Check, Sequence[Finding]] = {}
    not_run: dict[Check, str] = {}
    for check in checks.CHECKS:
        if check.extra and not check.extra.is_installed:
            not_run[check] = f"needs {install_command(check.extra.name)}"
        else:
            findings[check] = list(check.find(measured))
    return CheckResult(data, findings, not_run)


def describe_side(data: CheckedData, side: Side) -> str:
    """Return the numbers of images, masks and labels on one side of the split."""
    samples = data.on(side)
    masks, labels = sum(sample.mask is not None for sample in samples), sum(sample.is_labelled for sample in samples)
    return f"{side}: {len(samples)} images, {masks} with a mask, {labels} with a label"


def check_document(result: CheckResult) -> dict[str, Any]:
    """Return the result for JSON."""
    return {
        "format": FORMAT,
        "images": {side.value: len(result.data.on(side)) for side in Side},
        "findings": {
            check.name: [
                {"files": [printable(str(path)) for path in finding.files], "detail": printable(finding.detail)}
                for finding in findings
            ]
            for check, findings in result.findings.items()
        },
        "not_run": {check.name: reason for check, reason in result.not_run.items()},
        "notes": list(map(printable, result.data.notes)),
    }
