"""Faults on the backends of a real PostgreSQL: whom they hit, whom they spare, and what is seen of it."""

import asyncio
from typing import Any

import asyncpg
import pytest

from chaos.errors import TargetError
from chaos.processes import alive, identify, state
from tests.integration.faults.served import ADMIN, Served, built

pytestmark = pytest.mark.asyncio(loop_scope="module")

_MINE = "select count(*)::int from pg_stat_activity where pid = any($1::int[])"


async def pid_of(connection: Any) -> int:
    """The backend of a connection."""
    return int(await connection.fetchval("select pg_backend_pid()"))


async def test_as_many_as_asked_for_lose_their_connection_and_nobody_else(served: Served) -> None:
    """Three clients of one application, two to be ended: the two that came first; the third and another one work on."""
    async with (
        served.connected("till-1") as first,
        served.connected("till-2") as second,
        served.connected("till-3") as third,
        served.connected("other") as other,
    ):
        pids = [await pid_of(it) for it in (first, second, third, other)]
        async with served.playing("pg_terminate", dsn=ADMIN, application="till-*", count=2) as played:
            proof = await played.effect()
            assert proof.evidence["pids"] == pids[:2]
            assert [await pid_of(it) for it in (third, other)] == pids[2:]
            assert await served.ask(_MINE, pids) == 2


async def test_those_who_come_back_are_ended_again_until_healed(served: Served) -> None:
    """A client that connects again at once is hit by a later volley; one that comes after healing is left alone."""
    async with served.playing("pg_terminate", dsn=ADMIN, application="till", every="50ms", **{"for": "60s"}):
        for _ in range(2):
            async with served.connected("till") as client:
                pid = await pid_of(client)
                await served.until("select not exists (select from pg_stat_activity where pid = $1)", pid)
    async with served.connected("till") as client:
        assert await client.fetchval("select 42") == 42


async def test_a_cancelled_statement_is_broken_off_and_its_connection_stays(served: Served) -> None:
    """A statement of a minute ends by an error within this test; the same backend answers the next one."""
    async with served.connected("till") as client, served.connected("till") as idle:
        pid, spared = await pid_of(client), await pid_of(idle)
        asked = asyncio.create_task(client.execute("select pg_sleep(60)"))
        await served.until("select state = 'active' from pg_stat_activity where pid = $1", pid)
        async with served.playing("pg_cancel", dsn=ADMIN, application="till") as played:
            proof = await played.effect()
        with pytest.raises(asyncpg.QueryCanceledError):
            await asked
        assert proof.evidence["pids"] == [pid]
        assert [await pid_of(client), await pid_of(idle)] == [pid, spared]


@pytest.mark.parametrize("name", ["pg_terminate", "pg_cancel", "pg_pause"])
async def test_where_nobody_has_that_name_no_effect_is_claimed_and_those_who_have_another_are_named(
    served: Served, name: str
) -> None:
    """A misspelt application: the proof says no, and who is connected."""
    more = {"for": "3s"} if name == "pg_pause" else {}
    async with served.connected("till"), served.playing(name, dsn=ADMIN, application="tull", **more) as played:
        proof = await played.fault.effect(played.scene)
        assert proof.proven is False
        assert proof.evidence["connected"]["till"] == 1


async def test_a_role_that_may_not_see_others_is_told_what_to_grant_before_anybody_is_hit(served: Served) -> None:
    """The portal's role against a backend of the owner, which it may neither see nor end."""
    async with served.connected("till") as client:
        pid = await pid_of(client)
        for name in ("pg_terminate", "pg_cancel", "pg_pause"):
            fault = built(name, dsn="postgres.dsn", application="till", **({"for": "3s"} if name == "pg_pause" else {}))
            scene = served.scene(fault, [])
            with pytest.raises(TargetError, match=r"grant pg_read_all_stats, pg_signal_backend to savings_portal"):
                await fault.inject(scene)
            await fault.heal(scene)
            assert (await fault.effect(scene)).proven is False
        assert await pid_of(client) == pid


async def test_one_backend_stands_still_and_the_others_go_on(served: Served) -> None:
    """Its process is in the state `T`, another client is answered, and its own answer comes after it is let go."""
    async with served.connected("till") as client, served.connected("other") as other:
        pid = await pid_of(client)
        async with served.playing("pg_pause", dsn=ADMIN, application="till", **{"for": "3s"}) as played:
            proof = await played.effect()
            assert proof.evidence["states"] == {str(pid): "T"}
            steps = played.recorded[-1]
            assert [(step["pid"], step["signal"]) for step in steps] == [(pid, "CONT")]
            asked = asyncio.create_task(client.fetchval("select 42"))
            assert await other.fetchval("select 1") == 1
            assert not asked.done()
            assert (await played.fault.heal_proof(played.scene)).proven is False
        assert await asked == 42


async def test_a_backend_of_a_server_that_is_not_that_role_is_never_signalled(served: Served) -> None:
    """A role reports the address of somebody else's server: its backends are no children of that role's process."""
    async with served.connected("till") as client:
        pid = await pid_of(client)
        for name, more in (("pg_pause", {"for": "3s"}), ("pg_crash", {"how": "backend"})):
            fault = built(name, dsn="stranger.dsn", application="till", **more)
            scene = served.scene(fault, [])
            with pytest.raises(TargetError, match=f"backend {pid} of 'till' is no child of process"):
                await fault.inject(scene)
            assert (await fault.effect(scene)).proven is False
        assert state_of(pid) in {"S", "R"}
        assert await pid_of(client) == pid


def state_of(pid: int) -> str | None:
    """The kernel's letter."""
    identity = identify(pid)
    return None if identity is None or not alive(identity) else state(identity)
