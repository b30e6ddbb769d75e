"""An hour's interest beside orders that began in it and were held up: each is dated with the time it was made at."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, Final

import asyncpg
import pytest

from tests.integration.platform import queues
from tests.integration.platform.accounts_and_clock import Books, opened, patient
from tests.integration.platform.customers import until
from tests.integration.platform.interest_oracle import HOUR, REMAINDERS
from tests.integration.platform.queues import QueueDatabase, Wish
from tests.integration.platform.stage import Process, Stage

_MINUTE: Final = timedelta(minutes=1)
_SESSION: Final = "insert into session values (sha256($1::text::bytea), $1, now() + interval '1 day')"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A database for these tests: business time and its hours only go forward."""
    stage = Stage(folder=tmp_path_factory.mktemp("hours"))
    try:
        yield stage.add_database(BUSINESS_START="2028-01-01T00:20:00Z")
    finally:
        stage.close()


@pytest.fixture
async def books(postgres: Process) -> AsyncIterator[Books]:
    """The books, with every hour complete that is over."""
    async with opened(postgres) as books:
        await books.catch_up(await books.take_lease("before"))
        yield books


async def _blocked(books: Books, number: int) -> None:
    """Waits until that many wait for a lock."""
    async with asyncio.timeout(10):
        await until(lambda: books.owner.fetch(queues.BLOCKED), lambda waiting: len(waiting) == number)


async def _set_clock(books: Books, business: Any) -> None:
    """Lets the business clock read this, earlier than it did too, as a wall clock that was set would."""
    await books.owner.execute("insert into business_clock values (clock_timestamp(), $1, 1)", business)


async def test_what_is_settled_after_an_hours_interest_is_not_dated_into_it(books: Books) -> None:
    """A chunk waits for an account that the hour does not pay, while the hour pays the other account of the chunk.

    The first account was opened in the hour after, before the wall clock was set back: so the hour passes it by. The
    chunk comes before the hour's end, and goes on when the hour is paid: it must be dated after that end.
    """
    token = await books.take_lease("a")
    hour = await books.next_hour()
    await books.go_to(hour + HOUR + _MINUTE)
    unpaid = await books.open_account(10**12)
    await _set_clock(books, hour + HOUR - 2 * _MINUTE)
    paid = await books.open_account(10**12)
    assert unpaid < paid, "a chunk locks accounts in the order of their names"
    for account in (unpaid, paid):
        await books.owner.execute(_SESSION, account)
    queue = QueueDatabase(postgres=books.postgres)
    async with AsyncExitStack() as stack:
        holder, settler, portal = [
            await stack.enter_async_context(queue.connected(role)) for role in ("admin", "settlement", "portal")
        ]
        lease = await queues.take_lease(books.owner)
        await queues.ask(portal, [Wish(unpaid, "u", 10**11), Wish(paid, "p", 10**11)])
        async with holder.transaction():
            await holder.execute("select from account where id = $1 for no key update", unpaid)
            chunk = asyncio.create_task(queues.settle(settler, lease))
            await _blocked(books, 1)
            assert await books.now() < hour + HOUR, "the chunk came too late to prove anything"
            await books.go_to(hour + HOUR + 2 * _MINUTE)
            await books.catch_up(token)
            assert (await books.snapshot(paid, hour))[0] == 10**12
        assert (await chunk)["settled"] == 2
    dates = await books.owner.fetch("select business_at from transfer where kind = 'redemption'")
    assert [row["business_at"] >= hour + HOUR for row in dates] == [True, True]
    await books.pass_hours(1)
    await books.catch_up(token)
    await books.assert_exact()


async def test_a_deposit_held_up_beyond_its_hour_is_dated_and_numbered_when_it_is_made(books: Books) -> None:
    """A deposit waits for its account, and the hour's chunk behind it; another one on the account comes before both."""
    token = await books.take_lease("a")
    account = await books.open_account(10**12)
    await books.owner.execute(_SESSION, account)
    hour = await books.next_hour()
    queue = QueueDatabase(postgres=books.postgres)
    async with (
        queue.connected() as holder,
        queue.connected("portal") as portal,
        opened(books.postgres) as accruing,
        patient(books),
    ):
        transaction = holder.transaction()
        await transaction.start()
        await queues.deposit(holder, account, "first", 7)
        late = asyncio.create_task(queues.deposit(portal, account, "late", 70))
        await _blocked(books, 1)
        await books.go_to(hour + HOUR + _MINUTE)
        assert (await accruing.step(token))["step"] == "begun"
        chunk = asyncio.create_task(accruing.step(token))
        await _blocked(books, 2)
        # Numbered after whatever number the late one took, had it taken one before its turn.
        await queues.deposit(holder, account, "last", 700)
        await transaction.commit()
        await late
        assert (await chunk)["step"] == "finished"
    rows = await books.owner.fetch(
        "select key, business_at < $2 as before from transfer where credit_account = $1 and kind = 'deposit'"
        " and key is not null order by seq",
        *(account, hour + HOUR),
    )
    assert [tuple(row) for row in rows] == [("first", True), ("last", False), ("late", False)]
    assert (await books.snapshot(account, hour))[0] == 10**12 + 7
    await books.pass_hours(1)
    await books.catch_up(token)
    await books.assert_exact()


async def test_an_hour_begins_only_after_a_rate_being_set_for_it_is_there(books: Books) -> None:
    """Keeps a new rate for the hour uncommitted beyond the hour's end: the hour waits for it, and is paid at it."""
    token = await books.take_lease("a")
    account = await books.open_account(10**12)
    hour = await books.next_hour()
    async with opened(books.postgres) as other:
        transaction = other.owner.transaction()
        await transaction.start()
        await other.set_rate(hour, 500)
        await books.pass_hours(1)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await books.step(token)
        assert await books.next_hour() == hour
        await transaction.commit()
    await books.catch_up(token)
    assert await books.owner.fetchval("select rate_ppb from accrual_hour where hour = $1", hour) == 500
    assert (await books.snapshot(account, hour))[1:] == divmod(10**12 * 500, REMAINDERS)
    await books.assert_exact()
