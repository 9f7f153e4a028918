"""Resolve the MODEL of build-engine to an ONNX graph, and the reference of its parity check."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lesioncli.backends.reference import Reference
from lesioncli.errors import InputError, MissingPackageError
from lesioncli.shipped import SHIPPED_MODEL, assemble_graph, list_recipes
from lesioncli.training.recipe import EngineSettings, find_recipe, load_recipe

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class Source:
    """An ONNX graph, the reference of the parity check (None: the graph itself in fp32), and the recipe's settings."""

    onnx: Path
    reference: Reference | None
    settings: EngineSettings


def resolve(model: str | None, work: Path) -> Source:
    """Resolve a recipe's name or .toml file, a checkpoint or an .onnx file; None is the default model.

    Graphs are written to the folder `work`. Raises InputError if there is no such model, and MissingPackageError if a
    checkpoint has to be exported and torch is not installed.
    """
    if model is None:
        return Source(assemble_graph(SHIPPED_MODEL, work), None, EngineSettings())
    path = Path(model)
    if path.suffix in (".onnx", *CHECKPOINT_SUFFIXES):
        return _resolve_file(path, work, EngineSettings())
    if path.suffix != ".toml" and model not in list_recipes():
        raise InputError(_describe_choices(model))
    recipe_path = find_recipe(model)
    recipe = load_recipe(recipe_path)
    settings = recipe.engine
    if settings.checkpoint == "shipped":
        return Source(assemble_graph(recipe.model.name, work), None, settings)
    if not settings.checkpoint:
        out = f"runs/{recipe_path.stem}"
        raise InputError(
            f"{recipe_path}: has no trained weights ([engine] names no checkpoint); run lesioncli train"
            f" --recipe {model} --data DIR --out {out}, then lesioncli build-engine {out}/best.safetensors"
        )
    return _resolve_file(recipe_path.parent / settings.checkpoint, work, settings)


def _describe_choices(model: str) -> str:
    """Return the message for a name of no recipe: the recipes that an engine can be built from at once, and others."""
    is_trained = {name: _is_trained(path) for name, path in list_recipes().items()}
    trained, untrained = (", ".join(name for name in is_trained if is_trained[name] is kind) for kind in (True, False))
    return (
        f"no recipe {model!r}; recipes with trained weights: {trained}; recipes to train first: {untrained}; or give"
        " the path of a recipe (.toml), a checkpoint (.safetensors, .pt, .pth) or a graph (.onnx)"
    )


def _is_trained(recipe_path: Path) -> bool:
    try:
        return bool(load_recipe(recipe_path).engine.checkpoint)
    except InputError:  # a recipe of the user's with a mistake, which build-engine reports when it is asked for
        return False


def _resolve_file(path: Path, work: Path, settings: EngineSettings) -> Source:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix == ".onnx":
        return Source(path, None, settings)
    if find_spec("torch") is None:
        raise MissingPackageError("torch, which exports a checkpoint,", "train")
    from lesioncli.training import export

    onnx = work / "graph.onnx"
    return Source(onnx, Reference(export.LIBRARY, export.export_checkpoint(path, onnx)), settings)
