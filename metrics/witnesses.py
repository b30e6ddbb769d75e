"""Operations told as data, for witnesses: what was asked, when, and what came back."""

import json
from typing import Any, Final

import numpy as np

from metrics.evidence import Evidence
from metrics.operations import NEVER, OUTCOMES, Flags, Ints, Operations

WITNESSES_MAX: Final = 5
"""So many say it all; more would bury the first."""


def told(evidence: Evidence, operations: Operations, position: int) -> dict[str, Any]:
    """One operation; `operation` is its X-Request-Id, times are seconds from the start of the faults."""
    end_ns = int(operations.end_ns[position])
    return {
        "operation": str(int(operations.index[position])),
        "f": operations.f[position],
        "phase": operations.phase[position],
        "process": int(operations.process[position]),
        "key": operations.key[position],
        "asked": parsed(operations.asked[position]),
        "answered": parsed(operations.answered[position]),
        "outcome": OUTCOMES[int(operations.outcome[position])] if end_ns != NEVER else "info (no completion)",
        "error": operations.error[position],
        "node": operations.node[position],
        "attempt": int(operations.attempt[position]),
        "intended_s": evidence.seconds(int(operations.intended_ns[position])),
        "start_s": evidence.seconds(int(operations.start_ns[position])),
        "end_s": evidence.seconds(end_ns),
        "fault": fault_at(evidence, int(operations.intended_ns[position]), end_ns),
    }


def first_told(evidence: Evidence, operations: Operations, which: Flags | Ints) -> list[dict[str, Any]]:
    """The first few operations; those that no fault explains come first."""
    positions = np.flatnonzero(which) if which.dtype == np.bool_ else np.asarray(which, dtype=np.int64)
    outside = ~explained(evidence, operations.take(positions))
    order = np.argsort(~outside, kind="stable")[:WITNESSES_MAX]
    return [told(evidence, operations, int(position)) for position in positions[order]]


def parsed(text: str | None) -> Any:
    """What JSON text says; the text itself where it is none."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


_SETTLE_NS: Final = 1_000_000_000
"""A failure within this time after a heal is still the fault's: balancers and pools learn of it with a delay."""


def fault_windows(evidence: Evidence) -> list[tuple[int, int, str]]:
    """(start_ns, end_ns, fault_id) in which a failure is explained by a fault: from its injection to its heal seen.

    A change that is kept explains failures until the faults phase ends, as does a fault that nobody saw healed.
    """
    end_of_faults = evidence.phases.get("faults", (0, 0))[1]
    windows = []
    for fault in evidence.injected:
        start_ns = fault.injected_ns or 0
        healed_ns = fault.heal_seen_ns or fault.healed_ns
        end_ns = healed_ns if healed_ns is not None else max(start_ns, end_of_faults)
        windows.append((start_ns, end_ns + _SETTLE_NS, fault.fault_id))
    return windows


def explained(evidence: Evidence, operations: Operations) -> Flags:
    """Operations under way while a fault was in force, or just healed."""
    inside = np.zeros(len(operations), dtype=np.bool_)
    for start_ns, end_ns, _ in fault_windows(evidence):
        inside |= (operations.intended_ns < end_ns) & (operations.end_ns >= start_ns)
    return inside


def fault_at(evidence: Evidence, start_ns: int, end_ns: int) -> str | None:
    """The fault that was in force at some moment of this stretch; the latest of several."""
    within = [name for begin, end, name in fault_windows(evidence) if start_ns < end and end_ns >= begin]
    return within[-1] if within else None
