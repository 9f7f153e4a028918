"""Augmented samples in shuffled, reproducible batches."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

from lesioncli.errors import InputError
from lesioncli.images.geometry import to_network, to_upright
from lesioncli.memory import SHARED
from lesioncli.process import quiet_decoders
from lesioncli.training.augment import augment
from lesioncli.training.groups import SampleGroup
from lesioncli.training.losses import UNKNOWN_DIAGNOSIS
from lesioncli.training.recipe import AugmentSettings
from lesioncli.training.samples import Sample, read_sample_image, read_sample_mask

# Images (N, 3, H, W) and masks (N, 1, H, W) in [0, 1], labels (N, 2), diagnoses (N,) by their index. Unknown masks and
# labels are nan, unknown diagnoses UNKNOWN_DIAGNOSIS.
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


class SampleKey(NamedTuple):
    """A sample of an epoch: the seed of its augmentation. `position` counts from the start of the epoch."""

    epoch: int
    position: int
    sample: int


class AugmentedSamples(Dataset[Batch]):
    """Samples by SampleKey. The same key gives the same pixels in any process, and after a resume."""

    def __init__(
        self, samples: Sequence[Sample], size_hw: tuple[int, int], settings: AugmentSettings, seed: int
    ) -> None:
        self.samples = samples
        self.diagnoses = list_diagnoses(samples)
        self.size_hw = size_hw
        self.settings = settings
        self.seed = seed

    def __getitem__(self, key: SampleKey) -> Batch:
        """Image (3, H, W) and mask (1, H, W) in [0, 1], labels (2,), diagnosis (); a missing mask is nan."""
        sample = self.samples[key[2]]
        decoded = read_sample_image(sample, self.size_hw)
        upright_hw = (decoded.rgb.shape[0], decoded.rgb.shape[1])
        mask = np.zeros(upright_hw, np.uint8)
        if sample.mask is not None:
            stored_mask = read_sample_mask(sample.mask, decoded.stored_hw)
            mask = to_network(to_upright(stored_mask, decoded.orientation), *upright_hw, kernel="box")
        rng = np.random.default_rng((self.seed, *key))
        image, mask = augment(decoded.rgb, mask, self.size_hw, self.settings, rng)
        pixels = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255)
        target = mask[None].astype(np.float32) / 255 if sample.mask else np.full((1, *self.size_hw), np.nan, np.float32)
        diagnosis = self.diagnoses.index(sample.diagnosis) if sample.diagnosis else UNKNOWN_DIAGNOSIS
        return pixels, torch.from_numpy(target), torch.tensor(sample.labels), torch.tensor(diagnosis)


def list_diagnoses(samples: Sequence[Sample]) -> list[str]:
    """The diagnoses that occur, sorted."""
    return sorted({sample.diagnosis for sample in samples} - {""})


class EpochSampler(Sampler[list[SampleKey]]):
    """Shuffled batches that depend on seed and epoch alone. An incomplete last batch is left out.

    An epoch has as many samples as there are groups. With equal weights, it has one of each: one of the group's images,
    in one of its renderings. Process `rank` of `processes` gets its part of every batch, so that batches are the same
    on any number of devices.

    Raises InputError if there are more processes than samples in a batch.
    """

    def __init__(self, groups: Sequence[SampleGroup], batch: int, seed: int, rank: int = 0, processes: int = 1) -> None:
        self.groups = groups
        self.batch = min(batch, len(groups))
        if processes > self.batch:
            raise InputError(f"a batch of {self.batch} cannot be divided among {processes} processes; start fewer")
        self.seed = seed
        self.rank = rank
        self.processes = processes
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.groups) // self.batch

    def __iter__(self) -> Iterator[list[SampleKey]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        samples = [_choose_sample(self.groups[index], rng) for index in self._shuffle(rng)]
        keys = [SampleKey(self.epoch, position, sample) for position, sample in enumerate(samples)]
        for start in range(0, len(self) * self.batch, self.batch):
            yield keys[start + self.rank : start + self.batch : self.processes]

    def _shuffle(self, rng: np.random.Generator) -> list[int]:
        """As many indices of groups as there are groups, in random order.

        A group whose weight says 2.3 times comes 2 or 3 times: systematic sampling along the summed weights.
        """
        weights = np.array([group.weight for group in self.groups])
        count = len(weights)
        shuffled = rng.permutation(count)
        if np.ptp(weights) == 0:
            return [int(index) for index in shuffled]
        cumulative = np.cumsum(weights[shuffled])
        points = (np.arange(count) + rng.random()) * cumulative[-1] / count
        chosen = shuffled[np.searchsorted(cumulative, points, side="right")]
        return [int(index) for index in rng.permutation(chosen)]


def _choose_sample(group: SampleGroup, rng: np.random.Generator) -> int:
    renderings = group.images[rng.integers(len(group.images))]
    return renderings[rng.integers(len(renderings))]


def make_loader(samples: AugmentedSamples, sampler: EpochSampler, workers: int, fabric: Fabric) -> Any:
    """Fabric's loader of batches on its device; `workers` processes load and augment."""
    loader = DataLoader(
        _ErrorsAsItems(samples),
        collate_fn=_collate,
        batch_sampler=sampler,
        num_workers=workers,
        # Workers take their seeds from it; taken from torch's own generator, they would shift dropout after a resume.
        generator=torch.Generator(),
        worker_init_fn=_set_up_worker,
        # A forked worker inherits opencv's locks but not the threads that hold them, and hangs.
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
        pin_memory=fabric.device.type != "cpu",
    )
    return fabric.setup_dataloaders(loader, use_distributed_sampler=False)  # the sampler divides batches itself


def read_batches(loader: Iterable[Batch | InputError]) -> Iterator[Batch]:
    """The batches of a loader that make_loader() made; InputError for a sample that cannot be read."""
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch


class _ErrorsAsItems(Dataset[Batch | InputError]):
    """The samples, or the InputError of one: raised in a worker, its message would have the worker's traceback."""

    def __init__(self, samples: AugmentedSamples) -> None:
        self.samples = samples

    def __getitem__(self, key: SampleKey) -> Batch | InputError:
        try:
            return self.samples[key]
        except InputError as error:
            return error


def _collate(items: list[Batch | InputError]) -> Any:
    return next((item for item in items if isinstance(item, InputError)), None) or default_collate(items)


@contextmanager
def shared_memory_errors() -> Iterator[None]:
    """Turn the error of a full /dev/shm, through which workers pass batches, into an InputError."""
    try:
        yield
    except RuntimeError as error:  # torch has no class for it, and a text for each way to notice it
        if "shared memory" not in str(error) and "</torch_" not in str(error):  # how it names its files there
            raise
        raise InputError(
            "shared memory (/dev/shm): too small for batches from worker processes; give the container more, as with"
            " `docker run --shm-size=1g`, or set workers = 0 under [train] in the recipe"
        ) from error


def _set_up_worker(worker: int) -> None:
    cv2.setNumThreads(1)  # the workers use all cores already
    quiet_decoders()
    if info := get_worker_info():
        SHARED.divide(info.num_workers)
