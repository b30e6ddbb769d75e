"""For each fault: when it was first felt, and when the service was good again and stayed so.

injected      first error         last bad        first good        next injection or end of recovery
   |---------------|-----------------|----------------|---------------------------|
   |<--- first_error_s ->|                            |
   |<----------------- recovery_s ------------------->|
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from metrics.evidence import Evidence
from metrics.operations import NEVER, Operations


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryOf:
    """What a fault did to clients and prober; 0 bad means that it was not felt, and `recovery_s` is 0 then."""

    fault_id: str
    recovery_s: float
    recovered: bool
    first_error_s: float | None
    effect_seen_s: float | None
    bad: int
    seen: int
    window_s: float

    def told(self) -> dict[str, Any]:
        """The same as data."""
        return {
            "fault_id": self.fault_id,
            "recovery_s": self.recovery_s,
            "recovered": self.recovered,
            "first_error_s": self.first_error_s,
            "effect_seen_s": self.effect_seen_s,
            "bad": self.bad,
        }


def recoveries(evidence: Evidence, *, late_s: float) -> list[RecoveryOf]:
    """One entry per injected fault, in order of injection."""
    end_ns = max((evidence.phases[name][1] for name in ("faults", "recovery") if name in evidence.phases), default=0)
    operations = evidence.operations
    asked = operations.take(operations.clients | operations.probes)
    bad = asked.bad | (asked.latency_s > late_s)
    injected = evidence.injected
    starts = [fault.injected_ns or 0 for fault in injected]
    found = []
    for place, fault in enumerate(injected):
        later = [start for start in starts[place + 1 :] if start > starts[place]]
        theirs = _of_the_next(asked, min(later), late_s=late_s) if later else np.zeros(len(asked), dtype=bool)
        found.append(
            _recovery(
                asked,
                bad & ~theirs,
                fault_id=fault.fault_id,
                start_ns=starts[place],
                end_ns=min([*later, max(end_ns, starts[place])]),
                effect_ns=next(
                    (e.t_ns for e in evidence.events if e.kind == "fault.effect" and e.fault_id == fault.fault_id),
                    None,
                ),
            )
        )
    return found


def _of_the_next(asked: Operations, next_ns: int, *, late_s: float) -> Any:
    """What was under way, and not late yet, when the next fault came: that one hurt it, not the one before."""
    return (asked.end_ns >= next_ns) & (asked.intended_ns + late_s * 1e9 >= next_ns)


def _recovery(
    asked: Operations, bad: Any, *, fault_id: str, start_ns: int, end_ns: int, effect_ns: int | None
) -> RecoveryOf:
    # An operation belongs to the window if it was wanted in it, or was under way when the fault came.
    inside = (asked.intended_ns < end_ns) & (asked.end_ns >= start_ns)
    hurt = inside & bad
    good_after = inside & ~bad
    window_s = round((end_ns - start_ns) / 1e9, 6)
    recovery_s, recovered, first_error_s = 0.0, True, None
    if hurt.any():
        # What was under way at the injection was hurt then, not when it had been sent.
        last_ns = int(np.maximum(asked.intended_ns[hurt], start_ns).max())
        good = asked.intended_ns[good_after & (asked.intended_ns > last_ns)]
        recovered = bool(len(good))
        recovery_s = round((int(good.min()) - start_ns) / 1e9, 6) if recovered else window_s
        ends = asked.end_ns[hurt]
        known = ends[ends != NEVER]
        first_error_s = round((int(known.min()) - start_ns) / 1e9, 6) if len(known) else None
    return RecoveryOf(
        fault_id=fault_id,
        recovery_s=recovery_s,
        recovered=recovered,
        first_error_s=first_error_s,
        effect_seen_s=None if effect_ns is None else round((effect_ns - start_ns) / 1e9, 6),
        bad=int(hurt.sum()),
        seen=int(inside.sum()),
        window_s=window_s,
    )
