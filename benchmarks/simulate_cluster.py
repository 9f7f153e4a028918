"""Simulate a run of many shards on many workers, with slow workers, preemption and failed images.

    python benchmarks/simulate_cluster.py [--shards 1000 10000] [--images 1000000000] [--workers 1000] ...

Prints a Markdown table. The times per image and per start are measured ones (docs/performance.md, docs/scale.md); how
much workers differ and how often they are preempted are assumptions. The network, the scheduler and the storage are not
simulated: they are taken to be fast enough.
"""

import argparse
import heapq
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Cluster:
    """A cluster and the images that it segments.

    cpu_ms: CPU time per image: decoding, network, writing, rest. start_s: CPU time of a start; list_us: of one line of
    the list, which each start reads as a whole. listed: lines of that list. spread: standard deviation of the logarithm
    of the workers' speeds. preemptions_per_hour: of one worker. requeue_s: until a preempted shard may start again.
    lost_s: work that a preempted shard does again. failed_share: of the images.
    """

    images: int = 10**9
    workers: int = 1000
    cores: int = 4
    cpu_ms: float = 14.4
    start_s: float = 0.9
    list_us: float = 21.0
    listed: int = 10**6
    spread: float = 0.0
    preemptions_per_hour: float = 0.0
    requeue_s: float = 120.0
    lost_s: float = 5.0
    failed_share: float = 1e-4

    @property
    def image_s(self) -> float:
        """Return the seconds per image of a worker of mean speed with all cores busy."""
        return self.cpu_ms / 1000 / self.cores

    @property
    def overhead_s(self) -> float:
        """Seconds from the start of a shard to its first image; only one core is busy."""
        return self.start_s + self.list_us * 1e-6 * self.listed

    @property
    def ideal_s(self) -> float:
        """Seconds of a run without starts, on workers of mean speed."""
        return self.images * self.image_s / self.workers


@dataclass(frozen=True)
class Run:
    """What a run took: `starts` counts those of all tries, busy_s the seconds of all workers."""

    ok: int
    failed: int
    wall_s: float
    busy_s: float
    starts: int


def simulate(cluster: Cluster, shards: int, seed: int = 0) -> Run:
    """Run shards in order, each on the worker that is free first; a preempted shard continues on any worker."""
    rng = np.random.default_rng(seed)
    left = rng.multinomial(cluster.images, np.full(shards, 1 / shards))  # a hash decides on the shard of an image
    speeds = rng.lognormal(-(cluster.spread**2) / 2, cluster.spread, cluster.workers)  # mean 1
    ready = [(0.0, shard) for shard in range(shards)]
    free = [(0.0, worker) for worker in range(cluster.workers)]
    done, wall_s, busy_s, starts = 0, 0.0, 0.0, 0
    while ready:
        (ready_s, shard), (free_s, worker) = heapq.heappop(ready), heapq.heappop(free)
        begin_s, starts = max(ready_s, free_s), starts + 1
        overhead_s, image_s = cluster.overhead_s / speeds[worker], cluster.image_s / speeds[worker]
        taken_s = overhead_s + left[shard] * image_s
        images = int(left[shard])
        if (preempted_s := draw_preemption(cluster, rng)) < taken_s:
            taken_s = preempted_s
            images = min(images, max(0, int((preempted_s - overhead_s - cluster.lost_s) / image_s)))
            heapq.heappush(ready, (begin_s + taken_s + cluster.requeue_s, shard))
        left[shard] -= images
        done += images
        busy_s += taken_s
        wall_s = max(wall_s, begin_s + taken_s)
        heapq.heappush(free, (begin_s + taken_s, worker))
    failed = int(rng.binomial(cluster.images, cluster.failed_share))
    return Run(done - failed, failed, float(wall_s), float(busy_s), starts)


def draw_preemption(cluster: Cluster, rng: np.random.Generator) -> float:
    """Return the seconds until a worker is preempted."""
    rate = cluster.preemptions_per_hour / 3600
    return float(rng.exponential(1 / rate)) if rate else float("inf")


def main() -> None:
    arguments = parse_arguments()
    cluster = Cluster(**{name: value for name, value in vars(arguments).items() if name not in ("shards", "seed")})
    cases = [
        replace(cluster, spread=0.0, preemptions_per_hour=0.0),
        replace(cluster, preemptions_per_hour=0.0),
        cluster,
    ]
    workers = f"{cluster.workers:,} workers of {cluster.cores} cores"
    print(f"{cluster.images:,} images, {workers}; ideal: {hours(cluster.ideal_s)}\n")
    titles = (
        "shards",
        "images per shard",
        "equal workers",
        "of unequal speed",
        "preempted, too",
        "starts",
        "CPU, starts",
    )
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    for shards in arguments.shards:
        runs = [simulate(case, shards, arguments.seed) for case in cases]
        cells = [f"{hours(run.wall_s)} ({cluster.ideal_s / run.wall_s:.0%})" for run in runs]
        starts = runs[-1].starts
        share = starts * cluster.overhead_s / (cluster.images * cluster.cpu_ms / 1000 + starts * cluster.overhead_s)
        print(f"| {shards:,} | {cluster.images // shards:,} | {' | '.join(cells)} | {starts:,} | {share:.1%} |")


def hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[1000, 2000, 5000, 10_000, 30_000, 100_000])
    parser.add_argument("--seed", type=int, default=0)
    defaults = Cluster(spread=0.2, preemptions_per_hour=0.05)
    for name, value in vars(defaults).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    return parser.parse_args()


if __name__ == "__main__":
    main()
