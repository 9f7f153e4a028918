"""Fit a calibration on labelled images and write a calibrated engine: the call behind `calibrate`."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from lesioncli.backends.manifest import Manifest, StoredEngine, manifest_path, read_manifest, write_manifest
from lesioncli.calibration import NO_CALIBRATION, RAW_PREFIX, Calibration, ConfidenceMap, PlattScaling
from lesioncli.calibration import write_calibration as export_calibration
from lesioncli.errors import InputError
from lesioncli.evaluation.cases import Progress
from lesioncli.evaluation.columns import plan_resampling, read_clusters
from lesioncli.evaluation.labelled_scores import LabelledScores
from lesioncli.evaluation.metrics.scores import brier, calibration_error, log_loss
from lesioncli.evaluation.predictions import EvaluatedPredictions, evaluate_predictions
from lesioncli.evaluation.protocols import PROTOCOLS
from lesioncli.evaluation.reading.ground_truth import read_ground_truth
from lesioncli.evaluation.reliability import CONFIDENCE_METRICS
from lesioncli.evaluation.statistics.calibration_maps import fit_confidence, fit_platt
from lesioncli.evaluation.statistics.cross_validation import (
    FOLDS,
    Change,
    Map,
    Metric,
    compare_values,
    cross_validate,
    make_folds,
)
from lesioncli.evaluation.statistics.resampling import Resampling, ResamplingPlan
from lesioncli.evaluation.threshold_curve import ThresholdProposal, propose_threshold
from lesioncli.inference.record import RunRecord, read_record
from lesioncli.options import CalibrationOptions, EvaluationOptions, ProtocolName
from lesioncli.sharding import refuse_unmerged
from lesioncli.spec import CLASSES, ModelSpec, check_name

MIN_IMAGES = 100
MIN_POSITIVES = 10  # of each label of a class
SUFFIX = "-calibrated"
CONFIDENCE = "confidence"

Floats = NDArray[np.float64]
Scaling = PlattScaling | ConfidenceMap
SCORE_METRICS: Mapping[str, Metric] = {
    "calibration_error": calibration_error,
    "brier": brier,
    "log_loss": lambda targets, values, weights: log_loss(targets > 0, values, weights),
}


@dataclass(frozen=True)
class OutputChange:
    """How a calibration changes one output, by cross-validation: a class, or the confidence.

    `target` is the mean of what the output should predict: the prevalence, or the mean Jaccard.
    """

    images: int
    target: float
    changes: Mapping[str, Change]


@dataclass(frozen=True)
class CalibrationResult:
    """A calibrated engine and its figures.

    `outputs` has the change of each calibrated output, and `skipped` the reason why another one was not. `problems`
    names images that could not be used, with the reason. `threshold` compares mask thresholds; None without enough
    probability maps. It changes nothing.
    """

    path: Path
    calibration: Calibration
    outputs: Mapping[str, OutputChange] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    threshold: ThresholdProposal | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the values by the keys of `calibrate --json`."""
        return {
            "engine": str(self.path),
            "calibration": msgspec.to_builtins(self.calibration),
            "outputs": {name: msgspec.to_builtins(output) for name, output in self.outputs.items()},
            "skipped": dict(self.skipped),
            "problems": self.problems,
            "notes": self.notes,
            "threshold": {**asdict(self.threshold), "is_better": self.threshold.is_better} if self.threshold else None,
        }


def calibrate(
    ground_truth: Path,
    predictions: Path,
    engine: StoredEngine,
    options: CalibrationOptions = CalibrationOptions(),
    on_progress: Progress | None = None,
) -> CalibrationResult:
    """Fit a calibration on the masks and scores of `engine` in `predictions`, and write a calibrated engine beside it.

    The calibrated engine is a manifest that names the same files. An output that cannot be calibrated keeps the
    calibration that `engine` has, if any. Fits start from raw values, also if those in `predictions` are calibrated.

    Raises InputError if the predictions are not those of the engine, if there are fewer than MIN_IMAGES labelled images
    and ground-truth masks, if nothing can be calibrated, or if the engine cannot be written.
    """
    record = _read_own_record(predictions, engine)
    spec = engine.manifest.spec
    name = _calibrated_name(spec, options.name)
    path = manifest_path(engine.path.parent, name, engine.manifest.backend)
    _check_target(path, engine.manifest)
    truth = read_ground_truth(ground_truth, options.labels)
    if truth.pairs is not None:
        raise InputError(f"{ground_truth}: a table of pairs may name masks of other engines; give a folder with --gt")
    rules = PROTOCOLS[ProtocolName.PLAIN]
    clusters = read_clusters(options.cluster, options.metadata, truth, rules)
    prefix = "" if record.calibration == NO_CALIBRATION else RAW_PREFIX
    evaluated = evaluate_predictions(
        truth,
        predictions,
        None,
        EvaluationOptions(workers=options.workers),
        on_progress,
        prefix=prefix,
        with_pictures=True,
    )
    plan = plan_resampling(options.cluster, clusters, options.seed)
    results = _fit_all(evaluated, spec, plan)
    fits = {output: fit for output, fit in results.items() if isinstance(fit, _Fit)}
    skipped = {output: reason for output, reason in results.items() if isinstance(reason, str)}
    if not fits:
        raise InputError(f"{predictions}: nothing can be calibrated: {_join_reasons(skipped)}")
    calibration = _combine(spec.calibration, fits, name, record)
    if options.export:
        export_calibration(options.export, calibration, "--export")
    _write_engine(path, engine.manifest, calibration)
    return CalibrationResult(
        path,
        calibration,
        {output: fit.change for output, fit in fits.items()},
        skipped,
        _problems(evaluated),
        (*truth.notes, *clusters.notes),
        _propose_threshold(evaluated, calibration.threshold, plan),
    )


def _read_own_record(predictions: Path, engine: StoredEngine) -> RunRecord:
    """Read run.json of the predictions; InputError if another engine, or none that is known, made them."""
    refuse_unmerged(predictions)
    record = read_record(predictions)
    if record.engine_sha256 is None:
        raise InputError(f"{predictions}: no run.json that names an engine; give an output folder of lesioncli segment")
    manifest = engine.manifest
    if (record.engine_sha256, record.precision) != (manifest.sha256, manifest.precision):
        made = f"{record.model} ({record.precision}, sha256 {record.engine_sha256[:12]})"
        raise InputError(
            f"{predictions}: made by engine {made}, not by {engine.path} ({manifest.precision}, sha256"
            f" {manifest.sha256[:12]}); segment the images again with --engine {manifest.spec.name}"
        )
    return record


def _calibrated_name(spec: ModelSpec, asked: str | None) -> str:
    name = asked or f"{spec.name.removesuffix(SUFFIX)}{SUFFIX}"
    try:
        check_name(name)
    except ValueError as error:
        raise InputError(f"--name {name!r}: {error}") from error
    return name


def _check_target(path: Path, manifest: Manifest) -> None:
    """Raise InputError if `path` is an engine that calibrate did not write for the same files."""
    if not path.exists():
        return
    existing = read_manifest(path)
    if not (existing.is_calibrated_copy and existing.files == manifest.files):
        raise InputError(f"{path}: another engine has this name; choose another name with --name")


@dataclass(frozen=True)
class _Fit:
    """The map of one output, and its change by cross-validation."""

    scaling: Scaling
    change: OutputChange


def _fit_all(evaluated: EvaluatedPredictions, spec: ModelSpec, plan: ResamplingPlan) -> dict[str, _Fit | str]:
    """Return the fit of every output of the model, or the reason why it has none."""
    labelled, earlier = evaluated.labelled, spec.calibration
    columns, resampling = _class_columns(labelled), plan.for_images(labelled.ids)
    fits: dict[str, _Fit | str] = {
        name: _fit_class(*columns[name], earlier.classes.get(name) if earlier else None, resampling)
        if name in columns
        else "no labels of this class"
        for name in spec.classes
    }
    return {**fits, CONFIDENCE: _fit_confidence(evaluated, earlier.confidence if earlier else None, plan)}


def _class_columns(labelled: LabelledScores) -> dict[str, tuple[Floats, Floats]]:
    """Return labels, nan where unknown, and raw scores (N,) by class; in labels as of ISIC-2017, others are nevi."""
    columns = dict(zip(labelled.classes, zip(labelled.labels.T, labelled.scores.T, strict=True), strict=True))
    if labelled.classes == CLASSES[:2] and not np.isnan(labelled.nevus).any():
        columns[CLASSES[2]] = labelled.nevus_labels, labelled.nevus
    return columns


def _fit_class(labels: Floats, scores: Floats, now: Scaling | None, resampling: Resampling) -> _Fit | str:
    known = ~np.isnan(labels)
    labels, scores, resampling = labels[known], scores[known], resampling.select(known)
    positives = int(labels.sum())
    if labels.size < MIN_IMAGES:
        return f"{labels.size} labelled images with scores; at least {MIN_IMAGES} are needed"
    if problem := _too_few_clusters(labels.size, resampling):
        return problem
    if min(positives, labels.size - positives) < MIN_POSITIVES:
        return f"{positives} of {labels.size} labels are positive; at least {MIN_POSITIVES} of each kind are needed"
    fit = _fit(labels, scores, lambda targets, values: fit_platt(targets > 0, values), now, resampling)
    return fit or "positive labels do not become more frequent as the score rises"


def _fit_confidence(evaluated: EvaluatedPredictions, now: Scaling | None, plan: ResamplingPlan) -> _Fit | str:
    masks, known = evaluated.masks, ~np.isnan(evaluated.confidence)
    if known.sum() < MIN_IMAGES:
        return f"{known.sum()} evaluated masks with a confidence; at least {MIN_IMAGES} are needed"
    jaccard, confidence = masks.values[known, masks.names.index("jaccard")], evaluated.confidence[known]
    resampling = plan.for_images(masks.images).select(known)
    if problem := _too_few_clusters(jaccard.size, resampling):
        return problem
    fit = _fit(jaccard, confidence, lambda targets, values: fit_confidence(values, targets), now, resampling)
    return fit or "the Jaccard does not rise with the confidence"


def _too_few_clusters(images: int, resampling: Resampling) -> str:
    """Return why images cannot be divided into folds; "" if they can."""
    clusters = resampling.count_clusters(np.arange(images))
    return f"{clusters} clusters; at least {FOLDS} are needed for cross-validation" if clusters < FOLDS else ""


def _fit(
    targets: Floats,
    values: Floats,
    fit: Callable[[Floats, Floats], Scaling | None],
    now: Scaling | None,
    resampling: Resampling,
) -> _Fit | None:
    """Fit raw values (N,) to targets (N,), and compare with what the engine does `now`; None if a fit fails."""

    def fit_map(some_targets: Floats, some_values: Floats) -> Map | None:
        fitted = fit(some_targets, some_values)
        return fitted.apply if fitted else None

    scaling = fit(targets, values)
    mapped = cross_validate(targets, values, fit_map, make_folds(targets, resampling))
    if scaling is None or mapped is None:
        return None
    before = np.array([now.apply(value) for value in values.tolist()]) if now else values
    metrics = CONFIDENCE_METRICS if isinstance(scaling, ConfidenceMap) else SCORE_METRICS
    changes = compare_values(targets, before, mapped, metrics, resampling)
    return _Fit(scaling, OutputChange(targets.size, float(targets.mean()), changes))


def _propose_threshold(evaluated: EvaluatedPredictions, now: float, plan: ResamplingPlan) -> ThresholdProposal | None:
    """Return a proposal if there are enough probability maps."""
    with_map = [case for case in evaluated.cases if case.threshold_jaccards is not None]
    return propose_threshold(with_map, now, plan) if len(with_map) >= MIN_IMAGES else None


def _combine(earlier: Calibration | None, fits: Mapping[str, _Fit], name: str, record: RunRecord) -> Calibration:
    """Return the calibration of an engine: the new fits, beside the earlier maps of other outputs."""
    maps: dict[str, Any] = {output: fit.scaling for output, fit in fits.items()}
    confidence = maps.pop(CONFIDENCE, earlier.confidence if earlier else None)
    options = {key: value for key in ("threshold", "tta", "regions") if (value := getattr(record, key)) is not None}
    return Calibration(name, {**(earlier.classes if earlier else {}), **maps}, confidence, **options)


def _write_engine(path: Path, manifest: Manifest, calibration: Calibration) -> None:
    spec = replace(manifest.spec, name=calibration.name, calibration=calibration)
    try:
        write_manifest(path, msgspec.structs.replace(manifest, spec=spec))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); make the folder writable") from error


def _join_reasons(skipped: Mapping[str, str]) -> str:
    return "; ".join(f"{output}: {reason}" for output, reason in skipped.items())


def _problems(evaluated: EvaluatedPredictions) -> tuple[str, ...]:
    """Return what could not be used: names of images with the reason."""
    unknown = np.isnan(evaluated.confidence)
    return (
        *(f"{case.name}: {case.problem}" for case in evaluated.cases if case.problem),
        *evaluated.labelled.problems,
        *(f"{evaluated.masks.images[row]}: no confidence from 0 to 1" for row in np.flatnonzero(unknown)),
    )
