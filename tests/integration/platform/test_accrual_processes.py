"""Two accrual processes, one active: killed, frozen or stopped at any point, they skip no hour and double none."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Final

import pytest

from tests.integration.platform.accounts_and_clock import Books, opened, patient
from tests.integration.platform.customers import until
from tests.integration.platform.interest_oracle import HOUR
from tests.integration.platform.stage import Process, Stage, await_true, get

_ACCOUNTS: Final = 60
# Nine transactions for an hour of 60 accounts: most points at which a process can die lie between two of them.
_CHUNK: Final = "7"
_PROGRESS: Final = (
    "savings_accrual_last_success_timestamp_seconds",
    "savings_accrual_credited_until_timestamp_seconds",
    "savings_accrual_lag_seconds",
)
_BLOCKED: Final = "select pid from pg_locks where not granted"
_WHO_WAITS: Final = "select application_name from pg_stat_activity join pg_locks l using (pid) where not l.granted"


@pytest.fixture(scope="module")
def stage_with_accounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A database with accounts that hold a million units each."""
    stage = Stage(folder=tmp_path_factory.mktemp("accruing"))
    try:
        stage.seed(stage.add_database(BUSINESS_START="2028-01-01T00:20:00Z"), customers=_ACCOUNTS)
        yield stage
    finally:
        stage.close()


@pytest.fixture
async def books(stage_with_accounts: Stage) -> AsyncIterator[Books]:
    """The books; nobody holds the lease."""
    async with opened(stage_with_accounts.processes["postgres"]) as books:
        await books.owner.execute("update lease set expires_at = '-infinity' where name = 'accrual'")
        yield books


@pytest.fixture
def pair(stage_with_accounts: Stage) -> list[Process]:
    """Two accrual processes that are ready, those of the last test where they live; which is active is open."""
    stage = stage_with_accounts
    names = ("accrual-1", "accrual-2")
    for name in names:
        process = stage.processes.get(name)
        if process is None:
            stage.add_accrual(name, stage.processes["postgres"], ACCRUAL_CHUNK=_CHUNK)
        elif process.running is None or process.running.poll() is not None:
            process.start()
    processes = [stage.processes[name] for name in names]
    for process in processes:
        await_true(partial(process.answers, "/readyz"), f"{process.name} is ready")
    return processes


async def _active(books: Books, among: list[Process]) -> Process:
    """The one of them that holds the lease, awaited."""
    statement = "select split_part(holder, '/', 1) from lease where name = 'accrual' and expires_at > clock_timestamp()"
    named = {process.name: process for process in among}
    async with asyncio.timeout(60):
        return named[await until(lambda: books.owner.fetchval(statement), named.__contains__)]


async def _complete(books: Books) -> None:
    """Waits until every hour that is over is complete."""
    async with asyncio.timeout(120):
        await until(lambda: books.owner.fetchval("select lag_hours from accrual_progress()"), lambda lag: lag == 0)


async def test_a_process_killed_again_and_again_leaves_every_hour_exact(books: Books, pair: list[Process]) -> None:
    """Eighty-four hours, 840 transactions: the active process is SIGKILLed after six of them, drawn by chance.

    The lease is made to expire at once: how long that takes is no part of the promise.
    """
    chance = random.Random(21)  # noqa: S311 - when to kill
    done = "select count(*) from accrual_snapshot"
    for _ in range(6):
        before = await books.owner.fetchval(done)
        await books.go_to(await books.now() + 14 * HOUR)
        point = before + chance.randrange(1, 12 * _ACCOUNTS)
        active = await _active(books, pair)
        async with asyncio.timeout(20):
            await until(lambda: books.owner.fetchval(done), lambda now: now >= point)  # noqa: B023 - awaited here
        active.end(signal.SIGKILL)
        await books.owner.execute("update lease set expires_at = clock_timestamp() where name = 'accrual'")
        active.start()
    await _complete(books)
    await books.assert_exact()


async def test_killed_while_it_waits_for_a_row_lock_it_is_replaced(books: Books, pair: list[Process]) -> None:
    """Holds an account; a process waits for it in mid-hour and is SIGKILLed; the other one takes over.

    Who waits is asked when somebody does: on a busy machine the lease may have changed hands since it was looked at.
    """
    named = {process.name: process for process in pair}
    await _active(books, pair)
    async with opened(books.postgres) as holder, patient(books), holder.owner.transaction():
        await holder.owner.execute("select from account where id = 'c-000033' for no key update")
        await books.pass_hours(3)
        async with asyncio.timeout(60):
            waiting = named[await until(lambda: books.owner.fetchval(_WHO_WAITS), named.__contains__)]
        waiting.end(signal.SIGKILL)
        await _active(books, [process for process in pair if process is not waiting])
    await _complete(books)
    await books.assert_exact()


async def test_frozen_past_its_lease_and_thawed_it_has_no_effect(books: Books, pair: list[Process]) -> None:
    """The active one is SIGSTOPped with a chunk under way that waits for an account, until the other has the lease.

    Then the account is let go, so that the old chunk goes on in the database: fenced. Thawed, the process learns it,
    and takes its turn as the one that waits.
    """
    frozen = await _active(books, pair)
    other = next(process for process in pair if process is not frozen)
    async with opened(books.postgres) as holder, patient(books), holder.owner.transaction():
        await holder.owner.execute("select from account where id = 'c-000033' for no key update")
        await books.pass_hours(5)
        async with asyncio.timeout(10):
            await until(lambda: books.owner.fetchval(_BLOCKED), bool)
        frozen.send_signal(signal.SIGSTOP)
        await _active(books, [other])
    await _complete(books)
    frozen.send_signal(signal.SIGCONT)
    await asyncio.to_thread(
        await_true,
        lambda: any("fenced" in line["problem"] for line in frozen.lines("database.failed")),
        "the thawed process is told that it was fenced",
    )
    await books.pass_hours(2)
    await _complete(books)
    assert await _active(books, pair) == other
    await books.assert_exact()


async def test_a_planned_stop_hands_over_at_once(books: Books, pair: list[Process]) -> None:
    """SIGTERM to the active one in the midst of forty hours: exit code 0, and its lease is free before it has ended."""
    active = await _active(books, pair)
    await books.pass_hours(40)
    assert await asyncio.to_thread(active.end) == 0
    lease = await books.owner.fetchrow("select holder, lease_is_free(lease) as free from lease where name = 'accrual'")
    assert lease["free"] or not lease["holder"].startswith(f"{active.name}/")
    await _complete(books)
    await books.assert_exact()


async def test_a_database_that_is_killed_costs_no_hour(books: Books, pair: list[Process]) -> None:
    """SIGKILL to the database server in the midst of sixty hours; started again, everything is completed and exact."""
    await _active(books, pair)
    await books.pass_hours(60)
    done = await books.owner.fetchval("select count(*) from accrual_snapshot")
    async with asyncio.timeout(20):
        await until(lambda: books.owner.fetchval("select count(*) from accrual_snapshot"), (done + 600).__lt__)
    await asyncio.to_thread(books.postgres.end, signal.SIGKILL)
    books.postgres.start()
    await asyncio.to_thread(await_true, lambda: Stage.is_up(books.postgres), "postgres is back")
    async with opened(books.postgres) as again:
        await _complete(again)
        await again.assert_exact()


async def test_an_hour_is_accrued_when_it_ends_and_not_before(books: Books, pair: list[Process]) -> None:
    """Business time at an hour a second, left alone for three hours: each begins when it is over, none is missed."""
    await _active(books, pair)
    await books.pass_hours(1)
    await _complete(books)
    first = await books.next_hour()
    await books.owner.fetchval("select set_business_clock(null, 3600)")
    async with asyncio.timeout(20):
        await until(books.next_hour, (first + 2 * HOUR).__lt__)
    await books.owner.fetchval("select set_business_clock(null, 1)")
    await _complete(books)
    early = "select count(*) from accrual_hour where business_time(started_at) < hour + interval '1 hour'"
    assert await books.owner.fetchval(early) == 0
    await books.assert_exact()


async def test_both_processes_tell_how_far_interest_is(books: Books, pair: list[Process]) -> None:
    """After five hours: one holds the lease, both show when the last one was done, its end and no lag.

    The accounts add up.
    """
    await _active(books, pair)
    await _complete(books)
    before = [_metrics(process) for process in pair]
    credited_until = (await books.next_hour() + 5 * HOUR).timestamp()
    await books.pass_hours(5)
    await _complete(books)
    finished_at = (await books.owner.fetchval("select max(finished_at) from accrual_hour")).timestamp()
    assert abs(time.time() - finished_at) < 30

    def told() -> bool:
        expected = (finished_at, credited_until, 0)
        return all(tuple(map(_metrics(process).get, _PROGRESS)) == expected for process in pair)

    await asyncio.to_thread(await_true, told, "both tell the end of the newest hour")
    after = [_metrics(process) for process in pair]
    assert sum(one['savings_lease_held{lease="accrual"}'] for one in after) == 1
    for name, more in (
        ("savings_accrual_accounts_total", 5 * _ACCOUNTS),
        ("savings_accrual_hour_duration_seconds_count", 5),
        ('savings_work_stuck{work="accrual figures"}', 0),
    ):
        assert sum(now[name] - then[name] for then, now in zip(before, after, strict=True)) == more


def test_wrong_settings_are_named_and_help_is_given(stage_with_accounts: Stage) -> None:
    """A chunk of 5,001 and no database: 64 with both named; --help says what is read."""
    wrong = stage_with_accounts.run("accrual", HOLDFAST_PORT="32001", ACCRUAL_CHUNK="5001")
    assert wrong.returncode == 64
    assert "ACCRUAL_CHUNK" in wrong.stderr
    assert "DATABASE_URL is not set" in wrong.stderr
    told = stage_with_accounts.run("accrual", "--help")
    assert (told.returncode, "ACCRUAL_CHUNK" in told.stdout) == (0, True)


def _metrics(process: Process) -> dict[str, float]:
    """What /metrics tells now."""
    lines = get(process.port, "/metrics")[1].decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}
