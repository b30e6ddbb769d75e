"""How long each fault was felt: from its injection until the service was good again and stayed so."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from metrics.checkers.checker import CHECKERS
from metrics.findings import Finding, Grade, count
from metrics.units import PositiveSeconds, format_duration

if TYPE_CHECKING:
    from metrics.evidence import Evidence

LATE_S = 0.5
"""An answer slower than this is bad service, unless an experiment says otherwise."""


@CHECKERS.register("recovery")
@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """At most `max` from each injection until requests and probes are good again and stay so.

    Bad is what fails or takes longer than `late` from its intended start. A fault is looked at until the next one
    is injected, the last until the recovery phase ends.
    """

    max_s: Annotated[PositiveSeconds, Field(alias="max")]
    late_s: Annotated[PositiveSeconds, Field(alias="late")] = LATE_S

    @property
    def title(self) -> str:
        """The name of the finding."""
        return "recovery"

    def check(self, evidence: "Evidence") -> Finding:
        """Takes the slowest recovery; one that did not happen within its window is a failure."""
        from metrics.probing import prober_doubts
        from metrics.recovering import recoveries
        from metrics.soundness import history_doubts

        found = recoveries(evidence, late_s=self.late_s)
        doubts = history_doubts(evidence)
        if evidence.plan.get("probe") or len(evidence.probes):
            doubts += prober_doubts(evidence)
        if not found:
            doubts.append("no fault was injected")
        blind = [one.fault_id for one in found if one.seen == 0]
        doubts += [f"nothing was asked after {fault_id}" for fault_id in blind]
        lasting = [one for one in found if not one.recovered]
        # Where the window was shorter than the limit, nobody knows whether it would have been met.
        doubts += [
            f"{one.fault_id} was still felt when its window of {format_duration(one.window_s)} ended"
            for one in lasting
            if one.window_s <= self.max_s
        ]
        slowest = max(found, key=lambda one: one.recovery_s, default=None)
        over = [one for one in found if one.recovery_s > self.max_s]
        felt = sum(one.bad > 0 for one in found)
        return Finding(
            name=self.title,
            grade=Grade.FAIL if over else Grade.PASS,
            value=slowest.recovery_s if slowest else None,
            limit=self.max_s,
            unit="s",
            witness=[one.told() for one in (over or found)][:10],
            detail=(
                f"Clients felt {felt} of {count(len(found), 'fault')}; "
                f"{len(lasting)} lasted until the next fault or the end."
            ),
        ).doubted(doubts)
