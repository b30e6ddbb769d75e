"""Schedules of intended starts."""

import itertools
import math

import pytest

from loadtests.arrivals import DueCount, Schedule, constant


def test_a_constant_rate_never_drifts() -> None:
    """The millionth arrival at 300/s is due at exactly n / rate: the spacing is not added up."""
    offsets = itertools.islice(constant(300)(), 1_000_001)
    assert next(itertools.islice(offsets, 1_000_000, None)) == 1_000_000 / 300


def test_a_schedule_begins_at_zero_and_can_be_run_through_again() -> None:
    """Two passes over one schedule give the same offsets, so one may count what the other hands out."""
    schedule = constant(4)
    assert list(itertools.islice(schedule(), 4)) == [0.0, 0.25, 0.5, 0.75]
    assert list(itertools.islice(schedule(), 4)) == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf, 1e9])
def test_a_rate_nobody_can_mean_is_refused(rate: float) -> None:
    """Zero, negative, no number, endless, absurd."""
    with pytest.raises(ValueError, match="rate must be above 0"):
        constant(rate)


def test_due_counts_what_should_have_started_by_then() -> None:
    """Four a second: one at 0, the fifth exactly at 1 s."""
    due = DueCount(constant(4))
    assert [due.by(s) for s in (0.0, 0.2, 0.99, 1.0, 10.0)] == [1, 1, 4, 5, 41]


def test_due_ends_with_a_schedule_that_ends() -> None:
    """Three arrivals are three, however late one asks."""
    three: Schedule = lambda: iter([0.0, 0.1, 0.2])  # noqa: E731  # the shape of every schedule
    due = DueCount(three)
    assert due.by(0.15) == 2
    assert due.by(1e9) == 3
