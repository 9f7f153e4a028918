"""How the workers of a Ray cluster are cut, and addresses that lead nowhere; runs are in tests/slow/test_ray.py."""

import socket
import time

import pytest

from lesioncli.errors import EngineError, InputError
from lesioncli.inference.ray_pool import MAX_CORES, _check_reachable, _divide_cluster
from lesioncli.inference.worker import Share

HEAD, SMALL, LARGE = {"memory": 1.0}, {"CPU": 4.0}, {"CPU": 34.0, "GPU": 4.0}


def test_workers_have_the_cores_of_the_smallest_node_and_not_too_many() -> None:
    assert _divide_cluster([HEAD, SMALL, SMALL], 0, needs_gpu=False) == (Share(4, 1), 2)
    assert _divide_cluster([HEAD, SMALL, LARGE], 0, needs_gpu=False) == (Share(4, 8), 9)
    assert _divide_cluster([LARGE], 0, needs_gpu=False) == (Share(MAX_CORES, 8), 8)
    assert _divide_cluster([HEAD, SMALL, LARGE], 3, needs_gpu=False) == (Share(3, 11), 12)


def test_each_gpu_has_a_worker_with_its_part_of_the_cores() -> None:
    assert _divide_cluster([HEAD, SMALL, LARGE], 0, needs_gpu=True) == (Share(8, 4), 4)
    assert _divide_cluster([LARGE], 12, needs_gpu=True) == (Share(12, 2), 2)


@pytest.mark.parametrize(
    ("nodes", "workers", "needs_gpu"), [([HEAD], 0, False), ([SMALL], 5, False), ([SMALL], 0, True)]
)
def test_a_cluster_without_room_for_a_worker_is_refused(
    nodes: list[dict[str, float]], workers: int, needs_gpu: bool
) -> None:
    with pytest.raises(EngineError, match="ray status"):
        _divide_cluster(nodes, workers, needs_gpu)


@pytest.mark.parametrize("address", ["here", "host:", ":6379", "host:port"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="HOST:PORT"):
        _check_reachable(address)


def test_an_address_where_nothing_answers_is_refused_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # it does not listen
        started = time.monotonic()
        with pytest.raises(InputError, match="nothing answers there"):
            _check_reachable(f"127.0.0.1:{free.getsockname()[1]}")
        assert time.monotonic() - started < 5
        free.listen()
        _check_reachable(f"127.0.0.1:{free.getsockname()[1]}")
