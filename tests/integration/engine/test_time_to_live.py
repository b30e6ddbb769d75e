"""Every fault has a time to live: a runner that hangs is not waited for, and a dead one's faults keep others away."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.errors import HealError
from chaos.leftovers import refuse_in_force
from chaos.processes import Identity, identify, send, state
from chaos.roster import Roster
from chaos.undo import UndoLog, pending, signal_step, start_step
from chaos.watchdog import Watchdog
from metrics.events import EventLog, read_events
from tests.integration.engine.bench import LIMIT_S, SYSTEM, Bench, await_event

DIES = """
import os, sys
from pathlib import Path
from chaos.processes import myself
from chaos.roster import Roster
from chaos.undo import UndoLog, start_step
run_dir = Path(sys.argv[1])
Roster(run_dir, run_id="dead").close()
UndoLog(run_dir).record("kill-1", [start_step("portal-1")])
"""


@pytest.fixture
def stopped() -> Iterator[Identity]:
    """A process of our own that SIGSTOP holds."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        identity = identify(child.pid)
        assert identity is not None
        send(identity, signal.SIGSTOP)
        yield identity
    finally:
        child.kill()
        child.wait()
        assert child.stdin is not None
        child.stdin.close()


async def until_gone(run_dir: Path, fault_id: str) -> None:
    """Waits for the end of a fault's record."""
    async with asyncio.timeout(LIMIT_S):
        while fault_id in {record.fault_id for record in pending(run_dir)}:  # noqa: ASYNC110  (another process writes)
            await asyncio.sleep(0.02)


async def test_a_fault_that_outlives_its_time_is_taken_back_while_the_runner_lives(
    tmp_path: Path, stopped: Identity
) -> None:
    """This very process is the runner, and does nothing about its faults: one expires, one is prolonged, one forever.

    What only the runner could do is named and stays pending; the watchdog goes on watching.
    """
    EventLog(tmp_path).close()
    (tmp_path / "logs").mkdir()
    roster, undo = Roster(tmp_path, run_id="hangs"), UndoLog(tmp_path)
    watchdog = await Watchdog.start(roster)
    try:
        soon_ns = time.monotonic_ns() + 100_000_000
        undo.record("kill-1", [start_step("portal-1")], expires_ns=soon_ns)
        undo.record("pause-2", [signal_step(stopped, signal.SIGKILL)], expires_ns=soon_ns)
        undo.prolong("pause-2", expires_ns=soon_ns + 3_600_000_000_000)
        undo.record("pause-3", [signal_step(stopped, signal.SIGKILL)])
        undo.record("pause-1", [signal_step(stopped, signal.SIGCONT)], expires_ns=soon_ns)
        await until_gone(tmp_path, "pause-1")
        async with asyncio.timeout(LIMIT_S):
            while len(list(read_events(tmp_path))) < 2:  # noqa: ASYNC110  (another process writes)
                await asyncio.sleep(0.02)

        assert state(stopped) not in {"T", None}
        assert watchdog.alive()
        assert {record.fault_id for record in pending(tmp_path)} == {"kill-1", "pause-2", "pause-3"}
        told = {event.fault_id: event for event in read_events(tmp_path)}
        assert {event.kind for event in told.values()} == {"watchdog.expired"}
        assert told["pause-1"].data == {"undone": [f"SIGCONT to process {stopped.pid}"], "left": []}
        assert "can only be started by the runner" in told["kill-1"].data["left"][0]
        assert list(told) == ["pause-1", "kill-1"], "once each"
    finally:
        await watchdog.finish()
        roster.close()
        undo.close()


def test_a_run_does_not_start_while_faults_of_a_dead_one_may_be_in_force_on_its_target(bench: Bench) -> None:
    """A run died, and its watchdog with it. Exit 5, nothing is started; another target is free, and so is it healed."""
    dead = bench.folder / "runs" / "dead"
    dead.mkdir(parents=True)
    (dead / "run.json").write_text(json.dumps({"target": str(SYSTEM)}))
    subprocess.run([sys.executable, "-c", DIES, str(dead)], check=True, timeout=LIMIT_S)

    with pytest.raises(HealError, match=r"earlier run .*dead: kill-1.*holdfast heal"):
        refuse_in_force(bench.folder / "runs", SYSTEM)
    refuse_in_force(bench.folder / "runs", SYSTEM.parent / "another.yaml")
    process = bench.start("run", bench.write())
    _, told = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 5, told
    assert "dead: kill-1" in told
    assert [path.name for path in (bench.folder / "runs").iterdir()] == ["dead"]

    UndoLog(dead).done("kill-1")
    refuse_in_force(bench.folder / "runs", SYSTEM)


@pytest.mark.prove
def test_the_victims_of_a_runner_that_hangs_go_on_and_the_run_is_inconclusive(bench: Bench) -> None:
    """SIGSTOP for the runner with a pause of 1 s in force: its node goes on after that and the lease."""
    process = bench.start(
        "run", bench.write(faults=[{"pause": {"role": "portal", "for": "1s"}}], phases={"faults": "2s"})
    )
    await_event(process, bench, lambda event: event.kind == "fault.effect")
    os.kill(process.pid, signal.SIGSTOP)
    try:
        deadline_s = time.monotonic() + 60
        while not any(event.kind == "watchdog.expired" for event in read_events(bench.latest)):
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        assert pending(bench.latest) == ()
    finally:
        os.kill(process.pid, signal.SIGCONT)
    ran = bench.end(process)
    assert ran.returncode == 2, ran.stderr
    assert "the watchdog took the fault back" in ran.stdout
