"""What the sections and plots of a report are made from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.metrics.scores import RocCurve, roc_curve
from lesioncli.evaluation.result import Evaluation
from lesioncli.inference.record import describe_shards
from lesioncli.report.cases import Case
from lesioncli.report.options import ReportOptions
from lesioncli.segmented import SegmentedFolder

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ReportData:
    """A segmented folder, its cases from the worst to the best, and their evaluation (None without ground truth)."""

    segmented: SegmentedFolder
    cases: Sequence[Case]
    evaluation: Evaluation | None = None
    options: ReportOptions = field(default_factory=ReportOptions)

    @property
    def interruption(self) -> str:
        """What the latest run of `segment` left undone, in words; "" if it finished or nothing is recorded."""
        known = {case.name for case in self.cases if case.prediction_path or case.name in self.segmented.rows}
        return describe_shards(self.segmented.folder) or self.segmented.record.describe_interruption(len(known))

    @property
    def shown(self) -> Sequence[Case]:
        """Cases in the gallery."""
        return self.cases[: self.options.gallery]

    def known(self, column: str) -> Floats:
        """Return the values (N,) of the cases that have a number in a column."""
        values = np.array([case.number(column) for case in self.cases], np.float64)
        return np.asarray(values[np.isfinite(values)])

    @cached_property
    def roc_curves(self) -> dict[str, RocCurve]:
        """ROC curves of the classes that have one, every image with weight 1, as for the AUC in the tables."""
        if self.evaluation is None:
            return {}
        by_class = self.evaluation.scores.labelled.by_class()
        curves = {name: roc_curve(labels, scores, np.ones(len(labels))) for name, (labels, scores) in by_class.items()}
        return {name: curve for name, curve in curves.items() if curve}
