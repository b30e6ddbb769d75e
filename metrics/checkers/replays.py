"""Whether retries met stored answers: requests that had committed, were lost on the way back, and came again."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from metrics.checkers.checker import CHECKERS
from metrics.findings import Finding, Grade, count

if TYPE_CHECKING:
    from metrics.evidence import Evidence


@CHECKERS.register("replays")
@dataclass(frozen=True, slots=True, kw_only=True)
class Replays:
    """At least `min` requests were answered from a stored answer; fewer means that the goal was not reached."""

    min_operations: Annotated[int, Field(ge=1, alias="min")]

    @property
    def title(self) -> str:
        """The name of the finding."""
        return "replays"

    def check(self, evidence: "Evidence") -> Finding:
        """Counts answers that say they were replayed."""
        import numpy as np

        from metrics.auditing import replayed
        from metrics.soundness import history_doubts
        from metrics.witnesses import first_told

        requests = evidence.requests
        stored = replayed(requests)
        number = int(np.count_nonzero(stored))
        doubts = history_doubts(evidence)
        if number < self.min_operations:
            doubts.append("too few lost answers were asked for again to show what a replay does")
        return Finding(
            name=self.title,
            grade=Grade.PASS,
            value=number,
            limit=self.min_operations,
            unit="operations",
            sense="at least",
            witness=first_told(evidence, requests, stored)[:1],
            detail=f"{count(number, 'request')} got a stored answer.",
        ).doubted(doubts)
