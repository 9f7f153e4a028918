"""sample_images(): evenly spread over all images, and readable."""

from collections.abc import Container
from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import save

from lesioncli.images.find import ImageFile, find_images
from lesioncli.images.sample import sample_images


def save_numbered(folder: Path, count: int, broken: Container[int] = ()) -> list[ImageFile]:
    """Write images whose pixels all have their number; those of `broken` are empty files."""
    for number in range(count):
        path = save(folder / f"{number:03}.png", np.full((4, 5, 3), number, np.uint8))
        if number in broken:
            path.write_bytes(b"")
    return find_images([folder])


@pytest.mark.parametrize(
    ("total", "broken", "count", "expected"),
    [
        (10, (), 5, [0, 2, 4, 6, 8]),
        (10, (4,), 5, [0, 2, 6, 8, 1]),
        (10, (4,), 99, [0, 1, 2, 3, 5, 6, 7, 8, 9]),
        (7, (), 4, [0, 1, 3, 5]),
        (8, range(4), 4, [4, 6, 5, 7]),
        (20, {*range(8), *range(10, 18)}, 2, []),  # 16 files are tried, and no more
    ],
)
def test_samples_are_spread_and_readable(
    tmp_path: Path, total: int, broken: Container[int], count: int, expected: list[int]
) -> None:
    sample = sample_images(save_numbered(tmp_path, total, broken), count, (32, 32))
    assert [pixels[0, 0, 0] for pixels in sample] == expected


def test_samples_come_from_the_whole_folder(tmp_path: Path) -> None:
    sample = [int(pixels[0, 0, 0]) for pixels in sample_images(save_numbered(tmp_path, 63), 32, (32, 32))]
    assert (len(sample), sample[0], sample[-1]) == (32, 0, 61)
    assert max(np.diff(sample)) == 2
