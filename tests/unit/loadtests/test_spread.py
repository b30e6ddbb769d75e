"""Percentiles in bounded memory."""

import math

from hypothesis import given
from hypothesis import strategies as st

from loadtests.spread import Spread

durations_ns = st.lists(st.integers(0, 3_600_000_000_000), min_size=1, max_size=200)


@given(durations_ns, st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_percentile_is_never_too_low_and_at_most_5_percent_too_high(values: list[int], share: float) -> None:
    """Against the exact nearest-rank percentile of the same values; below 1 us everything is 1 us."""
    spread = Spread()
    for value in values:
        spread.add(value)
    exact = sorted(values)[math.ceil(share * len(values)) - 1] / 1e9
    assert exact * (1 - 1e-9) <= spread.quantile_s(share) <= max(exact, 1e-6) * 1.05 * (1 + 1e-9)


@given(durations_ns)
def test_the_maximum_is_exact(values: list[int]) -> None:
    """The longest is kept as it is."""
    spread = Spread()
    for value in values:
        spread.add(value)
    assert spread.max_s == max(values) / 1e9
    assert spread.count == len(values)


def test_nothing_measured_is_zero() -> None:
    """A load that has started nothing has no lateness."""
    assert Spread().quantile_s(0.99) == 0.0
    assert Spread().max_s == 0.0


def test_what_exceeds_the_last_bucket_still_counts() -> None:
    """Eleven days lie beyond the buckets; they are counted in the last one, with the maximum exact."""
    spread = Spread()
    spread.add(10**15)
    assert spread.count == 1
    assert 0 < spread.quantile_s(1.0) <= spread.max_s == 1e6
