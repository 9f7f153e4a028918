"""Decoders that lesioncli does not use: FFmpeg's, in PyAV, OpenCV's with libaom, and dicomsdl's."""

import importlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from helpers.encoded_images import Array

av = importlib.import_module("av")
dicomsdl = importlib.import_module("dicomsdl")


def by_ffmpeg(data: bytes) -> NDArray[np.uint8]:
    """Return RGB (H, W, 3) of an image, or of the first frame, by FFmpeg."""
    with av.open(BytesIO(data)) as container:
        frame = next(container.decode(video=0))
        return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def by_opencv(data: bytes) -> NDArray[np.uint8]:
    """Return RGB (H, W, 3) of an image by OpenCV."""
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    return np.asarray(bgr[..., ::-1], np.uint8)


def by_dicomsdl(path: Path) -> Array:
    """Return the samples (H, W) or (H, W, 3) of the first frame of a DICOM file, as they are stored."""
    return np.asarray(dicomsdl.open(str(path)).pixelData(storedvalue=True))
