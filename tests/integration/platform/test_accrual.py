"""Interest is exact to the last unit and remainder, whatever comes between its steps."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from typing import Final

import asyncpg
import pytest

from tests.integration.platform.accounts_and_clock import Books, opened, patient
from tests.integration.platform.customers import until
from tests.integration.platform.interest_oracle import HOUR, REMAINDERS
from tests.integration.platform.stage import Process, Stage

_INSTANT: Final = timedelta(microseconds=1)
_BLOCKED: Final = "select pid from pg_locks where not granted"
_RATE: Final = 43_210_000
# A year that has a 29th of February, and a first hour that is not whole.
_START: Final = "2028-01-01T00:20:00Z"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A database for these tests: business time and its hours only go forward."""
    stage = Stage(folder=tmp_path_factory.mktemp("accrual"))
    try:
        yield stage.add_database(BUSINESS_START=_START)
    finally:
        stage.close()


@pytest.fixture
async def books(postgres: Process) -> AsyncIterator[Books]:
    """The books, with every hour complete that is over."""
    async with opened(postgres) as books:
        await books.catch_up(await books.take_lease("before"))
        yield books


@pytest.mark.parametrize("outages", [2, pytest.param(12, marks=pytest.mark.prove, id="12, a year")])
async def test_interest_agrees_with_exact_fractions_to_the_last_unit(stage: Stage, outages: int) -> None:
    """Outages of 730 hours, one after the other, each caught up with: two pass the 29th of February, twelve are a year.

    In each 75 deposits, and redemptions with half of them, just before, at and just after the hours' edges; in every
    other one a new rate. Balances from 99 units, which earn 4 in a year, to 10^15, whose product with the rate exceeds
    64 bits.
    """
    chance = random.Random(2028)  # noqa: S311 - movements, not secrets
    async with opened(stage.add_database(BUSINESS_START=_START)) as books:
        await books.take_lease("year")
        await books.owner.execute("set synchronous_commit = off")
        accounts = [await books.open_account(balance) for balance in (99, 12_345, 10**6, 10**12, 10**15)]
        for outage in range(outages):
            first = await books.next_hour()
            if outage % 2:
                await books.set_rate(first + chance.randrange(730) * HOUR, chance.randrange(10**9))
            for _ in range(75):
                account = chance.choice(accounts)
                edge = first + chance.randrange(1, 730) * HOUR
                at = edge + chance.choice((-1, 0, 1)) * _INSTANT
                await books.deposit(account, amount := chance.randrange(1, 10**9), at)
                if chance.random() < 0.5:
                    await books.redeem(account, chance.randint(1, amount), at)
            await books.pass_hours(730)
            # Round trips would take longer than the work itself.
            await books.owner.execute(
                "do $$ begin while (select a.step from lease l, accrue_step(l.token, 6) a where l.name = 'accrual')"
                " <> 'waiting' loop commit; end loop; end $$"
            )
        assert await books.owner.fetchval("select count(*) from accrual_hour") == outages * 730
        await books.assert_exact()


async def test_ninety_nine_units_earn_four_in_a_year_of_carried_remainders(books: Books) -> None:
    """At 4.321 %, without compounding units before they are whole: each hour earns nothing, its remainder is kept."""
    token = await books.take_lease("a")
    account = await books.open_account(99)
    hour = await books.next_hour()
    await books.pass_hours(3)
    await books.catch_up(token)
    for number in range(3):
        assert await books.snapshot(account, hour + number * HOUR) == (99, 0, (number + 1) * 99 * _RATE)
    assert 8760 * 99 * _RATE // REMAINDERS == 4


async def test_an_hour_counts_what_came_before_its_end_and_nothing_that_came_at_it(books: Books) -> None:
    """Deposits an instant before, at and an instant after an edge, caught up with three hours later."""
    token = await books.take_lease("a")
    account = await books.open_account()
    hour = await books.next_hour()
    for amount, offset in ((1, -_INSTANT), (10, timedelta(0)), (100, _INSTANT)):
        await books.deposit(account, amount, hour + HOUR + offset)
    await books.pass_hours(3)
    await books.catch_up(token)
    balances = [(await books.snapshot(account, hour + number * HOUR))[0] for number in range(3)]
    assert balances == [1, 111, 111]
    await books.assert_exact()


async def test_a_rate_changes_at_an_edge_and_never_for_an_hour_that_was_begun(books: Books) -> None:
    """A rate from the second of three hours on; then one for the second hour again, which is refused."""
    token = await books.take_lease("a")
    account = await books.open_account(10**15)
    hour = await books.next_hour()
    await books.set_rate(hour + HOUR, 0)
    await books.set_rate(hour + 2 * HOUR, _RATE)
    await books.pass_hours(3)
    await books.catch_up(token)
    first, second, third = [await books.snapshot(account, hour + number * HOUR) for number in range(3)]
    assert (first[1] > 0, second[1], third[1] > 0) == (True, 0, True)
    assert second[2] == first[2], "a remainder is lost"
    for statement in (
        "insert into interest_rate values ($1, 5) on conflict (from_hour) do update set rate_ppb = 5",
        "update interest_rate set rate_ppb = 5 where from_hour = $1",
        "delete from interest_rate where from_hour = $1",
    ):
        with pytest.raises(asyncpg.RestrictViolationError):
            await books.owner.execute(statement, hour + HOUR)
    with pytest.raises(asyncpg.RestrictViolationError):
        await books.owner.execute("truncate interest_rate")
    await books.assert_exact()


async def test_a_clock_that_is_set_back_puts_no_money_into_an_hour_that_is_over(books: Books) -> None:
    """Business time is made to read two hours less once an hour was accrued, as a wall clock set back would make it."""
    token = await books.take_lease("a")
    account = await books.open_account(10**12)
    hour = await books.next_hour()
    await books.pass_hours(1)
    await books.catch_up(token)
    await _read_clock_as(books, hour - HOUR)
    assert await books.now() == hour + HOUR
    await books.deposit(account, 5)
    assert (await books.step(token))["step"] == "waiting"
    assert await books.owner.fetchval("select count(*) from accrual_hour where hour > $1", hour) == 0
    await books.pass_hours(2)
    await books.catch_up(token)
    assert (await books.snapshot(account, hour))[0] == 10**12
    await books.assert_exact()


async def test_a_balance_that_was_never_there_earns_nothing(books: Books) -> None:
    """The clock is set back over an edge before its hour is begun: what is redeemed seems to precede its deposit."""
    token = await books.take_lease("a")
    account = await books.open_account()
    hour = await books.next_hour()
    await books.go_to(hour + HOUR + timedelta(minutes=1))
    await books.deposit(account, 10**12)
    await _read_clock_as(books, hour + HOUR - timedelta(minutes=1))
    await books.redeem(account, 10**12)
    await books.pass_hours(2)
    await books.catch_up(token)
    assert await books.snapshot(account, hour) == (-(10**12), 0, 0)
    await books.assert_exact()


async def test_an_account_earns_from_the_hour_it_was_opened_in(books: Books) -> None:
    """Opened late in an hour: that hour has its snapshot, the one before, accrued later, does not."""
    token = await books.take_lease("a")
    hour = await books.next_hour()
    await books.go_to(hour + 2 * HOUR - _INSTANT * 500_000)
    account = await books.open_account(10**12)
    await books.pass_hours(3)
    await books.catch_up(token)
    assert await books.snapshot(account, hour) is None
    assert await books.snapshot(account, hour + HOUR) == (10**12, *divmod(10**12 * _RATE, REMAINDERS))
    await books.assert_exact()


async def test_an_hour_begins_only_after_accounts_being_opened_in_it_are_there(books: Books) -> None:
    """Keeps the opening of a funded account uncommitted beyond the hour's end: the hour waits for it, and pays it."""
    token = await books.take_lease("a")
    hour = await books.next_hour()
    async with opened(books.postgres) as other:
        transaction = other.owner.transaction()
        await transaction.start()
        account = await other.open_account(10**12)
        await books.pass_hours(1)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await books.step(token)
        assert await books.next_hour() == hour
        await transaction.commit()
    await books.catch_up(token)
    assert (await books.snapshot(account, hour))[0] == 10**12
    await books.assert_exact()


async def test_a_deposit_under_way_when_its_hour_is_accrued_is_counted(books: Books) -> None:
    """A deposit dated in the hour is committed while the chunk waits for its account: the chunk sees it."""
    token = await books.take_lease("a")
    account = await books.open_account(10**12)
    hour = await books.next_hour()
    async with opened(books.postgres) as other, patient(books):
        transaction = other.owner.transaction()
        await transaction.start()
        await other.deposit(account, 7)
        await books.pass_hours(1)
        assert (await books.step(token))["step"] == "begun"
        chunk = asyncio.create_task(books.step(token))
        async with asyncio.timeout(5):
            await until(lambda: books.owner.fetchval(_BLOCKED), bool)
        await transaction.commit()
        assert (await chunk)["step"] == "finished"
    assert (await books.snapshot(account, hour))[0] == 10**12 + 7
    await books.assert_exact()


async def test_money_moving_all_the_while_changes_nothing(books: Books) -> None:
    """Four tellers pay in and out, a thousand times in all, while forty hours are caught up with in chunks of three."""
    token = await books.take_lease("a")
    accounts = [await books.open_account(10**12) for _ in range(8)]
    await books.pass_hours(20)

    async def teller(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - movements, not secrets
        async with opened(books.postgres) as own:
            for _ in range(250):
                act = chance.choice((own.deposit, own.redeem))
                await act(chance.choice(accounts), chance.randrange(1, 10**6))

    async with asyncio.TaskGroup() as group:
        tellers = [group.create_task(teller(seed)) for seed in range(4)]
        while not all(task.done() for task in tellers):
            await books.catch_up(token, chunk=3)
            await books.pass_hours(1)
    await books.pass_hours(20)
    await books.catch_up(token, chunk=3)
    await books.assert_exact()


async def test_an_old_token_begins_nothing_and_credits_nothing(books: Books) -> None:
    """Another takes the lease before an hour is begun, then before its chunk: SV001 each time, nothing has changed."""
    account = await books.open_account(10**12)
    await books.pass_hours(1)
    for what in ("begun", "finished"):
        old = await books.take_lease("frozen")
        new = await books.take_lease("other")
        before = await books.owner.fetch(_WHOLE)
        with pytest.raises(asyncpg.PostgresError) as refused:
            await books.step(old)
        assert refused.value.sqlstate == "SV001"
        assert await books.owner.fetch(_WHOLE) == before
        assert (await books.step(new))["step"] == what
    assert (await books.snapshot(account, await books.next_hour() - HOUR))[0] == 10**12
    await books.assert_exact()


async def test_a_lease_that_is_lost_while_a_chunk_waits_for_a_lock_is_lost(books: Books) -> None:
    """The token was good when the chunk came; another takes the lease while it waits for an account: SV001."""
    token = await books.take_lease("frozen")
    account = await books.open_account(10**12)
    await books.pass_hours(1)
    await books.step(token)
    async with opened(books.postgres) as other, patient(books):
        transaction = other.owner.transaction()
        await transaction.start()
        await other.owner.execute("select from account where id = $1 for no key update", account)
        chunk = asyncio.create_task(books.step(token))
        async with asyncio.timeout(5):
            await until(lambda: books.owner.fetchval(_BLOCKED), bool)
        async with opened(books.postgres) as third:
            new = await third.take_lease("other")
        before = await books.owner.fetch(_WHOLE)
        await transaction.rollback()
        with pytest.raises(asyncpg.PostgresError, match="fenced"):
            await chunk
    assert await books.owner.fetch(_WHOLE) == before
    await books.catch_up(new)
    await books.assert_exact()


async def test_callers_at_once_with_one_token_do_the_work_once(books: Books) -> None:
    """Six at once, as a process might that got no answer and asks again: no error, nothing twice, nothing left out."""
    token = await books.take_lease("a")
    for _ in range(10):
        await books.open_account(10**12)
    await books.pass_hours(10)

    async def caller() -> None:
        async with opened(books.postgres) as own:
            await own.catch_up(token, chunk=4)

    async with asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(caller())
    await books.assert_exact()


async def test_no_hour_begins_before_the_one_before_it_is_complete(books: Books) -> None:
    """Asks for the next hour's begin alone, as a caller might who saw nothing begun before another began: the same."""
    token = await books.take_lease("a")
    await books.pass_hours(2)
    begun = await books.step(token)
    assert await books.owner.fetchval("select begin_accrual_hour($1)", token) == begun["hour"]
    assert await books.next_hour() == begun["hour"] + HOUR
    await books.catch_up(token)
    await books.assert_exact()


async def test_a_chunk_whose_connection_dies_leaves_nothing(books: Books) -> None:
    """Ends the database process of a chunk that waits for the last account: no snapshot, no unit; then it is redone."""
    token = await books.take_lease("a")
    account = await books.open_account(10**12)
    await books.pass_hours(1)
    await books.step(token)
    before = await books.owner.fetch(_WHOLE)
    async with opened(books.postgres) as other, patient(books), other.owner.transaction():
        await other.owner.execute("select from account where id = $1 for no key update", account)
        chunk = asyncio.create_task(other.step(token))
        async with asyncio.timeout(5):
            pid = await until(lambda: books.owner.fetchval(_BLOCKED), bool)
        os.kill(pid, signal.SIGTERM)
        with pytest.raises(asyncpg.PostgresError):
            await chunk
    assert await books.owner.fetch(_WHOLE) == before
    await books.catch_up(token)
    await books.assert_exact()


@pytest.mark.parametrize("role", ["dsn", "settlement_dsn", "maintenance_dsn", "notifier_dsn", "auditor_dsn"])
async def test_nobody_else_credits_interest(books: Books, role: str) -> None:
    """Each other role, the auditor's too: insufficient privilege."""
    connection = await asyncpg.connect(books.postgres.outputs()[role], timeout=5)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("select * from accrue_step(1, 1)")
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "select * from account",
        "select * from transfer",
        "select * from accrual_snapshot",
        "insert into accrual_hour (hour, rate_ppb) values ('2050-01-01', 1)",
        "insert into interest_rate values ('2050-01-01', 1000000000)",
        "insert into transfer (kind, debit_account, credit_account, amount) values ('seed', 'custody-a', 'c-1', 1)",
        "select * from accrue_chunk(1, '2028-01-01', 1)",
        "select set_business_clock(now() + interval '1 year', 1)",
        "set role savings_owner",
    ],
)
async def test_accrual_has_no_right_but_to_take_its_steps(books: Books, statement: str) -> None:
    """Tries each as the accrual role: insufficient privilege."""
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await books.accrual.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "update accrual_snapshot set remainder = 0",
        "delete from accrual_snapshot",
        "truncate accrual_snapshot",
        "delete from accrual_hour",
        "truncate accrual_hour",
    ],
)
async def test_what_was_accrued_stays_for_the_owner_too(books: Books, statement: str) -> None:
    """Tries each as the database's owner: refused."""
    with pytest.raises(asyncpg.RestrictViolationError):
        await books.owner.execute(statement)


_WHOLE: Final = """
select (select md5(string_agg(a::text, '|' order by id)) from account a),
       (select md5(string_agg(t::text, '|' order by seq)) from transfer t),
       (select md5(string_agg(s::text, '|' order by hour, account)) from accrual_snapshot s),
       (select md5(string_agg(h::text, '|' order by hour)) from accrual_hour h)
"""


async def _read_clock_as(books: Books, business: datetime) -> None:
    """Makes the business clock read less than it did, which no function of the platform would."""
    await books.owner.execute("insert into business_clock values (clock_timestamp(), $1, 1)", business)
