"""What an hour of interest costs, done by the real process."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import asyncpg

from tests.benchmarks.measure import Figure
from tests.integration.platform.customers import until
from tests.integration.platform.stage import Process, Stage, await_ready

_ACCOUNTS: Final = 50_000
_MANY_ACCOUNTS: Final = 1_000_000
_SEEDED_AT_ONCE: Final = 50_000
_HOURS: Final = 8
_MANY_HOURS: Final = 2
_WITHIN_S: Final = 300.0
_FINISHED: Final = "select count(*) from accrual_hour where finished_at is not null"
# The first hour is slower: pages are written whole after a checkpoint, and plans are made. The median tells the rest.
_MEDIAN: Final = """
select percentile_cont(0.5) within group (order by extract(epoch from finished_at - started_at)) from accrual_hour
"""


def measure_accrual(*, large: bool = False) -> Iterator[Figure]:
    """Hours caught up with one after the other; of 50,000 accounts, and of a million if `large`."""
    took_s = _hour_s(_ACCOUNTS, _HOURS)
    yield Figure(name="accrue an hour of 50,000 accounts", value=took_s, unit="s", at_most=0.5)
    if large:
        many_s = _hour_s(_MANY_ACCOUNTS, _MANY_HOURS)
        yield Figure(
            name="accrue an hour of 1,000,000 accounts",
            value=many_s,
            unit="s",
            compared_to="20 hours of 50,000",
            ratio=many_s / (took_s * _MANY_ACCOUNTS / _ACCOUNTS),
            at_most=10,
        )


def _hour_s(accounts: int, hours: int) -> float:
    with tempfile.TemporaryDirectory() as name:
        stage = Stage(folder=Path(name))
        try:
            postgres = stage.add_database()
            for _ in range(accounts // _SEEDED_AT_ONCE):
                stage.seed(postgres, customers=_SEEDED_AT_ONCE)
            accrual = stage.add_accrual("accrual", postgres)
            await_ready(accrual)
            return asyncio.run(_measure(postgres, hours))
        finally:
            stage.close()


async def _measure(postgres: Process, hours: int) -> float:
    owner = await asyncpg.connect(postgres.outputs()["admin_dsn"], timeout=5)
    try:
        await owner.execute("select set_business_clock(next_accrual_hour() + make_interval(hours => $1), null)", hours)
        async with asyncio.timeout(_WITHIN_S):
            await until(lambda: owner.fetchval(_FINISHED), lambda finished: finished == hours)
        return float(await owner.fetchval(_MEDIAN))
    finally:
        await owner.close()
