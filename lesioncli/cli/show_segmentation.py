"""Print what `segment` has done, or would do."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lesioncli.cli.console import print_json, print_line, say
from lesioncli.errors import ExitCode
from lesioncli.options import Shard
from lesioncli.sharding import shard_folder

if TYPE_CHECKING:
    from lesioncli.inference.plan import RunPlan
    from lesioncli.inference.record import RunSummary


def show_plan(plan: "RunPlan", names_images: bool, as_json: bool) -> int:
    """Print what a run would do; return the exit code."""
    for name, reason in plan.to_do.items() if names_images else ():
        say(f"{name}: {reason}")
    if as_json:
        print_json(plan.to_dict())
    else:
        reasons = ", ".join(f"{count} {reason}" for reason, count in plan.reasons.items())
        print_line(
            f"{plan.images} images: {len(plan.to_do)} to segment{f' ({reasons})' * bool(reasons)}, {plan.done} done;"
            " nothing was written"
        )
        if plan.left:
            print_line(f"{plan.left} other images have no result and would be left")
        if plan.removes:
            print_line(f"--overwrite removes the results in {plan.out}/ first")
        if plan.gone:
            print_line(f"{plan.gone} rows are of images that are gone")
    return ExitCode.SOME_FAILED if plan.unreadable else ExitCode.OK


def print_summary(summary: "RunSummary", pictures: Sequence[str], shard: Shard | None) -> None:
    """Print counts, speed and where the results are; `pictures` are the kinds that were written."""
    out = summary.out.rstrip("/")
    rows = f"are in {out}/, rows in {out}/{shard_folder(Path(), shard)}/" if shard else f"and scores.csv are in {out}/"
    speed = f", {summary.images_per_second:.0f} images/s" if summary.ok + summary.failed else ""
    print_line(
        f"{summary.images} images: {summary.ok} ok, {summary.failed} failed, {summary.skipped} skipped"
        f" ({summary.seconds:.1f} s{speed}); {', '.join(pictures)} {rows}"
    )
    if shard:
        print_line(f"when all {shard.count} shards are done, run lesioncli merge {out}")
    if summary.ok + summary.skipped > len(summary.least_confident):
        names = ", ".join(f"{lowest.image} ({lowest.confidence:.2f})" for lowest in summary.least_confident)
        print_line(f"lowest confidence, worth a look: {names}")


def describe_earlier(summary: "RunSummary") -> list[str]:
    """Return what the run found changed in the results of earlier runs."""
    lines = {
        f"{summary.changed} images had changed since they were segmented, and are segmented again": summary.changed,
        f"{summary.gone} rows are of images that are gone; --prune removes them": summary.gone,
        f"{summary.pruned} rows of images that are gone were removed": summary.pruned,
    }
    return [line for line, count in lines.items() if count]


def describe_remaining(summary: "RunSummary", retry_failed: bool) -> str:
    """Return what is left to do, and how."""
    remain = f"{summary.remaining} of {summary.images} images remain"
    if retry_failed:
        return f"{remain}, for which --retry-failed is not meant; the same command without it continues"
    return f"interrupted: {remain}; the same command continues"
