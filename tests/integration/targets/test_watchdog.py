"""A runner that dies by any signal leaves nothing within 5 s; a watchdog that dies is noticed."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chaos.errors import HealError
from chaos.leftovers import heal_run, leftovers
from chaos.ports import FIRST_PORT, LAST_PORT, hold_ports
from chaos.processes import Identity, alive, identify, python_environment, send
from chaos.undo import pending, read_undo
from metrics.events import read_events
from tests.integration.targets.workshop import Workshop, until

RUNNER = Path(__file__).parent / "runner.py"
GONE_WITHIN_S = 5.0
"""What the project promises of a killed runner."""


def web(workshop: Workshop) -> Path:
    """Two instances, each with a grandchild that hides, and one that will not end on SIGTERM."""
    role = {"ready": {"http": "/readyz"}, "env": {"OFFSPRING": 1}}
    stubborn = {**role, "env": {"MODE": "stubborn"}, "stop": {"grace": "200ms"}}
    return workshop.topology({"web": {**role, "count": 2}, "stubborn": stubborn})


@asynccontextmanager
async def running(
    workshop: Workshop, path: Path, run: str, *more: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, Any]]]:
    """A runner with faults in force, and what it said of them."""
    runner = await asyncio.create_subprocess_exec(
        sys.executable, RUNNER, path, workshop.runs_dir, run, *more,
        stdout=subprocess.PIPE, env=python_environment(), start_new_session=True,
    )  # fmt: skip
    try:
        assert runner.stdout is not None
        line = await asyncio.wait_for(runner.stdout.readline(), 20)
        yield runner, json.loads(line)
    finally:
        if runner.returncode is None:
            runner.kill()
        await runner.wait()


def known(pid: int) -> Identity:
    """The identity of a process that lives."""
    identity = identify(pid)
    assert identity is not None
    return identity


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGHUP])
async def test_a_killed_runner_leaves_nothing_within_five_seconds(workshop: Workshop, signum: signal.Signals) -> None:
    """One instance frozen, one killed with its restart pending, hidden grandchildren, load: all gone, all undone."""
    async with running(workshop, web(workshop), workshop.token) as (runner, said):
        run_dir = workshop.runs_dir / workshop.token
        load, watchdog = known(said["load"]), known(said["watchdog"])
        assert [record.fault_id for record in pending(run_dir)] == ["kill-1", "pause-1"]
        assert len(workshop.left()) >= 6
        with pytest.raises(HealError, match="the run still goes on"):
            heal_run(run_dir)
        assert leftovers(workshop.runs_dir) == ()
        killed_at = time.monotonic()
        runner.send_signal(signum)
        await until(lambda: workshop.left() == [] and not alive(watchdog), within_s=GONE_WITHIN_S)
        assert time.monotonic() - killed_at < GONE_WITHIN_S
    assert not alive(load)
    assert pending(run_dir) == ()
    assert not (run_dir / "data").exists()
    assert leftovers(workshop.runs_dir) == ()
    last = list(read_events(run_dir))[-2:]
    assert [event.kind for event in last] == ["watchdog.acted", "run.ended"]
    assert last[0].data["undone"] == [
        "web-2 not started: its target is torn down",
        f"SIGCONT to process {said['frozen']}",
    ]
    assert last[1].data == {"outcome": "error", "signal": None, "left": []}


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.1, 0.2, 0.3])
async def test_a_runner_killed_while_it_starts_leaves_nothing(workshop: Workshop, after_s: float) -> None:
    """SIGKILL some time after the watchdog stands by: between spawning and registering, waiting, or when ready."""
    path = web(workshop)
    runner = await asyncio.create_subprocess_exec(
        sys.executable,
        RUNNER,
        path,
        workshop.runs_dir,
        workshop.token,
        stdout=subprocess.PIPE,
        env=python_environment(),
    )
    run_dir = workshop.runs_dir / workshop.token
    roster = run_dir / "processes.ndjson"
    await until(lambda: roster.exists() and roster.read_bytes().count(b"\n") > (1 if after_s else 0), within_s=10)
    await asyncio.sleep(after_s)
    runner.kill()
    await runner.communicate()
    await until(lambda: workshop.left() == [], within_s=GONE_WITHIN_S)
    assert not (run_dir / "data").exists()


async def test_clearing_up_goes_on_whatever_fails(workshop: Workshop) -> None:
    """An undo step that cannot work, and a damaged line: both are told; processes and data are gone all the same."""
    async with running(workshop, web(workshop), workshop.token) as (runner, said):
        run_dir = workshop.runs_dir / workshop.token
        with (run_dir / "undo.ndjson").open("a") as undo:
            undo.write('garbage\n{"fault_id": "x-1", "steps": [{"do": "http", "url": "http://127.0.0.1:1/"}, 5]}\n')
        watchdog = known(said["watchdog"])
        runner.kill()
        await until(lambda: not alive(watchdog), within_s=GONE_WITHIN_S)
        assert workshop.left() == []
        assert not (run_dir / "data").exists()
    left = list(read_events(run_dir))[-1].data["left"]
    assert len(left) == 3
    assert "undo.ndjson:3: not an undo record" in left[0]
    assert left[1].startswith("x-1: TypeError: ")
    assert left[2].startswith("x-1: HealError: undo step failed: POST http://127.0.0.1:1/: ")
    assert [record.fault_id for record in read_undo(run_dir).pending] == ["x-1"]


async def test_a_watchdog_outlives_the_signals_of_a_terminal(workshop: Workshop) -> None:
    """It is sent what Ctrl-C, a closed terminal and an impatient user send, and still clears up."""
    async with running(workshop, web(workshop), workshop.token) as (runner, said):
        watchdog = known(said["watchdog"])
        for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
            send(watchdog, signum)
        assert alive(watchdog)
        runner.kill()
        await until(lambda: workshop.left() == [], within_s=GONE_WITHIN_S)


async def test_the_ports_stay_held_until_the_processes_are_gone(workshop: Workshop) -> None:
    """The watchdog is frozen, so that the time between the runner's death and the cleaning is as long as we like."""
    async with running(workshop, web(workshop), workshop.token) as (runner, said):
        watchdog = known(said["watchdog"])
        events = workshop.events("instance.started", run=workshop.token)
        port = min(event.data["port"] for event in events)
        send(watchdog, signal.SIGSTOP)
        runner.kill()
        await runner.wait()
        with socket.socket(socket.AF_UNIX) as lock, pytest.raises(OSError, match="in use"):
            lock.bind(f"\0holdfast-ports-{port - (port - FIRST_PORT) % 100}")
        send(watchdog, signal.SIGCONT)
        await until(lambda: workshop.left() == [], within_s=GONE_WITHIN_S)
        with hold_ports(1, first=port, last=LAST_PORT) as ports:
            assert ports.take() >= port


async def test_a_dead_watchdog_is_noticed_and_the_run_stopped(workshop: Workshop) -> None:
    """The watchdog is killed: the runner learns it at once, and stops its target itself."""
    async with running(workshop, web(workshop), workshop.token) as (runner, said):
        send(known(said["watchdog"]), signal.SIGKILL)
        assert runner.stdout is not None
        output = await asyncio.wait_for(runner.stdout.read(), 20)
        assert output == b"watchdog lost\nstopped []\n"
        assert workshop.left() == []


async def test_what_both_dead_left_is_found_and_healed_later(workshop: Workshop) -> None:
    """Watchdog and runner are killed together: `leftovers` lists it, `heal_run` clears it, twice does no harm."""
    async with running(workshop, web(workshop), workshop.token) as (runner, said):
        run_dir = workshop.runs_dir / workshop.token
        os.kill(runner.pid, signal.SIGSTOP)
        send(known(said["watchdog"]), signal.SIGKILL)
        runner.kill()
        await runner.wait()
    assert len(workshop.left()) >= 4
    (found,) = leftovers(workshop.runs_dir)
    assert found.run_dir == run_dir
    assert found.faults == ("kill-1", "pause-1")
    assert {"web-1", "stubborn-1", "load"} <= {name for name, _ in found.processes}
    assert heal_run(run_dir) == ()
    assert workshop.left() == []
    assert pending(run_dir) == ()
    assert leftovers(workshop.runs_dir) == ()
    assert heal_run(run_dir) == ()


async def test_healing_what_is_no_run_says_so(workshop: Workshop) -> None:
    """An empty folder."""
    with pytest.raises(HealError, match=r"is no folder of a run: it has no guard\.json"):
        heal_run(workshop.folder)
