"""The longest time without a success, as the fixed-rate prober saw it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from metrics.checkers.checker import CHECKERS
from metrics.findings import Finding, Grade, count
from metrics.units import Seconds, format_duration

if TYPE_CHECKING:
    from metrics.evidence import Evidence
    from metrics.probing import Gap

HARNESS_GAPS_MAX: Final = 3
"""So many gaps over the limit may be put down to freezes of the machine; with more nothing can be said."""


@CHECKERS.register("longest_gap", observed=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class LongestGap:
    """At most `max` between successive successes of the prober, counted as they arrive.

    A gap that exceeds the limit only because the machine itself was frozen is labelled `harness` and left out; more
    than three of them make it unknown. What exceeds the limit without the frozen time counts.
    """

    max_s: Annotated[Seconds, Field(alias="max")]

    @property
    def title(self) -> str:
        """The name of the finding."""
        return "longest_gap"

    def check(self, evidence: "Evidence") -> Finding:
        """Finds the longest gap that is not the machine's own."""
        from metrics.probing import gaps, interval_ns, prober_doubts
        from metrics.soundness import history_doubts

        found = gaps(evidence)
        harness = [gap for gap in found if gap.seconds > self.max_s >= gap.unexcused_s]
        worst = max(
            (gap for gap in found if gap not in harness),
            key=lambda gap: (self._counted_s(gap), -gap.start_ns),
            default=None,
        )
        value_s = self._counted_s(worst) if worst else None
        doubts = [*history_doubts(evidence), *prober_doubts(evidence)]
        if not evidence.probes.ok.any():
            doubts.append("no probe succeeded")
        if len(harness) > HARNESS_GAPS_MAX:
            doubts.append(f"the machine froze during {count(len(harness), 'gap')} over the limit")
        spacing_s = interval_ns(evidence.probes) / 1e9
        witness = [_told(evidence, gap, self._counted_s(gap), spacing_s, "service") for gap in [worst] if gap]
        witness += [_told(evidence, gap, gap.unexcused_s, spacing_s, "harness") for gap in harness[:HARNESS_GAPS_MAX]]
        return Finding(
            name=self.title,
            grade=Grade.FAIL if value_s is not None and value_s > self.max_s else Grade.PASS,
            value=None if value_s is None else round(value_s, 6),
            limit=self.max_s,
            unit="s",
            witness=witness,
            detail=self._sentence(value_s, spacing_s, len(harness)),
        ).doubted(doubts)

    def _counted_s(self, gap: "Gap") -> float:
        """A gap over the limit counts with what no freeze explains, one within it as it is: it needs no excuse."""
        return gap.seconds if gap.seconds <= self.max_s else gap.unexcused_s

    def _sentence(self, value_s: float | None, spacing_s: float, excused: int) -> str:
        if value_s is None:
            return "No gap could be measured."
        low_s = max(0.0, value_s - 2 * spacing_s)
        sentence = f"Down for {format_duration(low_s)} to {format_duration(value_s)} at a stretch"
        sentence += f" (a probe every {format_duration(spacing_s)})."
        return f"{sentence} Left out as harness: {count(excused, 'gap')}." if excused else sentence


def _told(evidence: "Evidence", gap: "Gap", counted_s: float, spacing_s: float, label: str) -> dict[str, Any]:
    from metrics.witnesses import fault_at

    return {
        "gap_s": round(gap.seconds, 6),
        "bounds_s": [round(max(0.0, counted_s - 2 * spacing_s), 6), round(counted_s, 6)],
        "stalled_s": round(gap.stalled_ns / 1e9, 6),
        "start_s": evidence.seconds(gap.start_ns),
        "end_s": evidence.seconds(gap.end_ns),
        "label": label,
        "fault": fault_at(evidence, gap.start_ns, gap.end_ns),
    }
