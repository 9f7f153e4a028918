"""Fixtures: engines that are built once and shared."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from helpers.graphs import (
    FREE_CONSTANTS,
    FREE_NODES,
    FREE_OUTPUTS,
    FREE_SIDE,
    FREE_SPEC,
    MakeEngine,
    OpenEngine,
    write_graph,
)
from helpers.pictures import UInt8, draw
from helpers.shipped import shipped_onnx

from lesioncli.backends.build import BuiltEngine, build
from lesioncli.backends.registry import open_engine
from lesioncli.demo.draw import draw_case
from lesioncli.options import Backend, BuildOptions, Precision


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch on one thread, for a whole module: sums on several are not bit for bit the same."""
    import torch  # not for every test

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def parity_images() -> list[UInt8]:
    return [draw_case(seed, 256, 320).image for seed in range(4)]


@pytest.fixture(scope="session")
def shipped_fp32(tmp_path_factory: pytest.TempPathFactory, parity_images: list[UInt8]) -> BuiltEngine:
    """The shipped model's engine: fp32, batches of 1."""
    options = BuildOptions(backend=Backend.OPENVINO, precision=Precision.FP32)
    return build(shipped_onnx(), tmp_path_factory.mktemp("shipped"), parity_images, options)


@pytest.fixture(scope="session")
def engine_manifest(shipped_fp32: BuiltEngine) -> Path:
    return shipped_fp32.path


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_graph(tmp_path_factory.mktemp("graph") / "tiny.onnx")


@pytest.fixture(scope="session")
def tiny_manifest(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path) -> MakeEngine:
    """Batch size -> manifest of a tiny engine, built once."""

    @cache
    def make(batch: int) -> Path:
        folder = tmp_path_factory.mktemp(f"tiny{batch}")
        options = BuildOptions(backend=Backend.OPENVINO, precision=Precision.FP32, batch=batch)
        return build(tiny_onnx, folder, [draw(seed) for seed in range(3)], options).path

    return make


@pytest.fixture(scope="session")
def free_manifest(tmp_path_factory: pytest.TempPathFactory) -> MakeEngine:
    """Batch size -> manifest of an engine of 64x64 pixels, whose graph takes any; built once."""
    folder = tmp_path_factory.mktemp("free")
    onnx = write_graph(folder / "free.onnx", FREE_NODES, FREE_OUTPUTS, FREE_CONSTANTS, FREE_SPEC, ("n", "h", "w"))

    @cache
    def make(batch: int) -> Path:
        pictures = [draw(seed, FREE_SIDE, FREE_SIDE) for seed in range(3)]
        options = BuildOptions(backend=Backend.OPENVINO, precision=Precision.FP32, batch=batch)
        return build(onnx, folder / str(batch), pictures, options).path

    return make


@pytest.fixture(scope="session")
def tiny_engine(tiny_manifest: MakeEngine) -> Iterator[OpenEngine]:
    """Batch size -> an open tiny engine that the tests share, so its slots hold what earlier tests left."""
    with ExitStack() as opened:
        yield cache(lambda batch: opened.enter_context(open_engine(tiny_manifest(batch))))
