"""Change single operators and numbers of modules, and print the changes that no test of the module notices.

usage: python benchmarks/mutate.py [SAMPLE [MODULE ...]]

cosmic-ray makes the mutants, SAMPLE of them per module, drawn with a fixed seed. The tests run in a copy of the
project, in a forked process that has the large libraries already, so Linux or macOS is needed.
"""

import difflib
import importlib
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import hypothesis
import pytest
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
SEED = 0
SAMPLE = 20
TIME_LIMIT_FACTOR = 5  # a mutant is killed if its tests take this many times as long as without it
PRELOADED = ("cv2", "msgspec", "openvino", "PIL.Image", "scipy.ndimage", "sklearn.metrics")

# Tests of each module, those that notice most first.
TESTS = {
    "backends/int8": "test_int8",
    "evaluation/metrics/pixels": "test_pixels",
    "evaluation/metrics/distances": "test_distances",
    "evaluation/metrics/scores": "test_scores test_class_scores test_reliability",
    "evaluation/metrics/thresholds": "test_thresholds",
    "images/geometry": "test_geometry",
    "inference/results": "test_results test_resume test_packing test_durability",
    "inference/earlier": "test_resume test_results test_packing test_durability",
    "inference/compact_dict": "test_compact_dict",
    "inference/rows": "test_rows test_durability test_results test_resume test_verify test_packing",
}


# Nearly all `|` are in type annotations; the replacement of exceptions fails on those with a dot in their names.
LEFT_OUT = ("BinaryOperator_BitOr", "ExceptionReplacer")


def find_mutants(path: Path) -> list[tuple[str, int]]:
    """Return the operators of cosmic-ray that apply to a module, with the number of the place."""
    nodes = list(ast_nodes(get_ast_from_path(path)))
    mutants = []
    for name in sorted(operator_names()):
        operator_class = get_operator(name)
        if not operator_class.arguments() and not any(part in name for part in LEFT_OUT):
            places = sum(len(list(operator_class().mutation_positions(node))) for node in nodes)
            mutants += [(name, place) for place in range(places)]
    return mutants


def passes(folder: Path, tests: list[str], limit_s: int | None = None) -> bool:
    """Return whether all tests pass in a folder, within the limit. Without one, bytecode is kept and failures shown."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    signal.alarm(limit_s or 0)
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder)
    sys.path.insert(0, str(folder))
    if limit_s is not None:
        sys.dont_write_bytecode = True
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
    late = "-Wignore::pytest.PytestAssertRewriteWarning"  # hypothesis was imported before pytest could rewrite it
    os._exit(pytest.main(["-x", "-q", "-n0", "-p", "no:cacheprovider", late, *tests]))


def try_mutants(module: str, sample: int) -> str:
    """Print the surviving mutants of a module as diffs, and return its line of the table."""
    mutants = find_mutants(ROOT / "lesioncli" / f"{module}.py")
    chosen = random.Random(SEED).sample(mutants, min(sample, len(mutants)))  # noqa: S311 - a sample, no secret
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="mutate-") as name:
        folder = Path(name)
        for part in ("lesioncli", "tests", "benchmarks"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        path = folder / "lesioncli" / f"{module}.py"
        source = path.read_text()
        tests = [f"tests/unit/{module.split('/')[0]}/{test}.py" for test in TESTS[module].split()]
        started = time.monotonic()
        if not passes(folder, tests):
            sys.exit(f"{module}: its tests fail without any change")
        limit_s = math.ceil(TIME_LIMIT_FACTOR * (time.monotonic() - started))
        # Two mutants may have the same size and time: bytecode must not be kept.
        for bytecode in path.parent.glob(f"__pycache__/{path.stem}.*"):
            bytecode.unlink()
        for operator, place in chosen:
            mutant = mutate_code(source, get_operator(operator)(), place)
            path.write_text(mutant)
            if passes(folder, tests, limit_s):
                survivors += 1
                lines = difflib.unified_diff(source.split("\n"), mutant.split("\n"), module, module, n=0, lineterm="")
                print(*lines, sep="\n", flush=True)
    return f"| `{module}` | {len(mutants)} | {len(chosen)} | {len(chosen) - survivors} |"


def main() -> None:
    """Print the survivors of each module, then a table."""
    for library in PRELOADED:
        importlib.import_module(library)
    # One failing example is enough: to shrink it takes half a minute.
    hypothesis.settings.register_profile("mutate", phases=[hypothesis.Phase.generate], derandomize=True)
    hypothesis.settings.load_profile("mutate")
    sample = int(sys.argv[1]) if len(sys.argv) > 1 else SAMPLE
    lines = [try_mutants(module, sample) for module in sys.argv[2:] or TESTS]
    print("| module | mutants | tried | killed |", "|---|---|---|---|", *lines, sep="\n")


if __name__ == "__main__":
    main()
