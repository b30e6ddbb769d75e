"""The same key again is the same redemption: in one call, at many nodes, and beside deposits."""

import asyncio
import random
import uuid
from collections import Counter
from typing import Any

from tests.integration.platform.customers import until
from tests.integration.platform.queues import (
    BLOCKED,
    QueueDatabase,
    Wish,
    ask,
    deposit,
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


async def test_every_key_counts_once_and_every_decision_is_a_replay_of_it(queue: QueueDatabase) -> None:
    """Six thousand requests at four nodes at once, 10 % of their keys twice and 1 % for something else, with deposits.

    Counts are exact, the same key has one ticket, and a replay in Python of every decision finds no difference.
    """
    accounts = await queue.new_customers(150)
    rng = random.Random(7)  # noqa: S311
    wishes = [Wish(rng.choice(accounts), f"k-{n}", rng.randint(1, 400)) for n in range(5400)]
    again = [rng.choice(wishes) for _ in range(600)]
    altered = [Wish(wish.account, wish.key, wish.amount + 1) for wish in rng.sample(wishes, 60)]
    requests = wishes + again
    rng.shuffle(requests)
    shares = [requests[node::4] for node in range(4)]

    async def node(share: list[Wish]) -> list[tuple[Wish, Any]]:
        rows: list[tuple[Wish, Any]] = []
        async with queue.connected("portal") as portal:
            while share:
                count = rng.randint(1, 60)
                batch, share = share[:count], share[count:]
                rows += zip(batch, await ask(portal, batch), strict=True)
        return rows

    async def pay_in(stop: asyncio.Event) -> None:
        async with queue.connected("portal") as portal:
            for number in range(100_000):
                if stop.is_set():
                    return
                await deposit(portal, rng.choice(accounts), f"in-{number}", rng.randint(1, 50))

    async def settle_on(stop: asyncio.Event) -> None:
        async with queue.connected("settlement") as settler, queue.connected() as owner:
            token = await take_lease(owner)
            while not (stop.is_set() and await undecided(owner) == 0):
                await settle(settler, token, 300)

    written, stop = asyncio.Event(), asyncio.Event()
    beside = [asyncio.create_task(work) for work in (pay_in(stop), settle_on(written))]
    answers = [entry for share in await gather_bounded(*map(node, shares)) for entry in share]
    written.set()
    await beside[1]
    stop.set()
    await beside[0]

    tickets: dict[str, set[str]] = {}
    for wish, row in answers:
        assert row["outcome"] == "answered"
        tickets.setdefault(wish.key, set()).add(row["response"])
    assert {len(of_key) for of_key in tickets.values()} == {1}
    assert len({next(iter(of_key)) for of_key in tickets.values()}) == len(wishes)
    assert Counter(row["replayed"] for _, row in answers) == {False: 5400, True: 600}
    async with queue.connected("portal") as portal:
        assert {row["outcome"] for row in await ask(portal, altered)} == {"mismatch"}
    async with queue.connected() as owner:
        assert await out_of_order(owner) == []
        assert await replayed(owner) == []
        taken = "select account, key, amount from redemption where account = any ($1)"
        assert {tuple(row) for row in await owner.fetch(taken, accounts)} == {
            (wish.account, wish.key, wish.amount) for wish in wishes
        }
        between = await owner.fetchval(
            "select count(*) from transfer d join outcome o on o.decided_at > d.recorded_at"
            " where d.kind = 'deposit' and d.key = 'in-5' and o.status = 'settled'"
        )
    assert between > 0, "no deposit came before a decision: they did not run together"


async def test_the_same_key_twice_in_one_batch_is_one_redemption(queue: QueueDatabase) -> None:
    """One call with a key, the key again, the key for something else, and a stranger's: each its outcome, in order."""
    (account,) = await queue.new_customers(1)
    wish = Wish(account, "twin", 10)
    async with queue.connected("portal") as portal:
        rows = await ask(
            portal, [wish, Wish("nobody", "twin", 10), wish, Wish(account, "twin", 11), Wish(account, "n", 1)]
        )
    assert [(row["outcome"], row["replayed"]) for row in rows] == [
        ("answered", False), ("unauthenticated", True), ("answered", True), ("mismatch", True), ("answered", False)
    ]  # fmt: skip
    assert rows[0]["response"] == rows[2]["response"]
    assert number_of(rows[4]) == number_of(rows[0]) + 1
    async with queue.connected() as owner:
        await drain(owner, await take_lease(owner))


async def test_a_key_of_a_deposit_is_no_key_of_a_redemption(queue: QueueDatabase) -> None:
    """Keys are one set for both: a deposit's for a redemption, and a redemption's for a deposit, are mismatches."""
    (account,) = await queue.new_customers(1)
    async with queue.connected("portal") as portal:
        await deposit(portal, account, "in", 5)
        (row,) = await ask(portal, [Wish(account, "in", 5)])
        assert row["outcome"] == "mismatch"
        await ask(portal, [Wish(account, "out", 5)])
        outcome = "select outcome from take_deposit($1, 'out', $2, 5)"
        assert await portal.fetchval(outcome, token_hash(account), b"p") == "mismatch"
    async with queue.connected() as owner:
        await drain(owner, await take_lease(owner))


async def test_the_same_key_waits_for_a_first_try_that_is_under_way(queue: QueueDatabase) -> None:
    """The first try is not committed yet: the second, in a batch with others, waits, and gets its ticket."""
    (account,) = await queue.new_customers(1)
    wish = Wish(account, "first-try", 10)
    async with queue.connected() as first, queue.connected("portal") as second, queue.connected() as owner:
        writing = first.transaction()
        await writing.start()
        (ticket,) = await ask(first, [wish])
        waiting = asyncio.create_task(ask(second, [Wish(account, "before", 1), wish]))
        async with asyncio.timeout(5):
            await until(lambda: owner.fetchval(BLOCKED), bool)
        await writing.commit()
        before, again = await waiting
        assert (again["replayed"], again["response"]) == (True, ticket["response"])
        assert number_of(before) == number_of(ticket) + 1
        await drain(owner, await take_lease(owner))


async def test_an_order_that_is_stuck_keeps_nobody_else_waiting(queue: QueueDatabase) -> None:
    """A deposit holds its key and hangs: a batch with that key takes all others, in order, and says that it is busy."""
    (account,) = await queue.new_customers(1)
    async with queue.connected() as stuck, queue.connected("portal") as portal, queue.connected() as owner:
        hanging = stuck.transaction()
        await hanging.start()
        await deposit(stuck, account, "stuck", 5)
        wishes = [Wish(account, "a", 1), Wish(account, "stuck", 5), Wish(account, "b", 1), Wish(account, "a", 1)]
        async with asyncio.timeout(2):
            rows = await ask(portal, wishes)
        assert [row["outcome"] for row in rows] == ["answered", "busy", "answered", "answered"]
        assert [row["replayed"] for row in rows] == [False, True, False, True]
        assert number_of(rows[2]) == number_of(rows[0]) + 1
        await hanging.rollback()
        (row,) = await ask(portal, [Wish(account, "stuck", 5)])
        assert (row["outcome"], row["replayed"]) == ("answered", False)
        await drain(owner, await take_lease(owner))
        assert await out_of_order(owner) == []


async def test_an_empty_call_and_one_of_strangers_write_nothing(queue: QueueDatabase) -> None:
    """No request at all, and two of nobody: no row or `unauthenticated`, and no number is used up."""
    async with queue.connected("portal") as portal, queue.connected() as owner:
        before = await owner.fetchval("select accepted from intake")
        assert await ask(portal, []) == []
        rows = await ask(portal, [Wish("nobody", str(uuid.uuid4()), 1), Wish("no one", "k", 1)])
        assert [row["outcome"] for row in rows] == ["unauthenticated"] * 2
        assert await owner.fetchval("select accepted from intake") == before


async def test_the_same_keys_in_another_order_make_nobody_wait_for_ever(queue: QueueDatabase) -> None:
    """Two nodes get the same forty requests at once, one of them backwards, thirty times: every one has one ticket."""
    accounts = await queue.new_customers(8)
    async with queue.connected("portal") as one, queue.connected("portal") as other, queue.connected() as owner:
        for turn in range(30):
            wishes = [Wish(accounts[n % 8], f"both-{turn}-{n}", 1) for n in range(40)]
            forwards, backwards = await gather_bounded(ask(one, wishes), ask(other, wishes[::-1]))
            assert {row["outcome"] for row in [*forwards, *backwards]} == {"answered"}
            assert [row["response"] for row in forwards] == [row["response"] for row in backwards[::-1]]
        await drain(owner, await take_lease(owner))
