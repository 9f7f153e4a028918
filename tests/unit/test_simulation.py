"""The simulation of a cluster: no image is lost or done twice, and without chance it is a formula."""

import math

import pytest
from simulate_cluster import Cluster, simulate

EQUAL = Cluster(images=10**6, workers=100, failed_share=0.0)


@pytest.mark.parametrize("shards", [7, 100, 1003])
@pytest.mark.parametrize("preemptions_per_hour", [0.0, 2.0, 60.0])
def test_every_image_is_done_once(shards: int, preemptions_per_hour: float) -> None:
    cluster = Cluster(
        images=10**6, workers=50, list_us=0, spread=0.5, preemptions_per_hour=preemptions_per_hour, failed_share=0.01
    )
    for seed in range(3):
        run = simulate(cluster, shards, seed)
        assert run.ok + run.failed == cluster.images
        assert 9_000 < run.failed < 11_000
        assert run.starts > shards if preemptions_per_hour == 60 else run.starts >= shards
    assert simulate(cluster, shards, 1) == simulate(cluster, shards, 1)


@pytest.mark.parametrize("rounds", [1, 3])
def test_equal_workers_take_as_long_as_the_formula_says(rounds: int) -> None:
    """Each worker has the same number of shards; a hash makes them unequal by the root of their size."""
    shards = rounds * EQUAL.workers
    size = EQUAL.images / shards
    run = simulate(EQUAL, shards)
    expected = rounds * (EQUAL.overhead_s + size * EQUAL.image_s)
    assert run.wall_s == pytest.approx(expected, abs=5 * rounds * math.sqrt(size) * EQUAL.image_s)
    assert run.wall_s > EQUAL.ideal_s
    assert run.busy_s == pytest.approx(shards * EQUAL.overhead_s + EQUAL.images * EQUAL.image_s)
    assert run.starts == shards


def test_one_shard_more_than_workers_takes_twice_as_long() -> None:
    exact = simulate(EQUAL, EQUAL.workers).wall_s
    assert simulate(EQUAL, EQUAL.workers + 1).wall_s == pytest.approx(2 * exact, rel=0.05)


def test_preempted_work_is_done_again() -> None:
    """Without a memory of earlier tries, an hour of work between preemptions every minute would never end."""
    calm = Cluster(images=10**6, workers=1, cores=1, cpu_ms=3.6, list_us=0)
    run = simulate(Cluster(**{**vars(calm), "preemptions_per_hour": 60.0, "requeue_s": 0.0}), 1)
    lost_s = (calm.overhead_s + calm.lost_s) * (run.starts - 1)
    assert run.wall_s == pytest.approx(calm.overhead_s + 3600 + lost_s, rel=0.01)
