"""How ISIC names its images: `ISIC_` and a number of seven digits."""

import re

NUMBER = re.compile(r"(?<!\d)\d{7}(?!\d)")  # the official scorer also finds 0000003 inside ISIC_10000003
ID = re.compile(r"ISIC_\d{7}")
MASK_ENDING = "_segmentation"


def find_id(name: str) -> str:
    """The id of the image that a file of this name belongs to; "" where the last part of it has no number, or two."""
    numbers = NUMBER.findall(name.rpartition("/")[2])
    return f"ISIC_{numbers[0]}" if len(numbers) == 1 else ""


def named_by_id(name: str) -> str:
    """The name that `segment --isic` gives, in the same folder: the id, or the name as it is where it has none."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + (find_id(name) or file)
