"""The watchdog dies: first, which the run notices, or together with the runner, which `status` and `heal` are for."""

import json
import signal
from pathlib import Path

import pytest

from chaos.leftovers import refuse_in_force
from chaos.processes import send
from chaos.roster import read_guarded
from metrics.events import Event
from tests.integration.engine.bench import EXPECT, LIMIT_S, SYSTEM, Bench
from tests.integration.killed.moments import (
    LEFT_DIRTY,
    await_event,
    ended_afterwards,
    holdfast,
    kill_watchdog_of,
)
from tests.integration.killed.traces import Traces, letter, remains

INTERRUPTED = 130
PAUSES = [{"pause": {"role": "portal", "count": 1, "for": "60s"}}]
LONG = {"faults": "90s"}


def in_force(event: Event) -> bool:
    """Matches the proof that the fault bit."""
    return event.kind == "fault.effect" and event.data["proven"] is True


def test_a_watchdog_that_dies_first_is_noticed_and_the_run_ends_healed_and_inconclusive(tmp_path: Path) -> None:
    """SIGKILL for the watchdog with a node stopped: exit 2, why is told, and nothing is left."""
    bench = Bench(folder=tmp_path)
    experiment = bench.write(faults=PAUSES, phases=LONG, expect=EXPECT)
    runner = bench.start("run", experiment)
    with ended_afterwards(runner):
        run_dir = await_event(runner, tmp_path, experiment, in_force)
        traces = Traces.of(run_dir)
        guarded = read_guarded(run_dir)
        assert guarded is not None
        (watchdog,) = guarded.watchdogs
        send(watchdog, signal.SIGKILL)
        ran = bench.end(runner)

    assert ran.returncode == 2, ran.stderr
    assert "the watchdog is gone" in ran.stderr
    assert ran.first("fault.heal_proven").data["proven"] is True
    assert ran.first("run.ended").data["left"] == []
    assert remains(traces) == []
    refuse_in_force(tmp_path / "runs", SYSTEM)


@pytest.mark.timeout(300)
def test_what_both_dead_leave_is_told_keeps_others_away_and_is_healed_without_touching_a_run_beside(
    tmp_path: Path,
) -> None:
    """Two runs on systems of one description, each with a node stopped; one dies with its watchdog.

    `status` tells it, a further run refuses to start, `heal` clears it, and again finds nothing; meanwhile the other
    run keeps every process it has, and its node stays stopped until it is ended itself.
    """
    bench = Bench(folder=tmp_path)
    living, dying = (bench.write(name=name, faults=PAUSES, phases=LONG) for name in ("living", "dying"))
    with ended_afterwards(holdfast(tmp_path, "run", living)) as survivor:
        beside = await_event(survivor, tmp_path, living, in_force)
        before = Traces.of(beside)
        with ended_afterwards(holdfast(tmp_path, "run", dying)) as runner:
            run_dir = await_event(runner, tmp_path, dying, in_force)
            traces = Traces.of(run_dir)
            kill_watchdog_of(runner, run_dir)
            runner.kill()
            runner.wait()
        told = ended("status", "--json", bench=bench, code=LEFT_DIRTY)
        assert [Path(one["folder"]).name for one in json.loads(told)["running"]] == [beside.name]
        (left,) = json.loads(told)["left"]
        assert (Path(left["folder"]).name, left["faults"]) == (run_dir.name, ["pause-1"])
        assert {"front-1", "prober", "portal-1", "portal-2", "portal-3", "portal-4"} <= {
            one["name"] for one in left["processes"]
        }
        ended("run", str(dying), bench=bench, code=LEFT_DIRTY)
        assert len(list((tmp_path / "runs").glob("*-*/run.json"))) == 2, "a further run has begun"

        assert json.loads(ended("heal", "--json", bench=bench, code=0)) == {left["run_id"]: []}
        assert remains(traces) == []
        assert "nothing to heal" in ended("heal", bench=bench, code=0)
        refuse_in_force(tmp_path / "runs", SYSTEM)

        assert before.processes <= Traces.of(beside).processes, "the other run has lost a process"
        assert [pid for pid, _ in before.processes if letter(pid) == "T"], "the other run's fault was taken back"
        survivor.send_signal(signal.SIGINT)
        assert survivor.wait(timeout=LIMIT_S) == INTERRUPTED
    assert remains(before) == []


def ended(*arguments: str, bench: Bench, code: int) -> str:
    """What a command printed that had to end with this code."""
    process = bench.start(*arguments)
    stdout, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code, stderr
    return stdout
