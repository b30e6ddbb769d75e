"""Kills the active settler where it hurts: between two chunks, or while the database is deciding one."""

import asyncio
import signal
from functools import partial
from typing import Any, Final

from tests.integration.platform.customers import until
from tests.integration.platform.stage import Process, Stage

_WITHIN_S: Final = 30.0
_HOLDER: Final = """
select split_part(holder, '/', 1) from lease where name = 'settlement' and expires_at > clock_timestamp()
"""
# The lock that only a chunk takes, from when it knows what it has to decide until its commit.
_DECIDING: Final = """
select l.pid, l.virtualtransaction from pg_locks l join pg_stat_activity a using (pid)
where a.application_name = $1 and l.relation = 'settlement'::regclass and l.mode = 'RowShareLock'
"""


async def kill_settler(stage: Stage, owner: Any, *, in_mid_statement: bool) -> Process:
    """Kills the settler that is active, where it is wanted; gives the process.

    Between two chunks it is stopped first, and killed when the database has ended its statement. Whether a statement
    of it was under way is looked at again after the signal; where that differs, the next settler is killed, too.
    """
    async with asyncio.timeout(_WITHIN_S):
        while True:
            holder = await until(partial(owner.fetchval, _HOLDER), bool)
            settler = stage.processes[holder]
            if not in_mid_statement:
                settler.send_signal(signal.SIGSTOP)
            deciding = await owner.fetchrow(_DECIDING, holder)
            if (deciding is not None) != in_mid_statement:
                continue
            settler.send_signal(signal.SIGKILL)
            hit = await owner.fetchrow(_DECIDING, holder) == deciding
            settler.end(signal.SIGKILL)
            if hit:
                return settler
            settler.start()
