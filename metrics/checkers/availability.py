"""Availability, by request and by time: two answers to two questions, never merged into one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from metrics.checkers.checker import CHECKERS
from metrics.findings import Finding, Grade
from metrics.units import Ratio

if TYPE_CHECKING:
    from metrics.evidence import Evidence


@CHECKERS.register("availability", observed=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """At least `min` of all requests, and of all seconds, are good; `by` asks for one of the two only.

    A second is good when every probe sent in it was answered. Correct refusals count as good requests; when they are
    more than `max_declined` of the answers (50 % unless told otherwise), nothing is known by request.
    """

    min_ratio: Annotated[Ratio, Field(alias="min")]
    by: Literal["both", "request", "time"] = "both"
    max_declined_ratio: Annotated[Ratio, Field(alias="max_declined")] = 0.5

    @property
    def title(self) -> str:
        """The name of the finding."""
        return "availability" if self.by == "both" else f"availability:{self.by}"

    def check(self, evidence: "Evidence") -> Finding:
        """Takes the lower of the two shares."""
        from metrics.probing import prober_doubts, slices
        from metrics.soundness import answer_doubts, history_doubts, load_doubts

        requests, seconds = evidence.requests, slices(evidence)
        bad = int(requests.bad.sum())
        shares: dict[str, float | None] = {}
        doubts = history_doubts(evidence)
        if self.by != "time":
            shares["request"] = (len(requests) - bad) / len(requests) if len(requests) else None
            doubts += load_doubts(evidence)
            doubts += answer_doubts(evidence, declined_ratio_max=self.max_declined_ratio)
        if self.by != "request":
            shares["time"] = seconds.ratio
            doubts += prober_doubts(evidence)
        doubts += [f"availability by {name} could not be measured" for name, share in shares.items() if share is None]
        measured = [share for share in shares.values() if share is not None]
        lowest = min(measured, default=None)
        told = {
            "by_request": shares.get("request"),
            "by_time": shares.get("time"),
            "requests": {"good": len(requests) - bad, "bad": bad},
            "seconds": {"good": seconds.good, "bad": seconds.bad, "blind": seconds.blind},
        }
        parts = [f"{share:.4%} by {name}" for name, share in shares.items() if share is not None]
        return Finding(
            name=self.title,
            grade=Grade.FAIL if lowest is not None and lowest < self.min_ratio else Grade.PASS,
            value=lowest,
            limit=self.min_ratio,
            unit="ratio",
            sense="at least",
            witness=[told],
            detail=f"{' and '.join(parts) or 'Nothing'} of what was asked was answered.",
        ).doubted(doubts)
