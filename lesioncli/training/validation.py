"""Validation metrics, which decide on the best epoch: one view, masks at the images' own size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lesioncli.evaluation.metrics import pixels
from lesioncli.evaluation.metrics.scores import roc_auc
from lesioncli.images.geometry import to_full_size, to_network
from lesioncli.spec import CLASSES, ModelSpec
from lesioncli.training.samples import LABEL_COLUMNS, Sample, read_sample_image, read_sample_mask
from lesioncli.training.stages import StageNetwork

BATCH = 16


@dataclass(frozen=True)
class SampleMetrics:
    """Jaccard of the samples with a mask (M,), class probabilities (N, 3); empty if the stage has no such output."""

    jaccards: NDArray[np.float64]
    scores: NDArray[np.float64]


def validate(
    network: StageNetwork, spec: ModelSpec, samples: Sequence[Sample], device: torch.device
) -> dict[str, float]:
    """Mean Jaccard and AUC per class, as far as the stage has outputs, and `choice`: Jaccard plus mean AUC."""
    metrics = measure_samples(network, spec, samples, device)
    row = {"jaccard": float(np.mean(metrics.jaccards))} if metrics.jaccards.size else {}
    aucs = _aucs(samples, metrics.scores) if metrics.scores.size else {}
    known = [value for value in aucs.values() if not np.isnan(value)]
    choice = row.get("jaccard", 0.0) + (float(np.mean(known)) if known else 0.0)
    return {**row, **aucs, "choice": choice}


@torch.inference_mode()
def measure_samples(
    network: StageNetwork, spec: ModelSpec, samples: Sequence[Sample], device: torch.device
) -> SampleMetrics:
    """Jaccard and class probabilities per sample."""
    network.eval()
    jaccards: list[float] = []
    scores: list[NDArray[np.float32]] = []
    for chunk in _chunks(samples):
        decoded = [read_sample_image(sample, (spec.height, spec.width)) for sample in chunk]
        inputs = [to_network(image.rgb, spec.height, spec.width, spec.reduction) for image in decoded]
        batch = torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2).float().to(device) / 255
        output = network(batch.contiguous(memory_format=torch.channels_last))
        if output.class_logits is not None:
            scores.append(network.class_probabilities(output.class_logits.float()).cpu().numpy())
        if output.mask_logits is None:
            continue
        probabilities = (output.mask_logits[:, 0].float().sigmoid() * 255).round().byte().cpu().numpy()
        for sample, image, probability in zip(chunk, decoded, probabilities, strict=True):
            if sample.mask is None:
                continue
            full = to_full_size(probability, image.stored_hw, image.orientation)
            truth_mask = read_sample_mask(sample.mask, image.stored_hw)
            jaccards.append(pixels.jaccard(pixels.count_pixels(truth_mask > 0, full > 127)))
    all_scores = np.concatenate(scores, dtype=np.float64) if scores else np.empty((0, len(CLASSES)))
    return SampleMetrics(np.array(jaccards), all_scores)


def _aucs(samples: Sequence[Sample], scores: NDArray[np.float64]) -> dict[str, float]:
    labels = np.array([sample.labels for sample in samples])
    values = {}
    for index, name in enumerate(LABEL_COLUMNS):
        known = ~np.isnan(labels[:, index])
        values[f"auc_{name}"] = float(roc_auc(labels[known, index] > 0.5, scores[known, index]))
    return values


def _chunks(samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), BATCH):
        yield samples[start : start + BATCH]
