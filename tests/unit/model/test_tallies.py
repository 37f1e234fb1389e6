"""Counts by label, and their bounds."""

from __future__ import annotations

import pytest

from crib.model.tallies import BOUNDS, LIMIT, OTHER, Operations, Spread, Tally


def test_what_comes_beyond_the_limit_counts_as_other() -> None:
    tally = Tally(2)
    for label in ("a", "b", "c", "d", "a"):
        tally.add((label, "x"))
    assert tally.counts == {("a", "x"): 2, ("b", "x"): 1, (OTHER, OTHER): 2}


def test_ten_thousand_labels_take_the_room_of_the_limit() -> None:
    tally, operations = Tally(), Operations()
    for number in range(10_000):
        tally.add((str(number),))
        operations.add((str(number),), 0.1, failed=True)
    for series in (tally.counts, operations.durations.series, operations.failures.counts):
        assert len(series) == LIMIT + 1
    assert sum(tally.counts.values()) == 10_000
    assert sum(sum(one.buckets) for one in operations.durations.series.values()) == 10_000


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (BOUNDS[0], 0), (0.0011, 1), (60.0, len(BOUNDS) - 1), (61, len(BOUNDS))]
)
def test_a_duration_falls_into_the_first_bucket_that_is_not_below_it(seconds: float, bucket: int) -> None:
    spread = Spread()
    spread.add(("a",), seconds)
    one = spread.series[("a",)]
    assert one.buckets[bucket] == sum(one.buckets) == 1
    assert one.seconds == seconds


def test_what_fails_within_a_timed_block_counts_as_failed() -> None:
    operations = Operations()
    with operations.timed("attach"):
        pass
    with pytest.raises(RuntimeError), operations.timed("attach"):
        raise RuntimeError
    assert sum(operations.durations.series[("attach",)].buckets) == 2
    assert operations.failures.counts == {("attach",): 1}
