"""A whole run on a real system: every phase in order, every outcome with its exit code, nothing left behind."""

import json
import os
import signal
import time
from typing import Any

import pytest

from chaos.cli import execute
from chaos.roster import read_guarded
from metrics.events import Event, read_events
from tests.integration.engine.bench import EXPECT, LIMIT_S, PAUSE, SYSTEM, Bench, await_event

KILL = {"kill": {"role": "portal", "count": 1, "restart_after": "300ms"}}
KILL_ALL_LONG: dict[str, Any] = {"kill": {"role": "portal", "all": True, "restart_after": "20s"}}
LONG = {"faults": "25s"}


def test_a_run_goes_through_every_phase_proves_every_fault_and_can_be_judged_again(bench: Bench) -> None:
    """Three faults, two of them at the same time; then the stored run is checked to the same bytes."""
    ran = bench.run(faults=[{**KILL, "at": "100ms"}, {**PAUSE, "at": "200ms"}, {**KILL, "at": "600ms"}])

    assert ran.returncode == 0, ran.stderr
    assert [event.data["phase"] for event in ran.events if event.kind == "phase.started"] == [
        "warmup",
        "baseline",
        "faults",
        "recovery",
        "quiet",
    ]
    assert {one["fault_id"]: (one["effect"], one["healed"]) for one in ran.verdict["faults"]} == {
        "kill-1": (True, True),
        "pause-1": (True, True),
        "kill-2": (True, True),
    }
    injected, healed = ran.first("fault.injected"), ran.first("fault.healed")
    assert (healed.t_ns - injected.t_ns) / 1e9 >= 0.3, "healed before its time"
    assert any(event.data["at"] == "faults.end" for event in ran.events if event.kind == "reading")
    stopped_ns = ran.first("phase.ended").t_ns
    ends = {it.instance: it.data for it in ran.events if it.kind == "instance.exited" and it.t_ns > stopped_ns}
    assert len(ends) == 5
    assert all(end["expected"] and end["returncode"] != -signal.SIGKILL for end in ends.values()), "not asked to end"
    assert ran.first("target.stopped").data == {"leftovers": []}
    undo = [json.loads(line) for line in (ran.run_dir / "undo.ndjson").read_text().splitlines()]
    assert all("expires_ns" in line for line in undo if "done" not in line), "a fault without a time to live"
    assert ran.first("run.ended").data["outcome"] == "completed"
    assert (ran.run_dir / "history.parquet").exists()

    before = (ran.run_dir / "verdict.json").read_bytes()
    assert (execute(["check", str(ran.run_dir)]), (ran.run_dir / "verdict.json").read_bytes()) == (0, before)


def test_a_baseline_that_does_not_hold_ends_the_run_before_anything_is_injected(bench: Bench) -> None:
    """No probe can answer within a microsecond of the last one, so the expectation is broken without any fault."""
    ran = bench.run(expect=[{"longest_gap": {"max": "1us"}}])

    assert ran.returncode == 3, ran.stderr
    assert ran.first("baseline.judged").data["held"] is False
    assert not [kind for kind in ran.kinds if kind.startswith("fault.")]
    assert "longest_gap" in ran.stderr


def test_a_guardrail_ends_the_run_and_heals(bench: Bench) -> None:
    """All nodes are dead for 20 s: the error rate must trip long before, and they are started again at once."""
    ran = bench.run(faults=[KILL_ALL_LONG], phases=LONG, guardrails=[{"error_rate": {"max": "20%", "over": "500ms"}}])

    assert ran.returncode == 4, ran.stderr
    assert ran.first("guardrail.tripped").data["value"] > 0.2
    assert ran.first("fault.heal_proven").data["proven"] is True
    assert (ran.first("run.ended").t_ns - ran.first("fault.injected").t_ns) / 1e9 < 15


@pytest.mark.parametrize(
    ("guardrail", "told"),
    [
        ({"reading": {"observe": "requests", "max": 0}}, "guardrail reading: requests is 1, allowed is at most 0"),
        ({"latency": {"p99": "300ms", "over": "3s"}}, "guardrail latency: p99 "),
    ],
    ids=["reading", "latency"],
)
def test_a_guardrail_on_the_target_or_on_waiting_ends_the_run(
    bench: Bench, guardrail: dict[str, Any], told: str
) -> None:
    """The reading is too high from the start; or all nodes hang, and probes wait for them: without an answer, too."""
    hang = {"pause": {"role": "portal", "all": True, "for": "20s"}}
    ran = bench.run(faults=[hang], phases=LONG, guardrails=[guardrail], expect=[{"longest_gap": {"max": "60s"}}])

    assert ran.returncode == 4, ran.stderr
    assert ran.first("guardrail.tripped").data["client"] is None
    assert told in ran.stderr
    assert ran.kinds.count("fault.heal_proven") == ran.kinds.count("fault.injected")


def in_phase(phase: str) -> Any:
    """Matches the start of a phase."""
    return lambda event: event.kind == "phase.started" and event.data["phase"] == phase


@pytest.mark.parametrize(
    ("signum", "matches", "returncode"),
    [
        (signal.SIGINT, lambda event: event.kind == "instance.started", 130),
        (signal.SIGTERM, in_phase("warmup"), 143),
        (signal.SIGINT, in_phase("baseline"), 130),
        (signal.SIGTERM, lambda event: event.kind == "fault.effect", 143),
        (signal.SIGINT, in_phase("quiet"), 130),
    ],
    ids=["start", "warmup", "baseline", "fault in force", "quiet"],
)
def test_a_signal_at_any_time_heals_and_tears_down(
    bench: Bench, signum: signal.Signals, matches: Any, returncode: int
) -> None:
    """The signal is sent as soon as the event is in the log; a second one right after it must change nothing."""
    faults = [{"pause": {"role": "portal", "count": 1, "for": "20s"}}] if returncode == 143 else [PAUSE]
    process = bench.start("run", bench.write(faults=faults, phases=LONG if returncode == 143 else {}))
    await_event(process, bench, matches)
    os.kill(process.pid, signum)
    os.kill(process.pid, signum)
    ran = bench.end(process)

    assert ran.returncode == returncode, ran.stderr
    assert (ran.verdict["verdict"], ran.verdict["exit_code"]) == ("interrupted", returncode)
    assert ran.first("run.ended").data["signal"] == signum.name
    assert [event.data for event in ran.events if event.kind == "run.interrupted"] == [{"signal": signum.name}]
    assert ran.kinds.count("load.finished") == ran.kinds.count("load.started"), "a last word twice, or never"
    assert ran.kinds.count("fault.heal_proven") == ran.kinds.count("fault.injected")


def test_a_signal_while_judging_starts_no_further_experiment(bench: Bench) -> None:
    """The first of two has ended and is being judged: its verdict stands, the second is not begun, exit 143."""
    process = bench.start("run", bench.write(name="first"), bench.write(name="second"))
    await_event(process, bench, lambda event: event.kind == "run.ended")
    process.terminate()
    ran = bench.end(process)

    assert ran.returncode == 143, ran.stderr
    assert ran.verdict["exit_code"] == 0
    assert [path.name.split("-")[2] for path in bench.latest.parent.glob("*-first-*")] == ["first"]
    assert not list(bench.latest.parent.glob("*-second-*"))


def pid_of(bench: Bench, name: str) -> int:
    """The newest process of that name in the run's roster."""
    lines = (bench.latest / "processes.ndjson").read_text().splitlines()
    return next(int(entry["pid"]) for entry in map(json.loads, reversed(lines)) if entry["name"] == name)


@pytest.mark.parametrize("name", ["prober", "watchdog"])
def test_a_run_that_loses_what_it_relies_on_stops_safely_and_is_unknown(bench: Bench, name: str) -> None:
    """The process is killed while a fault is in force: healed, torn down, exit 2, and the reason is told."""
    faults = [{"pause": {"role": "portal", "count": 1, "for": "20s"}}]
    process = bench.start("run", bench.write(faults=faults, phases=LONG))
    await_event(process, bench, lambda event: event.kind == "fault.effect")
    os.kill(pid_of(bench, name), signal.SIGKILL)
    ran = bench.end(process)

    assert ran.returncode == 2, ran.stderr
    assert ran.first("run.ended").data["outcome"] == "error"
    assert ran.first("fault.heal_proven").data["proven"] is True
    assert f"the {name}" in ran.stderr


def test_a_fault_whose_effect_is_not_proven_is_no_pass(bench: Bench) -> None:
    """Nodes that ignore SIGTERM do not end by themselves, so `stop` had no effect: inconclusive, all healed."""
    stop = {"stop": {"role": "portal", "count": 1, "within": "200ms", "restart_after": "300ms"}}
    ran = bench.run(faults=[stop], set={"portal.env.STUBBORN": "1", "portal.stop.grace": "200ms"})

    assert ran.returncode == 2, ran.stderr
    assert ran.first("fault.effect").data["proven"] is False
    assert ran.first("fault.heal_proven").data["proven"] is True


def test_a_fault_that_cannot_be_healed_is_left_dirty_and_named(bench: Bench) -> None:
    """A killed node that does not start again: exit 5, whatever else was found, and how to clear it is told."""
    ran = bench.run(faults=[KILL], set={"portal.env.ONCE": "1"})

    assert ran.returncode == 5, ran.stderr
    assert ran.first("fault.heal_proven").data["proven"] is False
    assert [event.data["step"] for event in ran.events if event.kind == "fault.failed"] == ["heal", "heal"]
    (left,) = ran.first("run.ended").data["left"]
    assert "kill-1: kill on portal-" in left
    assert "holdfast heal" in left


def test_a_target_that_cannot_start_gives_a_clear_error_and_leaves_nothing(bench: Bench) -> None:
    """The command does not exist."""
    ran = bench.run(set={"front.command": "no-such-program-anywhere"})

    assert ran.returncode == 64, ran.stderr
    assert "front.command" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_target_that_is_never_ready_gives_the_log_and_leaves_nothing(bench: Bench) -> None:
    """The readiness check asks a port that nobody serves."""
    ran = bench.run(set={"front.ready.within": "300ms", "front.env.UPSTREAMS": "127.0.0.1:1"})

    assert ran.returncode == 2, ran.stderr
    assert "front-1" in ran.stderr
    assert "logs/front-1.log" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.first("run.ended").data["outcome"] == "error"


def test_a_rolling_deploy_replaces_every_instance_and_is_kept(bench: Bench) -> None:
    """Each instance ends and another process of the new version is ready before the next one ends."""
    ran = bench.run(faults=[{"deploy": {"role": "portal", "set": {"env.VERSION": "v2"}}}])

    assert ran.returncode == 0, ran.stderr
    assert set(ran.first("fault.effect").data["evidence"]["versions"].values()) == {"v2"}
    order = [(event.kind, event.instance) for event in ran.events if is_replacement(event)]
    middle = order[order.index(("instance.exited", "portal-1")) :][:8]
    assert middle == [
        (kind, f"portal-{number}") for number in (1, 2, 3, 4) for kind in ("instance.exited", "instance.ready")
    ]


def is_replacement(event: Event) -> bool:
    """Whether a portal ended or became ready."""
    return event.kind in {"instance.exited", "instance.ready"} and str(event.instance).startswith("portal")


def test_several_experiments_run_one_after_the_other_and_the_worst_counts(bench: Bench) -> None:
    """A pass and an unmet baseline: 3. The results of both are in the JSON on standard output."""
    good, bad = bench.write(name="good"), bench.write(name="bad", expect=[{"longest_gap": {"max": "1us"}}])
    ran = bench.end(bench.start("run", good, bad, "--json"))

    assert ran.returncode == 3, ran.stderr
    told = json.loads(ran.stdout)
    assert told["exit_code"] == 3
    assert [one["verdict"]["exit_code"] for one in told["runs"]] == [0, 3]


def test_a_run_longer_than_allowed_is_ended_and_healed(bench: Bench) -> None:
    """20 s of a fault, allowed are 5 s in all: enough on a busy machine for the fault to be in force by then."""
    path = bench.write(faults=[{"pause": {"role": "portal", "count": 1, "for": "20s"}}], phases=LONG, expect=EXPECT)
    ran = bench.end(bench.start("run", path, "--max-duration", "5s"))

    assert ran.returncode == 2, ran.stderr
    assert "--max-duration" in ran.stderr
    assert ran.first("fault.heal_proven").data["proven"] is True


def test_a_runner_that_is_killed_leaves_nothing_stopped_and_nothing_running(bench: Bench) -> None:
    """SIGKILL with a node stopped by SIGSTOP: within 5 s no process of the run is left, and the log says who acted."""
    faults = [{"pause": {"role": "portal", "count": 1, "for": "20s"}}]
    process = bench.start("run", bench.write(faults=faults, phases=LONG))
    await_event(process, bench, lambda event: event.kind == "fault.effect")
    guarded = read_guarded(bench.latest)
    assert guarded is not None
    assert guarded.members()
    process.kill()
    process.communicate(timeout=LIMIT_S)
    deadline_s = time.monotonic() + 5

    while guarded.members() or guarded.watchdogs:
        assert time.monotonic() < deadline_s, "something is still alive after 5 s"
    kinds = [event.kind for event in read_events(bench.latest)]
    assert kinds[-2:] == ["watchdog.acted", "run.ended"]
    check = bench.start("check", "latest")
    check.communicate(timeout=LIMIT_S)
    assert check.returncode == 2


def test_a_target_that_is_up_is_used_and_stays_up(bench: Bench) -> None:
    """The run kills a node of the target that `up` holds, starts none of its own, and leaves it serving."""
    up = bench.start("up", SYSTEM)
    try:
        assert up.stdout is not None
        assert "tiny is up at" in up.stdout.readline()
        ran = bench.run(faults=[{**KILL, "at": "100ms"}, PAUSE])
        status = bench.start("status", "--json")
        told = json.loads(status.communicate(timeout=LIMIT_S)[0])
    finally:
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=LIMIT_S)

    assert ran.returncode == 0, ran.stderr
    assert "using tiny as `holdfast up` holds it" in ran.stderr
    assert {one["effect"] and one["healed"] for one in ran.verdict["faults"]} == {True}
    assert [one["name"] for one in told["up"]] == ["tiny"]
    assert told["left"] == []
    assert up.returncode == 0
    assert json.loads((ran.run_dir / "run.json").read_text())["attached"] is True
