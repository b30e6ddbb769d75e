"""Redemptions are taken, and settled, in one order, however slowly their writers commit."""

import asyncio
import json
import random

from tests.integration.platform.customers import until
from tests.integration.platform.queues import (
    BLOCKED,
    QueueDatabase,
    Wish,
    ask,
    drain,
    gather_bounded,
    number_of,
    out_of_order,
    replayed,
    settle,
    take_lease,
    token_hash,
    undecided,
)


async def test_a_number_is_not_overtaken_while_its_writer_is_slow(queue: QueueDatabase) -> None:
    """A writer holds number n without committing: n + 1 waits for it, and nothing beyond n is settled before n."""
    (account,) = await queue.new_customers(1)
    async with (
        queue.connected() as slow,
        queue.connected() as quick,
        queue.connected() as settler,
    ):
        token = await take_lease(settler)
        writing = slow.transaction()
        await writing.start()
        (first,) = await ask(slow, [Wish(account, "first", 10)])
        second = asyncio.create_task(ask(quick, [Wish(account, "second", 10)]))
        async with asyncio.timeout(5):
            await until(lambda: settler.fetchval(BLOCKED), bool)
        assert await settle(settler, token) is None, "what is not committed was settled"
        await writing.commit()
        assert number_of((await second)[0]) == number_of(first) + 1
        chunk = await settle(settler, token)
        assert (chunk["first"], chunk["last"]) == (number_of(first), number_of(first) + 1)


async def test_a_writer_that_fails_leaves_no_gap(queue: QueueDatabase) -> None:
    """A writer takes number n and rolls back: the next one gets n, and the queue does not wait for ever."""
    (account,) = await queue.new_customers(1)
    async with queue.connected() as failing, queue.connected() as other:
        token = await take_lease(other)
        writing = failing.transaction()
        await writing.start()
        (lost,) = await ask(failing, [Wish(account, "lost", 10)])
        await writing.rollback()
        (taken,) = await ask(other, [Wish(account, "taken", 10)])
        assert number_of(taken) == number_of(lost)
        assert (await settle(other, token))["settled"] == 1
        assert await out_of_order(other) == []


async def test_nothing_is_missed_or_overtaken_while_many_write_slowly(queue: QueueDatabase) -> None:
    """Twelve writers that commit late, some of them never, beside a settler that never rests.

    A consumer that goes by the newest number it saw misses what commits late, and one that looks for what has no
    outcome yet settles it out of order; here every number is settled, in order.
    """
    accounts = await queue.new_customers(12)
    rng = random.Random(20)  # noqa: S311

    async def write(account: str, pauses_s: list[float]) -> None:
        async with queue.connected() as connection:
            for number, pause_s in enumerate(pauses_s):
                writing = connection.transaction()
                await writing.start()
                await ask(connection, [Wish(account, f"slow-{number}-{n}", 1) for n in range(3)])
                await asyncio.sleep(pause_s)
                await (writing.rollback() if number % 5 == 4 else writing.commit())

    async def settle_on(stop: asyncio.Event) -> int:
        chunks = 0
        async with queue.connected("settlement") as settler, queue.connected() as owner:
            token = await take_lease(owner)
            while not (stop.is_set() and await undecided(owner) == 0):
                chunks += await settle(settler, token) is not None
        return chunks

    stop = asyncio.Event()
    settling = asyncio.create_task(settle_on(stop))
    await gather_bounded(*(write(account, [rng.uniform(0, 0.004) for _ in range(20)]) for account in accounts))
    stop.set()
    chunks = await settling
    assert chunks > 50, "the settler hardly ran while they wrote: this proves nothing"
    async with queue.connected() as owner:
        assert await out_of_order(owner) == []
        assert await replayed(owner) == []
        taken = await owner.fetchval("select count(*) from redemption where account = any ($1)", accounts)
    assert taken == 12 * 16 * 3


async def test_a_ticket_tells_the_place_in_the_queue(queue: QueueDatabase) -> None:
    """Three wait; two are decided; a fourth comes: places 1, 2, 3 and then 2, numbers without a gap."""
    (account,) = await queue.new_customers(1)
    async with queue.connected() as owner:
        token = await take_lease(owner)
        tickets = [
            json.loads(row["response"]) for row in await ask(owner, [Wish(account, str(n), 1) for n in range(3)])
        ]
        await settle(owner, token, 2)
        tickets += [json.loads(row["response"]) for row in await ask(owner, [Wish(account, "fourth", 1)])]
        assert [ticket["place"] for ticket in tickets] == [1, 2, 3, 2]
        places = await owner.fetch(
            "select seq, place, status from read_redemptions($1, null, $2, 10)", token_hash(account), 2**62
        )
        assert [(row["place"], row["status"]) for row in places] == [
            (2, "queued"), (1, "queued"), (None, "settled"), (None, "settled")
        ]  # fmt: skip
        await drain(owner, token)
