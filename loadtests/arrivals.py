"""When requests are meant to start: schedules of offsets in seconds, counted from the moment the load begins.

    Schedule() -> 0.0, 0.0033, 0.0067, ...        never decreasing; endless, or ends when the load is over

A schedule is a function that gives the same offsets each time it is called, so that one pass can hand arrivals out
while another counts how many are due. A new shape of load is one more function here that returns a schedule.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Final

Schedule = Callable[[], Iterator[float]]

RATE_MAX_PER_S: Final = 100_000.0
"""More than one machine can start by far; a rate above it is a slip of the pen."""


def constant(rate_per_s: float) -> Schedule:
    """`rate_per_s` arrivals a second, evenly spaced, for ever; the n-th is due at n / rate, so no error adds up.

    Raises:
        ValueError: a rate that is not above 0 and at most `RATE_MAX_PER_S`.
    """
    if not (math.isfinite(rate_per_s) and 0 < rate_per_s <= RATE_MAX_PER_S):
        raise ValueError(f"rate must be above 0 and at most {RATE_MAX_PER_S:,.0f} arrivals a second, got {rate_per_s}")
    return lambda: (number / rate_per_s for number in itertools.count())


class DueCount:
    """How many arrivals of a schedule are due by a time that only moves forward."""

    def __init__(self, schedule: Schedule) -> None:
        self._offsets = schedule()
        self._next_s = next(self._offsets, math.inf)
        self._count = 0

    def by(self, elapsed_s: float) -> int:
        """The number of arrivals whose offset is at most `elapsed_s`."""
        while self._next_s <= elapsed_s:
            self._count += 1
            self._next_s = next(self._offsets, math.inf)
        return self._count
