"""Faults on a real PostgreSQL as a whole: locks that others wait for, connections that are gone, crashes."""

import asyncio
import time
from typing import Any

import asyncpg
import pytest

from chaos.errors import TargetError
from chaos.processes import Identity, alive
from chaos.shared_memory import segments
from chaos.targets.backends import children_of
from chaos.undo import carry_out
from tests.integration.faults.served import ADMIN, Played, Served, built

pytestmark = pytest.mark.asyncio(loop_scope="module")

_ROW = "select from account where id = 'first' for update"


@pytest.mark.parametrize(
    ("lock", "waits"),
    [
        ({"table": "account"}, "select count(*) from account"),
        ({"table": "account", "mode": "share"}, "update account set balance = 1"),
        ({"row": _ROW}, "update account set balance = 1"),
        ({"advisory": 7}, "select pg_advisory_lock(7)"),
    ],
    ids=["table", "mode", "row", "advisory"],
)
async def test_somebody_waits_for_the_lock_for_as_long_as_it_is_held(
    served: Served, lock: dict[str, Any], waits: str
) -> None:
    """A client whose statement needs it gets its answer only after healing; the waiting is what proves the effect."""
    async with served.connected("till") as client:
        playing = served.playing("pg_lock", dsn=ADMIN, **lock, **{"for": "60s"})
        # The system's own client may wait for the table too; for the advisory lock nobody but ours does.
        injecting = asyncio.create_task(playing.__aenter__())
        try:
            await served.until("select exists (select from pg_stat_activity where application_name ~ '^holdfast test')")
            await _granted(served)
            asked = asyncio.create_task(_timed(client, waits))
            played: Played = await injecting
            proof = await played.effect()
            assert proof.evidence["waiters"] >= 1
            assert not asked.done()
            healing_s = time.monotonic()
        finally:
            await injecting
            await playing.__aexit__(None, None, None)
        assert await asked > healing_s


async def _timed(client: Any, statement: str) -> float:
    """When it was answered."""
    await client.execute(statement)
    return time.monotonic()


async def _granted(served: Served) -> None:
    await served.until(
        "select exists (select from pg_locks l join pg_stat_activity a using (pid) "
        "where a.application_name ~ '^holdfast test' and l.granted and l.locktype in ('relation', 'advisory'))"
    )


async def test_a_lock_that_nobody_waits_for_is_no_effect(served: Served) -> None:
    """Held for its whole time, and the injection ends with it; afterwards the proof says no."""
    async with served.playing("pg_lock", dsn=ADMIN, advisory=8, **{"for": "200ms"}) as played:
        proof = await played.fault.effect(played.scene)
        assert (proof.proven, proof.evidence["held"], proof.evidence["waiters"]) == (False, True, 0)


async def test_a_lock_is_let_go_by_its_record_alone_and_at_last_by_the_server_itself(served: Served) -> None:
    """The step ends the connection by its name, twice without harm; the server was told when to do it unasked."""
    async with served.playing("pg_lock", dsn=ADMIN, advisory=9, **{"for": "200ms"}) as played:
        session = played.scene.notes["held"]
        (row,) = await session.rows("show idle_in_transaction_session_timeout")
        assert row["idle_in_transaction_session_timeout"] == "10200ms"
        (step,) = played.recorded[0]
        for _ in range(2):
            await asyncio.to_thread(carry_out, step)
            assert await served.ask("select pg_try_advisory_lock(9)") is True
        assert (await played.fault.effect(played.scene)).proven is False


async def test_a_lock_on_nothing_is_refused(served: Served) -> None:
    """A table that is not there, and rows that are not there."""
    nobody = {"row": "select from account where id = 'nobody' for update"}
    for lock, told in (({"table": "accounts"}, "does not exist"), (nobody, "no row is locked")):
        fault = built("pg_lock", dsn=ADMIN, **lock)
        scene = served.scene(fault, [])
        with pytest.raises(TargetError, match=told):
            await fault.inject(scene)
        await fault.heal(scene)
        assert (await fault.heal_proof(scene)).proven is True


async def test_no_more_connections_are_left_than_was_said(served: Served) -> None:
    """Four left, which may be taken by whoever comes: of five clients at least the last is refused."""
    async with served.playing("pg_connections", dsn=ADMIN, leave=4, **{"for": "60s"}) as played:
        proof = await played.effect()
        assert proof.evidence["left"] <= 4
        address = served.target.output("postgres.dsn")
        came = await asyncio.gather(*(asyncpg.connect(address, timeout=10) for _ in range(5)), return_exceptions=True)
        refused = [one for one in came if isinstance(one, asyncpg.TooManyConnectionsError)]
        for client in came:
            if not isinstance(client, BaseException):
                client.terminate()
        assert refused


async def test_with_none_left_a_client_is_refused_until_the_record_is_carried_out(served: Served) -> None:
    """Another process ends our connections by their name, as soon as one is free for it, and clients come in again."""
    async with served.playing("pg_connections", dsn=ADMIN, leave=0, **{"for": "60s"}) as played:
        proof = await played.effect()
        assert proof.evidence["refused"] is True
        # The runner is dead by then, so nobody tops up.
        taking = played.scene.notes["taking"]
        taking.task.cancel()
        taking.held[0].drop()
        (step,) = played.recorded[0]
        await asyncio.to_thread(carry_out, {**step, "within_s": 10.0})
        assert (
            await served.ask("select count(*)::int from pg_stat_activity where application_name ~ '^holdfast test'")
            == 0
        )


@pytest.mark.parametrize("how", ["immediate", "backend"])
async def test_a_crash_ends_every_process_of_the_server_and_its_log_is_replayed(served: Served, how: str) -> None:
    """All children of before are gone; the server's own log tells of the recovery; nothing committed is lost."""
    before = served.target.identity("postgres-1")
    assert before is not None
    log = served.run_dir / "logs" / "postgres-1.log"
    said = len(log.read_text())
    async with served.connected("till") as client:
        await client.execute("update account set balance = 4711 where id = 'first'")
        children = children_of(before)
        more = {"application": "till"} if how == "backend" else {"restart_after": "200ms"}
        async with served.playing("pg_crash", dsn=ADMIN, how=how, **more) as played:
            await played.effect()
            assert not any(alive(child) for child in children)
    after = served.target.identity("postgres-1")
    assert (after == before) is (how == "backend")
    assert "not properly shut down; automatic recovery in progress" in log.read_text()[said:]
    assert await served.ask("select balance >= 4711 from account where id = 'first'") is True
    assert alive_and_one_segment(after)


def alive_and_one_segment(server: Identity | None) -> bool:
    """Whether the server lives and no segment of a dead one is left that it made."""
    assert server is not None
    return alive(server) and [it.attached > 0 for it in segments() if it.creator == server.pid] == [True]


async def test_a_crash_of_a_backend_that_is_not_there_harms_nobody(served: Served) -> None:
    """A misspelt application: no effect, and the server goes on."""
    before = served.target.identity("postgres-1")
    fault = built("pg_crash", dsn=ADMIN, how="backend", application="tull")
    scene = served.scene(fault, [])
    await fault.inject(scene)
    assert (await fault.effect(scene)).proven is False
    assert served.target.identity("postgres-1") == before
