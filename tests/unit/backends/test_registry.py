"""The table of backends: choosing a backend and an engine, and a backend added by one line."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from helpers.engines import fill_in_turn, write_empty_engine
from helpers.graphs import tiny_outputs
from helpers.pictures import UInt8, draw
from numpy.typing import NDArray

from lesioncli.backends.base import Engine, Layout
from lesioncli.backends.build import build
from lesioncli.backends.interface import OnProgress
from lesioncli.backends.manifest import Incompatibility, Manifest, ParityCheck, StoredEngine
from lesioncli.backends.registry import (
    BACKENDS,
    BackendEntry,
    choose_backend,
    find_engine,
    list_engines,
    open_compiler,
    open_engine,
)
from lesioncli.errors import EngineError
from lesioncli.options import Backend, BuildOptions, Decision, Precision
from lesioncli.shipped import SHIPPED_MODEL

SHIPPED = f"{SHIPPED_MODEL}.openvino"


class NumpyEngine(Engine):
    """The tiny graph in numpy; one slot at a time."""

    device = "numpy"

    def __init__(self, manifest: Manifest, ahead: int, layout: Layout) -> None:
        super().__init__(manifest, layout, layout.allocate(1 + ahead), 1, ("mask", "scores", "agreement"))

    def _start(self, number: int) -> None:
        self._rows = [tiny_outputs(row) for row in self._slots[number]]

    def _finish(self, number: int) -> dict[str, NDArray[Any]]:
        masks, scores, agreement = zip(*self._rows, strict=True)
        return {
            "mask": np.stack(masks),
            "scores": np.stack(scores).astype(np.float32),
            "agreement": np.array(agreement, np.float32),
        }

    def close(self) -> None:
        pass


class NumpyCompiler:
    """Compiles nothing: the file of its engines is empty."""

    backend, version, device, dynamic = Backend.TENSORRT, "7", "numpy", False
    targets: Sequence[str] = ()
    parity_check = ParityCheck.ENGINE
    is_measured = False

    def list_precisions(self, asked: Precision) -> list[Decision[Precision]]:
        return [Decision(Precision.FP32, "the only one")]

    def open_for_parity(self, onnx: Path, manifest: Manifest, images: Sequence[UInt8], work: Path) -> Engine:
        return NumpyEngine(manifest, 1, Layout.for_batches(manifest.spec, manifest.batch))

    def compile(self, onnx: Path, manifest: Manifest, images: Sequence[UInt8], work: Path) -> list[Path]:
        (work / "nothing.npy").touch()
        return [work / "nothing.npy"]


class NumpyBackend:
    """A backend for one test."""

    def open_compiler(self, options: BuildOptions, timings: Path | None, on_progress: OnProgress) -> NumpyCompiler:
        return NumpyCompiler()

    def find_problem(self, engine: StoredEngine) -> Incompatibility | None:
        version = engine.manifest.backend_version
        return None if version == "7" else Incompatibility(f"built for numpy {version}", ("--backend", "numpy"))

    def find_gpus(self, manifest: Manifest) -> Mapping[int, str]:
        return {}

    def open_engine(
        self, engine: StoredEngine, ahead: int, layout: Layout, traced: bool, gpu: int | None = None
    ) -> Engine:
        return NumpyEngine(engine.manifest, ahead, layout)


@pytest.fixture
def numpy_backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    """A fake backend in one line of the table. It has the name of a real one, since enums cannot grow in a test."""
    entry = BackendEntry((Precision.FP32,), (), lambda: Decision(True, "numpy is here"), NumpyBackend)
    monkeypatch.setitem(BACKENDS, Backend.TENSORRT, entry)
    return Backend.TENSORRT


def test_a_new_line_of_the_table_is_chosen_built_found_listed_and_opened(
    numpy_backend: Backend, tiny_onnx: Path, tmp_path: Path
) -> None:
    assert choose_backend(Backend.AUTO) == Decision(numpy_backend, "numpy is here")
    assert isinstance(open_compiler(BuildOptions()), NumpyCompiler)
    images = [draw(seed) for seed in range(5)]
    built = build(tiny_onnx, tmp_path, images, BuildOptions(backend=numpy_backend, batch=2))
    assert (built.path.name, built.reason) == ("tiny.tensorrt.json", "the only one")
    found = find_engine(None, numpy_backend, tmp_path)
    assert found.value == StoredEngine(built.path, built.manifest)
    (listed,) = list_engines(tmp_path)
    assert (listed.path, listed.problem) == (built.path, "")
    with open_engine(built.path) as engine:
        assert engine.device == "numpy"
        outputs = [prediction.slots[0] for prediction in engine.stream(fill_in_turn(engine, images))]
    assert np.array_equal(np.concatenate([part.probability for part in outputs]), [image[..., 0] for image in images])


def test_a_problem_of_a_new_backend_is_told_with_its_command(numpy_backend: Backend, tmp_path: Path) -> None:
    path = write_empty_engine(tmp_path, "old", numpy_backend)
    with pytest.raises(EngineError, match=r"built for numpy 1\.2\.3; run lesioncli build-engine MODEL --backend numpy"):
        open_engine(path)
    assert list_engines(tmp_path)[0].problem.startswith("built for numpy 1.2.3")


def test_auto_takes_the_first_available_backend_and_names_why_not_another(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend, reason in ((Backend.TENSORRT, "no GPU"), (Backend.TENSORRT_RTX, "no library")):
        entry = BackendEntry((), (), partial(Decision, False, reason), NumpyBackend)
        monkeypatch.setitem(BACKENDS, backend, entry)
    chosen = choose_backend(Backend.AUTO)
    assert chosen.value is Backend.OPENVINO
    assert "no GPU" in chosen.reason
    assert "no library" not in chosen.reason
    with patch.dict(BACKENDS):  # monkeypatch.delitem would put the entry back at the end of the table
        del BACKENDS[Backend.OPENVINO]
        with pytest.raises(EngineError, match="no GPU; no library"):
            choose_backend(Backend.AUTO)


@pytest.mark.parametrize("asked", BACKENDS)
def test_a_backend_that_is_asked_for_is_not_questioned(asked: Backend) -> None:
    assert choose_backend(asked).value is asked


def test_every_backend_is_in_the_table_with_fp32() -> None:
    assert set(BACKENDS) == set(Backend) - {Backend.AUTO}
    assert all(Precision.FP32 in entry.precisions for entry in BACKENDS.values())


@pytest.mark.parametrize(
    ("names", "asked", "expected"),
    [
        ([], None, None),
        ([SHIPPED], None, SHIPPED),
        (["a.openvino", SHIPPED], None, SHIPPED),
        (["a.openvino"], None, "a.openvino"),
        (["a.openvino", "b.tensorrt"], None, "a.openvino"),
        (["b.tensorrt"], None, None),
        (["a.openvino", "b.openvino"], "b", "b.openvino"),
        (["a.openvino", SHIPPED], "a", "a.openvino"),
        (["a.openvino", SHIPPED], "a.openvino.json", "a.openvino"),
    ],
)
def test_an_engine_by_name_or_default(
    tmp_path: Path, names: list[str], asked: str | None, expected: str | None
) -> None:
    for name in names:
        model, _, backend = name.rpartition(".")
        write_empty_engine(tmp_path, model, Backend(backend))
    found = find_engine(asked, Backend.OPENVINO, tmp_path)
    assert (found.value and found.value.path) == (expected and tmp_path / f"{expected}.json")
    assert (found.reason == "as asked") == (asked is not None)


def test_an_engine_named_as_the_shipped_model_but_of_another_graph_is_told_apart(
    tmp_path: Path, engine_manifest: Path
) -> None:
    shipped = find_engine(None, Backend.OPENVINO, engine_manifest.parent)
    write_empty_engine(tmp_path, SHIPPED_MODEL)
    other = find_engine(None, Backend.OPENVINO, tmp_path)
    assert shipped.reason != other.reason


@pytest.mark.parametrize("suffix", ["", ".json"])
def test_an_engine_by_path(tmp_path: Path, suffix: str) -> None:
    path = write_empty_engine(tmp_path / "elsewhere", "mine")
    found = find_engine(str(path.with_suffix(suffix)), Backend.OPENVINO, tmp_path)
    assert found.value is not None
    assert (found.value.path, found.reason) == (path, "as asked")


@pytest.mark.parametrize(
    ("asked", "command"),
    [
        ("mine", "build-engine mine"),
        (SHIPPED_MODEL, f"build-engine {SHIPPED_MODEL}"),
        ("nope", "build-engine"),
        ("a.openvino.xml", "build-engine"),
        ("engines", "build-engine"),
        ("", "build-engine"),
    ],
)
def test_a_name_of_no_engine_is_an_error_with_a_command_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_empty_engine(tmp_path, "a")
    Path("a.openvino.xml").touch()
    Path("engines").mkdir()
    Path("engines/mine.toml").touch()
    with pytest.raises(EngineError, match=rf"'{asked}'.*run lesioncli {command}$"):
        find_engine(asked, Backend.OPENVINO, tmp_path / "engines")
    with pytest.raises(EngineError, match=rf"has a; .*--engine.*run lesioncli {command}$"):
        find_engine(asked, Backend.OPENVINO, tmp_path)


@pytest.mark.parametrize("asked", ["engines/foo", "foo.json"])
def test_a_path_of_no_engine_is_not_a_model_to_build(tmp_path: Path, asked: str) -> None:
    with pytest.raises(EngineError, match=r"run lesioncli build-engine$"):
        find_engine(asked, Backend.OPENVINO, tmp_path)


def test_an_engine_of_another_backend_is_named(tmp_path: Path) -> None:
    write_empty_engine(tmp_path, "a", Backend.TENSORRT)
    with pytest.raises(EngineError, match=r"a\.tensorrt\.json"):
        find_engine("a", Backend.OPENVINO, tmp_path)


def test_several_engines_need_a_choice(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_empty_engine(tmp_path, name)
    with pytest.raises(EngineError, match=r"a\.openvino\.json, b\.openvino\.json.*--engine"):
        find_engine(None, Backend.OPENVINO, tmp_path)


def test_engines_are_listed_by_name_with_their_problems(tmp_path: Path, tiny_onnx: Path) -> None:
    options = BuildOptions(backend=Backend.OPENVINO, precision=Precision.FP32, name="good")
    build(tiny_onnx, tmp_path, [draw(1)], options)
    write_empty_engine(tmp_path, "old")
    (tmp_path / "zebra.json").write_text("{}")
    good, old, zebra = list_engines(tmp_path)
    assert (good.path.name, good.problem) == ("good.openvino.json", "")
    assert "fp32, batch 1" in good.description
    assert "OpenVINO 1.2.3" in old.problem
    assert (zebra.manifest, zebra.path.name) == (None, "zebra.json")
    assert zebra.problem
