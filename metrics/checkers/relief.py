"""How soon a service is itself again when a surge is over."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from metrics.checkers.checker import CHECKERS
from metrics.checkers.recovery import LATE_S
from metrics.findings import Finding, Grade, count
from metrics.units import PerSecond, PositiveSeconds, Ratio, format_duration

if TYPE_CHECKING:
    from metrics.evidence import Evidence

CALM_S = 5
"""So many good seconds in a row are no accident."""


@CHECKERS.register("relief")
@dataclass(frozen=True, slots=True, kw_only=True)
class Relief:
    """At most `within` after the last second with `over` arrivals, requests are answered well again, for 5 s in a row.

    Bad is a second in which more than `bad` (5 % unless told otherwise) of what was meant to start fails or takes
    longer than `late`. Unknown where there was no surge, or where the load ended before that could be seen.
    """

    over_per_s: Annotated[PerSecond, Field(alias="over")]
    within_s: Annotated[PositiveSeconds, Field(alias="within")]
    late_s: Annotated[PositiveSeconds, Field(alias="late")] = LATE_S
    bad_ratio: Annotated[Ratio, Field(alias="bad")] = 0.05

    @property
    def title(self) -> str:
        """The name of the finding."""
        return f"relief:over {self.over_per_s:g}/s"

    def check(self, evidence: "Evidence") -> Finding:
        """Looks for the first good seconds of those that begin where the surge ends."""
        import numpy as np

        from metrics.offering import SECOND_NS, loaded_seconds
        from metrics.soundness import history_doubts, load_doubts
        from metrics.witnesses import told

        over_ns = loaded_seconds(evidence, over_per_s=self.over_per_s).end_ns
        doubts = [*history_doubts(evidence), *load_doubts(evidence)]
        if over_ns is None or evidence.window_ns is None:
            nothing = Finding(name=self.title, grade=Grade.UNKNOWN, limit=self.within_s, unit="s")
            return nothing.doubted([f"{self.over_per_s:g}/s were never asked for", *doubts])
        after = evidence.requests.take(evidence.requests.intended_ns >= over_ns)
        bad = after.bad | (after.latency_s > self.late_s)
        second = (after.intended_ns - over_ns) // SECOND_NS
        asked_each, bad_each = np.bincount(second), np.bincount(second, weights=bad)
        well = bad_each <= self.bad_ratio * asked_each
        whole = int((evidence.window_ns[1] - over_ns) // SECOND_NS)
        calm = [first for first in range(min(whole, len(well)) - CALM_S + 1) if well[first : first + CALM_S].all()]
        relief_s = float(calm[0]) if calm else None
        too_soon = relief_s is None and whole < self.within_s + CALM_S
        if too_soon or not len(after):
            doubts.append(f"the load ended {format_duration(whole)} after the surge")
        last = np.flatnonzero(bad & (second < (whole if relief_s is None else relief_s)))[-1:]
        met = too_soon or (relief_s is not None and relief_s <= self.within_s)
        return Finding(
            name=self.title,
            grade=Grade.PASS if met else Grade.FAIL,
            value=relief_s,
            limit=self.within_s,
            unit="s",
            witness=[told(evidence, after, int(place)) for place in last],
            detail=(
                f"{int(bad.sum()):,} of {count(len(after), 'request')} after the surge failed or took longer than "
                f"{format_duration(self.late_s)}."
            ),
        ).doubted(doubts)
