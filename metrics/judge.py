"""Judging a run: a function of its folder, so that any stored run can be judged again to the same verdict.

folder --load--> Evidence --expectations, conditions--> findings, breaches --verdict--> exit code
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from metrics import verdict as codes
from metrics.auditing import audit
from metrics.checkers.checker import Expectation, ExpectationError, named_apart, parse_expectation
from metrics.checkers.recovery import LATE_S
from metrics.conditions import breaches, hiccups, left_dirty, silence, unexpected_exits
from metrics.evidence import HISTORY, PLAN, Evidence, load
from metrics.faults import number_or_none
from metrics.findings import Finding, Grade, count, worst
from metrics.history import FAIL, INFO, OK, PROBE
from metrics.probing import clusters, gaps, interval_ns, outages, slices
from metrics.recovering import recoveries
from metrics.soundness import started_ratio
from metrics.story import stories
from metrics.verdict import FaultOutcome, Verdict
from metrics.witnesses import WITNESSES_MAX, explained, first_told

_REASONS_MAX: Final = 20


def judge(run_dir: Path) -> Verdict:
    """The verdict on a run, from what lies in its folder; writes nothing.

    Raises:
        NotARunError: the folder holds no run.
    """
    return judge_evidence(load(run_dir))


def judge_evidence(evidence: Evidence) -> Verdict:
    """The verdict on evidence that is already read."""
    findings = _with_stories(evidence, _findings(evidence))
    unexplained = _unexplained(evidence)
    found = breaches(evidence)
    left = left_dirty(evidence)
    exit_code = _exit_code(evidence, findings, found, left)
    return Verdict(
        run_id=str(evidence.run.get("run_id") or evidence.run_dir.name),
        experiment=_text(evidence.run.get("experiment")),
        title=_text(evidence.run.get("title") or evidence.plan.get("title")),
        seed=_seed(evidence),
        commit=_text(evidence.run.get("commit")),
        exit_code=exit_code,
        reasons=_reasons(evidence, findings, found, left, unexplained["count"]) if exit_code else (),
        started=_started(evidence),
        duration_s=_duration_s(evidence),
        expectations=findings,
        faults=_faults(evidence),
        unexplained=unexplained,
        operations=_operations(evidence),
        availability=_availability(evidence),
        measuring=_measuring(evidence),
        left=left,
        replay=_text(evidence.run.get("replay")),
        phases=[
            {"name": name, "start_s": evidence.seconds(start_ns), "end_s": evidence.seconds(end_ns)}
            for name, (start_ns, end_ns) in evidence.phases.items()
        ],
    )


def judge_baseline(run_dir: Path) -> list[Finding]:
    """The observed expectations on the baseline alone, while the run goes on; it holds when none of them fails.

    Reads the recording as far as it has reached the disk. A baseline in which no operation succeeded, or none of the
    clients that were planned, has a finding of its own, `baseline`, that fails.

    Raises:
        NotARunError: the folder holds no run.
    """
    evidence = load(run_dir, live=True).restricted("baseline")
    silent = silence(evidence)
    said = f"{silent}: is the target serving?" if silent else "something was answered"
    first = Finding(name="baseline", grade=Grade.FAIL if silent else Grade.PASS, detail=said)
    expectations, _ = _expectations(evidence)
    return [first, *named_apart([one.judge(evidence) for one in expectations if one.observed])]


def check(run_dir: Path) -> Verdict:
    """Judges a run again and writes its outputs again.

    Raises:
        NotARunError: the folder holds no run.
        OSError: an output cannot be written.
    """
    from metrics.outputs import write_outputs

    evidence = load(run_dir)
    verdict = judge_evidence(evidence)
    write_outputs(evidence, verdict)
    return verdict


def _expectations(evidence: Evidence) -> tuple[list[Expectation], list[Finding]]:
    """The plan's expectations, and a finding for each entry that cannot be understood."""
    entries = evidence.plan.get("expect")
    expectations, unusable = [], []
    for entry in entries if isinstance(entries, list) else []:
        try:
            expectations.append(parse_expectation(entry))
        except ExpectationError as error:
            name = next(iter(entry), "?") if isinstance(entry, dict) else "?"
            told = f"This expectation cannot be used: {error}"
            unusable.append(Finding(name=str(name), grade=Grade.UNKNOWN, detail=told))
    return expectations, unusable


def _findings(evidence: Evidence) -> list[Finding]:
    expectations, unusable = _expectations(evidence)
    exits = unexpected_exits(evidence)
    return named_apart([one.judge(evidence) for one in expectations] + unusable + ([exits] if exits else []))


def _with_stories(evidence: Evidence, findings: list[Finding]) -> list[Finding]:
    """Gives each witness that names an operation its whole life, in one pass over the logs for all of them."""
    wanted = [one for finding in findings if finding.grade is not Grade.PASS for one in _named_in(finding)]
    lives = stories(evidence, list(dict.fromkeys(wanted)))
    return [replace(finding, witness=[_alive(one, lives) for one in finding.witness]) for finding in findings]


def _named_in(finding: Finding) -> list[str]:
    named = [one for witness in finding.witness for one in (witness, *witness.get("operations", ()))]
    return [one["operation"] for one in named if "operation" in one][:WITNESSES_MAX]


def _alive(witness: Any, lives: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    told = dict(witness)
    if told.get("operation") in lives:
        told["story"] = lives[told["operation"]]
    if "operations" in told:
        told["operations"] = [_alive(one, lives) for one in told["operations"]]
    return told


def _exit_code(evidence: Evidence, findings: list[Finding], found: list[str], left: list[str]) -> int:
    outcome = evidence.ending.outcome
    reached = [codes.DIRTY] if left else []
    if outcome == "interrupted":
        reached.append(codes.SIGINT if _is_sigint(evidence.ending.signal) else codes.SIGTERM)
    if outcome == "guardrail":
        reached.append(codes.GUARDRAIL)
    if outcome == "baseline_not_met":
        # Nothing was injected, so a broken expectation here is the baseline's and not the verdict on any fault.
        return codes.combine_exit_codes([*reached, codes.BASELINE])
    grade = worst(finding.grade for finding in findings)
    reached.append({Grade.PASS: codes.PASS, Grade.UNKNOWN: codes.UNKNOWN, Grade.FAIL: codes.FAIL}[grade])
    if found:
        reached.append(codes.UNKNOWN)
    return codes.combine_exit_codes(reached)


def _is_sigint(signal: str | None) -> bool:
    return signal is None or signal.upper() in ("2", "INT", "SIGINT", "SIGNALS.SIGINT")


def _reasons(
    evidence: Evidence, findings: list[Finding], found: list[str], left: list[str], unexplained: int
) -> list[str]:
    """Why it is no pass: failures that no fault explains, what is left, how it ended, what failed, what is unknown."""
    reasons = [f"{count(unexplained, 'failure')} outside every fault window"] if unexplained else []
    reasons += [f"left dirty: {one}" for one in left]
    reasons += _ending_reasons(evidence)
    reasons += _findings_told(findings, Grade.FAIL)
    if not findings and PLAN not in evidence.problems:
        reasons.append("nothing was expected, so nothing is shown")
    # Before what could not be judged stands why: a target that did not start leaves every question open.
    reasons += [*found, *_findings_told(findings, Grade.UNKNOWN)]
    if len(reasons) > _REASONS_MAX:
        reasons[_REASONS_MAX:] = [f"and {len(reasons) - _REASONS_MAX} more"]
    return reasons


def _findings_told(findings: list[Finding], grade: Grade) -> list[str]:
    return [f"{grade.value.upper()} {one.name}: {one.detail}" for one in findings if one.grade is grade]


def _ending_reasons(evidence: Evidence) -> list[str]:
    outcome, signal = evidence.ending.outcome, evidence.ending.signal
    if outcome == "interrupted":
        return [f"interrupted by {signal or 'a signal'}; everything was healed and stopped"]
    if outcome == "guardrail":
        tripped = [event.data for event in evidence.events if event.kind == "guardrail.tripped"]
        told = "; ".join(
            f"{one.get('guardrail')} was {one.get('value')}, allowed {one.get('limit')}" for one in tripped
        )
        return [f"stopped by a guardrail: {told or 'which one is not recorded'}"]
    if outcome == "baseline_not_met":
        judged = [event.data for event in evidence.events if event.kind == "baseline.judged"]
        failed = judged[-1].get("failed") if judged else None
        names = ", ".join(map(str, failed)) if isinstance(failed, list) else "not recorded"
        return [f"the baseline was not met ({names}), so nothing was injected"]
    return []


def _faults(evidence: Evidence) -> list[FaultOutcome]:
    felt = {one.fault_id: one for one in recoveries(evidence, late_s=LATE_S)}
    outcomes = []
    for fault in evidence.faults:
        recovery = felt.get(fault.fault_id)
        proofs = {"effect": fault.effect_evidence, "heal": fault.heal_evidence}
        outcomes.append(
            FaultOutcome(
                fault_id=fault.fault_id,
                name=fault.name,
                instances=fault.instances,
                injected_s=evidence.seconds(fault.injected_ns),
                healed_s=evidence.seconds(fault.healed_ns),
                effect=fault.effect is True,
                healed=fault.healed is True,
                kept=fault.kept,
                recovery_s=recovery.recovery_s if recovery and recovery.recovered else None,
                first_error_s=recovery.first_error_s if recovery else None,
                error=f"{fault.failed_step}: {fault.error}" if fault.failed_step else None,
                evidence={name: dict(proof) for name, proof in proofs.items() if proof is not None},
            )
        )
    return outcomes


def _unexplained(evidence: Evidence) -> dict[str, Any]:
    """Failures of clients that no fault explains."""
    requests = evidence.requests
    lonely = requests.bad & ~explained(evidence, requests)
    return {"count": int(np.count_nonzero(lonely)), "witness": first_told(evidence, requests, lonely)}


def _operations(evidence: Evidence) -> dict[str, Any]:
    requests = evidence.requests
    declined = requests.declined
    by_f = {
        name: {
            "ok": int((requests.ok & mine).sum()),
            "bad": int((requests.bad & mine).sum()),
            "declined": int((declined & mine).sum()),
        }
        for name in sorted({requests.f.names[code] for code in set(requests.f.codes.tolist())})
        for mine in [requests.f.equals(name)]
    }
    return {
        "ok": int((requests.outcome == OK).sum()),
        "fail": int(((requests.outcome == FAIL) & ~declined).sum()),
        "info": int((requests.outcome == INFO).sum()),
        "declined": int(declined.sum()),
        "by_f": by_f,
        "errors": _errors(evidence),
        **audit(requests).told(),
    }


def _errors(evidence: Evidence) -> dict[str, int]:
    requests = evidence.requests
    lost = requests.error.codes[requests.bad]
    used, numbers = np.unique(lost, return_counts=True)
    named = {
        (requests.error.names[int(code)] if code >= 0 else "no completion"): int(number)
        for code, number in zip(used, numbers, strict=True)
    }
    return dict(sorted(named.items(), key=lambda one: (-one[1], one[0])))


def _availability(evidence: Evidence) -> dict[str, Any]:
    """The four numbers: by request, by time, total downtime within bounds, and the longest gap."""
    requests, seconds, found = evidence.requests, slices(evidence), outages(evidence)
    longest = gaps(evidence)[:1]
    good = len(requests) - int(requests.bad.sum())
    return {
        "by_request": good / len(requests) if len(requests) else None,
        "by_time": seconds.ratio,
        "seconds": {"good": seconds.good, "bad": seconds.bad, "blind": seconds.blind},
        "downtime_s": [round(sum(one.low_s for one in found), 6), round(sum(one.high_s for one in found), 6)],
        "longest_gap_s": round(longest[0].seconds, 6) if longest else None,
        "outages": len(found),
        "outage_events": clusters(found),
        "harness_outages": sum(one.stalled_s > 0 for one in found),
        "probes": len(evidence.probes),
        "probe_interval_s": interval_ns(evidence.probes) / 1e9,
    }


def _measuring(evidence: Evidence) -> dict[str, Any]:
    """What the measuring side says of itself."""
    frozen = hiccups(evidence)
    loads = {}
    for name in ("load", PROBE):
        counts = evidence.loads.get(name)
        if counts is not None:
            loads[name] = {
                "intended": counts.intended,
                "started": counts.started,
                "started_ratio": started_ratio(counts),
                "unsent": counts.unsent,
                "lateness_p99_s": counts.lateness_p99_s,
                "finished": counts.finished,
                "returncode": counts.returncode,
            }
    return {
        "hiccups": {
            "count": frozen.number,
            "total_s": frozen.total_s,
            "longest_s": frozen.longest_s,
            "share_of_faults": round(frozen.share, 6),
        },
        "loads": loads,
        "resent": evidence.resent,
        "history": {
            "operations": len(evidence.operations),
            "damaged": list(evidence.problems.get(HISTORY, ())),
        },
        "dumps": {
            name: {"schema": dump.schema, "rows": len(dump.rows), "problem": dump.problem}
            for name, dump in evidence.dumps.items()
        },
    }


def _started(evidence: Evidence) -> str | None:
    """Wall time of the first event, in UTC, by the clock anchor of `run.json`."""
    clock = evidence.run.get("clock")
    if not isinstance(clock, dict) or not evidence.events:
        return None
    monotonic_ns, wall_ns = number_or_none(clock.get("monotonic_ns")), number_or_none(clock.get("wall_ns"))
    if monotonic_ns is None or wall_ns is None:
        return None
    wall_us = (evidence.events[0].t_ns - int(monotonic_ns) + int(wall_ns)) // 1000
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=wall_us)
    except OverflowError:
        return None
    return moment.isoformat(timespec="milliseconds")


def _duration_s(evidence: Evidence) -> float | None:
    """From the first event to the end of the last phase, or of the run where it was cut short.

    What comes later (the target's stop) may be appended after a first judgement and must not change it.
    """
    ends = [event.t_ns for event in evidence.events if event.kind == "phase.ended"]
    ends = ends or [event.t_ns for event in evidence.events if event.kind == "run.ended"]
    return round((ends[0] - evidence.events[0].t_ns) / 1e9, 3) if ends else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _seed(evidence: Evidence) -> int | None:
    seed = evidence.run.get("seed", evidence.plan.get("seed"))
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None
