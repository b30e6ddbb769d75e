"""How well a node does by its own measure, so that it can say so before requests fail; pure, time is an argument.

    readings -> smoothed over time -> `enter` reached for a while: raised -> `leave` kept for a while: lowered

One sign that is raised makes the node degraded: the balancer then sends its requests to the other nodes, while those
are enough. A machine's short freeze raises nothing, and what all nodes share - a slow database, too much load - makes
all of them degraded alike, which changes nobody's share.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Sign = Literal["event_loop_lag", "database_latency", "errors"]
SIGNS: Final[tuple[Sign, ...]] = ("event_loop_lag", "database_latency", "errors")

_SMOOTHED_OVER_S: Final = 0.5
_ERRORS_OVER_S: Final = 2.0
_ANSWERS_MIN: Final = 5.0
"""Fewer recent answers than this say nothing about errors."""
_LAG_MAX_S: Final = 1.0
"""A longer stop counts as this: it is over by the time it is measured, and the balancer saw it by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Raised at `enter` held for `enter_after_s`, lowered again below `leave` held for `leave_after_s`."""

    enter: float
    leave: float
    enter_after_s: float = 0.5
    leave_after_s: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.leave < self.enter:
            raise ValueError(f"expected 0 < leave < enter, got leave {self.leave} and enter {self.enter}")


# The balancer gives a try 0.4 s. A node whose loop or database is late by this much still answers in time, barely.
THRESHOLDS: Final[Mapping[Sign, Threshold]] = {
    "event_loop_lag": Threshold(enter=0.1, leave=0.04),
    "database_latency": Threshold(enter=0.25, leave=0.1),
    "errors": Threshold(enter=0.1, leave=0.02, enter_after_s=0.25),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was measured since the reading before.

    `lag_s` is how late the event loop was, `database_s` how long the database took, `errors` are those of `answers`
    that failed through no decision of the node.
    """

    lag_s: float
    database_s: float
    answers: int
    errors: int


class Hysteresis:
    """Whether a value is too high, by a threshold that a value has to keep to for a while."""

    def __init__(self, threshold: Threshold) -> None:
        self._threshold = threshold
        self._across_since_s: float | None = None
        self.raised = False

    def update(self, value: float, now_s: float) -> bool:
        """Whether it is raised, with this value now."""
        threshold = self._threshold
        across = value < threshold.leave if self.raised else value >= threshold.enter
        if not across:
            self._across_since_s = None
            return self.raised
        if self._across_since_s is None:
            self._across_since_s = now_s
        after_s = threshold.leave_after_s if self.raised else threshold.enter_after_s
        if now_s - self._across_since_s >= after_s:
            self.raised = not self.raised
            self._across_since_s = None
        return self.raised


class Vitals:
    """A node's signs over time."""

    def __init__(self, *, now_s: float, thresholds: Mapping[Sign, Threshold] = THRESHOLDS) -> None:
        self._read_s = now_s
        self._lag_s = 0.0
        self._database_s = 0.0
        self._answers = 0.0
        self._errors = 0.0
        self._states: dict[Sign, Hysteresis] = {sign: Hysteresis(thresholds[sign]) for sign in SIGNS}

    @property
    def values(self) -> dict[Sign, float]:
        """Each sign as it stands: seconds, seconds, and errors as a share of the answers."""
        errors = self._errors / self._answers if self._answers >= _ANSWERS_MIN else 0.0
        return {"event_loop_lag": self._lag_s, "database_latency": self._database_s, "errors": errors}

    @property
    def raised(self) -> tuple[Sign, ...]:
        """The signs for which the node is degraded; none: it does well."""
        return tuple(sign for sign, state in self._states.items() if state.raised)

    def note(self, reading: Reading, now_s: float) -> None:
        """Takes a reading in; the longer ago the one before, the more it weighs."""
        passed_s = max(0.0, now_s - self._read_s)
        self._read_s = now_s
        kept = math.exp(-passed_s / _SMOOTHED_OVER_S)
        self._lag_s = kept * self._lag_s + (1 - kept) * min(reading.lag_s, _LAG_MAX_S)
        self._database_s = kept * self._database_s + (1 - kept) * reading.database_s
        kept = math.exp(-passed_s / _ERRORS_OVER_S)
        self._answers = kept * self._answers + reading.answers
        self._errors = kept * self._errors + reading.errors
        values = self.values
        for sign, state in self._states.items():
            state.update(values[sign], now_s)
