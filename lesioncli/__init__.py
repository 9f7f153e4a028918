"""Lesion masks and class scores for folders of dermoscopic images.

A research tool, not a medical device. The names in `__all__` are the Python API; they are imported when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lesioncli.api import calibrate, evaluate, read_mask, read_results, segment_folder, verify_results
    from lesioncli.engines import build_engine, ensure_engine
    from lesioncli.errors import EngineError, ImageError, InputError, LesionError, MissingPackageError
    from lesioncli.options import (
        TTA,
        Backend,
        BuildOptions,
        CalibrationOptions,
        EvaluationOptions,
        MaskStorage,
        Precision,
        ProtocolName,
        Regions,
        SegmentOptions,
    )
    from lesioncli.segmenter import Segmentation, Segmenter

__version__ = "0.2.0"

__all__ = [
    "TTA",
    "Backend",
    "BuildOptions",
    "CalibrationOptions",
    "EngineError",
    "EvaluationOptions",
    "ImageError",
    "InputError",
    "LesionError",
    "MaskStorage",
    "MissingPackageError",
    "Precision",
    "ProtocolName",
    "Regions",
    "SegmentOptions",
    "Segmentation",
    "Segmenter",
    "build_engine",
    "calibrate",
    "ensure_engine",
    "evaluate",
    "read_mask",
    "read_results",
    "segment_folder",
    "verify_results",
]

_MODULES = {
    "lesioncli.api": ("calibrate", "evaluate", "read_mask", "read_results", "segment_folder", "verify_results"),
    "lesioncli.engines": ("build_engine", "ensure_engine"),
    "lesioncli.errors": ("EngineError", "ImageError", "InputError", "LesionError", "MissingPackageError"),
    "lesioncli.options": (
        "TTA",
        "Backend",
        "BuildOptions",
        "CalibrationOptions",
        "EvaluationOptions",
        "MaskStorage",
        "Precision",
        "ProtocolName",
        "Regions",
        "SegmentOptions",
    ),
    "lesioncli.segmenter": ("Segmentation", "Segmenter"),
}


if not TYPE_CHECKING:  # type checkers would accept any name

    def __getattr__(name: str) -> Any:
        """Import a name of the API when it is first used."""
        for module, names in _MODULES.items():
            if name in names:
                value = getattr(import_module(module), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module 'lesioncli' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
