"""Compare training runs of one stage on validation images (ablation): last epoch of each run, no selection.

    python benchmarks/stage.py STAGE FOLDER,FOLDER,... RUN RUN [RUN ...]

Folders are those of `lesioncli train`: the validation split of an ISIC folder, or all of a plain folder. Masks are
compared at full image size, single view, averaged weights. Intervals are 95 % percentile bootstraps over images;
differences are paired, against the first run.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from confidence import Values, auc, interval, mean

from lesioncli.models.registry import find_stage
from lesioncli.training.checkpoint import load_checkpoint
from lesioncli.training.run import BEST
from lesioncli.training.samples import LABEL_COLUMNS, has_split, read_samples
from lesioncli.training.stages import StageNetwork
from lesioncli.training.validation import SampleMetrics, measure_samples


def main() -> None:
    stage, folders, runs = sys.argv[1], map(Path, sys.argv[2].split(",")), [Path(each) for each in sys.argv[3:]]
    for folder in folders:
        samples = read_samples(folder, "Validation" if has_split(folder, "Validation") else "Training")
        labels = np.array([sample.labels for sample in samples])
        print(f"{folder}: {len(samples)} images")
        first: SampleMetrics | None = None
        for run in runs:
            network, spec = load_checkpoint(run / stage / BEST)
            part = StageNetwork(network, find_stage(spec.network, stage))
            part.part.load_state_dict(_averaged(run / stage / "last.pt"))
            found = measure_samples(part, spec, samples, torch.device("cpu"))
            first = first or found
            _report(run.name, found, first, labels)


def _averaged(path: Path) -> dict[str, torch.Tensor]:
    """Load the running average of the weights after the last epoch of a stage."""
    state = torch.load(path, weights_only=True)["average"]
    return {name.removeprefix("module."): value for name, value in state.items() if name.startswith("module.")}


def _report(name: str, found: SampleMetrics, first: SampleMetrics, labels: Values) -> None:
    jaccards, scores, other_jaccards, other_scores = found.jaccards, found.scores, first.jaccards, first.scores
    if jaccards.size:
        print(f"  {name}: Jaccard {interval(mean, jaccards)}, difference {interval(mean, jaccards - other_jaccards)}")
    if not scores.size:
        return
    for column, label in enumerate(LABEL_COLUMNS):
        truth = labels[:, column]
        difference = interval(_auc_difference, truth, scores[:, column], other_scores[:, column])
        print(f"  {name}: AUC {label} {interval(auc, truth, scores[:, column])}, difference {difference}")
    both = interval(_mean_auc_difference, labels[:, 0], labels[:, 1], *scores[:, :2].T, *other_scores[:, :2].T)
    print(f"  {name}: AUC mean, difference {both}")


def _auc_difference(truth: Values, scores: Values, other: Values) -> float:
    return auc(truth, scores) - auc(truth, other)


def _mean_auc_difference(
    melanoma: Values, keratosis: Values, a: Values, b: Values, other_a: Values, other_b: Values
) -> float:
    return (_auc_difference(melanoma, a, other_a) + _auc_difference(keratosis, b, other_b)) / 2


if __name__ == "__main__":
    main()
