"""The command `build-engine`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesioncli.cli.arguments import BackendOption, JsonOption
from lesioncli.cli.console import print_json, print_line, progress_bars
from lesioncli.files import ENGINES
from lesioncli.options import Backend, BuildOptions, Precision

if TYPE_CHECKING:
    from lesioncli.backends.build import BuiltEngine
    from lesioncli.backends.manifest import Manifest

FLAGS = {  # field of BuildOptions that not every backend has -> its flag
    "targets": "--target",
    "dynamic": "--dynamic",
    "workspace_mib": "--workspace",
    "optimization_level": "--optimization-level",
}


def build_engine(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Name of a recipe, a checkpoint (.safetensors, .pt, .pth) or an .onnx graph.",
            show_default="multitask-lite",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the engine and its manifest.")
    ] = ENGINES,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the engine.", show_default="the model's name")
    ] = None,
    backend: BackendOption = Backend.AUTO,
    precision: Annotated[
        Precision | None,
        typer.Option(help="bf16 and int8 are for CPUs, fp16 for NVIDIA GPUs.", show_default="the recipe's, else auto"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Images per batch.", show_default="the recipe's, else 1")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of images for the parity check.", show_default="drawn images"),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="TensorRT for RTX: compute capabilities to compile for, separated by commas.",
            metavar="sm86,sm89",
            show_default="sm86,sm89,sm120",
        ),
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="NVIDIA: accept batches of 1 to --batch images, not of --batch only.")
    ] = False,
    workspace: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="NVIDIA: MiB of temporary GPU memory.", show_default="the compiler's default"
        ),
    ] = None,
    optimization_level: Annotated[
        int | None,
        typer.Option(
            min=0, max=5, metavar="N", help="NVIDIA: effort of the compiler.", show_default="the compiler's default, 3"
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Compile a model to an engine for this machine, and check it.

    The parity check runs the engine and its reference graph on the same images. If their masks or scores disagree, no
    engine is written. Takes up to a minute on a CPU, and some minutes on a GPU.
    """
    from lesioncli import engines

    targets = tuple(part.strip().lower() for part in (target or "").split(",") if part.strip())
    options = BuildOptions(backend, precision, batch, name, images, targets, dynamic, workspace, optimization_level)
    _check_options(options)
    with progress_bars(bars=not json_output) as progress:
        built = engines.build_engine(model, out, options, progress=progress)
    if json_output:
        print_json({"engine": str(built.path), **built.manifest.to_dict()})
    else:
        _print_built(built)


def _check_options(options: BuildOptions) -> None:
    """Refuse a precision or a flag that the backend does not have."""
    from lesioncli.backends.registry import BACKENDS, choose_backend

    backend = choose_backend(options.backend).value
    entry = BACKENDS[backend]
    precisions = (Precision.AUTO, *entry.precisions)
    if options.precision and options.precision not in precisions:
        raise typer.BadParameter(
            f"'{options.precision}' is not one of {', '.join(precisions)} for backend {backend}",
            param_hint="--precision",
        )
    for field, flag in FLAGS.items():
        if field not in entry.build_options and getattr(options, field) != getattr(BuildOptions(), field):
            backends = " or ".join(name for name, other in BACKENDS.items() if field in other.build_options)
            raise typer.BadParameter(f"needs --backend {backends}", param_hint=flag)


def _print_built(built: "BuiltEngine") -> None:
    if parity := built.manifest.parity:
        print_line(
            f"{built.path}: {_checked(built.manifest)} with the graph in {built.manifest.reference}"
            f" on {parity.images} images: mask Jaccard {parity.mask_jaccard:.4f}"
            f" (lowest {parity.worst_mask_jaccard:.4f}), scores within {parity.score_difference:.4f}"
        )
    if licence := built.manifest.spec.licence:
        print_line(f"{built.path}: weights under {licence}")


def _checked(manifest: "Manifest") -> str:
    from lesioncli.backends.manifest import ParityCheck

    if manifest.parity_check is ParityCheck.ENGINE:
        return "agrees"
    return "cannot run on this machine; the graph that it is compiled from agrees"
