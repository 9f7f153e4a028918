"""Print the figures that a model card states, as the tables of the card.

    python benchmarks/model_card.py MODEL FOLDER [FOLDER ...]

MODEL is a name or a file that `build-engine` takes. A FOLDER holds `images/`, `labels/` as `evaluate` reads it, and for
the table of groups `metadata.csv`; its name heads its rows. Everything is measured in fp32, with one view and a
threshold of 0.5; masks in int8, and in bf16 if this processor has it, are compared with those. Intervals are 95 %
bootstraps over images.

Confidence and scores of a calibrated model that the same images calibrated look too good here: `lesioncli calibrate`
prints cross-validated figures.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path

import numpy as np
import pandas
from confidence import Values, auc, interval, mean, spearman
from kernel_agreement import measure_agreement
from numpy.typing import NDArray

import lesioncli
from lesioncli.evaluation.metrics.pixels import MINIMUM_JACCARD, count_pixels, jaccard
from lesioncli.evaluation.reading.masks import MaskRole, read_mask
from lesioncli.evaluation.result import Evaluation
from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN
from lesioncli.evaluation.statistics.groups import Estimate
from lesioncli.evaluation.statistics.resampling import Interval
from lesioncli.images.find import find_images

METRICS = ("jaccard", "dice", "threshold_jaccard")
GROUP_METRICS = ("jaccard", "melanoma", "seborrheic_keratosis")


@dataclass(frozen=True)
class CardSet:
    """A folder of images and labels, the masks of them that an engine made, and their evaluation."""

    folder: Path
    masks: Path
    evaluation: Evaluation

    @property
    def images(self) -> int:
        return len(self.evaluation.masks.evaluated)

    @property
    def name(self) -> str:
        return f"{self.images} {self.folder.name}"


def main() -> None:
    model, folders = sys.argv[1], [Path(each) for each in sys.argv[2:]]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        engines = _build_engines(model, work / "engines")
        sets = [_measure(engines["fp32"], folder, work / "fp32" / folder.name) for folder in folders]
        print_figures(sets)
        print_confidence(sets)
        print_groups(sets)
        for precision, engine in engines.items():
            print_kernels(engine, precision, folders)
            if precision != "fp32":
                print_precision(engine, precision, sets, work / precision)


def _build_engines(model: str, folder: Path) -> Mapping[str, Path]:
    """Build the model in each precision that this processor has; precision -> manifest."""
    built = {}
    for precision in (lesioncli.Precision.FP32, lesioncli.Precision.BF16, lesioncli.Precision.INT8):
        options = lesioncli.BuildOptions(lesioncli.Backend.OPENVINO, precision, name=f"card-{precision}")
        try:
            built[precision.value] = lesioncli.build_engine(model, folder, options).path
        except lesioncli.EngineError as error:
            print(f"{precision}: {error}\n")
    return built


def _measure(engine: Path, folder: Path, masks: Path) -> CardSet:
    lesioncli.segment_folder(folder / "images", masks, engine=engine)
    metadata = folder / "metadata.csv"
    columns = _group_columns(metadata) if metadata.is_file() else ()
    options = lesioncli.EvaluationOptions(by=columns, metadata=metadata if columns else None)
    return CardSet(folder, masks, lesioncli.evaluate(folder / "labels", masks, options))


def _group_columns(metadata: Path) -> tuple[str, ...]:
    return ("lesion_size", *pandas.read_csv(metadata, nrows=0).columns[1:])


def print_figures(sets: Sequence[CardSet]) -> None:
    """Print the mean of each mask metric and the AUCs, a row for each set of images."""
    classes = list(sets[0].evaluation.scores.auc)
    print_table("images", *METRICS, *(f"AUC {name}" for name in classes), "AUC mean")
    for each in sets:
        masks, scores = each.evaluation.masks, each.evaluation.scores
        cells = [_cell(masks.means[name], masks.intervals.get(name)) for name in METRICS]
        values = {**scores.auc, AUC_MEAN: scores.auc_mean}
        aucs = [_cell(values.get(name, nan), scores.intervals.get(name)) for name in (*classes, AUC_MEAN)]
        print_row(each.name, *cells, *aucs)


def print_confidence(sets: Sequence[CardSet]) -> None:
    """Print how well the confidence ranks masks and matches the Jaccard, and the calibration error of each score."""
    classes = list(sets[0].evaluation.scores.auc)
    errors = [f"calibration error of {name}" for name in ("confidence", *classes)]
    print_table("images", "Spearman with Jaccard", f"AUC for a Jaccard below {MINIMUM_JACCARD}", *errors)
    for each in sets:
        found, confidence = _jaccard_and_confidence(each)
        is_poor = (found < MINIMUM_JACCARD).astype(np.float64)
        reliability = each.evaluation.masks.confidence
        per_class, intervals = each.evaluation.scores.per_class, each.evaluation.scores.per_class_intervals
        scores = [
            _cell(per_class[name]["calibration_error"], intervals[name].get("calibration_error")) if per_class else ""
            for name in classes
        ]
        error = _cell(reliability.metrics["calibration_error"], reliability.intervals.get("calibration_error"))
        print_row(each.name, interval(spearman, confidence, found), interval(auc, is_poor, -confidence), error, *scores)


def _jaccard_and_confidence(each: CardSet) -> tuple[Values, Values]:
    """Jaccard and confidence (N,) of the evaluated masks."""
    rows = lesioncli.read_results(each.masks).set_index("image")
    cases = each.evaluation.masks.evaluated
    found = np.array([case.metrics["jaccard"] for case in cases])
    return found, rows.loc[[case.image for case in cases], "confidence"].to_numpy()


def print_groups(sets: Sequence[CardSet]) -> None:
    """Print the figures of each group of the sets that have metadata."""
    for each in sets:
        if each.evaluation.groups:
            print_table(f"group of {each.name}", "images", *GROUP_METRICS)
        for group in each.evaluation.groups:
            estimates = [group.estimates.get(name) for name in GROUP_METRICS]
            print_row(f"{group.column} {group.group}", str(group.images), *map(_estimate_cell, estimates))


def print_kernels(engine: Path, precision: str, folders: Sequence[Path]) -> None:
    """Print the mean and lowest agreement of masks by different ways to reduce the image."""
    print_table(f"reduction, {precision}", *(folder.name for folder in folders))
    found = [measure_agreement(engine, _paths(folder)) for folder in folders]
    for pair in found[0]:
        print_row(" and ".join(pair), *(f"{each[pair].mean():.4f} (lowest {each[pair].min():.3f})" for each in found))


def print_precision(engine: Path, precision: str, sets: Sequence[CardSet], work: Path) -> None:
    """Print how masks, scores and figures of an engine of this precision differ from those in fp32."""
    print_table(
        f"{precision} against fp32", "mask Jaccard", "greatest score difference", "change of Jaccard", "of AUC mean"
    )
    for each in sets:
        other = _measure(engine, each.folder, work / each.folder.name)
        scores, others = (lesioncli.read_results(folder) for folder in (each.masks, other.masks))
        classes = list(each.evaluation.scores.auc)
        pairs = zip(scores["mask_path"], others["mask_path"], strict=True)
        agreement = np.array([jaccard(count_pixels(*map(_read, pair))) for pair in pairs])
        change = other.evaluation.masks.means["jaccard"] - each.evaluation.masks.means["jaccard"]
        print_row(
            each.name,
            f"{mean(agreement):.4f} (lowest {agreement.min():.3f})",
            f"{(scores[classes] - others[classes]).abs().to_numpy().max():.4f}" if classes else "",
            f"{change:+.4f}",
            f"{other.evaluation.scores.auc_mean - each.evaluation.scores.auc_mean:+.4f}" if classes else "",
        )


def _read(path: Path) -> NDArray[np.bool_]:
    return read_mask(path, MaskRole.PREDICTION).lesion


def _paths(folder: Path) -> Sequence[Path]:
    return [each.local_path for each in find_images([folder / "images"])]


def print_table(*heads: str) -> None:
    print()
    print_row(*heads)
    print_row(*["---"] * len(heads))


def print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


def _cell(value: float, bounds: Interval | None) -> str:
    """The value with its interval, if there is one; nothing if the value is nan."""
    if isnan(value):
        return ""
    return f"{value:.4f} ({bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else f"{value:.4f}"


def _estimate_cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return _cell(estimate.value, None if isnan(estimate.low) else (estimate.low, estimate.high))


if __name__ == "__main__":
    main()
