"""DICOM files of a patient, written by pydicom around pixels."""

import importlib
from io import BytesIO
from typing import Any

from helpers.encoded_images import HEIGHT, WIDTH

pydicom = importlib.import_module("pydicom")

UNCOMPRESSED = "1.2.840.10008.1.2.1"
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
