"""What must be true of every run, whatever it expects: each breach is a sentence, a crash of the target a finding.

Nobody has to ask for these in `expect`: a fault whose effect nobody saw, a run without a success of any client, a load
that missed its rate, a machine that froze too often make any run unknown. A process of the target that ends by itself
makes it a failure.
"""

from dataclasses import dataclass
from typing import Final

from metrics.evidence import EVENTS, PLAN, RUN, Evidence
from metrics.faults import Fault
from metrics.findings import Finding, Grade, count
from metrics.soundness import load_doubts
from metrics.witnesses import WITNESSES_MAX, fault_at

_FROZEN_RATIO_MAX: Final = 0.05
"""A machine frozen for more than this share of the faults phase says nothing about the service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hiccups:
    """Freezes of the machine: how many, how long in all, the longest, and their share of the faults phase."""

    number: int
    total_s: float
    longest_s: float
    share: float


def hiccups(evidence: Evidence) -> Hiccups:
    """Adds up the freezes; the share counts only what lies in the faults phase."""
    lengths_s = [(one.end_ns - one.start_ns) / 1e9 for one in evidence.hiccups]
    start_ns, end_ns = evidence.phases.get("faults", (0, 0))
    inside_ns = sum(max(0, min(one.end_ns, end_ns) - max(one.start_ns, start_ns)) for one in evidence.hiccups)
    return Hiccups(
        number=len(lengths_s),
        total_s=round(sum(lengths_s), 6),
        longest_s=max(lengths_s, default=0.0),
        share=inside_ns / (end_ns - start_ns) if end_ns > start_ns else 0.0,
    )


def breaches(evidence: Evidence) -> list[str]:
    """Everything that keeps the run from being judged, the weightiest first."""
    found = [problem for part in (RUN, PLAN, EVENTS) for problem in evidence.problems.get(part, ())]
    if evidence.ending.outcome is None:
        found.append("the run never said how it ended: its runner died, or still goes on")
    elif evidence.ending.outcome not in ("completed", "interrupted", "baseline_not_met", "guardrail"):
        note = f": {evidence.ending.note}" if evidence.ending.note else ""
        found.append(f"the run ended with an error{note}")
    found += _fault_breaches(evidence)
    found += [silent for silent in [silence(evidence)] if silent]
    if evidence.window_ns is not None:
        found += load_doubts(evidence)
    missing = [phase for phase in evidence.judged if phase not in evidence.phases]
    if missing and evidence.ending.outcome == "completed":
        found.append(f"the run lacks its {' and '.join(missing)}")
    frozen = hiccups(evidence)
    if frozen.share > _FROZEN_RATIO_MAX:
        found.append(f"the machine was frozen for {frozen.share:.1%} of the faults phase")
    return found


def unexpected_exits(evidence: Evidence) -> Finding | None:
    """A failure where processes of the target ended by themselves while it was tested; None where all held.

    A fault marks the ends that it causes as expected. Before the first phase nothing is tested yet, after the last one
    the target is taken down, as it is at any time in a run that is interrupted.
    """
    spans = list(evidence.phases.values())
    if not spans or evidence.ending.outcome == "interrupted":
        return None
    exits = [
        event
        for event in evidence.events
        if event.kind == "instance.exited"
        and event.data.get("expected") is False
        and spans[0][0] <= event.t_ns < spans[-1][1]
    ]
    if not exits:
        return None
    witness = [
        {
            "instance": event.instance,
            "at_s": evidence.seconds(event.t_ns),
            "returncode": event.data.get("returncode"),
            "log": f"logs/{event.instance}.log",
            "fault": fault_at(evidence, event.t_ns, event.t_ns + 1),
        }
        for event in exits[:WITNESSES_MAX]
    ]
    first = witness[0]
    status = "unknown exit status" if first["returncode"] is None else f"exit status {first['returncode']}"
    more = f", and {count(len(exits) - 1, 'other end')} that no fault caused" if len(exits) > 1 else ""
    return Finding(
        name="unexpected_exit",
        grade=Grade.FAIL,
        value=len(exits),
        limit=0,
        unit="exits",
        witness=witness,
        detail=f"{first['instance']} ended by itself at {first['at_s']:.2f} s with {status} ({first['log']}){more}.",
    )


def silence(evidence: Evidence) -> str | None:
    """Why nothing was shown, None where something was; answered probes do not speak for clients that were planned."""
    if not len(evidence.requests) and not len(evidence.probes):
        return "no operation was recorded in the judged phases"
    if not evidence.requests.ok.any() and not evidence.probes.ok.any():
        return "no operation succeeded in the judged phases"
    if evidence.load_planned and not evidence.requests.ok.any():
        return "no request of a client succeeded in the judged phases"
    return None


def _fault_breaches(evidence: Evidence) -> list[str]:
    if not evidence.faults:
        return ["no fault was planned or injected"]
    if evidence.ending.outcome in ("baseline_not_met", "interrupted", "guardrail") and not evidence.injected:
        return []
    skipped = [fault for fault in evidence.faults if fault.injected_ns is None]
    found = [_not_injected(fault) for fault in skipped if fault.failed_step is not None]
    quiet = [fault for fault in skipped if fault.failed_step is None]
    if quiet and evidence.ending.outcome not in ("interrupted", "guardrail"):
        names = ", ".join([fault.fault_id for fault in quiet[:5]] + (["..."] if len(quiet) > 5 else []))
        found.append(f"{count(len(quiet), 'fault')} of the plan were never injected: {names}")
    found += [
        f"{fault.fault_id}: its effect was not proven" + (f" ({fault.error})" if fault.error else "")
        for fault in evidence.injected
        if fault.effect is not True and not _cut_off(evidence, fault)
    ]
    found += [
        f"{event.fault_id}: the runner hung, and the watchdog took the fault back when it had outlived its time"
        for event in evidence.events
        if event.kind == "watchdog.expired"
    ]
    found += [
        f"{fault.fault_id}: {fault.failed_step} failed: {fault.error}"
        for fault in evidence.injected
        # A heal that was tried again and proven is none; one that was not leaves the system dirty.
        if fault.failed_step not in (None, "effect", "heal")
    ]
    return found


def _not_injected(fault: Fault) -> str:
    return f"{fault.fault_id}: could not be injected: {fault.error}"


def _cut_off(evidence: Evidence, fault: Fault) -> bool:
    """Whether the run was stopped before anybody could look."""
    return fault.effect is None and evidence.ending.outcome in ("interrupted", "guardrail")


def left_dirty(evidence: Evidence) -> list[str]:
    """What may remain in force or running, and how to clear it."""
    named = list(evidence.ending.left)
    if evidence.live or any(event.kind == "watchdog.acted" for event in evidence.events):
        # The watchdog took everything back in place of the runner, and named what it could not.
        return named
    unproven = [fault for fault in evidence.faults if fault.dirty]
    return named + [
        f"{fault.fault_id} ({fault.name} of {', '.join(fault.instances) or 'nobody'}): "
        "its heal is not proven; run `holdfast heal` and look at the target"
        for fault in unproven
        if not any(fault.fault_id in one for one in named)
    ]
