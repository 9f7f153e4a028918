"""The command `segment`."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesioncli.cli.arguments import BackendOption, JsonOption, OptionalImagesArgument, RootOption
from lesioncli.cli.console import print_json, progress_bars, say
from lesioncli.cli.show_segmentation import describe_earlier, describe_remaining, print_summary, show_plan
from lesioncli.errors import ExitCode
from lesioncli.options import (
    MIN_THRESHOLD,
    TTA,
    Backend,
    FailureLimit,
    MaskStorage,
    ProcessOptions,
    Regions,
    SegmentOptions,
    Shard,
)
from lesioncli.sharding import AUTO, choose_shard
from lesioncli.signals import HANDLER
from lesioncli.urls import parse_place

if TYPE_CHECKING:
    from lesioncli.inference.record import RunSummary

MAX_WORKERS = 256  # memory is reserved for two images per thread
MAX_PROCESSES = 256
ALL = "all"


def segment(
    *,
    images: OptionalImagesArgument = None,
    image_list: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="List of the images in place of IMAGES: CSV of `list`, or one path per line; - for standard input.",
            show_default="none",
        ),
    ] = None,
    out: Annotated[
        str,
        typer.Option("--out", metavar="DIR", help="Folder for masks, scores.csv and run.json, or s3://bucket/folder/."),
    ],
    engine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Name of an engine in engines/, or path of a manifest (.json). Repeatable: several are averaged.",
            show_default="that of the default model, or the only one in engines/",
        ),
    ] = None,
    backend: BackendOption = Backend.AUTO,
    batch: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Images per batch; an existing engine must have been built for it."),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=0, max=MAX_WORKERS, metavar="N", help="Threads that decode images and write masks; 0: one per core."
        ),
    ] = 0,
    max_memory: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="MIB",
            help="MiB for images in work; large ones wait for it.",
            show_default="half of what is free",
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            min=MIN_THRESHOLD,
            max=1.0,
            metavar="P",
            help="Minimum lesion probability of a mask pixel, in steps of 1/255.",
        ),
    ] = 0.5,
    tta: Annotated[
        TTA, typer.Option(help="Test-time augmentation: views per image, 1 (none), 4 (flips) or 27 (full).")
    ] = TTA.NONE,
    regions: Annotated[
        Regions, typer.Option(help="Connected regions that a mask keeps: the largest one, or all.")
    ] = Regions.LARGEST,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write images with the outline of the mask, to overlays/.")
    ] = False,
    save_probabilities: Annotated[
        bool,
        typer.Option(
            "--save-probabilities", help="Also write the lesion probability of each pixel, to probabilities/."
        ),
    ] = False,
    crops: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="PERCENT",
            help="Also cut the lesion out of the full-size image, to crops/, with a margin in % of its longer side.",
            show_default="none",
        ),
    ] = None,
    mm_per_pixel: Annotated[
        float | None,
        typer.Option(
            metavar="MM",
            help="Side of a pixel of all images in millimetres, for area, perimeter and axes in mm.",
            show_default="that in a DICOM file, else unknown",
        ),
    ] = None,
    masks: Annotated[
        MaskStorage, typer.Option(help="How masks are stored: each in a file, or 10,000 in a tar archive.")
    ] = MaskStorage.FILES,
    isic_names: Annotated[
        bool, typer.Option("--isic", help="Name masks as ISIC does: ISIC_0012345_segmentation.png.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the results in --out first, also those of another engine.")
    ] = False,
    no_verify: Annotated[
        bool,
        typer.Option("--no-verify", help="Skip the parity check of an engine that never ran on this GPU."),
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(help="JSON file to write a timeline of the run to, for ui.perfetto.dev.", metavar="FILE.json"),
    ] = None,
    root: RootOption = None,
    max_failures: Annotated[
        str | None,
        typer.Option(
            metavar="N|P%",
            help="Accept this many failed images, or per cent, with exit code 0; stop early when there are more.",
            show_default="accept none, never stop",
        ),
    ] = None,
    check_inputs: Annotated[
        bool,
        typer.Option("--check-inputs", help="Compare the content of finished images, not only their size and time."),
    ] = False,
    grace: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Time to finish images in work after the first Ctrl-C or SIGTERM."),
    ] = 20.0,
    engine_timeout: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="End with exit code 4 if the engine hangs: no answer for so long, when it is opened or to one batch;"
            " 0: wait for ever.",
        ),
    ] = 600.0,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove rows and masks of images that are gone, in place of marking them.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; tell what the run would do, and why.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Name every image with its status.")] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Segment only those of the IMAGES on which the run in --out failed; keep all others."
        ),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N",
            help="Segment part K of N only, for `merge`; auto or auto/N: by the variables of an array job.",
            show_default="all images",
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File to append events to, as JSON lines: start, heartbeat, failed images, end."
        ),
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(metavar="FILE.prom", help="Prometheus text file to write counts and speed to, every 15 seconds."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_PROCESSES,
            metavar="N",
            help="Share the images among N processes; --workers is then the number of threads of each.",
            show_default="1, or one per device",
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="all|N,N",
            help="Share the images among processes on these GPUs, by their numbers in doctor.",
            show_default="the first GPU that fits the engine",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Share the images among workers of a Ray cluster: HOST:PORT; auto for the one that this machine"
            " belongs to; local for one of this machine alone.",
            show_default="no cluster",
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Write one mask and one row of class scores per image.

    If engines/ has no engine, that of the default model is built first. If the command is stopped, run it again:
    finished images are skipped. Exit code 5: some images failed; scores.csv names them with the reason.
    """
    from lesioncli import api

    _check_arguments(images, image_list)
    _check_suffixes({"--trace": (trace, ".json"), "--metrics": (metrics, ".prom")})
    if retry_failed and overwrite:
        raise typer.BadParameter("removes what --retry-failed continues; give one of them", param_hint="--overwrite")
    with _number_errors():
        options = SegmentOptions(
            threshold,
            workers,
            overlay,
            tta,
            regions,
            isic_names,
            overwrite,
            verify=not no_verify,
            trace=trace,
            save_probabilities=save_probabilities,
            max_memory_mib=max_memory,
            root=None if root is None else parse_place(root),
            crops=crops,
            mm_per_pixel=mm_per_pixel,
            max_failures=_parse_limit(max_failures),
            check_inputs=check_inputs,
            prune=prune,
            image_list=image_list,
            retry_failed=retry_failed,
            shard=_choose_shard(shard),
            log=log,
            metrics=metrics,
            engine_timeout_s=engine_timeout or None,
            processes=_choose_processes(processes, devices, ray),
            masks=masks,
        )
    HANDLER.grace_s = grace
    with progress_bars(bars=not json_output, names_images=verbose, stop=HANDLER.stop) as progress:
        if dry_run:
            plan = api.plan_segmentation(
                images or (), out, options, engine=engine, backend=backend, batch=batch, progress=progress
            )
            raise typer.Exit(show_plan(plan, verbose, json_output))
        summary = api.segment_folder(
            images or (), out, options, engine=engine, backend=backend, batch=batch, progress=progress
        )
    if json_output:
        print_json(summary.to_dict())
    else:
        kinds = {"masks": True, "overlays/": overlay, "probabilities/": save_probabilities}
        kinds["crops/"] = crops is not None
        print_summary(summary, [name for name, is_written in kinds.items() if is_written], options.shard)
    for line in describe_earlier(summary):
        say(line)
    if summary.remaining:
        say(describe_remaining(summary, retry_failed))
    raise typer.Exit(_exit_code(summary, options.max_failures))


def _check_suffixes(files: Mapping[str, tuple[Path | None, str]]) -> None:
    """Refuse names that the programs which read these files do not know."""
    for flag, (path, suffix) in files.items():
        if path and path.suffix.lower() != suffix:
            raise typer.BadParameter(f"{path} does not end in {suffix}", param_hint=flag)


def _check_arguments(images: Sequence[str] | None, image_list: Path | None) -> None:
    if not images and image_list is None:
        raise typer.BadParameter("name images or folders, or a list with --from", param_hint="IMAGES")
    if images and image_list is not None:
        raise typer.BadParameter("is a list of all images; leave out IMAGES", param_hint="--from")


@contextmanager
def _number_errors() -> Iterator[None]:
    """Turn a ValueError of the options, as for `nan`, into a usage error."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _choose_shard(text: str | None) -> Shard | None:
    if text is None:
        return None
    try:
        chosen = choose_shard(text, os.environ)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--shard") from error
    if text.startswith(AUTO):
        say(f"shard {chosen.value}: {chosen.reason}")
    return chosen.value


def _choose_processes(count: int | None, devices: str | None, ray: str | None) -> ProcessOptions | None:
    """Return the processes of the flags; None for this process alone. ValueError if the flags contradict each other."""
    if (count, devices, ray) in ((None, None, None), (1, None, None)):
        return None
    if devices is None:
        return ProcessOptions(count, ray=ray)
    try:
        numbers = () if devices == ALL else tuple(map(int, devices.split(",")))
    except ValueError as error:
        raise typer.BadParameter(f"{devices!r} is not all or numbers such as 0,1", param_hint="--devices") from error
    return ProcessOptions(count, numbers, ray)


def _parse_limit(text: str | None) -> FailureLimit | None:
    try:
        return None if text is None else FailureLimit.parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a number such as 10, or 2%", param_hint="--max-failures") from error


def _exit_code(summary: "RunSummary", limit: FailureLimit | None) -> int:
    """Return the code of the signal that stopped the run, else whether too many images failed."""
    if summary.remaining and HANDLER.exit_code:
        return HANDLER.exit_code
    are_accepted = limit is not None and not limit.is_exceeded(summary.failed, summary.images)
    has_failed = bool(summary.failed) and not are_accepted
    return ExitCode.SOME_FAILED if has_failed or summary.remaining or summary.unreadable else ExitCode.OK
