"""What a node takes on: beyond what it can serve in time it refuses early, the least urgent first; pure.

    log-ins  ->  reads  ->  deposits  ->  redemptions        refused in this order, as the pressure grows

A request that would wait longer than the balancer has patience for is work done for nobody, and its next try is more
of it: that is how a service that is slow for a moment stays down. So a request is refused by the time that it would
have to wait. That is reckoned from the work before it, not from how long others have waited: a burst after a short
freeze is worked off, not refused.
"""

import math
from collections.abc import Mapping
from enum import IntEnum
from typing import Final


class Rank(IntEnum):
    """How urgent a request is; the lowest are refused first."""

    LOG_IN = 0
    READ = 1
    DEPOSIT = 2
    REDEMPTION = 3


REFUSED: Final[Mapping[Rank, tuple[float, float]]] = {
    Rank.LOG_IN: (0.25, 0.35),
    Rank.READ: (0.35, 0.5),
    Rank.DEPOSIT: (0.5, 0.75),
    Rank.REDEMPTION: (1.0, 1.25),
}
"""The wait, as a share of the longest one, from which on some of a rank are refused, and all of it.

The work of a request is known only roughly beforehand: the gap keeps what deposits take too long off redemptions.
"""
_LAG_SMOOTHED_OVER_S: Final = 0.3
_LAG_MAX_S: Final = 0.4
_STEP_MAX_S: Final = 0.05
"""A long time between two notes was one stop: it weighs no more than a short one, or what gathered would be refused."""
_QUEUE_MIN: Final = 16
"""With fewer requests in flight a late event loop is late for another reason, which refusing does not cure."""


class Admission:
    """The pressure on one node, and who gets in.

    At most `in_flight_max` requests, and of each rank only as many as leave a share to the higher ones. `wait_s` is
    the longest that a request may have to wait within the node.
    """

    def __init__(self, *, in_flight_max: int, wait_s: float, now_s: float) -> None:
        self._in_flight_max = in_flight_max
        self._wait_s = wait_s
        self._noted_s = now_s
        self._lag_s = 0.0
        self._turns = [0.0] * len(Rank)

    def note(self, lag_s: float, now_s: float) -> None:
        """Takes in how late the event loop is."""
        step_s = min(_STEP_MAX_S, max(0.0, now_s - self._noted_s))
        self._noted_s = now_s
        kept = math.exp(-step_s / _LAG_SMOOTHED_OVER_S)
        self._lag_s = kept * self._lag_s + (1 - kept) * min(lag_s, _LAG_MAX_S)

    def pressure(self, *, in_flight: int, line_s: float) -> float:
        """How long a request has to wait now, as a share of the longest; `line_s` is its wait for the database."""
        return (line_s + (self._lag_s if in_flight >= _QUEUE_MIN else 0.0)) / self._wait_s

    def admits(self, rank: Rank, *, in_flight: int, line_s: float) -> bool:
        """Whether one more request of this rank is taken on while `in_flight` are."""
        if in_flight >= self.in_flight_max(rank):
            return False
        some, everything = REFUSED[rank]
        taken_ratio = (everything - self.pressure(in_flight=in_flight, line_s=line_s)) / (everything - some)
        # In turns rather than by lot, so that half of them is every second one.
        self._turns[rank] += min(1.0, max(0.0, taken_ratio))
        if self._turns[rank] < 1.0:
            return False
        self._turns[rank] -= 1.0
        return True

    def in_flight_max(self, rank: Rank) -> int:
        """How many requests may be in flight for one more of this rank to be taken on."""
        return max(1, self._in_flight_max * (rank + 1) // len(Rank))
