"""Shards: the assignment of images, and what array jobs tell their tasks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesioncli.options import Shard
from lesioncli.sharding import choose_shard, contains

KEYS = st.text(st.characters(codec="utf-8"), min_size=1)


@given(st.sets(KEYS, max_size=30), st.integers(1, 40))
@settings(deadline=None)
def test_each_image_is_in_exactly_one_shard(keys: set[str], count: int) -> None:
    shards = [Shard(index, count) for index in range(1, count + 1)]
    assert all(sum(contains(shard, key) for shard in shards) == 1 for key in keys)


def test_the_assignment_never_changes_and_is_even() -> None:
    """A changed hash would do images again that other shards of a continued run have done."""
    by_b2sum = {"a": 8, "P01/b": 1, "\u00e9": 8}  # printf a | b2sum -l 64, modulo 8, plus 1
    assert all(contains(Shard(index, 8), key) for key, index in by_b2sum.items())
    sizes = [sum(contains(Shard(k, 8), f"{n:05}") for n in range(8000)) for k in range(1, 9)]
    assert sum(sizes) == 8000
    assert 900 < min(sizes) < max(sizes) < 1100  # 3.4 standard deviations of a binomial of 1000


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("2/8", {"SLURM_ARRAY_TASK_ID": "5"}, "2/8"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1",
                  "SLURM_ARRAY_TASK_MAX": "8", "SLURM_ARRAY_TASK_STEP": "1", "SLURM_ARRAY_TASK_COUNT": "8"}, "3/8"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "7",
                  "SLURM_ARRAY_TASK_COUNT": "8"}, "1/8"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "6",
                  "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "4"}, "3/4"),
        ("auto/8", {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "7", "SLURM_ARRAY_TASK_MAX": "7",
                    "SLURM_ARRAY_TASK_COUNT": "1"}, "7/8"),
        ("auto", {"AWS_BATCH_JOB_ARRAY_INDEX": "0", "AWS_BATCH_JOB_ARRAY_SIZE": "4"}, "1/4"),
        ("auto/8", {"JOB_COMPLETION_INDEX": "7"}, "8/8"),
        ("auto", {"SGE_TASK_ID": "11", "SGE_TASK_FIRST": "1", "SGE_TASK_LAST": "91", "SGE_TASK_STEPSIZE": "10"},
         "2/10"),
        ("auto/3", {"PBS_ARRAY_INDEX": "3", "SGE_TASK_ID": "undefined"}, "3/3"),
        ("auto/3", {"PBS_ARRAYID": "1"}, "1/3"),
    ],
)  # fmt: skip
def test_the_shard_of_a_task(text: str, environment: dict[str, str], expected: str) -> None:
    assert str(choose_shard(text, environment).value) == expected


@pytest.mark.parametrize(
    ("text", "environment", "named"),
    [
        ("auto", {}, "no array job"),
        ("auto", {"SGE_TASK_ID": "undefined"}, "no array job"),
        ("auto", {"JOB_COMPLETION_INDEX": "1"}, "auto/8"),
        ("auto", {"PBS_ARRAY_INDEX": "1"}, "auto/8"),
        ("auto/8", {"JOB_COMPLETION_INDEX": "8"}, "JOB_COMPLETION_INDEX"),
        ("auto/8", {"PBS_ARRAY_INDEX": "0"}, "PBS_ARRAY_INDEX"),
        ("auto/8", {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "0"}, "SLURM_ARRAY_TASK_MIN"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "7",
                  "SLURM_ARRAY_TASK_STEP": "1", "SLURM_ARRAY_TASK_COUNT": "3"}, "gaps"),
        ("auto/2", {"JOB_COMPLETION_INDEX": "1", "PBS_ARRAYID": "1"}, "several"),
        ("auto/2", {"JOB_COMPLETION_INDEX": "x"}, "JOB_COMPLETION_INDEX"),
        ("auto/x", {"JOB_COMPLETION_INDEX": "1"}, "auto/N"),
        ("0/8", {}, "0/8"), ("9/8", {}, "9/8"), ("8", {}, "8"), ("1/0", {}, "1/0"), ("-1/2", {}, "-1/2"),
    ],
)  # fmt: skip
def test_what_does_not_tell_a_shard(text: str, environment: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        choose_shard(text, environment)
