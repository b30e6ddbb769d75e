"""One item that cannot be dealt with is found by halves, and nothing else is touched."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from system_under_test.domain.bisection import Bisection


def work_off(items: int, bad: set[int], limit: int) -> tuple[list[int], list[int], int]:
    """Deals with items 0, 1, 2, ... as the settler does; gives what was done, what set aside, and the failures."""
    bisection, done, aside, failures, at = Bisection(limit=limit), list[int](), list[int](), 0, 0
    while at < items:
        chunk = range(at, min(items, at + bisection.size))
        if not bad.intersection(chunk):
            done.extend(chunk)
            bisection, at = bisection.passed(len(chunk)), at + len(chunk)
            continue
        failures += 1
        if bisection.alone:
            aside.append(at)
            bisection, at = bisection.passed(1), at + 1
        else:
            bisection = bisection.failed()
    return done, aside, failures


@given(items=st.integers(0, 300), bad=st.sets(st.integers(0, 299), max_size=12), limit=st.integers(1, 128))
def test_exactly_the_bad_ones_are_set_aside_and_in_order(items: int, bad: set[int], limit: int) -> None:
    """Any number of items with any bad ones: those are set aside, all others done, both in order, few tries wasted."""
    bad = {one for one in bad if one < items}
    done, aside, failures = work_off(items, bad, limit)
    assert done == [item for item in range(items) if item not in bad]
    assert aside == sorted(bad)
    assert failures <= len(bad) * (math.ceil(math.log2(limit)) + 1)


def test_whole_chunks_follow_once_the_bad_one_is_found() -> None:
    """The module's example: the sixth of many cannot be done; sizes and failures until it stands alone, and after."""
    bisection, at, tried = Bisection(limit=8), 0, []
    while at < 14:
        fails = at <= 5 < at + bisection.size
        tried.append((bisection.size, fails))
        at += 0 if fails and not bisection.alone else bisection.size
        bisection = bisection.failed() if fails and not bisection.alone else bisection.passed(bisection.size)
    assert tried == [(8, True), (4, False), (2, True), (1, False), (1, True), (8, False)]


@pytest.mark.parametrize(("limit", "suspects"), [(0, 0), (1, -1)])
def test_a_chunk_without_items_is_refused(limit: int, suspects: int) -> None:
    """Each as numbers of a chunk: ValueError."""
    with pytest.raises(ValueError, match="limit >= 1"):
        Bisection(limit=limit, suspects=suspects)
