"""The command line: parse, one library call, render. The only place that prints or exits.

Results go to stdout, everything about how it goes to stderr. Imports of the library stand inside the commands, so that
--help is there at once.
"""

import dataclasses
import logging
import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from lesioncli import __version__
from lesioncli.cli.render import (
    compiling,
    counting,
    engine_json,
    err,
    list_some,
    out,
    plain,
    print_json,
    report_run,
    report_written,
    say,
    segmenting,
    training_progress,
)
from lesioncli.cli.show_evaluation import evaluation_json, print_evaluation, tell_evaluation
from lesioncli.errors import (
    EngineError,
    ExitCode,
    InputError,
    LesionError,
    MissingPackageError,
)
from lesioncli.files import printable

if TYPE_CHECKING:
    from lesioncli.backends.build import Built, Compiler
    from lesioncli.backends.tensorrt.compile import Settings
    from lesioncli.images.files import ImageFile
    from lesioncli.images.geometry import UInt8

ENGINES = Path("engines")
RESUMED = ("segment", "train")  # these go on where they were stopped
MAX_WORKERS = 256  # slots are made for two images a thread, and 99,999 of them never end
GATE_PICTURES = 32  # drawn ones cost 25 ms each; fewer let a bf16 engine pass that is off on photographs


class Group(TyperGroup):
    """Turns the program's errors into a message and their exit code, for the shell and for tests alike."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # typer carries its own click, untyped
        try:
            return super().invoke(ctx)
        except LesionError as error:
            err.print(f"[bold red]error:[/] {plain(error)}", soft_wrap=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            resumed = "; what is finished is kept, the same command goes on from there"
            err.print("interrupted" + resumed * (ctx.invoked_subcommand in RESUMED))
            raise typer.Exit(ExitCode.INTERRUPTED) from error
        except Exception as error:  # the one place where a bug is met: it gets its traceback and exit code 1
            if type(error).__module__.startswith(("typer", "click")) or isinstance(error, BrokenPipeError):
                raise  # a usage error, an exit, or a reader such as `head` that has seen enough
            traceback.print_exc()
            err.print(f"this is a bug in lesioncli {__version__}; please report it with the lines above")
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    app(prog_name="lesioncli")


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"lesioncli {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Lesion masks and class scores for folders of dermoscopic images. A research tool, not a medical device."""


By = Annotated[
    list[str] | None,
    typer.Option(help="Split by a column of --metadata or of the labels, or by lesion_size.", metavar="COLUMN"),
]
Cluster = Annotated[
    str,
    typer.Option(
        help="Intervals draw all images of one value, such as a patient, together.",
        metavar="COLUMN",
        show_default="each alone",
    ),
]
Metadata = Annotated[Path | None, typer.Option(help="CSV with more about the images, for --by and --cluster.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
Backend = Annotated[
    str, typer.Option(help="auto, openvino (CPU), tensorrt or tensorrt-rtx (NVIDIA GPUs).", metavar="NAME")
]


@app.command("build-engine")
def build_engine(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A recipe's name, a checkpoint (.safetensors, .pt) or an .onnx graph.",
            show_default="the shipped model",
        ),
    ] = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the engine and its manifest.")] = ENGINES,
    name: Annotated[str | None, typer.Option(help="What to call the engine.", show_default="the model's name")] = None,
    backend: Backend = "auto",
    precision: Annotated[
        str | None,
        typer.Option(help="auto, fp32, bf16 (CPU) or fp16 (NVIDIA GPUs).", show_default="the recipe's, else auto"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images a batch.", show_default="the recipe's, else 1")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of pictures for the parity gate.", show_default="drawn ones")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="tensorrt-rtx: compute capabilities to compile for, with commas, as in sm86,sm89.",
            show_default="sm80,sm86,sm89,sm120",
        ),
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="NVIDIA: take batches of one image up to --batch, not of --batch alone.")
    ] = False,
    workspace: Annotated[
        int | None, typer.Option(min=1, help="NVIDIA: MiB of GPU memory for scratch.", show_default="the compiler's")
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option(min=0, max=5, help="NVIDIA: the compiler's effort.", show_default="the compiler's, 3")
    ] = None,
    json_output: Json = False,
) -> None:
    """Build an engine and check it, or the graph that it is compiled of, on pictures."""
    from lesioncli.backends.registry import BACKENDS, choose_backend
    from lesioncli.backends.tensorrt.compile import Settings

    _one_of("--backend", backend, ("auto", *BACKENDS))
    chosen, reason = choose_backend(backend)
    _one_of("--precision", precision or "auto", ("auto", "fp32", "bf16" if chosen == "openvino" else "fp16"))
    targets = [each.strip().lower() for each in (target or "").split(",") if each.strip()]
    say(f"backend {chosen}: {reason}")
    with compiling(not json_output) as tell:
        settings = Settings(targets, dynamic, workspace, optimization_level, out_folder, tell)
        built = _build(model, out_folder, name, precision, batch, images, _compiler(chosen, settings))
    say(f"precision {built.manifest.precision}: {built.reason}")
    if json_output:
        print_json({"engine": str(built.path), **dataclasses.asdict(built.manifest)})
        return
    parity = built.manifest.parity
    judged = "agrees" if built.manifest.gated == "engine" else "cannot be run here, but what it is compiled of agrees"
    out.print(
        f"{plain(built.path)}: {judged} with the graph on {parity['images']:.0f} pictures: "
        f"mask Jaccard {parity['mask_jaccard']:.4f} (worst {parity['worst_mask_jaccard']:.4f}), "
        f"scores within {parity['score_difference']:.4f}",
        soft_wrap=True,
    )


def _compiler(backend: str, settings: "Settings") -> "Compiler | None":
    """The compiler of an NVIDIA backend; None is the CPU's, which takes none of the settings."""
    from lesioncli.backends.tensorrt.compile import open_compiler
    from lesioncli.backends.tensorrt.vendors import VENDORS

    if backend in VENDORS:
        return open_compiler(VENDORS[backend], settings)
    given = {
        "--target": bool(settings.targets),
        "--dynamic": settings.dynamic,
        "--workspace": settings.workspace_mib is not None,
        "--optimization-level": settings.optimization_level is not None,
    }
    for flag in (flag for flag, is_given in given.items() if is_given):
        raise typer.BadParameter(f"goes with --backend {' or '.join(VENDORS)}", param_hint=flag)
    return None


def _build(
    model: str | None,
    folder: Path,
    name: str | None,
    precision: str | None,
    batch: int | None,
    images: Path | None,
    compiler: "Compiler | None" = None,
) -> "Built":
    from lesioncli.backends.build import build
    from lesioncli.source import resolve

    with TemporaryDirectory() as work:
        source = resolve(model, Path(work))
        settings = source.settings
        return build(
            source.onnx,
            folder,
            _gate_pictures(images),
            compiler=compiler,
            precision=precision or settings.precision,
            batch=batch or settings.batch,
            reference=source.reference,
            name=name,
        )


def _gate_pictures(folder: Path | None) -> "list[UInt8]":
    if folder is None:
        from lesioncli.demo.draw import draw_case

        return [draw_case(seed, 256, 320).image for seed in range(GATE_PICTURES)]
    from lesioncli.images.files import find_images
    from lesioncli.inference.run import sample_pictures

    pictures = sample_pictures(find_images([folder]), GATE_PICTURES, (256, 256))
    if not pictures:
        raise InputError(f"{folder}: none of the pictures tried can be read, so the engine cannot be checked on them")
    return pictures


@app.command()
def segment(
    images: Annotated[list[Path], typer.Argument(help="Images, and folders of them (with sub-folders).")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for masks, scores.csv and run.json.")],
    engine: Annotated[
        str | None,
        typer.Option(
            help="A model's name in engines/, or a manifest (.json).",
            show_default="the shipped model's, else the only one there",
        ),
    ] = None,
    backend: Backend = "auto",
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images a batch; an engine that is there must be built for it.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, max=MAX_WORKERS, help="Threads that decode and write; 0 is one a core.")
    ] = 0,
    threshold: Annotated[float, typer.Option(min=0.004, max=1.0, help="Lesion from this probability on.")] = 0.5,
    tta: Annotated[
        str, typer.Option(help="Views of each picture: none (one), flips (four) or full (27).", metavar="NAME")
    ] = "none",
    regions: Annotated[
        str, typer.Option(help="What a mask keeps: the largest connected region, or all.", metavar="NAME")
    ] = "largest",
    overlay: Annotated[bool, typer.Option("--overlay", help="Also draw each outline over a reduced picture.")] = False,
    isic_names: Annotated[
        bool, typer.Option("--isic", help="Name masks as ISIC does: ISIC_0012345_segmentation.png.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew: masks of before are removed, even another engine's.")
    ] = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Trust an engine that was compiled elsewhere and never ran on this GPU.")
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(help="Also write what was done when, as a timeline for ui.perfetto.dev.", metavar="FILE.json"),
    ] = None,
    json_output: Json = False,
) -> None:
    """Write a mask and a row of scores for every image; started again, it does what is missing."""
    from lesioncli.backends.registry import BACKENDS, open_engine
    from lesioncli.images.files import named_as_isic, passed_over_in_words, search
    from lesioncli.inference.pipeline import REGIONS, Options
    from lesioncli.inference.run import run
    from lesioncli.inference.trace import Trace
    from lesioncli.inference.tta import PROCEDURES
    from lesioncli.process import count_cores

    _one_of("--backend", backend, ("auto", *BACKENDS))
    _one_of("--tta", tta, tuple(PROCEDURES))
    _one_of("--regions", regions, REGIONS)
    if trace and trace.suffix.lower() != ".json":
        raise typer.BadParameter(f"{trace} does not end in .json", param_hint="--trace")
    _quiet_decoders()
    searched = search(images, exclude=out_folder)
    found = named_as_isic(searched.images) if isic_names else searched.images
    if searched.passed_over:
        say(passed_over_in_words(searched.passed_over))
    manifest = _engine_for(engine, backend, batch)
    if not no_verify:
        _verify(manifest, found)
    with (
        open_engine(manifest, 2 * (workers or count_cores()), PROCEDURES[tta].layout, trace is not None) as opened,
        Trace.writing(trace) if trace else nullcontext() as timeline,
        segmenting(found, not json_output) as tell,
    ):
        options = Options(threshold, workers, overlay, tta, regions, timeline)
        if batch not in (None, opened.batch_size):
            raise InputError(
                f"{manifest}: is built for batches of {opened.batch_size}; run: lesioncli build-engine --batch {batch}"
            )
        summary = run(
            found,
            opened,
            out_folder,
            options,
            overwrite=overwrite,
            sources=images,
            passed_over=searched.passed_over,
            on_outcome=tell,
        )
    report_run(summary, json_output)
    if summary.failed:
        raise typer.Exit(ExitCode.SOME_FAILED)


def _engine_for(asked: str | None, asked_backend: str, batch: int | None) -> Path:
    """The manifest of the engine to use; the shipped model's is built where there is none. Says which, and why.

    One that is asked for by its path may be for another backend than "auto" chooses; EngineError where it is for
    another than was asked for.
    """
    from lesioncli.backends.base import Manifest
    from lesioncli.backends.registry import choose_backend, find_engine
    from lesioncli.backends.tensorrt.compile import Settings
    from lesioncli.backends.tensorrt.driver import find_gpus

    backend, why = choose_backend(asked_backend)
    path, reason = find_engine(asked, backend, ENGINES)
    if path is not None:
        if (its_own := Manifest.read(path).backend) != backend:
            if asked_backend != "auto":
                raise EngineError(f"{path}: is built for {its_own}; to use it, leave out --backend {asked_backend}")
            backend, why = its_own, "what this engine is built for"
        say(f"engine {path} ({reason}); backend {backend}: {why}")
        return path
    if backend != "openvino" and (problem := find_gpus()[1]):
        raise EngineError(f"{backend}: {problem}; run: lesioncli build-engine")
    _check_place_for_engine(backend)
    with compiling(True) as tell:
        built = _build(None, ENGINES, None, None, batch, None, _compiler(backend, Settings(on_progress=tell)))
    say(
        f"engine {built.path} built now, {reason}; backend {backend}: {why}; {built.manifest.precision}: {built.reason}"
    )
    return built.path


def _check_place_for_engine(backend: str) -> None:
    """InputError where the engine that segment would build by itself has no place; another --out would not help."""
    from lesioncli.backends.registry import SHIPPED_MODEL, manifest_path

    try:
        ENGINES.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=ENGINES, prefix=".building-"):
            pass
    except OSError as error:
        elsewhere = manifest_path(Path("DIR"), SHIPPED_MODEL, backend)
        raise InputError(
            f"{ENGINES}/ cannot be made or written here ({error.strerror}), and an engine is needed; run: lesioncli"
            f" build-engine --out DIR, then this command with --engine {elsewhere}"
        ) from error


def _verify(path: Path, images: "Sequence[ImageFile]") -> None:
    """Gate an engine on some of the run's own pictures, where it never ran on this GPU."""
    from lesioncli.backends.base import Manifest
    from lesioncli.backends.parity import PICTURES, unverified_on, verify
    from lesioncli.inference.run import sample_pictures

    manifest = Manifest.read(path)
    if gpu := unverified_on(manifest):
        pictures = sample_pictures(images, PICTURES, (manifest.spec.height, manifest.spec.width))
        say(f"first run on {gpu}: the engine {verify(path, gpu, pictures or _gate_pictures(None))}")


@app.command()
def evaluate(
    truth: Annotated[
        Path, typer.Option("--gt", help="True masks and labels: a folder, a data set, a CSV of pairs or of labels.")
    ],
    predictions: Annotated[Path, typer.Option("--pred", help="Folder that segment wrote.")] = Path("masks"),
    protocol: Annotated[
        str, typer.Option(help="Whose rules: plain, isic2017, isic2018 or ph2.", metavar="NAME")
    ] = "plain",
    labels: Annotated[Path | None, typer.Option(help="CSV with labels.", show_default="the one in --gt")] = None,
    scores: Annotated[Path | None, typer.Option(help="CSV with scores.", show_default="scores.csv in --pred")] = None,
    distances: Annotated[
        bool, typer.Option("--distances", help="Also measure how far apart outlines, areas and centres are.")
    ] = False,
    compare: Annotated[
        Path | None, typer.Option(help="Other predictions of the same images, to be told apart from.", metavar="OTHER")
    ] = None,
    by: By = None,
    cluster: Cluster = "",
    metadata: Metadata = None,
    score_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Called positive above this score, but in official figures.")
    ] = 0.5,
    csv_path: Annotated[
        Path | None, typer.Option("--csv", help="Per-image results.", show_default="evaluation.csv in --pred")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Threads that read masks; 0 is one a core.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap intervals.")] = 0,
    json_output: Json = False,
) -> None:
    """Compare masks and scores with the truth: per image, and means with 95 % intervals.

    threshold_jaccard is the Jaccard, and 0 for an image where that is below .65.
    """
    from lesioncli.evaluation.evaluate import evaluate as judge
    from lesioncli.evaluation.protocols import PROTOCOLS
    from lesioncli.evaluation.results import refuse_others, write_tables
    from lesioncli.process import keep_freed_memory

    _one_of("--protocol", protocol, tuple(PROTOCOLS))
    path = csv_path or predictions / "evaluation.csv"
    refuse_others(path, comparing=compare is not None)
    keep_freed_memory()
    with counting("comparing", not json_output) as tell:
        evaluation = judge(
            truth,
            predictions,
            protocol=protocol,
            labels=labels,
            scores=scores,
            distances=distances,
            other=compare,
            by=by or (),
            cluster=cluster,
            metadata=metadata,
            positive_above=score_threshold,
            workers=workers,
            seed=seed,
            on_progress=tell,
        )
    if json_output:
        print_json(evaluation_json(evaluation, protocol))
    else:
        print_evaluation(evaluation, protocol)
    tell_evaluation(evaluation, protocol)
    for written in write_tables(evaluation, path):  # last, so that a full disk takes no figure with it
        if not json_output:
            out.print(f"per image: {plain(written)}", soft_wrap=True)
    if evaluation.failed:
        raise typer.Exit(ExitCode.SOME_FAILED)


@app.command()
def report(
    predictions: Annotated[Path, typer.Argument(help="Folder that segment wrote.")] = Path("masks"),
    images: Annotated[
        list[Path] | None,
        typer.Option(
            help="The photographs, or a folder of them; may be given several times.", show_default="as run.json says"
        ),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option("--gt", help="True masks and labels, as evaluate takes them.", show_default="none")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="CSV with labels.", show_default="the one in --gt")] = None,
    protocol: Annotated[
        str, typer.Option(help="Whose rules: plain, isic2017, isic2018 or ph2.", metavar="NAME")
    ] = "plain",
    by: By = None,
    cluster: Cluster = "",
    metadata: Metadata = None,
    out_file: Annotated[Path, typer.Option("--out", help="The HTML file.")] = Path("report.html"),
    gallery: Annotated[int, typer.Option(min=0, help="The gallery shows this many cases, the worst first.")] = 3000,
    workers: Annotated[int, typer.Option(min=0, help="Threads that read and draw; 0 is one a core.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap intervals.")] = 0,
) -> None:
    """Write one HTML file to look at: figures, plots and a gallery of the cases, the worst first."""
    from lesioncli.evaluation.evaluate import evaluate as judge
    from lesioncli.evaluation.protocols import PROTOCOLS
    from lesioncli.report.cases import choose_sources
    from lesioncli.report.page import refuse_others, write_report

    _one_of("--protocol", protocol, tuple(PROTOCOLS))
    with_truth = {"--labels": labels, "--by": by, "--cluster": cluster, "--metadata": metadata}
    if unfit := [flag for flag, given in with_truth.items() if given and not truth]:
        raise typer.BadParameter("goes with --gt", param_hint=unfit[0])
    refuse_others(out_file)
    _quiet_decoders()
    sources, why = choose_sources(predictions, images or [])
    say(f"photographs: {', '.join(map(str, sources)) or 'none'} ({why})")
    evaluation = None
    if truth:
        with counting("comparing") as tell:
            evaluation = judge(
                truth,
                predictions,
                protocol=protocol,
                labels=labels,
                by=by or (),
                cluster=cluster,
                metadata=metadata,
                workers=workers,
                seed=seed,
                on_progress=tell,
            )
    about = {
        "photographs": ", ".join(map(str, sources)) or "none",
        "truth": str(truth or "none"),
        **({"labels": str(labels)} if labels else {}),
        **({"protocol": protocol} if truth else {}),
        "command": shlex.join(["lesioncli", *sys.argv[1:]]),
    }
    with counting("drawing") as tell:
        written = write_report(
            predictions,
            out_file,
            sources=sources,
            evaluation=evaluation,
            protocol=protocol,
            about={name: printable(value) for name, value in about.items()},
            gallery=gallery,
            workers=workers,
            on_progress=tell,
        )
    report_written(written)
    if written.failed or (evaluation and evaluation.failed):
        raise typer.Exit(ExitCode.SOME_FAILED)


@app.command()
def submission(
    predictions: Annotated[Path, typer.Argument(help="Folder that segment wrote.")] = Path("masks"),
    challenge: Annotated[
        str, typer.Option("--protocol", help="Which challenge: isic2017 or isic2018.", metavar="NAME")
    ] = "isic2017",
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the files.")] = Path("submission"),
    json_output: Json = False,
) -> None:
    """Write masks and scores as the files that an ISIC challenge asks for."""
    from lesioncli.evaluation.submission import CHALLENGES, write_submission

    _one_of("--protocol", challenge, tuple(CHALLENGES))
    written = write_submission(predictions, out_folder, challenge)
    if json_output:
        files = {str(path): images for path, images in written.files.items()}
        print_json({"files": files, "problems": written.problems, "notes": written.notes})
    else:
        for path, images in written.files.items():
            out.print(f"{plain(path)}: {images} images", soft_wrap=True)
    list_some("note", written.notes)
    list_some("left out", written.problems)
    if written.problems:
        raise typer.Exit(ExitCode.SOME_FAILED)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="New folder; gets images/ and labels/.")],
    count: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first picture.")] = 0,
    size: Annotated[tuple[int, int], typer.Option(min=64, help="Width and height in pixels.")] = (640, 480),
) -> None:
    """Draw dermoscopy-like pictures with known masks and labels, for trying things out without data."""
    from lesioncli.demo.folder import write_demo

    width, height = size
    write_demo(folder, count, seed, height, width)
    folders = [plain(folder / each) for each in ("images", "labels")]
    out.print(f"{count} drawn pictures in {folders[0]}, their masks and labels in {folders[1]}")


@app.command()
def engines(
    folder: Annotated[Path, typer.Argument(help="Folder to look into.")] = ENGINES,
    json_output: Json = False,
) -> None:
    """List the engines in a folder, and whether each would run here."""
    from lesioncli.backends.registry import list_engines

    found = list_engines(folder)
    if json_output:
        print_json([engine_json(each) for each in found])
        return
    if not found:
        out.print(f"no engines in {plain(folder)}/; run: lesioncli build-engine", soft_wrap=True)
    for each in found:
        out.print(f"{plain(each.path.name)}: {plain(each.description)}", soft_wrap=True)
        out.print(
            f"  [red]does not run here:[/] {plain(each.problem)}" if each.problem else "  runs here", soft_wrap=True
        )


@app.command()
def doctor(json_output: Json = False) -> None:
    """Say what is installed, which engine would run and why, and what command fixes what is missing."""
    from rich.table import Table

    from lesioncli.doctor import examine

    findings = examine(ENGINES)
    if json_output:
        print_json([dataclasses.asdict(each) for each in findings])
    else:
        table = Table("what", "state", box=None)
        for each in findings:
            table.add_row(each.subject, plain(each.state))
        out.print(table)
        for each in findings:  # whole, so that a command can be copied
            if each.fix:
                out.print(f"to fix {each.subject}: {plain(each.fix)}", soft_wrap=True)
    if any(each.needed and each.fix for each in findings):
        raise typer.Exit(4)


@app.command()
def train(
    recipe: Annotated[str, typer.Option(help="A recipe's name, or a path to a .toml.")],
    data: Annotated[list[Path], typer.Option(help="Folder of training data; may be given several times.")],
    run_folder: Annotated[Path, typer.Option("--out", help="Folder of the run; holding one, it is resumed.")],
    validation: Annotated[
        list[Path] | None, typer.Option("--val", help="Validation data.", show_default="the --data folders' own")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Train this stage only.", show_default="all, in order")] = None,
    start: Annotated[Path | None, typer.Option(help="A checkpoint whose networks are taken where they fit.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, order and augmentation.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train a network from a recipe, stage by stage; killed and started again, it ends with the same weights."""
    _one_of("--device", device, ("auto", "cpu", "cuda"))
    try:
        from lesioncli.training.datasets import collect
        from lesioncli.training.devices import choose_device, make_fabric
        from lesioncli.training.trainer import Task
        from lesioncli.training.trainer import train as library
    except ModuleNotFoundError as error:
        raise MissingPackageError(str(error.name), "train") from error
    from lesioncli.process import keep_freed_memory
    from lesioncli.training.recipe import find_recipe, load_recipe

    resolved = load_recipe(find_recipe(recipe))
    training, held_out = collect(data, validation or data, resolved.train.exclude)
    chosen, reason = choose_device(device)
    if chosen == "cpu":
        keep_freed_memory()
    fabric, precision = make_fabric(chosen)
    first = fabric.is_global_zero  # of several processes, one speaks
    if first:
        counts = [f"{len(each)} ({sum(one.is_labelled for one in each)} labelled)" for each in (training, held_out)]
        say(f"{counts[0]} training and {counts[1]} validation samples; device {chosen}: {reason}; {precision}")
    with training_progress(first) as (on_step, on_epoch):
        task = Task(
            resolved, training, held_out, run_folder, seed, start, on_step, on_epoch, say if first else lambda _: None
        )
        best = library(task, fabric, stage)
    if first:
        out.print(f"best checkpoint: {plain(best)}; next: lesioncli build-engine {plain(best)}", soft_wrap=True)


def _quiet_decoders() -> None:
    """What a decoder has to say of a damaged file is in its row; its warnings would come between the progress lines."""
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def _one_of(flag: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(allowed)}", param_hint=flag)
