"""Holds the table of ARCHITECTURE.md: which part may import which, and what the commands must not load."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "lesioncli"

# Part -> parts it may import, at the top of a file or inside a function. Those in FREE are free for all.
ALLOWED: dict[str, set[str]] = {
    "images": set(),
    "backends": {"images", "evaluation.metrics"},
    "inference": {"backends", "images"},
    "evaluation": {"images", "inference.record"},
    "checks": {"evaluation", "images", "training.samples", "training.overlap"},
    "models": set(),
    "training": {"models", "evaluation", "images", "backends"},
    "segmented": {"evaluation", "images", "inference.outcome", "inference.record"},
    "report": {"checks", "segmented", "evaluation", "images", "inference.outcome", "inference.record"},
    "export": {"segmented", "evaluation", "images", "inference.outcome", "inference.record"},
    "demo": {"images"},
    "source": {"backends", "training"},
    "doctor": {"backends"},
    "engines": {"backends", "images", "source", "demo"},
    "calibrator": {"backends", "evaluation", "inference.record"},
    "api": {"calibrator", "engines", "backends", "inference", "evaluation", "images"},
    "segmenter": {"engines", "backends", "inference", "images"},
    "__main__": {"cli"},
    "cli": {
        *("api", "engines", "backends", "inference", "evaluation", "training"),
        *("checks", "report", "export", "segmented", "source", "demo", "doctor", "images"),
    },
}
FREE = {
    "calibration",
    "cgroups",
    "counts",
    "errors",
    "options",
    "spec",
    "files",
    "locks",
    "memory",
    "process",
    "progress",
    "isic",
    "sharding",
    "shipped",
    "signals",
    "stores",
    "urls",
}
VENDORS = {
    "contourpy": {"export/outlines.py"},
    "imagehash": {"checks/measure.py"},
    "jinja2": {"report/page.py"},
    "matplotlib": {"report/plots.py", "report/svg.py", "training/history.py"},
    "openvino": {
        "backends/int8.py",
        "backends/int8_stem.py",
        "backends/mixed_precision.py",
        "backends/openvino.py",
        "backends/rounding.py",
    },
    "obstore": {"stores.py"},
    "onnx": {"backends/tensorrt/half.py", "training/export.py", "training/ship.py"},
    "onnxruntime": {"backends/reference.py"},
    "pyarrow": {"export/parquet.py"},
    "pillow_heif": {"images/heif.py"},
    "pycuda": {"backends/tensorrt/cuda.py"},
    "pydicom": {"images/dicom.py"},
    "ray": {"inference/ray_pool.py"},
    "tensorrt": {"backends/tensorrt/vendors.py"},
    "tensorrt_rtx": {"backends/tensorrt/vendors.py"},
}


def _imports(path: Path) -> set[str]:
    """Modules that a file imports anywhere, TYPE_CHECKING aside."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_arrows_point_one_way(path: Path) -> None:
    own = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    part = own.split(".")[0]
    assert part in ALLOWED or part in FREE, f"{own} has no place in the table"
    inside = {name.removeprefix("lesioncli.") for name in _imports(path) if name.startswith("lesioncli.")}
    inside -= {"__version__"}
    allowed = ALLOWED.get(part, set()) | FREE | {own.split(".")[0]}
    strange = {name for name in inside if not any(f"{name}.".startswith(f"{part}.") for part in allowed)}
    assert not strange, f"{own} imports {sorted(strange)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_vendor_libraries_stay_in_their_file(path: Path) -> None:
    relative = path.relative_to(PACKAGE).as_posix()
    for vendor, homes in VENDORS.items():
        if relative not in homes:
            assert vendor not in {name.split(".")[0] for name in _imports(path)}


def _loaded_by(code: str, cwd: Path) -> set[str]:
    script = f"import sys\n{code}\nprint('MODULES', *sorted(name.split('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, check=True)
    return set(done.stdout.rsplit("MODULES", 1)[1].split())


def _command(*words: str) -> str:
    return (
        f"from lesioncli.cli.app import app\ntry: app({list(words)!r})\nexcept SystemExit as stop: assert not stop.code"
    )


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    loaded = _loaded_by(_command("--help"), tmp_path)
    assert not loaded & {"torch", "openvino", "cv2", "numpy", "pandas", "PIL", "tifffile"}


def test_segment_and_evaluate_load_neither_torch_nor_pandas(tmp_path: Path) -> None:
    three_lines = [
        _command("demo", ".", "--count", "2", "--size", "96", "64"),
        _command("segment", "images", "--out", "masks"),
        _command("evaluate", "--gt", "labels"),
    ]
    loaded = _loaded_by("\n".join(three_lines), tmp_path)
    assert "openvino" in loaded, "the run did not happen"
    assert not loaded & {"torch", "onnx", "matplotlib", "scipy", "tifffile"}


def test_the_program_leaves_out_the_converter_of_openvino_and_threads_of_numpy(tmp_path: Path) -> None:
    code = (
        "sys.argv[1:] = ['doctor']\nfrom lesioncli.__main__ import main\ntry: main()\nexcept SystemExit: pass\n"
        "import os\n"
        "assert sys.modules['openvino.tools.ovc'] is None and os.environ['OPENBLAS_NUM_THREADS']"
    )
    assert "openvino" in _loaded_by(code, tmp_path)


def test_no_command_reaches_for_the_network(tmp_path: Path) -> None:
    """openvino, for one, reports every import to its maker unless it is kept from it, or in what looks like CI."""
    watch = "calls = []\nsys.addaudithook(lambda name, _: calls.append(name) if name.startswith('socket.') else None)"
    commands = [
        _command("demo", ".", "--count", "2", "--size", "96", "64"),
        _command("build-engine"),
        _command("segment", "images", "--out", "masks"),
        _command("evaluate", "--gt", "labels"),
        _command("report", "--gt", "labels"),
        _command("doctor"),
    ]
    pause = "import time; time.sleep(2)"  # it is done in a thread
    check = "assert 'openvino' in sys.modules; assert not calls, calls; print('quiet')"
    script = "\n".join(["import sys", watch, *commands, pause, check])
    # An own home and no CI variables: as on a user's machine.
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.endswith("quiet\n"), done.stderr
    assert not (tmp_path / "intel").exists()
