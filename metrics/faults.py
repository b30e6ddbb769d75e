"""What became of each fault: planned, injected, seen to bite, healed, seen to be healed.

A fault that could not be injected, or whose effect nobody saw, makes a run unknown; one whose heal is not proven
leaves the system dirty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metrics.events import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One occurrence; times are CLOCK_MONOTONIC ns, None where it did not happen.

    `effect` and `healed` are what was proven: None where nobody looked. A change (a deploy) is `kept`: it is
    proven by what is seen afterwards and never healed. `effect_ns` is when the effect was proven; it and `heal_after_s`
    (planned, from the injection) are None where there was none.
    """

    fault_id: str
    name: str
    instances: tuple[str, ...]
    planned: bool
    kept: bool
    injected_ns: int | None = None
    healed_ns: int | None = None
    heal_seen_ns: int | None = None
    effect: bool | None = None
    healed: bool | None = None
    effect_evidence: Mapping[str, Any] | None = None
    heal_evidence: Mapping[str, Any] | None = None
    failed_step: str | None = None
    error: str | None = None
    effect_ns: int | None = None
    heal_after_s: float | None = None

    @property
    def heal_begun_ns(self) -> int | None:
        """When it was about to be healed, as planned; when it was healed, if that was sooner; None without a heal."""
        if self.injected_ns is None or self.heal_after_s is None:
            return None
        due_ns = self.injected_ns + round(self.heal_after_s * 1e9)
        return due_ns if self.healed_ns is None else min(due_ns, self.healed_ns)

    @property
    def dirty(self) -> bool:
        """Whether it may still be in force."""
        if self.healed is True:
            return False
        if self.healed is False or self.failed_step == "heal":
            return True
        return not self.kept and self.injected_ns is not None


def faults_of(plan: Mapping[str, Any], events: Sequence[Event]) -> list[Fault]:
    """Every fault that was planned or happened, in order of injection and then of the plan."""
    planned = {str(one["fault_id"]): one for one in _entries(plan.get("timeline")) if "fault_id" in one}
    seen: dict[str, list[Event]] = {fault_id: [] for fault_id in planned}
    for event in events:
        if event.fault_id is not None and event.kind.startswith("fault."):
            seen.setdefault(event.fault_id, []).append(event)
    faults = [_fault(fault_id, planned.get(fault_id), seen[fault_id]) for fault_id in seen]
    return sorted(faults, key=lambda fault: (fault.injected_ns is None, fault.injected_ns or 0))


def number_or_none(value: Any) -> float | None:
    """A finite number as it stands in a file; None for anything else, `true` included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < float("inf") else None


def _entries(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _fault(fault_id: str, plan: Mapping[str, Any] | None, events: Sequence[Event]) -> Fault:
    by_kind: dict[str, list[Event]] = {}
    for event in events:
        by_kind.setdefault(event.kind.removeprefix("fault."), []).append(event)
    injected = by_kind.get("injected", [])
    failed = by_kind.get("failed", [])
    said: Mapping[str, Any] = injected[0].data if injected else {}
    wish: Mapping[str, Any] = plan or {}
    effect = _proven(by_kind.get("effect", []))
    instances = said.get("instances") or wish.get("instances") or []
    return Fault(
        fault_id=fault_id,
        name=str(said.get("fault") or wish.get("fault") or fault_id.rpartition("-")[0] or fault_id),
        instances=tuple(str(one) for one in instances) if isinstance(instances, list) else (),
        planned=plan is not None,
        kept=plan is not None and plan.get("heal_after_s") is None,
        injected_ns=injected[0].t_ns if injected else None,
        healed_ns=_last_ns(by_kind.get("healed", [])),
        heal_seen_ns=_last_ns(by_kind.get("heal_proven", [])),
        effect=effect,
        healed=_proven(by_kind.get("heal_proven", [])),
        effect_evidence=_evidence(by_kind.get("effect", [])),
        heal_evidence=_evidence(by_kind.get("heal_proven", [])),
        failed_step=str(failed[-1].data.get("step")) if failed else None,
        error=str(failed[-1].data.get("error")) if failed else None,
        effect_ns=_last_ns(by_kind.get("effect", [])) if effect else None,
        heal_after_s=number_or_none(wish.get("heal_after_s")),
    )


def _last_ns(events: Sequence[Event]) -> int | None:
    return events[-1].t_ns if events else None


def _proven(events: Sequence[Event]) -> bool | None:
    """Whether every instance that was looked at was last seen as it should be; a later look replaces an earlier."""
    last = {event.instance: event.data.get("proven") is True for event in events}
    return all(last.values()) if last else None


def _evidence(events: Sequence[Event]) -> Mapping[str, Any] | None:
    evidence = events[-1].data.get("evidence") if events else None
    return evidence if isinstance(evidence, dict) else None
