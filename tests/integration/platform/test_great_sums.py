"""Sums may exceed 64 bits and accounts may be full: everybody else is served all the same."""

import asyncio
from collections.abc import Iterator
from typing import Any, Final

import asyncpg
import pytest

from system_under_test.domain.money import ACCOUNT_MAX
from tests.integration.platform.books import Books
from tests.integration.platform.stage import Stage

_ACCOUNTS: Final = 1_000
"""With as much as each may hold, they hold 10^19 together: more than 2^63."""
_OPEN: Final = """
insert into account (id, kind, wallet, balance) select 'c-' || n, 'customer', 'a', 0 from generate_series(1, $1) as n
"""
_FILL: Final = """
insert into transfer (kind, debit_account, credit_account, amount)
select 'deposit', 'custody-a', 'c-' || n, account_limit() from generate_series(1, $1) as n
"""
_TAKE: Final = "select * from take_deposit($1, $2, $3, $4)"


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    """A wallet of a thousand full accounts, filled by one statement, and two that are empty: c-1001 and c-1002."""
    stage = Stage(folder=tmp_path_factory.mktemp("rich"))
    try:
        postgres = stage.add_database(INTEREST_RATE_PPB="1000000000")
        folder = stage.folder / "verifier"
        folder.mkdir()
        books = Books(stage=stage, postgres=postgres, folder=folder)
        asyncio.run(_fill(books))
        yield books
    finally:
        stage.close()


async def _fill(books: Books) -> None:
    async with books.owner() as owner:
        await owner.execute(_OPEN, _ACCOUNTS + 2)
        await owner.execute(_FILL, _ACCOUNTS)
        await owner.execute(
            "insert into session (token_hash, account, expires_at)"
            " select sha256(id::bytea), id, now() + interval '1 day' from account where kind = 'customer'"
        )


async def _deposit(owner: Any, account: str, key: str, amount: int) -> str:
    token_hash = await owner.fetchval("select sha256($1::text::bytea)", account)
    row = await owner.fetchrow(_TAKE, token_hash, key, bytes(32), amount)
    return str(row["outcome"])


async def test_a_deposit_beyond_what_an_account_may_hold_leaves_nothing_not_even_its_key(rich: Books) -> None:
    """Fills an account to the last unit, then one more: refused as a whole; the same key then serves another order."""
    async with rich.owner() as owner:
        await owner.execute(
            "insert into transfer (kind, debit_account, credit_account, amount)"
            " values ('deposit', 'custody-a', 'c-1001', account_limit() - 5)"
        )
        assert await owner.fetchval("select account_limit()") == ACCOUNT_MAX
        assert await _deposit(owner, "c-1001", "fits", 5) == "answered"
        before = await owner.fetch("select * from transfer where credit_account = 'c-1001'")
        with pytest.raises(asyncpg.PostgresError, match="account c-1001 is full") as refused:
            await _deposit(owner, "c-1001", "beyond", 1)
        assert refused.value.sqlstate == "SV002"
        assert await owner.fetch("select * from transfer where credit_account = 'c-1001'") == before
        assert await owner.fetchval("select count(*) from idempotency where key = 'beyond'") == 0


async def test_everybody_is_served_by_a_wallet_of_more_than_64_bits(rich: Books) -> None:
    """Deposit, redemption, interest at 100 % a year for full accounts too, sealing, verification, and sessions."""
    async with rich.owner() as owner:
        assert await _deposit(owner, "c-1002", "small", 10**12) == "answered"
        token_hash = await owner.fetchval("select sha256('c-1002'::bytea)")
        await owner.execute(
            "select * from queue_redemptions($1, $2, $3, $4)", [token_hash], ["out"], [bytes(32)], [10**12 // 2]
        )
        token = await owner.fetchval("select take_lease('settlement', 'test', 60)")
        assert await owner.fetchval("select settled from settle_chunk($1, 10)", token) == 1
        token = await owner.fetchval("select take_lease('accrual', 'test', 60)")
        await owner.execute("select set_business_clock(business_now() + interval '2 hours', null)")
        while await owner.fetchval("select step from accrue_step($1, 5000)", token) != "waiting":
            pass
        paid = await owner.fetchval("select count(*) from accrual_snapshot where interest > 0 and account = 'c-1'")
        assert paid >= 2
        assert await owner.fetchval("select balance > account_limit() from account where id = 'c-1'")
        assert await owner.fetchval("select sum(amount) > 2::numeric ^ 63 from transfer where kind = 'deposit'")
        # The sessions, before any check: compared with the whole ledger.
        await owner.execute("update service_state set epoch = epoch + 1")
        step = await owner.fetchrow("select * from synchronise_sessions(5000)")
        assert (step["synchronised"], step["differing"]) == (_ACCOUNTS + 2, 0)
    found = await rich.verify(full=True)
    assert found.passed, found.problems
    async with rich.owner() as owner:
        assert await owner.fetchval("select sum(transfers) from sealed_batch") > 2 * _ACCOUNTS
