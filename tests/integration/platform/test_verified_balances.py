"""Balances are compared with what a whole check found and the transfers since, however long the ledger has grown."""

from typing import Any

import pytest

from tests.integration.platform.books import Books, put_back

_LONG = """
insert into transfer (kind, debit_account, credit_account, amount)
select 'deposit', 'custody-' || a.wallet, a.id, 1 from account a, generate_series(1, 1000) where a.kind = 'customer'
"""
_READ = """
select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'transfer'
"""


@pytest.fixture
async def books(shared_books: Books) -> Books:
    """The books as they were after the first verification."""
    await put_back(shared_books)
    return shared_books


async def _differing(owner: Any) -> list[tuple[str, int]]:
    """Whose balance differs, and by how much."""
    await owner.execute("select find_differing_accounts()")
    rows = await owner.fetch("select account, balance - transfers as too_much from differing_account order by account")
    return [(row["account"], int(row["too_much"])) for row in rows]


async def test_a_comparison_reads_only_the_transfers_since_the_last_whole_check(books: Books) -> None:
    """Makes the ledger 12,000 transfers longer and verifies it, then three more: of all these, those three are read.

    (And one or two at the end of the ledger, at which the planner looks.)
    """
    async with books.owner() as owner:
        await owner.execute(_LONG)
        await owner.execute("analyze transfer")
        assert (await books.verify(full=True)).passed
        for _ in range(3):
            await books.deposit()
        async with owner.transaction():
            assert await _differing(owner) == []
            assert 3 <= await owner.fetchval(_READ) < 10


async def test_a_transfer_that_was_under_way_during_the_check_counts_as_one_since(books: Books) -> None:
    """Lets a deposit of a lower number and an older transaction commit after the check: no balance differs.

    One unit too much in two balances, one of them never touched since the check, is found all the same.
    """
    async with books.owner() as slow, books.owner() as owner:
        under_way = slow.transaction()
        await under_way.start()
        await slow.execute(
            "insert into transfer (kind, debit_account, credit_account, amount)"
            " select 'deposit', 'custody-' || wallet, id, 9 from account where id = 'c-000002'"
        )
        await books.deposit()
        assert (await books.verify(full=True)).passed
        await under_way.commit()
        await books.deposit()
        assert await _differing(owner) == []
        await books.plant("update account set balance = balance + 1 where id in ('c-000002', 'c-000003')")
        assert await _differing(owner) == [("c-000002", 1), ("c-000003", 1)]


async def test_a_check_that_failed_vouches_for_no_balance(books: Books) -> None:
    """Damages a balance, verifies, and compares: the damaged balance has not become the right one."""
    await books.plant("update account set balance = balance + 1 where id = 'c-000003'")
    assert not (await books.verify(full=True)).passed
    async with books.owner() as owner:
        assert await _differing(owner) == [("c-000003", 1)]


async def test_without_a_check_balances_are_compared_with_all_transfers(books: Books) -> None:
    """Forgets what was verified: nothing differs, and one unit too few is found."""
    await books.plant("delete from verified_balance", "update verified_moment set seen = null")
    async with books.owner() as owner:
        assert await _differing(owner) == []
        await books.plant("update account set balance = balance - 1 where id = 'c-000003'")
        assert await _differing(owner) == [("c-000003", -1)]
