"""ISIC image ids: `ISIC_` and seven digits."""

import re

NUMBER = re.compile(r"(?<!\d)\d{7}(?!\d)")  # the official scorer also finds 0000003 in ISIC_10000003
ID = re.compile(r"ISIC_\d{7}")
MASK_ENDING = "_segmentation"


def find_id(name: str) -> str:
    """Return the image id in a file name; "" if its last path component has no number of seven digits, or several."""
    numbers = NUMBER.findall(name.rpartition("/")[2])
    return f"ISIC_{numbers[0]}" if len(numbers) == 1 else ""


def name_by_id(name: str) -> str:
    """Return a name with its last path component replaced by the image id; unchanged if it has no id."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + (find_id(name) or file)
