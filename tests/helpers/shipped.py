"""The graphs of the shipped models, completed once per process."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from lesioncli.shipped import SHIPPED_MODEL, assemble_graph


@cache
def shipped_onnx(model: str = SHIPPED_MODEL) -> Path:
    """Return the complete ONNX file of a shipped model, in a folder that is removed when the process ends."""
    return assemble_graph(model, _folder())


@cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="shipped-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
