"""Where clients stand in line for arrivals, so that requests start on schedule whatever earlier ones do.

    schedule --offset--> Line <--take-- user (free)     sleeps until the arrival is due, then starts it
                          ^-----take-- user (was busy)  the arrival is overdue: starts at once, intended time kept

Users take arrivals in order, ahead of time. An arrival that is due but not taken therefore means that every user is
busy with an earlier one; it waits for the first that comes free and is never dropped. No greenlet hands out work:
that costs nothing per request, and after a freeze of the process everything overdue starts at once.

`failure` says why a schedule ended in an error: there are no more arrivals then.
"""

import heapq
import time
from dataclasses import dataclass
from typing import Final

import gevent
import gevent.event

from loadtests.arrivals import DueCount, Schedule
from loadtests.spread import Spread
from metrics.arrivals import ArrivalsError

_TICK_S: Final = 0.001
_WAKING_NS_MAX: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Arrival:
    """The `number`-th arrival of the load (from 0), meant to start at `intended_ns` of CLOCK_MONOTONIC."""

    number: int
    intended_ns: int


class Line:
    """Hands the arrivals of one schedule to the users of one process, in order, each exactly once."""

    def __init__(self, schedule: Schedule) -> None:
        self._offsets_s = enumerate(schedule())
        self._due = DueCount(schedule)
        self._given_back: list[Arrival] = []
        self._taken: set[Arrival] = set()
        self._begun = gevent.event.Event()
        self._start_ns = 0
        self._end_ns: int | None = None
        self.failure: str | None = None
        self.started = 0
        self.lateness = Spread()
        self.queueing = Spread()
        self.responses = Spread()
        """From the intended start of an arrival to the end of its task."""

    @property
    def begun(self) -> bool:
        """Whether arrivals are being handed out, or have been."""
        return bool(self._begun.is_set())

    @property
    def closed(self) -> bool:
        """Whether no more arrivals are handed out."""
        return self._end_ns is not None

    def begin(self, start_ns: int) -> None:
        """Starts the schedule: offset 0 is at `start_ns`."""
        self._start_ns = start_ns
        self._begun.set()

    def close(self) -> None:
        """Ends the schedule now: what is due and has found no user stays unsent.

        Returns when the users that wait for an arrival due by now have started it, which a timer's tick decides.
        """
        if self._end_ns is not None:
            return
        self._end_ns = time.monotonic_ns()
        self._begun.set()
        while self._overslept(self._end_ns) and time.monotonic_ns() < self._end_ns + _WAKING_NS_MAX:
            gevent.sleep(_TICK_S)

    def due(self) -> tuple[int, int]:
        """How many arrivals were meant to have started by now, or by the end; and how many of them found no user."""
        if not self._start_ns:
            return 0, 0
        until_ns = time.monotonic_ns() if self._end_ns is None else self._end_ns
        try:
            due = self._due.by((until_ns - self._start_ns) / 1e9)
        except ArrivalsError as error:
            self.failure = str(error)
            due = self._due.count
        return due, due - self.started - self._overslept(until_ns)

    def _overslept(self, until_ns: int) -> int:
        """How many arrivals are due whose user is free and about to wake."""
        return sum(arrival.intended_ns <= until_ns for arrival in self._taken)

    def take(self) -> Arrival | None:
        """Waits until the caller's arrival is due and gives it; None when there will be no more."""
        self._begun.wait()
        arrival = self._next()
        if arrival is None:
            return None
        waited = False
        self._taken.add(arrival)
        try:
            if arrival.intended_ns <= time.monotonic_ns():
                gevent.sleep(0)  # overdue work that fails at once would never let anybody else run
            # A timer may fire a little early; starting before the intended time would give negative latencies.
            while (ahead_ns := arrival.intended_ns - time.monotonic_ns()) > 0:
                waited = True
                gevent.sleep(ahead_ns / 1e9)
        except BaseException:
            heapq.heappush(self._given_back, arrival)  # the user is taken away; somebody else will serve it
            raise
        finally:
            self._taken.discard(arrival)
        if self._end_ns is not None and arrival.intended_ns > self._end_ns:
            return None
        self.started += 1
        spread = self.lateness if waited else self.queueing
        spread.add(time.monotonic_ns() - arrival.intended_ns)
        return arrival

    def _next(self) -> Arrival | None:
        if self._end_ns is not None:
            return None
        if self._given_back:
            return heapq.heappop(self._given_back)
        try:
            number, offset_s = next(self._offsets_s, (0, None))
        except ArrivalsError as error:
            self.failure = str(error)
            return None
        if offset_s is None:
            return None
        return Arrival(number=number, intended_ns=self._start_ns + round(offset_s * 1e9))
