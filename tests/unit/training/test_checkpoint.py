"""Checkpoints: what was saved comes back, and no file that is something else is taken or run."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lesioncli.errors import InputError
from lesioncli.spec import METADATA_KEY, ModelSpec
from lesioncli.training.checkpoint import load_checkpoint, make_network, open_checkpoint, save_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = ModelSpec(
    name="tiny",
    network="multitask",
    height=64,
    width=96,
    options={"encoder": "efficientnet_lite0", "decoder_widths": [8], "separable": True, "lesion_pooling": True},
)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(3)
    # As in training: in train mode, and in the memory layout that safetensors does not take as it is.
    network = make_network(SPEC)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return network


@pytest.fixture(scope="module")
def weights(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.contiguous() for key, value in network.state_dict().items()}


def save_pt(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def wrapped(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in weights.items()}


@pytest.mark.parametrize("name", ["given.pt", "given.pth", "given.safetensors"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", ""])
def test_prefixes_of_wrapped_networks_are_taken_off(
    tmp_path: Path, weights: dict[str, Tensor], name: str, prefix: str
) -> None:
    path, given = tmp_path / name, wrapped(weights, prefix)
    if path.suffix == ".safetensors":
        save_file(given, path, metadata={METADATA_KEY: SPEC.to_json()})
    else:
        save_pt(path, {"spec": SPEC.to_json(), "weights": given})
    checkpoint = open_checkpoint(path)
    assert all(torch.equal(value, weights[key]) for key, value in checkpoint.network.state_dict().items())
    assert bool(checkpoint.note) == bool(prefix)
    assert all(part in checkpoint.note for part in prefix.split(".") if part)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_weights_of_another_program_fit_a_network_that_is_given(
    tmp_path: Path, weights: dict[str, Tensor], key: str
) -> None:
    path = save_pt(tmp_path / "given.pth", {"epoch": 3, key: wrapped(weights, "module.")})
    checkpoint = open_checkpoint(path, SPEC)
    assert checkpoint.spec == SPEC
    assert all(torch.equal(value, weights[name]) for name, value in checkpoint.network.state_dict().items())
    assert key in checkpoint.note
    assert "module." in checkpoint.note
    alone = open_checkpoint(save_pt(tmp_path / "alone.pth", weights), SPEC)
    assert alone.note == ""


def test_weights_that_do_not_all_fit_are_refused(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    given = {**wrapped(weights, "module."), "scaler": torch.zeros(1)}
    path = save_pt(tmp_path / "given.pth", {"state_dict": given})
    with pytest.raises(InputError, match=r"given\.pth: .*unexpected"):
        open_checkpoint(path, SPEC)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_what_was_saved_comes_back(tmp_path: Path, network: nn.Module, weights: dict[str, Tensor], suffix: str) -> None:
    path = tmp_path / f"tiny{suffix}"
    if suffix == ".pt":
        save_pt(path, {"spec": SPEC.to_json(), "weights": weights})
    else:
        save_checkpoint(path, network, SPEC)
    loaded, spec = load_checkpoint(path)
    assert spec == SPEC
    assert not any(each.training for each in loaded.modules())
    state = loaded.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[key], value) for key, value in weights.items())
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_safetensors_that_were_saved_can_be_read_by_safetensors_alone(
    tmp_path: Path, network: nn.Module, weights: dict[str, Tensor]
) -> None:
    save_checkpoint(tmp_path / "tiny.safetensors", network, SPEC)
    tensors = load_file(tmp_path / "tiny.safetensors")
    assert all(torch.equal(tensors[key], value) for key, value in weights.items())


def test_a_save_that_fails_leaves_the_former_file(tmp_path: Path, network: nn.Module) -> None:
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(b"former")
    with pytest.raises(TypeError):
        save_checkpoint(path, network, replace(SPEC, options={"encoder": {1, 2}}))  # a set is not JSON
    assert path.read_bytes() == b"former"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


class Malicious:
    """Pickled, it is a call that makes a folder as soon as it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.trace,)


def as_torch_file(path: Path, content: object) -> None:
    torch.save(content, path)


def as_old_torch_file(path: Path, content: object) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def as_bare_pickle(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("write", [as_torch_file, as_old_torch_file, as_bare_pickle])
def test_code_in_a_pickle_is_refused_and_does_not_run(
    tmp_path: Path, weights: dict[str, Tensor], write: Callable[[Path, object], None]
) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "it ran"
    write(path, {"spec": SPEC.to_json(), "weights": weights, "more": Malicious(trace)})
    with pytest.raises(InputError, match=r"evil\.pt: ") as raised:
        load_checkpoint(path)
    assert not trace.exists()
    assert "trust" not in str(raised.value)  # torch's own message tells how to switch the protection off
    if write is as_bare_pickle:
        pickle.loads(path.read_bytes())  # noqa: S301 - written above
    else:
        torch.load(path, weights_only=False)
    assert trace.exists()  # so the file was a live one


Tensors = dict[str, Tensor]


def of_another_program(path: Path, weights: Tensors) -> None:
    save_file(weights, path)


def with_a_strange_spec(path: Path, weights: Tensors) -> None:
    save_file(weights, path, metadata={METADATA_KEY: '{"name": "tiny", "colour": "red"}'})


def of_a_newer_network(path: Path, weights: Tensors) -> None:
    save_file(weights, path, metadata={METADATA_KEY: replace(SPEC, network="multitask-3").to_json()})


def with_a_missing_key(path: Path, weights: Tensors) -> None:
    del weights["heads.melanoma.bias"]
    save_file(weights, path, metadata={METADATA_KEY: SPEC.to_json()})


def with_a_strange_key(path: Path, weights: Tensors) -> None:
    save_file({**weights, "heads.nevus.bias": torch.zeros(1)}, path, metadata={METADATA_KEY: SPEC.to_json()})


def with_another_shape(path: Path, weights: Tensors) -> None:
    weights["heads.melanoma.weight"] = torch.zeros(1, 1280)
    save_file(weights, path, metadata={METADATA_KEY: SPEC.to_json()})


def cut_short(path: Path, weights: Tensors) -> None:
    save_file(weights, path, metadata={METADATA_KEY: SPEC.to_json()})
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path: Path, weights: Tensors) -> None:
    path.write_bytes(b"")


def absent(path: Path, weights: Tensors) -> None:
    pass


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (of_another_program, "carries no ModelSpec"),
        (with_a_strange_spec, "colour"),
        (of_a_newer_network, "'multitask-3'"),
        (with_a_missing_key, r"missing \['heads\.melanoma\.bias'\]"),
        (with_a_strange_key, r"unexpected \['heads\.nevus\.bias'\]"),
        (with_another_shape, r"unexpected \['heads\.melanoma\.weight'\]"),
        (cut_short, "not a readable safetensors file"),
        (empty, "not a readable safetensors file"),
        (absent, "not a readable safetensors file"),
    ],
)
def test_a_faulty_safetensors_file_is_refused_by_name(
    tmp_path: Path, weights: Tensors, spoil: Callable[[Path, Tensors], None], named: str
) -> None:
    path = tmp_path / "given.safetensors"
    spoil(path, dict(weights))
    with pytest.raises(InputError, match=named) as raised:
        load_checkpoint(path)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "content",
    [
        [1, 2, 3],
        {"weights": {}},
        {"weights": {}, "spec": 3},
        {"weights": {}, "spec": SPEC.to_json()},
        {"weights": [torch.zeros(1)], "spec": SPEC.to_json()},
        {"weights": {"heads.melanoma.bias": 3}, "spec": SPEC.to_json()},
        {"state_dict": {"conv1.weight": torch.zeros(1)}, "epoch": 3},
    ],
    ids=[
        "a list",
        "no spec",
        "a number for a spec",
        "no weights",
        "a list of weights",
        "no tensors",
        "another program's",
    ],
)
def test_a_pt_file_of_something_else_is_refused_by_name(tmp_path: Path, content: object) -> None:
    path = save_pt(tmp_path / "given.pt", content)
    with pytest.raises(InputError) as raised:
        load_checkpoint(path)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize("kept", [0, 1000, -1000])
def test_a_pt_file_cut_short_is_refused_by_name(tmp_path: Path, weights: Tensors, kept: int) -> None:
    path = save_pt(tmp_path / "given.pt", {"spec": SPEC.to_json(), "weights": weights})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError) as raised:
        load_checkpoint(path)
    assert str(raised.value).startswith(f"{path}: ")
