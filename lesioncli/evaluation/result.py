"""Evaluation, the result of `evaluate`, and its parts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lesioncli.evaluation.cases import CaseResult
from lesioncli.evaluation.labelled_scores import LabelledScores
from lesioncli.evaluation.metrics.pixels import Counts
from lesioncli.evaluation.official import OfficialFigures
from lesioncli.evaluation.reliability import ConfidenceEvaluation, ReliabilityBin
from lesioncli.evaluation.statistics.comparison import Comparison
from lesioncli.evaluation.statistics.groups import GroupResult
from lesioncli.evaluation.statistics.resampling import Interval, ResamplingPlan
from lesioncli.evaluation.threshold_curve import ThresholdCurve
from lesioncli.options import ProtocolName


@dataclass(frozen=True)
class MaskEvaluation:
    """Evaluation of the predicted masks.

    `cases` has one entry per ground truth mask, sorted by name; `extra` names the predictions without ground truth.
    `means` are over the evaluated cases in which a metric is defined: nan where there is no such case, and empty where
    no case was evaluated. `intervals` are their 95 % intervals, except for means that are nan. `confidence` compares
    the confidence of masks with their Jaccard. `thresholds` is None if no evaluated mask has a probability map.
    """

    cases: tuple[CaseResult, ...] = ()
    extra: tuple[str, ...] = ()
    means: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    confidence: ConfidenceEvaluation = field(default_factory=ConfidenceEvaluation)
    thresholds: ThresholdCurve | None = None

    @property
    def evaluated(self) -> tuple[CaseResult, ...]:
        """Cases without a problem."""
        return tuple(case for case in self.cases if not case.problem)


@dataclass(frozen=True)
class ConfusionMatrix:
    """Images per class (row) and class of the highest score (column); the last column counts ties."""

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ScoreEvaluation:
    """Evaluation of the class scores; everything is empty where there are no labels or no scores.

    Every image counts once here; weights in the labels only affect the official figures. `auc` is per class and nan
    where only one label occurs, `auc_mean` the mean over the classes. `per_class` has every metric of a class and
    `confusion` its counts. `intervals` are 95 % intervals for the keys of `auc` and for AUC_MEAN, and
    `per_class_intervals` for those of `per_class`, except for values that are nan. `matrix` is None unless every image
    belongs to exactly one of several classes. `reliability` has the share of positives of each class by score.
    """

    labelled: LabelledScores = field(default_factory=LabelledScores, compare=False, repr=False)
    auc: Mapping[str, float] = field(default_factory=dict)
    auc_mean: float = math.nan
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    per_class_intervals: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    confusion: Mapping[str, Counts] = field(default_factory=dict)
    matrix: ConfusionMatrix | None = None
    reliability: Mapping[str, tuple[ReliabilityBin, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Result of evaluate().

    `groups` has the groups of every requested column, column by column, and `comparison` the differences to other
    predictions. `notes` says what was ignored and which figures need care. `plan` is how images were resampled.
    """

    protocol: ProtocolName
    masks: MaskEvaluation = field(default_factory=MaskEvaluation)
    scores: ScoreEvaluation = field(default_factory=ScoreEvaluation)
    official: OfficialFigures = field(default_factory=OfficialFigures)
    groups: tuple[GroupResult, ...] = ()
    comparison: Comparison | None = None
    notes: tuple[str, ...] = ()
    plan: ResamplingPlan = field(default_factory=ResamplingPlan)

    @property
    def incomplete(self) -> tuple[str, ...]:
        """The parts in which not every image could be evaluated: "masks", "scores" or both."""
        parts = {
            "masks": any(case.problem for case in self.masks.cases),
            "scores": bool(self.scores.labelled.problems),
        }
        return tuple(part for part, is_incomplete in parts.items() if is_incomplete)

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be evaluated: names of images with the reason."""
        masks = (f"{case.name}: {case.problem}" for case in self.masks.cases if case.problem)
        return (*masks, *self.scores.labelled.problems)

    @property
    def all_notes(self) -> tuple[str, ...]:
        """The notes on the evaluation, then those on single masks."""
        return (*self.notes, *(f"{case.name}: {case.note}" for case in self.masks.cases if case.note))

    @property
    def failed(self) -> bool:
        """Whether any ground truth mask or labelled image could not be evaluated."""
        return bool(self.incomplete)
