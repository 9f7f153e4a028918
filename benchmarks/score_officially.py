"""Run by a Python that has isic-challenge-scoring, not by ours: prints what the official scorer says of each case.

Each sub-folder of the folder given is a case: `truth` and `prediction` are folders of masks, or truth.csv and
prediction.csv are scored by the metric that metric.txt names. An error is its type and message.
"""

import json
import sys
from pathlib import Path

from isic_challenge_scoring import (  # type: ignore[import-not-found]  # not in the environment that mypy sees
    ClassificationMetric,
    ClassificationScore,
    SegmentationScore,
)


def score(case: Path) -> dict[str, object]:
    try:
        if (case / "truth").is_dir():
            return dict(SegmentationScore.from_dir(case / "truth", case / "prediction").to_dict())
        metric = ClassificationMetric((case / "metric.txt").read_text().strip())
        scored = ClassificationScore.from_file(case / "truth.csv", case / "prediction.csv", metric)
        return dict(scored.to_dict(rocs=False))
    except Exception as error:  # whatever it raises is its answer
        return {"error": f"{type(error).__name__}: {error}".replace(f"{case}/", "")}


if __name__ == "__main__":
    cases = sorted(Path(sys.argv[1]).iterdir())
    print(json.dumps({case.name: score(case) for case in cases}, indent=1, sort_keys=True))
