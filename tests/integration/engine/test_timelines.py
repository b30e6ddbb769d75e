"""Timelines on a real system: what is decided while a run goes on is decided rightly, and written down."""

from typing import Any

import pytest

from metrics.events import Event
from tests.integration.engine.bench import Bench, Ran

WINDOW: dict[str, Any] = {"action": {"name": "maintenance.start", "for": "300ms"}, "at": "300ms"}
KILL_LEADER: dict[str, Any] = {"kill": {"role": "portal", "leader": "leader", "restart_after": "200ms"}}


def of_fault(ran: Ran, fault_id: str, kind: str) -> list[Event]:
    """The events of one kind of one fault."""
    return [event for event in ran.events if event.fault_id == fault_id and event.kind == kind]


def test_faults_follow_readings_and_each_other_and_the_leader_is_found_when_it_counts(bench: Bench) -> None:
    """The leader is killed once the stage is closed; when it is back, two pauses come, one after the other."""
    pauses = {"sequence": [{"pause": {"role": "portal", "instance": f"portal-{n}", "for": "100ms"}} for n in (2, 1)]}
    faults = [
        WINDOW,
        {**KILL_LEADER, "when": {"observe": "stage", "is": "closed", "within": "2s"}},
        {**pauses, "after": "kill"},
    ]
    ran = bench.run(faults=faults, phases={"faults": "3s"})

    assert ran.returncode == 0, ran.stderr
    (window,) = of_fault(ran, "action-1", "fault.injected")
    (triggered,) = of_fault(ran, "kill-1", "fault.triggered")
    assert triggered.data["by"] == {"reading": "stage", "value": "closed"}
    assert triggered.t_ns > window.t_ns
    (chosen,) = of_fault(ran, "kill-1", "fault.chosen")
    told = {"reading": "leader", "value": "portal-2/since-ever"}
    assert chosen.data == {"instances": ["portal-2"], "evidence": told}
    assert of_fault(ran, "kill-1", "fault.injected")[0].data["instances"] == ["portal-2"]
    assert of_fault(ran, "kill-1", "fault.effect")[0].data["evidence"]["chosen"] == told
    assert [event.instance for event in ran.events if event.kind == "instance.exited"][:1] == ["portal-2"]
    healed = of_fault(ran, "kill-1", "fault.heal_proven")[0]
    first, second = of_fault(ran, "pause-1", "fault.injected")[0], of_fault(ran, "pause-2", "fault.injected")[0]
    assert healed.t_ns <= first.t_ns
    assert of_fault(ran, "pause-1", "fault.heal_proven")[0].t_ns <= second.t_ns
    assert (first.data["instances"], second.data["instances"]) == (["portal-2"], ["portal-1"])
    assert {one["fault_id"]: one["instances"] for one in ran.verdict["faults"]}["kill-1"] == ["portal-2"]


def test_a_limit_that_is_never_reached_and_a_leader_that_nobody_is_make_the_run_inconclusive(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither fault plays, nor does what comes after one of them; why is told."""
    monkeypatch.setattr("chaos.engine.play.CHOICE_LIMIT_S", 0.2)
    waits = {"kill": {"role": "portal"}, "when": {"observe": "requests", "above": 10, "within": "300ms"}}
    kill = {"kill": {"role": "portal", "restart_after": "100ms"}}
    nobody = {"stop": {"role": "front", "leader": "stage", "restart_after": "100ms"}}
    ran = bench.run(faults=[{**waits, **kill}, nobody, {"pause": {"role": "portal", "for": "100ms"}, "after": "kill"}])

    assert ran.returncode == 2, ran.stderr
    assert "fault.injected" not in ran.kinds
    told = {event.fault_id: (event.data["step"], event.data["error"]) for event in ran.events if "failed" in event.kind}
    assert told == {
        "kill-1": ("wait", "requests above 10 did not come within 0.3 s of the phase: it was 1.0 last"),
        "stop-1": ("choose", "nobody of front-1 leads: stage says 'open'"),
        "pause-1": ("wait", "kill-1, which it comes after, was not healed"),
    }
    assert any("kill-1: could not be injected" in reason for reason in ran.verdict["reasons"])
