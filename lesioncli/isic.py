"""ISIC image ids: `ISIC_` and seven digits, and lists of them."""

import re
from collections.abc import Iterable

NUMBER = re.compile(r"(?<!\d)\d{7}(?!\d)")  # the official scorer also finds 0000003 in ISIC_10000003
ID = re.compile(r"ISIC_\d{7}")
MASK_ENDING = "_segmentation"

# Lists of ids by name. isic2017-test-duplicates: training images of ISIC-2017 that are near duplicates of test images,
# from the map published with Valle et al., "Data, Depth, and Design" (arXiv 1711.00441).
ID_LISTS = {
    "isic2017-test-duplicates": (
        *("ISIC_0012175", "ISIC_0012237", "ISIC_0012271", "ISIC_0012713"),
        *("ISIC_0012887", "ISIC_0013163", "ISIC_0013417", "ISIC_0013737"),
    )
}


def find_id(name: str) -> str:
    """Return the image id in a file name; "" if its last path component has no number of seven digits, or several."""
    numbers = NUMBER.findall(name.rpartition("/")[2])
    return f"ISIC_{numbers[0]}" if len(numbers) == 1 else ""


def name_by_id(name: str) -> str:
    """Return a name with its last path component replaced by the image id; unchanged if it has no id."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + (find_id(name) or file)


def expand_lists(names: Iterable[str]) -> set[str]:
    """Return the names, with the ids of a list in place of its name."""
    return {image for name in names for image in ID_LISTS.get(name, (name,))}
