"""Tar archives of masks and scores, in the layout of WebDataset: a few large files in place of a million small ones."""

import json
import tarfile
from itertools import islice
from math import ceil
from pathlib import Path

import numpy as np

from lesioncli.export.job import ExportJob
from lesioncli.files import atomic_write
from lesioncli.images.mask_archives import add_member
from lesioncli.images.mask_png import encode_runs
from lesioncli.images.mask_runs import find_runs
from lesioncli.images.stored import is_safe_name

SUFFIX = ".tar"
IMAGES_PER_ARCHIVE = 10_000  # 100 to 200 MB


def list_files(job: ExportJob) -> list[Path]:
    """Return the paths that write_tar() writes."""
    count = ceil(len(job.paths_of_images(".png")) / IMAGES_PER_ARCHIVE)
    return [job.path_of(f"masks-{number:05d}", SUFFIX) for number in range(count)]


def write_tar(job: ExportJob) -> None:
    """Write the mask of each image, the bytes of `segment`, and beside it the numbers of its row as JSON."""
    images = job.read_images()
    for path in list_files(job):
        with atomic_write(path) as temporary, tarfile.open(temporary, "w") as tar:
            for image in islice(images, IMAGES_PER_ARCHIVE):
                if not is_safe_name(image.name):  # scores.csv may come from anybody
                    job.reject(image.image, "its name leads out of the folder into which the archive is unpacked")
                    continue
                add_member(tar, f"{image.name}.png", encode_runs(find_runs(np.asarray(image.mask * 255, np.uint8))))
                add_member(tar, f"{image.name}.json", json.dumps({"image": image.image, **image.values}).encode())
                job.exported += 1
    for _ in images:  # the rest, of which none has a mask
        pass
