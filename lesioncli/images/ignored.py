"""Which files and folders, in the folders of data sets, are not images to segment, and names without suffix."""

import json
from collections.abc import Collection
from pathlib import Path

from lesioncli import isic
from lesioncli.files import printable
from lesioncli.images.formats import SIGNATURE_BYTES, ImageFormat, format_without_suffix, is_supported_suffix
from lesioncli.sharding import find_shards, shard_folder

RUN_RECORD = "run.json"  # identifies an output folder of `segment`, if it holds the hash of an engine

# Kinds of ignored files beside unsupported suffixes; these words are values of run.json.
ISIC_ENDINGS = ("_superpixels.png", f"{isic.MASK_ENDING}.png")  # in ISIC's folders, in either case
OUTPUT_FOLDER = "output folder(s) of segment"
# Endings of the folders of a PH2 case: IMD003_Dermoscopic_Image, IMD003_lesion and IMD003_roi are in IMD003.
PH2_PHOTOGRAPH, PH2_MASK, PH2_REGIONS = "_Dermoscopic_Image", "_lesion", "_roi"
PH2_MASKS = "folder(s) of masks of PH2"
NO_SUFFIX = "without suffix"
DIRECTORY_OF_DICOM = "DICOMDIR"  # name of the file that lists those of a disc, by the standard


def kind_of_folder(directory: Path, name: str, siblings: Collection[str]) -> str:
    """Return the kind under which a folder is ignored, "" for any other."""
    if is_ph2_mask_folder(name, siblings):
        return PH2_MASKS
    return OUTPUT_FOLDER if is_output_folder(directory / name) else ""


def is_ph2_mask_folder(name: str, siblings: Collection[str]) -> bool:
    endings = (ending for ending in (PH2_MASK, PH2_REGIONS) if name.endswith(ending))
    return any(f"{name.removesuffix(ending)}{PH2_PHOTOGRAPH}" in siblings for ending in endings)


def is_output_folder(folder: Path) -> bool:
    """Tell whether `segment` wrote the folder: its run.json, or that of a shard, has the hash of an engine."""
    return _has_record(folder) or any(_has_record(shard_folder(folder, shard)) for shard in find_shards(folder))


def _has_record(folder: Path) -> bool:
    try:
        return "engine_sha256" in json.loads((folder / RUN_RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):  # no such file, not JSON, a number, nested too deeply
        return False


def split_suffix(name: str) -> tuple[str, str]:
    """Return stem and suffix of a file name as pathlib does, in a tenth of its time."""
    position = name.rfind(".")
    return (name[:position], name[position:]) if 0 < position < len(name) - 1 else (name, "")


def name_of_file(file_name: str) -> str:
    """Return a file name without the suffix of an image: files with DICOM's ids for names have dots in them."""
    stem, suffix = split_suffix(file_name)
    return stem if is_supported_suffix(suffix) else file_name


def is_image_file(path: Path) -> bool:
    """Return whether a file in a folder is an image, as list_images() tells, but for masks beside it."""
    return not path.name.startswith(".") and not kind_if_ignored(path)


def kind_if_ignored(path: Path) -> str:
    """Return the kind under which a file is ignored, "" for an image."""
    suffix = split_suffix(path.name)[1]
    if (not suffix or suffix[1:].isdecimal()) and (known := format_by_content(path)):
        is_missing = known.extra and not known.extra.is_installed
        return f"{known.name} {NO_SUFFIX} (needs the extra {known.extra.name})" if known.extra and is_missing else ""
    return kind_of_name(path.name)


def kind_of_name(file_name: str) -> str:
    """Return the kind under which a file of such a name is ignored, "" for an image."""
    suffix = split_suffix(file_name)[1]
    if is_supported_suffix(suffix):
        return f"*{ending}" if (ending := isic_ending(file_name)) else ""
    return printable(suffix.lower()) or NO_SUFFIX


def isic_ending(name: str) -> str:
    return next((ending for ending in ISIC_ENDINGS if name.lower().endswith(ending)), "")


def format_by_content(path: Path) -> ImageFormat | None:
    """Return the format of a file that has no suffix, or a number for one, if its content is that of an image."""
    if path.name == DIRECTORY_OF_DICOM:
        return None
    try:
        if not path.is_file():  # a pipe would block
            return None
        with path.open("rb", buffering=0) as file:
            return format_without_suffix(file.read(SIGNATURE_BYTES))
    except OSError:
        return None
