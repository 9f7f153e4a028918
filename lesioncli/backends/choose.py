"""Which backend, and why; which engine file, and why. Decisions come back with their reason."""

from collections.abc import Callable
from math import ceil
from pathlib import Path

from lesioncli.backends.base import Engine, Layout, Manifest
from lesioncli.errors import EngineError
from lesioncli.files import PRETRAINED, sha256_of
from lesioncli.spec import ModelSpec

BACKENDS = ("openvino",)
SHIPPED_MODEL = "multitask-lite"


def choose_backend(asked: str) -> tuple[str, str]:
    """(backend, reason) for "auto" or a backend's name; EngineError for one that is not here."""
    if asked == "auto":
        return "openvino", "the CPU engine; this version has no GPU backend"
    if asked not in BACKENDS:
        raise EngineError(f"no backend {asked!r} in this version; it has {', '.join(BACKENDS)}")
    return asked, "as asked"


def shipped_onnx(model: str = SHIPPED_MODEL) -> Path:
    """The graph of a model that comes with the package."""
    return PRETRAINED / f"{model}.onnx"


def manifest_path(folder: Path, model: str, backend: str) -> Path:
    """Where the manifest of a model's engine for a backend lies."""
    return folder / f"{model}.{backend}.json"


def find_engine(asked: str | None, backend: str, folder: Path) -> tuple[Path | None, str]:
    """(manifest, reason): what --engine names, or the shipped model's, or the only one in `folder`; None: build it.

    `asked` is a model's name in `folder` or a path to a manifest. EngineError where it names nothing.
    """
    if asked is not None:
        for candidate in (Path(asked), Path(f"{asked}.json"), manifest_path(folder, asked, backend)):
            if candidate.is_file() and candidate.suffix == ".json":
                return candidate, "as asked"
        raise EngineError(f"no engine {asked!r} here or in {folder}/; run: lesioncli build-engine, or see --engine")
    default = manifest_path(folder, SHIPPED_MODEL, backend)
    if default.is_file():
        is_shipped = Manifest.read(default).source_sha256 == sha256_of(shipped_onnx())
        return default, "the shipped model's" if is_shipped else "of the shipped model's name, but built of another"
    found = sorted(folder.glob(f"*.{backend}.json"))
    if len(found) > 1:
        names = ", ".join(each.name for each in found)
        raise EngineError(f"{folder}/ holds several engines ({names}); choose one with --engine")
    return (found[0], f"the only one in {folder}/") if found else (None, f"none in {folder}/ yet")


def open_engine(
    path: Path, ahead_images: int = 2, lay_out: Callable[[ModelSpec, int], Layout] = Layout.of_batches
) -> Engine:
    """Check a manifest and its files, then load the engine with slots for `ahead_images` beyond those in flight.

    `lay_out` is given the model's spec and the engine's batch, and says what a cycle of slots is.
    """
    manifest = Manifest.read(path)
    if manifest.backend != "openvino":
        raise EngineError(f"{path}: is for backend {manifest.backend!r}; this version runs {', '.join(BACKENDS)}")
    from lesioncli.backends import openvino

    if manifest.backend_version != openvino.VERSION:
        raise EngineError(
            f"{path}: built with OpenVINO {manifest.backend_version}, this is {openvino.VERSION};"
            " run: lesioncli build-engine"
        )
    layout = lay_out(manifest.spec, manifest.batch)
    cycles = ceil(ahead_images / layout.images) + 1
    return openvino.OpenVinoEngine(manifest, path.parent, cycles * len(layout.shapes), layout)
