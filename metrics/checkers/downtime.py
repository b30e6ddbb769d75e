"""Total downtime, between the bounds that the prober's interval allows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from metrics.checkers.checker import CHECKERS
from metrics.findings import Finding, Grade, count
from metrics.units import Seconds, format_duration

if TYPE_CHECKING:
    from metrics.evidence import Evidence

_OUTAGES_TOLD_MAX = 10


@CHECKERS.register("downtime", observed=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class Downtime:
    """At most `max` of downtime in all, without the time for which the machine itself was frozen.

    Pass when even the upper bound meets the limit, fail when even the lower one does not, otherwise unknown.
    """

    max_s: Annotated[Seconds, Field(alias="max")]

    @property
    def title(self) -> str:
        """The name of the finding."""
        return "downtime"

    def check(self, evidence: "Evidence") -> Finding:
        """Adds up the outages."""
        from metrics.probing import clusters, outages, prober_doubts
        from metrics.soundness import history_doubts

        found = outages(evidence)
        service = [outage for outage in found if outage.unexcused_high_s > 0]
        low_s = round(sum(outage.unexcused_low_s for outage in service), 6)
        high_s = round(sum(outage.unexcused_high_s for outage in service), 6)
        stalled_s = round(sum(outage.stalled_s for outage in found), 6)
        doubts = [*history_doubts(evidence), *prober_doubts(evidence)]
        if not evidence.probes.ok.any():
            doubts.append("no probe succeeded")
        if low_s <= self.max_s < high_s:
            doubts.append("the limit lies between the bounds; a shorter probe interval would decide")
        longest = sorted(found, key=lambda outage: -outage.high_s)[:_OUTAGES_TOLD_MAX]
        return Finding(
            name=self.title,
            grade=Grade.FAIL if low_s > self.max_s else Grade.PASS,
            value=high_s,
            limit=self.max_s,
            unit="s",
            witness=[
                {
                    "start_s": evidence.seconds(outage.start_ns),
                    "bounds_s": [round(outage.unexcused_low_s, 6), round(outage.unexcused_high_s, 6)],
                    "stalled_s": round(outage.stalled_s, 6),
                    "probes": outage.probes,
                }
                for outage in longest
            ],
            detail=f"Down for {format_duration(low_s)} to {format_duration(high_s)} in "
            f"{count(len(service), 'outage')} ({count(clusters(service), 'event')})."
            + (f" Left out as harness: {format_duration(stalled_s)}." if stalled_s else ""),
        ).doubted(doubts)
