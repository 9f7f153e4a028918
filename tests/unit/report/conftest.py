"""A drawn output folder of `segment` for the tests of the report."""

from pathlib import Path

import numpy as np
import pytest
from helpers.drawn_run import HEIGHT, WIDTH, DrawnRun
from helpers.report_page import EvaluatedRun, write_page

from lesioncli.evaluation.evaluate import evaluate
from lesioncli.inference.pictures import write_mask


@pytest.fixture
def run(tmp_path: Path) -> DrawnRun:
    """Twelve images, ten of them with ground truth, one without, one failed; and ground truth without a prediction."""
    return fill(DrawnRun(tmp_path))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> EvaluatedRun:
    """The same run with its evaluation and report, for tests that change nothing."""
    run = fill(DrawnRun(tmp_path_factory.mktemp("evaluated")))
    evaluation = evaluate(run.labels, run.masks)
    return EvaluatedRun(run, evaluation, *write_page(run, evaluation))


def fill(drawn: DrawnRun) -> DrawnRun:
    for number in range(10):
        drawn.add(f"case_{number}", number, shift_px=number, melanoma=number / 10)
    drawn.add("sub/unknown", 20, truth=False)
    drawn.add_failed("broken.jpg")
    write_mask(drawn.labels / "lonely_segmentation.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    return drawn.finish()
