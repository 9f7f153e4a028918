"""Print the results of the official ISIC scorer; runs in the environment that has isic-challenge-scoring installed.

Each sub-folder of the given folder is a case: either folders of masks `truth` and `prediction`, or truth.csv and
prediction.csv with the metric named in metric.txt. An exception is reported by type and message.
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
    except Exception as error:  # the exception is the result to compare
        return {"error": f"{type(error).__name__}: {error}".replace(f"{case}/", "")}


if __name__ == "__main__":
    cases = sorted(Path(sys.argv[1]).iterdir())
    print(json.dumps({case.name: score(case) for case in cases}, indent=1, sort_keys=True))
