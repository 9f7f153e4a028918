"""HEIC files, written by libheif."""

import importlib
from io import BytesIO
from typing import Any

from helpers.encoded_images import Array

pillow_heif = importlib.import_module("pillow_heif")


def heif(*pictures: Array, mode: str = "RGB", **options: Any) -> bytes:
    """Return a HEIC of pictures, of which the first is the main one, nearly without loss."""
    height, width = pictures[0].shape[:2]
    file = pillow_heif.from_bytes(mode, (width, height), pictures[0].tobytes())
    for picture in pictures[1:]:
        file.add_frombytes(mode, (width, height), picture.tobytes())
    buffer = BytesIO()
    file.save(buffer, **{"quality": -1, "chroma": 444, "primary_index": 0, **options})
    return buffer.getvalue()
