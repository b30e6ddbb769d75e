"""Settlers killed, frozen, fenced or started twice, and a database that dies: all is settled once, in order."""

import asyncio
import random
import re
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from system_under_test.storage.database import Database, DatabaseLimits, NotDoneError, OutcomeUnknownError
from system_under_test.storage.intake import Intake
from system_under_test.storage.redemptions import Redemptions, Request
from tests.integration.platform.customers import until
from tests.integration.platform.queues import (
    BLOCKED,
    QueueDatabase,
    Wish,
    ask,
    number_of,
    out_of_order,
    replayed,
    token_hash,
    undecided,
)
from tests.integration.platform.stage import Process, Stage, await_ready, await_true, get

_STEAL = """
update lease
set holder = 'somebody', token = token + 1, lasts = interval '1 hour', expires_at = now() + interval '1 hour'
where name = 'settlement'
"""
_HOLDER = "select split_part(holder, '/', 1) from lease where name = 'settlement' and expires_at > clock_timestamp()"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A database and two settlers that decide small chunks, so that there are many boundaries to die at."""
    stage = Stage(folder=tmp_path_factory.mktemp("settlement"))
    try:
        postgres = stage.add_database()
        for name in ("settlement-1", "settlement-2"):
            await_ready(stage.add_settlement(name, postgres, SETTLEMENT_CHUNK="50"))
        yield stage
    finally:
        stage.close()


@pytest.fixture
def queue(stage: Stage) -> QueueDatabase:
    """The queue that both settle."""
    return QueueDatabase(postgres=stage.processes["postgres"])


async def active(stage: Stage, owner: Any) -> Process:
    """The settler that has the lease."""
    async with asyncio.timeout(10):
        return stage.processes[await until(lambda: owner.fetchval(_HOLDER), bool)]


async def fill(queue: QueueDatabase, owner: Any, count: int, *, name: str) -> list[str]:
    """Queues `count` redemptions of twenty new customers; gives their accounts."""
    accounts = await queue.new_customers(20)
    rng = random.Random(count)  # noqa: S311
    wishes = [Wish(rng.choice(accounts), f"{name}-{n}", rng.randint(1, 60)) for n in range(count)]
    for start in range(0, count, 500):
        await ask(owner, wishes[start : start + 500])
    return accounts


async def settled(owner: Any, *, within_s: float = 30) -> None:
    """Waits until nothing waits, and judges all that was ever decided."""
    async with asyncio.timeout(within_s):
        await until(lambda: undecided(owner), lambda left: left == 0)
    assert await out_of_order(owner) == []
    assert await replayed(owner) == []


def metric(process: Process, name: str) -> float:
    """One sample of a process."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", get(process.port, "/metrics")[1].decode(), re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def stands_by(process: Process) -> bool:
    """Whether a settler says that it is not the active one."""
    return metric(process, 'savings_lease_held{lease="settlement"}') == 0


async def test_a_settler_that_is_killed_again_and_again_settles_everything_once(
    stage: Stage, queue: QueueDatabase
) -> None:
    """SIGKILL of the active one after chunks that were done, and while one waits for an account that is locked."""
    async with queue.connected() as owner, queue.connected() as holding:
        await owner.execute("update service_state set stage = 'closed'")
        accounts = await fill(queue, owner, 6000, name="killed")
        await owner.execute("update service_state set stage = 'open'")
        for _ in range(2):
            left = await undecided(owner)
            async with asyncio.timeout(10):
                while await undecided(owner) > left - 200:
                    pass
            victim = await active(stage, owner)
            victim.end(signal.SIGKILL)
            victim.start()
        locking = holding.transaction()
        await locking.start()
        await holding.execute("select from account where id = any ($1) for update", accounts)
        async with asyncio.timeout(10):
            await until(lambda: owner.fetchval(BLOCKED), bool)
        victim = await active(stage, owner)
        victim.end(signal.SIGKILL)
        victim.start()
        before = await undecided(owner)
        assert before > 0, "everything was settled before the last kill"
        await locking.commit()
        await settled(owner)


async def test_a_settler_that_was_frozen_past_its_lease_does_nothing_more(stage: Stage, queue: QueueDatabase) -> None:
    """SIGSTOP of the active one with work left: the other settles it, under a new token; the thawed one stands by."""
    async with queue.connected() as owner:
        frozen = await active(stage, owner)
        token = await owner.fetchval("select token from lease where name = 'settlement'")
        try:
            frozen.send_signal(signal.SIGSTOP)
            await fill(queue, owner, 300, name="frozen")
            await settled(owner)
        finally:
            frozen.send_signal(signal.SIGCONT)
        await fill(queue, owner, 300, name="thawed")
        await settled(owner)
        other = await active(stage, owner)
        assert other.name != frozen.name
        assert await owner.fetchval("select token from lease where name = 'settlement'") > token
        await asyncio.to_thread(await_true, partial(stands_by, frozen), "it stands by")
        assert not stands_by(other)


async def test_a_settler_that_believes_in_a_lease_it_lost_is_fenced(stage: Stage, queue: QueueDatabase) -> None:
    """The lease is given to somebody else behind the active one's back, at the moment when there is work: refused.

    The active one may renew its lease, and so learn of it, just before it looks at the queue: then once more.
    """
    fenced = 'savings_settlement_errors_total{reason="fenced"}'
    (account,) = await queue.new_customers(1)
    async with queue.connected() as owner:
        for attempt in range(10):
            believer = await active(stage, owner)
            before = metric(believer, fenced)
            async with owner.transaction():
                await owner.execute(_STEAL)
                (row,) = await ask(owner, [Wish(account, f"fenced-{attempt}", 5)])
            await asyncio.to_thread(await_true, partial(stands_by, believer), "it knows")
            assert await owner.fetchval("select count(*) from outcome where seq = $1", number_of(row)) == 0
            told = metric(believer, fenced) > before
            await owner.execute("update lease set expires_at = now() where name = 'settlement'")
            await settled(owner)
            if told:
                return
    pytest.fail("the active settler was never fenced in ten tries")


async def test_a_settler_started_by_mistake_stands_by(stage: Stage, queue: QueueDatabase) -> None:
    """A third one under the name of the active one: it does not take the other's lease for its own."""
    async with queue.connected() as owner:
        running = await active(stage, owner)
        third = stage.add_settlement("settlement-3", stage.processes["postgres"], HOLDFAST_INSTANCE=running.name)
        try:
            await asyncio.to_thread(await_ready, third)
            await fill(queue, owner, 500, name="mistake")
            await settled(owner)
            assert stands_by(third)
            assert metric(third, 'savings_redemptions_settled_total{outcome="settled"}') == 0
        finally:
            third.end()


async def test_a_settler_that_is_stopped_gives_its_lease_back(stage: Stage, queue: QueueDatabase) -> None:
    """SIGTERM of the active one: exit code 0, and its lease is over at once; the other goes on."""
    async with queue.connected() as owner:
        stopping = await active(stage, owner)
        mine = "select expires_at > clock_timestamp() from lease where name = 'settlement' and holder like $1 || '/%'"
        assert await asyncio.to_thread(stopping.end) == 0
        assert not await owner.fetchval(mine, stopping.name)
        stopping.start()
        await fill(queue, owner, 100, name="stopped")
        await settled(owner)
        await asyncio.to_thread(await_ready, stopping)


async def test_one_that_cannot_be_decided_is_found_parked_and_told(stage: Stage, queue: QueueDatabase) -> None:
    """Two of sixty belong to a wallet from which nothing can be paid: both are parked, all others decided in order."""
    async with queue.connected() as owner:
        (account,) = await queue.new_customers(1)
        await owner.execute("insert into account (id, kind, wallet) values ('custody-z', 'custody', 'z')")
        await owner.execute("insert into account (id, kind, wallet, balance) values ('c-z', 'customer', 'z', 0)")
        await owner.execute(
            "insert into transfer (kind, debit_account, credit_account, amount)"
            " values ('seed', 'custody-z', 'c-z', 100)"
        )
        await owner.execute("insert into session values (sha256('c-z'), 'c-z', now() + interval '1 hour')")
        wishes = [Wish("c-z" if n in {20, 41} else account, f"poison-{n}", 1) for n in range(60)]
        rows = await ask(owner, wishes)
        await settled(owner)
        parked = await owner.fetch("select seq, reason from outcome where status = 'parked' order by seq")
        assert [row["seq"] for row in parked] == [number_of(rows[20]), number_of(rows[41])]
        assert all(row["reason"].startswith("undecidable: 23503 ") for row in parked)
        told = "select status, reason from read_redemptions(sha256('c-z'), $1::bigint, $1::bigint + 1, 1)"
        assert tuple(await owner.fetchrow(told, parked[0]["seq"])) == ("parked", "undecidable")
        settlers = [stage.processes[name] for name in ("settlement-1", "settlement-2")]
        depth = 'savings_redemption_queue_depth{state="parked"}'
        await asyncio.to_thread(
            await_true, lambda: [metric(settler, depth) for settler in settlers] == [2, 2], "both tell how many"
        )
        alarms = [line for settler in settlers for line in settler.lines("redemption.parked")]
        assert sorted(line["seq"] for line in alarms) == [row["seq"] for row in parked]


def refused_to_park(settlers: list[Process]) -> bool:
    """Whether any of them says that parking is refused."""
    return any(line["work"] == "parking" for settler in settlers for line in settler.lines("database.refused"))


async def test_one_that_cannot_even_be_parked_ends_no_settler(stage: Stage, queue: QueueDatabase) -> None:
    """Neither decided nor parked: a customer without a wallet, and an outcome that the database refuses for a while.

    Both settlers go on living, what could not be done is told, and it is parked as soon as it can be.
    """
    settlers = [stage.processes[name] for name in ("settlement-1", "settlement-2")]
    pids = [settler.pid for settler in settlers]
    async with queue.connected() as owner:
        await owner.execute("insert into account (id, kind, wallet, balance) values ('c-y', 'customer', 'y', 0)")
        await owner.execute("insert into account (id, kind, wallet) values ('custody-y', 'custody', 'y')")
        await owner.execute(
            "insert into transfer (kind, debit_account, credit_account, amount)"
            " values ('seed', 'custody-y', 'c-y', 100)"
        )
        await owner.execute("insert into session values (sha256('c-y'), 'c-y', now() + interval '1 hour')")
        await owner.execute("alter table outcome add constraint none_is_parked check (status <> 'parked') not valid")
        try:
            rows = await ask(owner, [Wish("c-y", "unparkable", 1)])
            await asyncio.to_thread(await_true, lambda: refused_to_park(settlers), "the refusal to park is told")
        finally:
            await owner.execute("alter table outcome drop constraint none_is_parked")
        await settled(owner)
        assert await owner.fetchval("select status from outcome where seq = $1", number_of(rows[0])) == "parked"
    assert [settler.pid for settler in settlers] == pids
    assert all(settler.answers("/readyz") for settler in settlers)


async def test_nothing_acknowledged_is_lost_when_the_database_is_killed(stage: Stage, queue: QueueDatabase) -> None:
    """SIGKILL of the server and all its processes while thousands are taken and settled; it recovers by itself.

    Each request that got a ticket is in the queue under its number, each that was refused as certainly not done is not,
    and all are decided once.
    """
    postgres = stage.processes["postgres"]
    accounts = await queue.new_customers(20)
    database = Database(
        postgres.outputs()["dsn"],
        DatabaseLimits(pool_size=2, acquire_within_s=1.0, statement_within_s=2.0),
        application="node",
        on_change=lambda _ready, _problem: None,
    )
    connecting = asyncio.create_task(database.keep_connected())
    intake = Intake(Redemptions(database).queue)
    answers: dict[str, Any] = {}

    async def client(number: int) -> None:
        for turn in range(60):
            wish = Wish(accounts[number % 20], f"crash-{number}-{turn}", 1)
            request = Request(
                token_hash=token_hash(wish.account), key=wish.key, payload=wish.payload_hash, amount=wish.amount
            )
            try:
                answers[wish.key] = await intake.take(request)
            except (NotDoneError, OutcomeUnknownError) as error:
                answers[wish.key] = error
                await asyncio.sleep(0.02)

    clients = [asyncio.create_task(client(number)) for number in range(50)]
    async with asyncio.timeout(10):
        await until(lambda: asyncio.sleep(0, len(answers)), lambda count: count > 800)
    postgres.signal_family(signal.SIGKILL)
    assert postgres.running is not None
    await asyncio.to_thread(postgres.running.wait, 10)
    postgres.start()
    await asyncio.to_thread(await_true, lambda: Stage.is_up(postgres), "postgres is back")
    await asyncio.gather(*clients)
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    await database.close()

    async with queue.connected() as owner:
        await settled(owner)
        rows = await owner.fetch("select seq, key from redemption where account = any ($1)", accounts)
    taken = {row["key"]: row["seq"] for row in rows}
    tickets = {key: answer for key, answer in answers.items() if not isinstance(answer, Exception)}
    not_done = [key for key, answer in answers.items() if isinstance(answer, NotDoneError)]
    assert len(answers) == 50 * 60
    assert len(tickets) < len(answers), "nobody noticed the crash"
    assert {key: taken.get(key) for key in tickets} == {
        key: number_of({"response": ticket.body}) for key, ticket in tickets.items()
    }
    assert not taken.keys() & not_done


async def test_every_metric_of_a_settler_is_there_from_the_start(stage: Stage) -> None:
    """Label sets of what has not happened are there, so that a first alarm shows."""
    text = get(stage.processes["settlement-1"].port, "/metrics")[1].decode()
    for line in (
        'savings_redemption_queue_depth{state="queued"} ',
        'savings_redemptions_settled_total{outcome="parked"}',
        'savings_settlement_errors_total{reason="other"} ',
        "savings_redemption_oldest_age_seconds ",
        'savings_settlement_chunk_duration_seconds_bucket{le="0.1"}',
    ):
        assert line in text, line
