"""What build-engine is given, made into an ONNX graph and, where torch is at hand, the reference to gate against."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lesioncli.backends.build import Reference
from lesioncli.errors import InputError, MissingPackageError
from lesioncli.shipped import SHIPPED_MODEL, assemble_graph
from lesioncli.training.recipe import EngineSettings, find_recipe, load_recipe

CHECKPOINT_SUFFIXES = (".safetensors", ".pt")


@dataclass(frozen=True)
class Source:
    """An ONNX graph, what to compare its engine with (None: the graph itself, in fp32), and a recipe's settings."""

    onnx: Path
    reference: Reference | None
    settings: EngineSettings


def resolve(model: str | None, work: Path) -> Source:
    """A recipe's name or .toml, a checkpoint or an .onnx; None is the shipped model. `work` holds an exported graph.

    Raises InputError where `model` is none of these, MissingPackageError where a checkpoint needs torch to be exported.
    """
    if model is None:
        return Source(assemble_graph(SHIPPED_MODEL, work), None, EngineSettings())
    path = Path(model)
    if path.suffix in (".onnx", *CHECKPOINT_SUFFIXES):
        return _from_weights(path, work, EngineSettings())
    recipe_path = find_recipe(model)
    recipe = load_recipe(recipe_path)
    settings = recipe.engine
    if settings.checkpoint == "shipped":
        return Source(assemble_graph(recipe.model.name, work), None, settings)
    if not settings.checkpoint:
        raise InputError(f"{recipe_path}: [engine] names no checkpoint; train it, then build from best.safetensors")
    return _from_weights(recipe_path.parent / settings.checkpoint, work, settings)


def _from_weights(path: Path, work: Path, settings: EngineSettings) -> Source:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix == ".onnx":
        return Source(path, None, settings)
    if find_spec("torch") is None:
        raise MissingPackageError("torch, which exports a checkpoint,", "train")
    from lesioncli.training import export

    onnx = work / "graph.onnx"
    return Source(onnx, export.export_checkpoint(path, onnx), settings)
