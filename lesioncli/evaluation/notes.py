"""What is to be known of figures before they are believed: labels that were not read, and what cannot be ranked."""

import numpy as np

from lesioncli.evaluation.cases import Masks, Scored
from lesioncli.evaluation.protocols import PROTOCOLS, Protocol, exceeding, lacking
from lesioncli.evaluation.reading.tables import Labels
from lesioncli.evaluation.statistics.bootstrap import Drawing
from lesioncli.evaluation.statistics.comparison import Comparison
from lesioncli.evaluation.statistics.groups import LEAST_IMAGES


def notes_on_scores(labels: Labels, scored: Scored, protocol: str) -> tuple[str, ...]:
    """What is to be known of labels and scores; nothing where there are no scores."""
    if not scored.classes:
        return ()
    unread = (f"{labels.table}: not read as classes: {', '.join(labels.unread)}",) if labels.unread else ()
    rules = PROTOCOLS[protocol]
    return (*unread, *_unranked(scored, protocol), *_one_label(scored), *_weightless(labels, scored, rules))


def notes_on_intervals(
    masks: Masks, scored: Scored, comparison: Comparison | None, drawing: Drawing
) -> tuple[str, ...]:
    """Which intervals are of fewer images, or clusters, than a percentile bootstrap needs."""
    of_masks, of_scores = drawing.of(masks.images), drawing.of(scored.ids)
    counts = {"masks": [of_masks.count(np.flatnonzero(each)) for each in ~np.isnan(masks.values).T]}
    counts["scores"] = [of_scores.count(np.arange(len(scored.ids)))]
    counts["differences"] = [each.clusters for each in comparison.differences.values()] if comparison else []
    fewest = {what: min(filter(None, each), default=LEAST_IMAGES) for what, each in counts.items()}
    few = ", ".join(f"{what} ({count})" for what, count in fewest.items() if count < LEAST_IMAGES)
    drawn = f"clusters ({drawing.column})" if drawing.column else "images"
    return (f"intervals of fewer than {LEAST_IMAGES} {drawn} are narrower than they should be: {few}",) if few else ()


def _unranked(scored: Scored, protocol: str) -> tuple[str, ...]:
    """Why there is no figure that ranks scores: their classes are not those of the challenge."""
    missing, more = (find(PROTOCOLS[protocol], scored.classes) for find in (lacking, exceeding))
    why = [f"the labels have no {', '.join(missing)}"] if missing else []
    why += [f"it has no {', '.join(more)}"] if more else []
    return (f"{protocol} ranks no scores here: {', and '.join(why)}",) if why else ()


def _one_label(scored: Scored) -> tuple[str, ...]:
    """The classes that cannot be ranked, and why."""
    columns = zip(scored.classes, scored.labels.T, strict=True)
    return tuple(
        f"{name}: all {len(labels)} labels are {int(labels[0])}, so its AUC and average precision are undefined"
        for name, labels in columns
        if labels.size and labels.all() == labels.any()
    )


def _weightless(labels: Labels, scored: Scored, rules: Protocol) -> tuple[str, ...]:
    """Which images count for nothing: the truth may say so, and the official scorer does of one."""
    if not (rules.weighted and scored.ids):
        return ()
    none = [name for name, (weight, _) in labels.weights.items() if not weight]
    return (f"of weight 0, so in no official figure of scores: {', '.join(none)}",) if none else ()
