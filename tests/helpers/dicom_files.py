"""DICOM files of a patient, written by pydicom around frames that Pillow or this module encodes."""

import importlib
import struct
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from helpers.encoded_images import DEEP, GREY, HEIGHT, PICTURE, WIDTH, Array, by_pillow, grey_rgb

pydicom = importlib.import_module("pydicom")

UNCOMPRESSED = "1.2.840.10008.1.2.1"
RLE = "1.2.840.10008.1.2.5"
JPEG, JPEG_2000, JPEG_LOSSLESS = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.70"
DERMOSCOPIC_PHOTOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.4.1"
SECRETS = ("Doe^Jane", "MRN-4711", "19610203")


def dicom(pixels: bytes, syntax: str = UNCOMPRESSED, photometric: str = "RGB", **elements: Any) -> bytes:
    """Return a file of a patient, whose pixel data are these bytes, or this frame if the syntax is a compressed one."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = DERMOSCOPIC_PHOTOGRAPHY, "1.2.3"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = SECRETS
    dataset.Rows, dataset.Columns = HEIGHT, WIDTH
    dataset.SamplesPerPixel = 1 if photometric.startswith(("MONO", "PAL")) else 3
    dataset.PhotometricInterpretation = photometric
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.PixelRepresentation = 0
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelData = pixels if syntax == UNCOMPRESSED else pydicom.encaps.encapsulate([pixels])
    dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 or syntax != UNCOMPRESSED else "OW"
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def run_lengths(frame: Array) -> bytes:
    """Encode samples (h, w, c) of 8 bits as DICOM's RLE: one segment per channel, of literal runs only."""
    segments = []
    for channel in np.moveaxis(frame, -1, 0):
        rows = b"".join(bytes([len(row) - 1]) + row.tobytes() for row in channel)
        segments.append(rows + bytes(len(rows) % 2))
    starts = 64 + np.cumsum([0, *map(len, segments)])[:-1]
    return struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(segments))) + b"".join(segments)


def jpeg_of_ybr() -> bytes:
    return by_pillow(PICTURE, "JPEG", quality=95, subsampling=0)


YBR = np.asarray(Image.fromarray(PICTURE).convert("YCbCr"))
PALETTE: dict[str, Any] = {
    **{f"{color}PaletteColorLookupTableDescriptor": [256, 0, 16] for color in ("Red", "Green", "Blue")},
    "RedPaletteColorLookupTableData": (np.arange(256) * 257).astype("<u2").tobytes(),
    "GreenPaletteColorLookupTableData": (np.arange(256)[::-1] * 257).astype("<u2").tobytes(),
    "BluePaletteColorLookupTableData": np.full(256, 128 * 257, "<u2").tobytes(),
}
RAMP = np.stack([GREY, 255 - GREY, np.full_like(GREY, 128)], -1)
TWELVE = (GREY.astype(np.uint32) * 4095 // 255).astype("<u2")
CASES: dict[str, tuple[bytes, Array, int]] = {
    "rgb": (dicom(PICTURE.tobytes()), PICTURE, 0),
    "rgb in planes": (dicom(np.moveaxis(PICTURE, -1, 0).tobytes(), PlanarConfiguration=1), PICTURE, 0),
    "ybr": (dicom(YBR.tobytes(), photometric="YBR_FULL"), PICTURE, 3),
    "palette": (dicom(GREY.tobytes(), photometric="PALETTE COLOR", **PALETTE), RAMP, 0),
    "white is 255": (dicom(GREY.tobytes(), photometric="MONOCHROME2"), grey_rgb(GREY), 0),
    "white is 0": (dicom(GREY.tobytes(), photometric="MONOCHROME1"), grey_rgb(255 - GREY), 0),
    "jpeg": (dicom(jpeg_of_ybr(), JPEG, "YBR_FULL_422"), np.asarray(Image.open(BytesIO(jpeg_of_ybr()))), 3),
    "jpeg grey": (dicom(by_pillow(GREY, "JPEG", quality=95), JPEG, "MONOCHROME2"), grey_rgb(GREY), 4),
    "jpeg 2000": (dicom(by_pillow(PICTURE, "JPEG2000", no_jp2=True, mct=1), JPEG_2000, "YBR_RCT"), PICTURE, 0),
    "jpeg 2000 rgb": (dicom(by_pillow(PICTURE, "JPEG2000", no_jp2=True), JPEG_2000), PICTURE, 0),
    "rle": (dicom(run_lengths(PICTURE), RLE), PICTURE, 0),
}
DEEP_CASES: dict[str, tuple[bytes, Array, str]] = {
    "16 bits": (dicom(DEEP.astype("<u2").tobytes(), BitsAllocated=16, BitsStored=16), PICTURE, "16-bit scaled to 8"),
    "12 bits": (
        dicom(TWELVE.tobytes(), photometric="MONOCHROME2", BitsAllocated=16, BitsStored=12),
        grey_rgb(GREY),
        "12-bit scaled to 8",
    ),
    "signed": (
        dicom(
            (GREY.astype("<i2") * 16 - 2048).tobytes(),
            photometric="MONOCHROME2",
            BitsAllocated=16,
            BitsStored=12,
            PixelRepresentation=1,
        ),
        grey_rgb(GREY),
        "12-bit scaled to 8",
    ),
    "window": (  # linear between 64 and 192, PS3.3 C.11.2.1.2
        dicom(GREY.tobytes(), photometric="MONOCHROME2", WindowCenter=128.5, WindowWidth=129),
        grey_rgb(np.clip((GREY.astype(float) - 64) / 128 * 255, 0, 255)),
        "window of the file applied",
    ),
    "frames": (dicom(PICTURE.tobytes() + bytes(PICTURE.size), NumberOfFrames=2), PICTURE, "first of 2 frames"),
}
