"""Measure how well the confidence columns of scores.csv find poor masks and match the Jaccard. Figures for model cards.

    lesioncli segment ./images --out masks/ && lesioncli evaluate --gt ./labels
    python benchmarks/confidence.py masks/

With a calibrated engine, the raw confidence is measured, too. On the images that its calibration was fitted on, the
calibrated one looks too good; `lesioncli calibrate` prints cross-validated figures. `lesioncli evaluate --json` has the
calibration errors of class scores. Intervals are 95 % percentile bootstraps over images.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas
from numpy.typing import NDArray

from lesioncli.evaluation.metrics import pixels as metrics
from lesioncli.evaluation.metrics.scores import roc_auc
from lesioncli.evaluation.reliability import evaluate_confidence
from lesioncli.evaluation.statistics import resampling

Values = NDArray[np.float64]
SEED = 0
CONFIDENCES = ("confidence", "raw_confidence")


def main() -> None:
    folder = Path(sys.argv[1])
    scores = pandas.read_csv(folder / "scores.csv").set_index("mask")
    cases = pandas.read_csv(folder / "evaluation.csv").dropna(subset="jaccard")
    rows = scores.loc[[f"{name}.png" for name in cases["image"]]]
    indicators = {name: rows[name].to_numpy() for name in (*CONFIDENCES, "agreement") if name in rows}
    jaccard = cases["jaccard"].to_numpy()
    report_indicators(jaccard, indicators)
    for name in (name for name in CONFIDENCES if name in indicators):
        report_calibration(name, jaccard, indicators[name])


def report_indicators(jaccard: Values, indicators: Mapping[str, Values]) -> None:
    """Print the rank correlation of each indicator (N,) with the Jaccard (N,), and its AUC for finding poor masks.

    Poor masks have a Jaccard below the threshold of ISIC-2018 Task 1.
    """
    is_poor = (jaccard < metrics.MINIMUM_JACCARD).astype(np.float64)
    print(f"  {is_poor.sum():.0f} of {len(jaccard)} masks are below {metrics.MINIMUM_JACCARD}")
    for name, indicator in indicators.items():
        finds, ranks = interval(auc, is_poor, -indicator), interval(spearman, indicator, jaccard)
        print(f"  {name}: Spearman correlation with the Jaccard {ranks}; AUC for finding poor masks {finds}")


def report_calibration(name: str, jaccard: Values, confidence: Values) -> None:
    """Print the calibration error of a confidence (N,) against the Jaccard (N,), and other CONFIDENCE_METRICS."""
    found = evaluate_confidence(jaccard, confidence, resampling.Resampling(SEED))
    for metric, value in found.metrics.items():
        low, high = found.intervals[metric]
        print(f"  {name}, {metric.replace('_', ' ')}: {value:.4f} ({low:.4f} to {high:.4f})")


def mean(values: Values) -> float:
    return float(values.mean())


def auc(positive: Values, scores: Values) -> float:
    return float(roc_auc(positive > 0.5, scores))


def spearman(a: Values, b: Values) -> float:
    return float(np.corrcoef(pandas.Series(a).rank(), pandas.Series(b).rank())[0, 1])


def interval(figure: Callable[..., float], *columns: Values) -> str:
    rng = np.random.default_rng(SEED)
    draws = (rng.integers(len(columns[0]), size=len(columns[0])) for _ in range(resampling.BOOTSTRAP_SAMPLES))
    values = np.array([figure(*(each[drawn] for each in columns)) for drawn in draws])
    if np.isnan(values).all():
        return "undefined"
    low, high = resampling.percentile_interval(values)
    return f"{figure(*columns):.4f} ({low:.4f} to {high:.4f})"


if __name__ == "__main__":
    main()
