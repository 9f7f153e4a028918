"""Options and fixtures of the tests on a GPU.

`--standin` tries the tests themselves over the CUDA stand-in. `--figures DIR` writes the figures to files.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest
from gpu import torch_vendor
from gpu.cards import Card, RealCard, standin_card
from gpu.figures import Figures
from helpers.pictures import UInt8, save

from lesioncli.backends.tensorrt import vendors
from lesioncli.backends.tensorrt.driver import find_gpus
from lesioncli.demo.draw import draw_case
from lesioncli.images.find import ImageFile, find_images

FIGURES = pytest.StashKey[Figures]()
MakePlan = Callable[[int], Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--standin", action="store_true", help="try the tests of tests/gpu over the CUDA stand-in")
    parser.addoption("--figures", type=Path, metavar="DIR", help="write the figures of tests/gpu to this folder")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if figures := config.stash.get(FIGURES, None):
        terminalreporter.section("figures")
        terminalreporter.write_line(figures.text())
        if folder := config.getoption("--figures"):
            figures.write(folder)


@pytest.fixture(scope="session")
def standin(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--standin"))


@pytest.fixture(scope="session")
def session_card(request: pytest.FixtureRequest, standin: bool) -> Iterator[Card]:
    """The GPU under test; without one, skip, or fail if the tests were asked for."""
    if standin:
        with standin_card() as card:
            yield card
        return
    import torch

    listing = find_gpus()
    problem = listing.problem or ("" if torch.cuda.is_available() else f"torch {torch.__version__} finds no GPU")
    if problem:
        # Asked for with -m gpu, a missing GPU is a failure: make test-gpu must not pass without one.
        stop = pytest.fail if request.config.getoption("-m") == "gpu" else pytest.skip
        stop(f"no GPU to test on: {problem}")
    yield RealCard()


@pytest.fixture
def card(session_card: Card) -> Iterator[Card]:
    """The GPU under test; each test leaves it without a mistake."""
    session_card.mistakes()
    yield session_card
    assert session_card.mistakes() == []


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest, session_card: Card) -> Figures:
    figures = request.config.stash.setdefault(FIGURES, Figures())
    figures.describe(session_card)
    return figures


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory, session_card: Card) -> list[ImageFile]:
    """Small images, different ones and more than an engine has cycles; the network takes most of the time."""
    folder, count = tmp_path_factory.mktemp("images"), 60 if session_card.is_real else 12
    return find_images([save(folder / f"{seed:02d}.jpg", draw_case(seed, 150, 200).image) for seed in range(count)])


@pytest.fixture(scope="session")
def enlarged(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], list[ImageFile]]:
    """Megapixels -> five drawn images of that size."""

    def make(megapixels: float) -> list[ImageFile]:
        folder = tmp_path_factory.mktemp("enlarged")
        height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
        for seed in range(5):
            case: UInt8 = draw_case(seed, 480, 640).image
            save(folder / f"{seed}.jpg", cv2.resize(case, (height * 4 // 3, height)))  # type: ignore[arg-type]  # cv2 returns any dtype
        return find_images([folder])

    return make


@pytest.fixture
def make_plan(card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakePlan:
    """Batch size -> manifest of the shipped network, which torch computes on the GPU."""
    monkeypatch.setitem(sys.modules, "tensorrt", torch_vendor.TorchVendor(card))
    return lambda batch: torch_vendor.write_engine(tmp_path / f"engine{batch}", card, batch)


@pytest.fixture
def library(card: Card) -> vendors.Vendor:
    """The installed library of NVIDIA that supports this GPU."""
    if not card.is_real:
        pytest.skip("the stand-in has no TensorRT")
    needed = ("onnx", "openvino")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{' and '.join(missing)} not installed, which building an engine needs")
    for candidate in vendors.VENDORS.values():
        if any(map(importlib.util.find_spec, candidate.modules)) and candidate.supports(card.gpu):
            return candidate
    pytest.skip(f"neither TensorRT nor a TensorRT for RTX that supports {card.gpu} is installed")
