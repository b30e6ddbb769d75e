"""A target held up by one process and used by another: the same faults, and it stays up afterwards."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.errors import TargetError
from chaos.processes import Identity, alive, python_environment, send, settings_of, state
from chaos.requirement import Requirement
from chaos.targets.opening import open_target
from chaos.targets.topology import load_topology
from chaos.targets.up import up
from chaos.targets.upstate import UpState, find_up
from metrics.events import EventLog
from tests.integration.targets.test_watchdog import known, running
from tests.integration.targets.workshop import Workshop, until

HOLD = """
import asyncio, json, sys
from pathlib import Path
from chaos.errors import HoldfastError
from chaos.requirement import Requirement
from chaos.targets.up import up
try:
    tell = lambda state: print("up", state.url, flush=True)
    needed = Requirement.from_json(json.loads(sys.argv[3] if sys.argv[3:] else "{}"))
    left = asyncio.run(up(Path(sys.argv[1]), {}, Path(sys.argv[2]), requirement=needed, on_up=tell))
    print("left", list(left), flush=True)
except HoldfastError as error:
    print("error", error, flush=True)
"""


def web(workshop: Workshop) -> Path:
    """Two instances with a version and a base that reports an output."""
    ready = {"ready": {"http": "/readyz", "within": "10s"}}
    return workshop.topology(
        {
            "web": {"count": 2, "zones": ["a", "b"], **ready, "version": {"http": "/healthz", "field": "version"}},
            "base": {"env": {"OFFSPRING": 1}},
        },
        outputs={"base": ["token"]},
        observe={"stage": {"http": "/status", "field": "now.stage", "role": "web"}},
        final=[{"name": "x", "schema": "effects/1", "command": ["sh", "-c", "echo '{}' > ${out}"]}],
    )


@asynccontextmanager
async def held_up(
    workshop: Workshop, path: Path, needed: Requirement | None = None
) -> AsyncIterator[tuple[asyncio.subprocess.Process, UpState]]:
    """`up` in a process of its own."""
    requires = json.dumps((needed or Requirement()).to_json())
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, path, workshop.runs_dir, requires, stdout=subprocess.PIPE, env=python_environment()
    )
    try:
        assert holder.stdout is not None
        line = (await asyncio.wait_for(holder.stdout.readline(), 20)).decode().split()
        found = find_up(path, workshop.runs_dir)
        assert found is not None
        assert line == ["up", found.url]
        yield holder, found
    finally:
        if holder.returncode is None:
            holder.terminate()
        await holder.wait()


async def test_a_run_uses_what_is_up_and_leaves_it_up(workshop: Workshop) -> None:
    """Instances are killed, restarted with another version and stopped through the attached target."""
    path = web(workshop)
    async with held_up(workshop, path) as (holder, found):
        async with workshop.attached(path) as opened:
            target = opened.target
            assert opened.attached
            await target.start()
            assert target.url == found.url
            assert [it.zone for it in target.instances("web")] == ["a", "b"]
            assert str(target.output("base.token")).startswith("token-of-base-1-")
            before = target.identity("web-2")
            assert before is not None
            assert send(before, signal.SIGKILL)
            assert await target.expect_exit("web-2", within_s=5)
            assert target.identity("web-2") is None
            after = await target.start_instance("web-2", env={"VERSION": "v2"})
            assert after == target.identity("web-2") != before
            assert await target.version("web-2") == "v2"
            await asyncio.gather(target.stop_instance("web-1"), target.stop_instance("web-2"))
            assert not await target.is_ready("web-1")
            await asyncio.gather(target.start_instance("web-1"), target.start_instance("web-2"))
            assert await target.is_ready("web-1")
            assert await target.version("web-2") == "v2"
            assert await target.observe("stage") == "open"
            assert await target.dump(workshop.runs_dir / "run-1") == {"x": 1}
            with pytest.raises(TargetError, match="web-1 runs already"):
                await target.start_instance("web-1")
            with pytest.raises(TargetError, match="uses demo now; wait for its end"):
                async with workshop.attached(path, run="run-2"):
                    pass
        ends = [(event.instance, event.data["expected"]) for event in workshop.events("instance.exited")]
        assert sorted(ends) == [("web-1", True), ("web-2", True), ("web-2", True)]
        assert workshop.events("instance.started")[0].instance == "web-2"
        async with workshop.attached(path, run="run-3") as opened:
            await opened.target.start()
            assert opened.target.identity("web-1") is not None
        assert holder.stdout is not None
        holder.send_signal(signal.SIGINT)
        assert (await asyncio.wait_for(holder.stdout.read(), 20)) == b"left []\n"
    assert find_up(path, workshop.runs_dir) is None
    assert workshop.left() == []


async def test_an_end_nobody_meant_is_seen_by_the_attached_run(workshop: Workshop) -> None:
    """An instance is killed without being marked; the next run that attaches starts it again."""
    path = web(workshop)
    async with held_up(workshop, path):
        async with workshop.attached(path) as opened:
            identity = opened.target.identity("web-1")
            assert identity is not None
            send(identity, signal.SIGKILL)
            await until(lambda: workshop.events("instance.exited") != [])
            assert not workshop.events("instance.exited")[0].data["expected"]
        async with workshop.attached(path, run="run-2") as opened:
            assert opened.target.identity("web-1") is None
            await opened.target.start()
            assert await opened.target.is_ready("web-1")


async def test_a_killed_run_is_healed_and_the_target_stays_up(workshop: Workshop) -> None:
    """One instance is frozen, one killed: the watchdog thaws the one, has the other started, and ends the load."""
    path = web(workshop)
    async with held_up(workshop, path) as (_holder, found):
        async with running(workshop, path, workshop.token, "attach") as (runner, said):
            frozen, load, watchdog = (known(said[name]) for name in ("frozen", "load", "watchdog"))
            assert state(frozen) == "T"
            runner.kill()
            await until(lambda: not alive(watchdog), within_s=5)
        assert not alive(load)
        assert state(frozen) not in {"T", None}
        after = find_up(path, workshop.runs_dir)
        assert after is not None
        assert after.instances["web-1"]["pid"] == frozen.pid
        assert after.instances["web-2"]["pid"] not in {None, found.instances["web-2"]["pid"]}
        async with workshop.attached(path, run="run-2") as opened:
            await opened.target.start()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
async def test_when_the_holder_ends_the_target_goes_with_it(workshop: Workshop, signum: signal.Signals) -> None:
    """By SIGKILL its watchdog tears down; an attached run is told what happened."""
    path = web(workshop)
    async with held_up(workshop, path) as (holder, _found), workshop.attached(path) as opened:
        holder.send_signal(signum)
        mine = opened.watchdog.process.pid
        await until(lambda: workshop.left() == [mine])
        assert opened.target.identity("web-1") is None
        with pytest.raises(TargetError, match="the target that was up is gone"):
            await opened.target.start_instance("web-1")
    assert find_up(path, workshop.runs_dir) is None


async def test_a_target_is_up_only_once(workshop: Workshop) -> None:
    """The second holder is told so, and the first goes on."""
    path = web(workshop)
    async with held_up(workshop, path):
        with pytest.raises(TargetError, match="demo is up already; `holdfast status` shows it"):
            await up(path, {}, workshop.runs_dir)
        assert find_up(path, workshop.runs_dir) is not None


async def test_a_start_that_is_interrupted_leaves_nothing(workshop: Workshop) -> None:
    """SIGTERM comes while an instance that never gets ready is waited for."""
    path = workshop.topology(
        {"base": {"env": {"OFFSPRING": 1}}, "slow": {"env": {"MODE": "never-ready"}, "ready": {"http": "/readyz"}}}
    )
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, path, workshop.runs_dir, stdout=subprocess.PIPE, env=python_environment()
    )
    assert holder.stdout is not None

    def asked() -> bool:
        return any("GET /readyz" in log.read_text() for log in workshop.runs_dir.glob("up/*/*/logs/slow-1.log"))

    await until(asked, within_s=10)
    holder.terminate()
    assert await asyncio.wait_for(holder.stdout.read(), 20) == b"left []\n"
    await holder.wait()
    assert workshop.left() == []


async def test_a_holder_without_its_watchdog_stops(workshop: Workshop) -> None:
    """The watchdog is killed: nobody would clear up after the holder, so it ends its target itself and says so."""
    async with held_up(workshop, web(workshop)) as (holder, found):
        line = (found.run_dir / "processes.ndjson").read_text().splitlines()[0]
        watchdog = json.loads(line)
        assert watchdog["name"] == "watchdog"
        send(Identity(pid=watchdog["pid"], start_ticks=watchdog["start_ticks"]), signal.SIGKILL)
        assert holder.stdout is not None
        output = await asyncio.wait_for(holder.stdout.read(), 20)
        assert output.startswith(b"error the watchdog of demo has died, so the target was stopped; see ")
        assert workshop.left() == []


async def test_a_topology_that_has_changed_since_is_told(workshop: Workshop) -> None:
    """A role more in the file than in the target that is up: its instances would be missed."""
    path = web(workshop)
    async with held_up(workshop, path):
        workshop.topology({"web": {"count": 3, "ready": {"http": "/readyz"}}})
        with pytest.raises(TargetError, match="has changed since `holdfast up` started it; start that again"):
            async with workshop.attached(path):
                pass
        events = EventLog(workshop.run_dir("run-2"))
        with pytest.raises(TargetError, match="has changed since"):
            await open_target(
                load_topology(path),
                run_dir=workshop.runs_dir / "run-2",
                run_id="run-2",
                events=events,
                runs_dir=workshop.runs_dir,
            )
        events.close()


async def test_which_target_a_run_gets_follows_from_overrides(workshop: Workshop) -> None:
    """Nothing is up; then something with other overrides is; `auto` then starts its own, `always` refuses."""
    path = web(workshop)
    changed = load_topology(path, {"web.count": 1})
    events = EventLog(workshop.run_dir("a"))

    async def opening(attach: str) -> bool:
        assert attach in {"auto", "always"}
        opened = await open_target(
            changed,
            run_dir=workshop.runs_dir / "a",
            run_id=f"{workshop.token}-a",
            events=events,
            runs_dir=workshop.runs_dir,
            attach="auto" if attach == "auto" else "always",
        )
        await opened.close()
        return opened.attached

    with pytest.raises(TargetError, match="is not up; start it with `holdfast up"):
        await opening("always")
    async with held_up(workshop, path):
        assert await opening("auto") is False
        with pytest.raises(TargetError, match=r"is up with the overrides \{\}, this run wants \{'web.count': 1\}"):
            await opening("always")
    events.close()


async def test_a_target_starts_with_what_faults_need_and_one_that_did_not_is_refused(workshop: Workshop) -> None:
    """A variable and a command that wraps: both reach the process, which stays the one that was started.

    A run that needs the same uses the target, one that needs more is told what is missing.
    """
    path = workshop.topology({"web": {"ready": {"http": "/readyz"}, "env": {"GIVEN": "by the role", "OWN_A": "1"}}})
    needed = Requirement(
        env={"web": {"GIVEN": "by a fault on ${instance}"}},
        wrap={"web": (("env", "OWN_B=${port}"), ("env", "OWN_C=3"))},
    )
    more = needed.merged(Requirement(env={"web": {"LD_PRELOAD": "/lib/nothing.so"}}))
    topology = load_topology(path)
    async with held_up(workshop, path, needed) as (_holder, found):
        for name, wanted in (("same", needed), ("more", more)):
            events = EventLog(workshop.run_dir(name))
            opening = open_target(
                replace(topology, requirement=wanted),
                run_dir=workshop.runs_dir / name,
                run_id=f"{workshop.token}-{name}",
                events=events,
                runs_dir=workshop.runs_dir,
            )
            if wanted is more:
                with pytest.raises(
                    TargetError, match=r"needs? \(LD_PRELOAD=/lib/nothing.so of web\): start it again with"
                ):
                    await opening
            else:
                opened = await opening
                await opened.target.start()
                identity = opened.target.identity("web-1")
                assert opened.attached
                assert identity is not None
                settings = settings_of(identity, ["GIVEN", "OWN_A", "OWN_B", "OWN_C"])
                port = str(opened.target.instances("web")[0].port)
                assert settings == {"GIVEN": "by a fault on web-1", "OWN_A": "1", "OWN_B": port, "OWN_C": "3"}
                assert found.instances["web-1"]["pid"] == identity.pid
                await opened.target.stop()
                await opened.close()
            events.close()
