"""What operators and faults can do to the reference platform, as its topology describes it, on all of its processes."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_asyncio
import structlog
from pydantic import TypeAdapter

from chaos.engine.play import Stage as Plays
from chaos.faults.fault import FAULTS, Fault
from chaos.outline import shapes
from chaos.parameters import written_as
from chaos.planner import Occurrence
from chaos.targets.local import LocalTarget
from chaos.targets.opening import open_own
from chaos.targets.topology import Topology, load_topology
from chaos.undo import UndoLog, pending
from metrics.events import EventLog, read_events

TOPOLOGY = Path(__file__).parents[3] / "system_under_test" / "topology.yaml"
_WINDOW_LIMIT_S = 180.0

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.prove]


class Whole:
    """The platform with every process, and the faults that are played on it."""

    def __init__(self, topology: Topology, target: LocalTarget, run_dir: Path, plays: Plays) -> None:
        self.target = target
        self._topology = topology
        self._run_dir = run_dir
        self._plays = plays
        self._number = 0

    async def play(self, name: str, /, **parameters: Any) -> dict[str, Any]:
        """Plays a fault to its end; gives its evidence. Its effect and its healing must be proven."""
        self._number += 1
        fault_id = f"{name}-{self._number}"
        fault: Fault = TypeAdapter(written_as(FAULTS[name])).validate_python(parameters)
        victims = fault.choose(shapes(self._topology), frozenset(), Random(self._number))  # noqa: S311
        await self._plays.play(
            Occurrence(fault_id=fault_id, name=name, fault=fault, at_s=0.0, instances=victims, params=parameters)
        )
        events = {event.kind: event.data for event in read_events(self._run_dir) if event.fault_id == fault_id}
        assert "fault.failed" not in events, events["fault.failed"]
        assert events["fault.effect"]["proven"] is True, events["fault.effect"]
        assert events["fault.heal_proven"]["proven"] is True, events["fault.heal_proven"]
        assert fault_id not in {record.fault_id for record in pending(self._run_dir)}
        evidence: dict[str, Any] = events["fault.effect"]["evidence"]
        return evidence

    async def until(self, reading: str, value: float | str) -> None:
        """Returns when a reading has this value."""
        async with asyncio.timeout(_WINDOW_LIMIT_S):
            while await self.target.observe(reading) != value:  # noqa: ASYNC110  (read from outside only)
                await asyncio.sleep(0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    """Starts the platform as an experiment would, with its customers; at the end nothing of it may be left."""
    run_dir = tmp_path_factory.mktemp("run")
    topology = load_topology(TOPOLOGY)
    events, undo = EventLog(run_dir), UndoLog(run_dir)
    opened = await open_own(topology, run_dir=run_dir, run_id=f"whole-{uuid.uuid4().hex}", events=events)
    try:
        await opened.target.start()
        await opened.target.prepare()
        plays = Plays(target=opened.target, events=events, undo=undo, log=structlog.get_logger())
        yield Whole(topology, opened.target, run_dir, plays)
    finally:
        left = await opened.target.stop()
        await opened.close()
        events.close()
        undo.close()
    assert left == ()


@pytest.mark.parametrize(
    ("action", "reading", "before"),
    [
        ("smtp.slow", "smtp_delay_s", 0.0),
        ("smtp.refusing", "smtp_refusal", 451.0),
        ("clock.fast", "business_rate", 1.0),
        ("maintenance.announce", "window_announced", "false"),
    ],
)
async def test_an_action_shows_and_is_taken_back(whole: Whole, action: str, reading: str, before: float | str) -> None:
    """Its reading is as ever before, and again afterwards."""
    assert await whole.target.observe(reading) == before
    evidence = await whole.play("action", name=action, **{"for": "200ms"})
    assert evidence[reading] != before
    assert await whole.target.observe(reading) == before


async def test_a_window_that_is_announced_can_be_called_off_once(whole: Whole) -> None:
    """Announced and kept, then cancelled; with none announced there is nothing to call off."""
    await whole.play("action", name="maintenance.announce")
    assert await whole.play("action", name="maintenance.cancel") == {"window_announced": "false"}
    with pytest.raises(AssertionError, match="no window is announced that could be called off"):
        await whole.play("action", name="maintenance.cancel")


@pytest.mark.parametrize("count", [1, 2])
async def test_signers_are_lost_and_come_back(whole: Whole, count: int) -> None:
    """One of three, with which payouts go on, and two, without which none moves."""
    await whole.play("kill", role="signer", count=count, restart_after="200ms")


async def test_the_provider_of_mail_goes_down_and_comes_back(whole: Whole) -> None:
    """The only one of its role."""
    await whole.play("stop", role="mailbox", all=True, restart_after="200ms")


async def test_faults_in_the_database_bite_the_platform_itself(whole: Whole) -> None:
    """The portals' connections ended, their statements waited for, one frozen, none left, the server crashed."""
    where = {"dsn": "postgres.admin_dsn"}
    assert (await whole.play("pg_terminate", **where, application="portal-*"))["hit"] >= 4
    lock = await whole.play("pg_lock", **where, table="service_state", **{"for": "1s"})
    assert lock["waiters"] >= 1
    await whole.play("pg_pause", **where, application="portal-1", count=1, **{"for": "200ms"})
    await whole.play("pg_connections", **where, leave=0, **{"for": "300ms"})
    for more in ({"how": "backend", "application": "portal-*"}, {"how": "immediate", "restart_after": "200ms"}):
        await whole.play("pg_crash", **where, **more)


async def test_a_window_overruns_while_nobody_can_verify_the_ledger_and_ends_when_they_can(whole: Whole) -> None:
    """At sixty times the wall's pace: the published end moves on, and the service opens after the lock is let go."""
    await whole.play("action", name="clock.fast")
    await whole.play("action", name="maintenance.start")
    lock = {"dsn": "postgres.admin_dsn", "table": "reconciliation", "for": "10m"}
    locking = asyncio.create_task(whole.play("pg_lock", **lock))
    await whole.until("window_overrun", "true")
    locking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await locking
    await whole.until("windows_opened", 1)
    assert await whole.target.observe("gate") == "open"


async def test_business_time_goes_on_an_hour_later(whole: Whole) -> None:
    """Kept: it never goes back."""
    assert await whole.play("action", name="clock.hour") == {"business_ahead": "true"}
