"""The JSON manifest beside an engine: a typed, versioned record, and the check of the files that it names.

An engine can be native code, so its files are compared with their hashes before a vendor library reads a byte of them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec

from lesioncli.errors import EngineError
from lesioncli.files import atomic_write, sha256_of
from lesioncli.options import Backend, Precision
from lesioncli.spec import ModelSpec

MANIFEST_FORMAT = 2


class ParityCheck(StrEnum):
    """What was compared with the reference graph: the engine, or only the graph that it was compiled from."""

    ENGINE = "engine"
    GRAPH = "graph"


class ParityFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Agreement with the reference graph over `images`: mask Jaccard, and the largest difference of a class score."""

    images: int
    mask_jaccard: float
    worst_mask_jaccard: float
    score_difference: float


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an engine is, how it was built, and how well it agrees with its graph.

    `files` maps file names to their sha256. `targets` are the compute capabilities of a plan, such as sm86; a CPU
    engine has none. `verified` holds the parity figures of each GPU that first ran an engine with
    ParityCheck.GRAPH. A `dynamic` engine takes batches of 1 to `batch` images. `measured_ms` holds the CPU time per
    image of the precisions that `auto` chose from, if it measured them. `reference` is the library that computed the
    outputs that the parity check compared with, "" if that is not known.
    """

    spec: ModelSpec
    backend: Backend
    backend_version: str
    precision_asked: Precision
    precision: Precision
    batch: Annotated[int, msgspec.Meta(ge=1)]
    device: str
    files: Mapping[str, str]
    source_sha256: str
    parity: ParityFigures | None
    created: str
    targets: tuple[str, ...] = ()
    parity_check: ParityCheck = ParityCheck.ENGINE
    dynamic: bool = False
    verified: Mapping[str, ParityFigures] = {}
    measured_ms: Mapping[Precision, float] = {}
    reference: str = ""
    format: int = MANIFEST_FORMAT

    def __post_init__(self) -> None:
        if self.backend is Backend.AUTO:
            raise ValueError("backend 'auto' is not the name of a backend")
        if self.precision is Precision.AUTO:
            raise ValueError("precision 'auto' is not a precision")

    @property
    def stem(self) -> str:
        """Return the common part of the names of the engine's files."""
        return f"{self.spec.name}.{self.backend}"

    @property
    def is_calibrated_copy(self) -> bool:
        """Return whether `calibrate` wrote this manifest, beside that of the engine whose files it names."""
        calibration = self.spec.calibration
        return calibration is not None and calibration.name == self.spec.name

    @property
    def sha256(self) -> str:
        """Return one hash for the whole engine."""
        return hashlib.sha256("".join(self.files[name] for name in sorted(self.files)).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON has them."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values


@dataclass(frozen=True)
class StoredEngine:
    """An engine on disk: the path of its manifest, and the manifest. read_engine() checks the hashes of its files."""

    path: Path
    manifest: Manifest

    def find_file(self, suffix: str) -> Path:
        """Return the path of the engine's only file with this suffix; EngineError if there are none or several."""
        names = [name for name in self.manifest.files if Path(name).suffix == suffix]
        if len(names) != 1:
            raise EngineError(f"{self.path}: does not name exactly one {suffix} file; run lesioncli build-engine")
        return self.path.parent / names[0]

    @property
    def size_bytes(self) -> int:
        """Return the size of all files but the manifest."""
        return sum((self.path.parent / name).stat().st_size for name in self.manifest.files)


@dataclass(frozen=True)
class Incompatibility:
    """Why an engine does not run on this machine, and the flags of `build-engine` for one that does."""

    problem: str
    flags: tuple[str, ...] = ()


def manifest_path(folder: Path, model: str, backend: Backend) -> Path:
    """Return the path of the manifest of a model's engine in `folder`."""
    return folder / f"{model}.{backend}.json"


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest atomically; OSError if it cannot be written."""
    content = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content + b"\n")


def read_engine(path: Path) -> StoredEngine:
    """Read a manifest and check that the files it names have their hashes.

    Raises EngineError, with the command that builds the engine again.
    """
    manifest = read_manifest(path)
    advice = f"run lesioncli build-engine --backend {manifest.backend}"
    if manifest.is_calibrated_copy:
        advice = "the engine that it calibrates was built anew; segment and calibrate again"
    for name, expected_sha256 in manifest.files.items():
        file = path.parent / name
        if Path(name).name != name:
            raise EngineError(f"{path}: names a file outside its folder, {name!r}; {advice}")
        if not file.is_file():
            raise EngineError(f"{path}: {name} is missing; {advice}")
        if sha256_of(file) != expected_sha256:
            raise EngineError(f"{file}: its sha256 is not the one in {path.name}, so it is not loaded; {advice}")
    return StoredEngine(path, manifest)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest of this format or of format 1; EngineError if it is not valid."""
    try:
        values = msgspec.json.decode(path.read_bytes())
        return msgspec.convert(_upgrade(values), Manifest)
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror}); run lesioncli build-engine") from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise EngineError(f"{path}: not a valid manifest ({error}); run lesioncli build-engine") from error


def _upgrade(values: Any) -> Any:
    """Turn the values of a manifest of format 1 into those of format 2; other values come back unchanged."""
    version = values.get("format") if isinstance(values, dict) else MANIFEST_FORMAT
    if version == MANIFEST_FORMAT:
        return values
    if version != 1:
        raise msgspec.ValidationError(f"manifest format {version}, this version reads 1 and {MANIFEST_FORMAT}")
    parity, verified = values.get("parity"), values.get("verified", {})
    return {
        **{name: value for name, value in values.items() if name != "gated"},
        "parity_check": values.get("gated", ParityCheck.ENGINE),
        "parity": _with_whole_count(parity),
        "verified": {gpu: _with_whole_count(figures) for gpu, figures in verified.items()},
        "format": MANIFEST_FORMAT,
    }


def _with_whole_count(figures: Any) -> Any:
    """Return parity figures of format 1 with their number of images as an integer."""
    if isinstance(figures, dict) and isinstance(count := figures.get("images"), float):
        return {**figures, "images": int(count)}
    return figures
