"""A maintenance process that hangs at its worst moment holds up nothing but itself."""

import asyncio
import signal

import asyncpg

from tests.integration.platform.customers import until
from tests.integration.platform.history import ONE_DEPOSIT
from tests.integration.platform.stage import Stage, await_ready

_HELD_UP = """
select a.pid from pg_stat_activity a
where a.usename = 'savings_maintenance' and a.backend_xid is not null and a.wait_event_type = 'Lock'
"""
_LEFT_OPEN = "select state from pg_stat_activity where pid = $1"
_UNSEALED = "select count(*) from transfer where seq > (select coalesce(max(last_seq), 0) from sealed_batch)"


async def test_a_verifier_frozen_after_it_has_written_does_not_hold_up_sealing(stage: Stage) -> None:
    """Holds the row that a whole check writes last, until the process waits for it, freezes it, and lets the row go.

    Its transaction has written and is left open. It is ended by the database, so that a deposit of afterwards can be
    sealed; thawed, the process works on and seals the next one itself.
    """
    postgres = await asyncio.to_thread(stage.add_database)
    await asyncio.to_thread(lambda: stage.seed(postgres, customers=1))
    url = postgres.outputs()["admin_dsn"]
    holder, owner = [await asyncpg.connect(url, timeout=5) for _ in range(2)]
    try:
        async with holder.transaction():
            await holder.execute("select from verified_moment for update")
            maintenance = await asyncio.to_thread(stage.add_maintenance, postgres)
            async with asyncio.timeout(30):
                backend = await until(lambda: owner.fetchval(_HELD_UP), bool)
            maintenance.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(30):
            await until(lambda: owner.fetchval(_LEFT_OPEN, backend), lambda state: state != "active")
        await owner.execute(ONE_DEPOSIT)
        async with asyncio.timeout(30):
            while await owner.fetchval(_UNSEALED):
                await owner.execute("select seal()")
        maintenance.send_signal(signal.SIGCONT)
        await asyncio.to_thread(await_ready, maintenance)
        await owner.execute(ONE_DEPOSIT)
        async with asyncio.timeout(30):
            await until(lambda: owner.fetchval(_UNSEALED), lambda number: number == 0)
    finally:
        await owner.close()
        await holder.close()
