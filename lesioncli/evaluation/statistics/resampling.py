"""Percentile bootstrap over images, or over clusters of images.

References:
    Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3: percentile intervals.
    Field and Welsh 2007, "Bootstrapping clustered data", J. R. Statist. Soc. B 69(3): whole clusters are resampled
    where the images of a cluster (a patient, a lesion) are not independent.

The same images and the same seed give the same bootstrap samples, so metrics of one sample belong together.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

BOOTSTRAP_SAMPLES = 2000
MAX_DRAWN_IMAGES = 200_000_000  # in all bootstrap samples together: about 5 s per class
BLOCK_SIZE = 1_000_000  # numbers per array: 8 MB, and about six such arrays exist at a time
CONFIDENCE_LEVEL = 0.95

Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Resampling:
    """How N images are resampled.

    `clusters` (N,) is the cluster number of each image, counted from 0; None where every image is its own cluster.
    """

    seed: int
    clusters: NDArray[np.intp] | None = None

    def count_clusters(self, rows: NDArray[np.intp]) -> int:
        """Return the number of clusters that the images at `rows` belong to."""
        return rows.size if self.clusters is None else np.unique(self.clusters[rows]).size

    def select(self, rows: NDArray[np.bool_]) -> "Resampling":
        """Return the resampling of the images at `rows` (N,) alone."""
        if self.clusters is None:
            return self
        return Resampling(self.seed, np.unique(self.clusters[rows], return_inverse=True)[1])

    def per_image(self, per_cluster: NDArray[np.float64]) -> NDArray[np.float64]:
        """Repeat values per cluster (R, C) for each image of the cluster, which gives (R, N)."""
        return per_cluster if self.clusters is None else per_cluster[:, self.clusters]


@dataclass(frozen=True)
class ResamplingPlan:
    """How an evaluation resamples its images.

    `column` is the metadata column whose values define clusters, "" where each image is resampled alone. `cluster_of`
    maps an image to its value in that column; an image that is not in it is a cluster of its own.
    """

    seed: int = 0
    column: str = ""
    cluster_of: Mapping[str, str] = field(default_factory=dict)

    def for_images(self, images: Sequence[str]) -> Resampling:
        """Return the resampling of these images, in their order."""
        if not self.column:
            return Resampling(self.seed)
        keys = [
            ("cluster", self.cluster_of[image]) if image in self.cluster_of else ("image", image) for image in images
        ]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return Resampling(self.seed, np.array([numbers[key] for key in keys], np.intp))


def count_bootstrap_samples(images: int) -> int:
    """Return BOOTSTRAP_SAMPLES, and fewer above 100,000 images, down to 200: intervals are narrow there."""
    return min(BOOTSTRAP_SAMPLES, max(200, MAX_DRAWN_IMAGES // max(1, images)))


def bootstrap_weights(images: int, resampling: Resampling) -> Iterator[NDArray[np.float64]]:
    """Yield blocks (R, N): how often each of the N images occurs in each of R bootstrap samples.

    All blocks together have count_bootstrap_samples(images) rows.
    """
    rng = np.random.default_rng(resampling.seed)
    samples = count_bootstrap_samples(images)
    block_rows = max(1, BLOCK_SIZE // images)
    clusters = resampling.count_clusters(np.arange(images))
    for start in range(0, samples, block_rows):
        rows = min(block_rows, samples - start)
        drawn = rng.integers(clusters, size=(rows, clusters)) + clusters * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        yield resampling.per_image(counts.astype(np.float64))


def percentile_interval(resampled: NDArray[np.float64], level: float = CONFIDENCE_LEVEL) -> Interval:
    """Return the percentile interval of resampled values (R,).

    nan values are ignored; the interval is (nan, nan) where there is no other value.
    """
    known = resampled[~np.isnan(resampled)]
    if not known.size:
        return math.nan, math.nan
    tail = round(50 * (1 - level), 9)  # exactly 2.5 for 95 %, despite floating point
    low, high = np.percentile(known, (tail, 100 - tail))
    return float(low), float(high)


def joint_interval(resampled: NDArray[np.float64], intervals: int) -> Interval:
    """Return one of `intervals` intervals that hold together at CONFIDENCE_LEVEL (Bonferroni correction).

    Where a tail is less than one of the resampled values (R,), the interval is the normal interval with the same mean
    and standard deviation, because no percentile exists there.
    """
    level = 1 - (1 - CONFIDENCE_LEVEL) / intervals
    known = resampled[~np.isnan(resampled)]
    if not known.size or known.size * (1 - level) / 2 >= 1:
        return percentile_interval(known, level)
    middle, half_width = known.mean(), NormalDist().inv_cdf((1 + level) / 2) * known.std()
    return float(middle - half_width), float(middle + half_width)
