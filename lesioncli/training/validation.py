"""What checkpoints are chosen by: single view, masks at the images' own size, the metrics that evaluate uses."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lesioncli.evaluation.metrics import pixels as metrics
from lesioncli.evaluation.metrics.scores import roc_auc
from lesioncli.images.geometry import to_full_size, to_network
from lesioncli.spec import CLASSES, ModelSpec
from lesioncli.training.datasets import LABELS, Sample, read_mask_of, read_picture
from lesioncli.training.stages import StageNetwork

BATCH = 16


def validate(
    network: StageNetwork, spec: ModelSpec, samples: Sequence[Sample], device: torch.device
) -> dict[str, float]:
    """Mean Jaccard and AUC per class, as far as the network's outputs go, and `choice`: Jaccard plus mean AUC."""
    jaccards, scores = judge_each(network, spec, samples, device)
    row = {"jaccard": float(np.mean(jaccards))} if jaccards.size else {}
    aucs = _aucs(samples, scores) if scores.size else {}
    known = [value for value in aucs.values() if not np.isnan(value)]
    choice = row.get("jaccard", 0.0) + (float(np.mean(known)) if known else 0.0)
    return {**row, **aucs, "choice": choice}


@torch.inference_mode()
def judge_each(
    network: StageNetwork, spec: ModelSpec, samples: Sequence[Sample], device: torch.device
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Jaccard (N,) and class probabilities (N, 3) of each sample; empty where the stage has no such output."""
    network.eval()
    jaccards: list[float] = []
    scores: list[NDArray[np.float32]] = []
    for chunk in _chunks(samples):
        pictures = [read_picture(each, (spec.height, spec.width)) for each in chunk]
        inputs = [to_network(each.rgb, spec.height, spec.width, spec.reduction) for each in pictures]
        batch = torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2).float().to(device) / 255
        mask_logits, class_logits = network(batch.contiguous(memory_format=torch.channels_last))
        if class_logits is not None:
            scores.append(network.class_probabilities(class_logits.float()).cpu().numpy())
        if mask_logits is None:
            continue
        probabilities = (mask_logits[:, 0].float().sigmoid() * 255).round().byte().cpu().numpy()
        for sample, picture, probability in zip(chunk, pictures, probabilities, strict=True):
            full = to_full_size(probability, picture.stored_hw, picture.orientation)
            truth = read_mask_of(sample, picture.stored_hw)
            jaccards.append(metrics.jaccard(metrics.count_pixels(truth > 0, full > 127)))
    return np.array(jaccards), np.concatenate(scores, dtype=np.float64) if scores else np.empty((0, len(CLASSES)))


def _aucs(samples: Sequence[Sample], scores: NDArray[np.float64]) -> dict[str, float]:
    labels = np.array([each.labels for each in samples])
    values = {}
    for index, name in enumerate(LABELS):
        known = ~np.isnan(labels[:, index])
        values[f"auc_{name}"] = float(roc_auc(labels[known, index] > 0.5, scores[known, index]))
    return values


def _chunks(samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), BATCH):
        yield samples[start : start + BATCH]
