"""The speed of engines on this machine, by which `build-engine --precision auto` chooses."""

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from lesioncli.backends.base import Engine, predict
from lesioncli.images.geometry import UInt8
from lesioncli.options import Decision, Precision

ROUNDS = 3
IMAGES = 16  # of each round; with the shipped models, a round of two engines takes half a second on two cores
MIN_GAIN = 0.05  # a smaller gain than this is within what repeated measurements differ by
BY_EXACTNESS = (Precision.FP32, Precision.BF16, Precision.INT8)

Speeds = Mapping[Precision, float]  # CPU milliseconds per image


def measure_speeds(engines: Mapping[Precision, Engine], inputs: Sequence[UInt8]) -> Speeds:
    """Return the CPU time per image of each engine on network-sized images (H, W, 3); close the engines.

    CPU time, because other programs may use the machine: the median of ROUNDS rounds, in which the engines take turns,
    after a round that is not counted.
    """
    images = inputs[:IMAGES]
    times: dict[Precision, list[float]] = {precision: [] for precision in engines}
    with ExitStack() as opened:
        for engine in engines.values():
            opened.enter_context(engine)
        for _ in range(1 + ROUNDS):
            for precision, engine in engines.items():
                started = time.process_time()
                predict(engine, images)
                times[precision].append(1000 * (time.process_time() - started) / len(images))
    return {precision: round(statistics.median(values[1:]), 2) for precision, values in times.items()}


def choose_fastest(speeds: Speeds) -> Decision[Precision]:
    """Return the fastest precision with the figures; a more exact one wins if it is nearly as fast."""
    fastest, *others = sorted(speeds, key=BY_EXACTNESS.index)
    for precision in others:
        if speeds[precision] < (1 - MIN_GAIN) * speeds[fastest]:
            fastest = precision
    figures = ", ".join(f"{precision} {speed:.1f} ms" for precision, speed in speeds.items())
    return Decision(fastest, f"{figures} of CPU time per image, measured here")
