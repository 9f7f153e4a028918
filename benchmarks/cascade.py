"""Measure what each part of a trained cascade contributes on validation images: masks, class scores, confidence.

    python benchmarks/cascade.py CHECKPOINT FOLDER [FOLDER ...]

Folders are those of `lesioncli train`: the validation split of an ISIC folder, or all of a plain folder. Masks are
compared at full image size, single view. Intervals are 95 % percentile bootstraps over images; differences are paired.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from confidence import Values, auc, interval, mean, report_indicators

from lesioncli.evaluation.metrics import pixels as metrics
from lesioncli.images.geometry import to_full_size, to_network
from lesioncli.inference.postprocess import expected_jaccard
from lesioncli.models.mbdcnn import MBDCNN, CascadeOutput, mask_agreement
from lesioncli.training.checkpoint import load_checkpoint
from lesioncli.training.samples import Sample, has_split, read_sample_image, read_sample_mask, read_samples


def main() -> None:
    torch.set_grad_enabled(False)
    network, spec = load_checkpoint(Path(sys.argv[1]))
    assert isinstance(network, MBDCNN)
    for folder in map(Path, sys.argv[2:]):
        samples = read_samples(folder, "Validation" if has_split(folder, "Validation") else "Training")
        rows = [_measure(network, sample, (spec.height, spec.width), spec.reduction) for sample in samples]
        table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        labels = np.array([sample.labels for sample in samples])
        print(f"{folder}: {len(samples)} images")
        _report(table, labels)


def _measure(network: MBDCNN, sample: Sample, size_hw: tuple[int, int], reduction: str) -> dict[str, float]:
    picture = read_sample_image(sample, size_hw)
    reduced = to_network(picture.rgb, *size_hw, reduction)
    out: CascadeOutput = network(torch.from_numpy(reduced.copy()).permute(2, 0, 1)[None].float() / 255)
    without_map = network.enhance(
        torch.from_numpy(reduced.copy()).permute(2, 0, 1)[None].float() / 255, out.activation * 0
    )
    logits = {
        "coarse": out.coarse_logits,
        "enhanced": out.enhanced_logits,
        "enhanced, map zeroed": without_map,
        "mean of both": (out.coarse_logits + out.enhanced_logits) / 2,
    }
    assert sample.mask is not None
    truth = read_sample_mask(sample.mask, picture.stored_hw) > 0
    maps = {name: np.rint(each[0, 0].sigmoid().numpy() * 255).astype(np.uint8) for name, each in logits.items()}
    row = {}
    for name, probability in maps.items():
        full = to_full_size(probability, picture.stored_hw, picture.orientation)
        row[f"Jaccard {name}"] = metrics.jaccard(metrics.count_pixels(truth, full > 127))
    melanoma, keratosis, _ = network.class_probabilities(out.class_logits)[0].tolist()
    p = maps["mean of both"] / 255
    entropy = -(p * np.log2(np.maximum(p, 1e-9)) + (1 - p) * np.log2(np.maximum(1 - p, 1e-9)))
    return {
        **row,
        "AUC melanoma": melanoma,
        "AUC seborrheic keratosis": keratosis,
        "agreement": float(mask_agreement(out.coarse_logits, out.enhanced_logits)),
        "expected Jaccard": expected_jaccard(maps["mean of both"], maps["mean of both"] >= 128),
        "certainty (1 - mean entropy)": 1 - float(entropy.mean()),
    }


def _report(table: dict[str, Values], labels: Values) -> None:
    for name in (each for each in table if each.startswith("Jaccard")):
        print(f"  {name}: {interval(mean, table[name])}")
    for better, worse in (
        ("enhanced", "coarse"),
        ("enhanced", "enhanced, map zeroed"),
        ("mean of both", "enhanced"),
        ("mean of both", "coarse"),
    ):
        print(f"  {better} minus {worse}: {interval(mean, table[f'Jaccard {better}'] - table[f'Jaccard {worse}'])}")
    for column, name in enumerate(("AUC melanoma", "AUC seborrheic keratosis")):
        known = ~np.isnan(labels[:, column])
        if 0 < labels[known, column].sum() < known.sum():
            print(f"  {name}: {interval(auc, labels[known, column], table[name][known])}")
    indicators = {name: table[name] for name in ("agreement", "expected Jaccard", "certainty (1 - mean entropy)")}
    report_indicators(table["Jaccard mean of both"], indicators)


if __name__ == "__main__":
    main()
