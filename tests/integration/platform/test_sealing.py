"""Sealed batches hold every committed transfer exactly once, in whatever order transactions take numbers and commit."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.integration.platform.stage import Stage

_WRITERS: Final = 4
_WRITE: Final = (
    "insert into transfer (kind, debit_account, credit_account, amount)"
    " select 'deposit', 'custody-a', 'c-00000' || $1::integer, 1 from generate_series(1, $2) returning seq"
)
_UNSEALED: Final = """
select t.seq, count(b.number) as batches from transfer t left join sealed_batch b on t.seq = any(b.seqs)
group by t.seq having count(b.number) <> 1
"""


@pytest.fixture(scope="module")
def owner_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The owner's address of a database with a few accounts of wallet a."""
    stage = Stage(folder=tmp_path_factory.mktemp("sealing"))
    try:
        postgres = stage.add_database()
        url = postgres.outputs()["admin_dsn"]
        asyncio.run(_open_accounts(url))
        yield url
    finally:
        stage.close()


async def _open_accounts(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=5)
    await connection.execute(
        "insert into account (id, kind, wallet, balance)"
        " select 'c-00000' || n, 'customer', 'a', 0 from generate_series(0, 9) as n"
    )
    await connection.close()


Step = tuple[str, int, int]
_STEPS: Final = st.lists(
    st.tuples(
        st.sampled_from(["write", "commit", "roll back", "seal"]), st.integers(0, _WRITERS - 1), st.integers(1, 4)
    ),
    min_size=10,
    max_size=40,
)


@dataclass(slots=True)
class Writers:
    """Connections with a transaction each, open from its first write until it is committed or rolled back.

    Each writes to its own account, so that none waits for another.
    """

    connections: list[Any]
    open: dict[int, Any] = field(default_factory=dict)
    written: dict[int, set[int]] = field(default_factory=dict)
    committed: set[int] = field(default_factory=set)

    async def do(self, step: Step) -> None:
        """Carries out one step; what makes no sense now is left out."""
        what, writer, number = step
        if what == "write":
            if writer not in self.open:
                self.open[writer] = self.connections[writer].transaction()
                await self.open[writer].start()
            rows = await self.connections[writer].fetch(_WRITE, writer, number)
            self.written.setdefault(writer, set()).update(row["seq"] for row in rows)
        elif writer in self.open:
            transaction, written = self.open.pop(writer), self.written.pop(writer)
            if what == "commit":
                await transaction.commit()
                self.committed |= written
            else:
                await transaction.rollback()


# Not made smaller when it fails: with a real database that would take longer than a test may.
@settings(max_examples=25, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(steps=_STEPS)
def test_each_committed_transfer_is_in_exactly_one_batch(owner_url: str, steps: list[Step]) -> None:
    """Real transactions that write, stay open, commit or roll back in any order, with batches sealed in between.

    At the end all that was committed is in one batch each, nothing else is in any, and the chain verifies.
    """
    asyncio.run(_play(owner_url, steps))


async def _play(url: str, steps: list[Step]) -> None:
    sealer = await asyncpg.connect(url, timeout=5)
    writers = Writers(connections=[await asyncpg.connect(url, timeout=5) for _ in range(_WRITERS)])
    first = await sealer.fetchval("select coalesce(max(seq), 0) from transfer")
    try:
        for step in steps:
            if step[0] == "seal":
                await sealer.execute("select seal($1)", step[2] * 3)
            else:
                await writers.do(step)
        for writer in list(writers.open):
            await writers.do(("commit", writer, 0))
        while await sealer.fetchval("select seal(5)"):
            pass
        sealed = await sealer.fetch("select unnest(seqs) as seq from sealed_batch")
        assert sorted(row["seq"] for row in sealed if row["seq"] > first) == sorted(writers.committed)
        assert await sealer.fetch(_UNSEALED) == []
        assert await sealer.fetch("select * from check_chain(1)") == []
    finally:
        for connection in (sealer, *writers.connections):
            await connection.close()


async def test_several_sealers_and_writers_at_once_miss_and_double_nothing(owner_url: str) -> None:
    """Eight writers, every third transaction held open for a while, and three sealers, for about a second."""
    ends_s = time.monotonic() + 1.0

    async def write(number: int) -> int:
        connection = await asyncpg.connect(owner_url, timeout=5)
        written = 0
        while time.monotonic() < ends_s:
            async with connection.transaction():
                written += len(await connection.fetch(_WRITE, number, 1 + written % 7))
                await connection.execute("select pg_sleep($1)", 0.02 if written % 3 == 0 else 0)
        await connection.close()
        return written

    async def seal() -> int:
        connection = await asyncpg.connect(owner_url, timeout=5)
        sealed = 0
        while time.monotonic() < ends_s:
            sealed += await connection.fetchval("select seal(10)")
        await connection.close()
        return sealed

    connection = await asyncpg.connect(owner_url, timeout=5)
    try:
        while await connection.fetchval("select seal()"):
            pass
        *written, one, two, three = await asyncio.gather(*(write(n) for n in range(8)), seal(), seal(), seal())
        late = 0
        while rest := await connection.fetchval("select seal()"):
            late += rest
        assert one + two + three > 0
        assert one + two + three + late == sum(written)
        assert await connection.fetch(_UNSEALED) == []
        assert await connection.fetch("select * from check_chain(1)") == []
    finally:
        await connection.close()


async def test_a_transaction_larger_than_a_batch_is_sealed_in_several(owner_url: str) -> None:
    """One transaction of 1,000 transfers, sealed by at most 300: four batches."""
    connection = await asyncpg.connect(owner_url, timeout=5)
    try:
        while await connection.fetchval("select seal()"):
            pass
        await connection.fetch(_WRITE, 1, 1000)
        assert [await connection.fetchval("select seal(300)") for _ in range(5)] == [300, 300, 300, 100, 0]
        assert await connection.fetch("select * from check_chain(1)") == []
    finally:
        await connection.close()
