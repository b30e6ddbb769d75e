"""Chunks grow and shrink with the machine, within their bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from system_under_test.domain.pacing import FIRST, LEAST, TARGET_S, next_limit


@given(cost_us=st.floats(1, 500), at_most=st.integers(LEAST, 5000))
def test_chunks_settle_at_what_takes_the_time_that_is_wanted(cost_us: float, at_most: int) -> None:
    """Items that cost the same each: after a few chunks each takes about the target, or is at its bound."""
    limit = min(FIRST, at_most)
    for _ in range(10):
        limit = next_limit(limit, items=limit, took_s=limit * cost_us / 1e6, at_most=at_most)
    took_s = limit * cost_us / 1e6
    assert min(LEAST, at_most) <= limit <= at_most
    assert took_s <= TARGET_S * 1.01 or limit == LEAST
    assert took_s >= TARGET_S * 0.9 or limit == at_most


@given(limit=st.integers(1, 5000), took_s=st.floats(0, 1e6), share=st.floats(0.0001, 1))
def test_the_limit_stays_within_bounds_and_grows_at_most_twofold(limit: int, took_s: float, share: float) -> None:
    """Any chunk that took any time: between LEAST and the maximum, and no more than twice what was there."""
    items = max(1, int(limit * share))
    after = next_limit(limit, items=items, took_s=took_s, at_most=5000)
    assert after <= 5000
    assert after <= max(LEAST, 2 * limit)
    assert after >= min(limit, LEAST)


@pytest.mark.parametrize(("items", "took_s", "after"), [(3, 0.001, 2000), (3, 0.6, LEAST), (2000, 0.12, 1000)])
def test_a_small_chunk_changes_nothing_unless_it_was_slow(items: int, took_s: float, after: int) -> None:
    """Three quick ones with a limit of 2,000: still 2,000. Slow ones: fewer."""
    assert next_limit(2000, items=items, took_s=took_s, at_most=5000) == after
