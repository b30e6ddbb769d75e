"""Redemptions as customers see them: taken at any time, shown to their owner alone, honest when the database fails."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import asyncpg
import pytest

from tests.integration.platform.customers import Customer, log_in, send, until
from tests.integration.platform.stage import Platform, Stage, await_ready

_BLOCKED = "select pid from pg_locks where not granted"
_TAKEN = "select count(*) from redemption where account = $1"


@asynccontextmanager
async def owning(platform: Platform) -> AsyncIterator[Any]:
    """A connection as the owner of the database."""
    owner = await asyncpg.connect(platform.postgres.outputs()["admin_dsn"], timeout=5)
    try:
        yield owner
    finally:
        await owner.close()


@asynccontextmanager
async def closed(platform: Platform) -> AsyncIterator[Any]:
    """The service is closed, as in a maintenance window; gives the connection that did it."""
    async with owning(platform) as owner:
        await owner.execute("update service_state set stage = 'closed'")
        try:
            yield owner
        finally:
            await owner.execute("update service_state set stage = 'open'")


async def test_redemptions_are_taken_and_told_while_the_service_is_closed(
    platform: Platform, session: aiohttp.ClientSession
) -> None:
    """Three while it is closed: queued with growing places; the same key again is the same; settled after reopening."""
    saver = await log_in(session, platform, 20)
    async with closed(platform):
        tickets = [await saver.order("redemptions", {"amount": n}, key=f"closed-{n}") for n in (1, 2, 3)]
        assert [ticket.status for ticket in tickets] == [202] * 3
        places = [ticket.body["place"] for ticket in tickets]
        assert places == list(range(places[0], places[0] + 3))
        again = await saver.order("redemptions", {"amount": 2}, key="closed-2")
        assert (again.status, again.replayed, again.body) == (202, True, tickets[1].body)
        shown = (await saver.read("redemptions")).body["redemptions"]
        assert [(one["id"], one["status"]) for one in shown] == [
            (ticket.body["id"], "queued") for ticket in reversed(tickets)
        ]
        assert shown[0]["accepted_at"] == tickets[2].body["accepted_at"]
    decided = [await saver.decided(ticket.body["id"]) for ticket in tickets]
    assert [one["status"] for one in decided] == ["settled"] * 3
    assert sorted(one["transfer"] for one in decided) == [one["transfer"] for one in decided]


async def test_the_list_is_newest_first_and_in_pages(platform: Platform, session: aiohttp.ClientSession) -> None:
    """Five redemptions, in pages of two: 5 4, 3 2, 1; `more` tells whether another page follows."""
    saver = await log_in(session, platform, 21)
    numbers = [(await saver.order("redemptions", {"amount": 1})).body["id"] for _ in range(5)]
    pages, before = [], ""
    while True:
        page = (await saver.read(f"redemptions?limit=2{before}")).body
        pages.append([one["id"] for one in page["redemptions"]])
        if not page["more"]:
            break
        before = f"&before={pages[-1][-1]}"
    assert pages == [[numbers[4], numbers[3]], [numbers[2], numbers[1]], [numbers[0]]]
    assert (await saver.read("redemptions")).body["more"] is False


async def test_nobody_sees_anothers_redemptions(platform: Platform, session: aiohttp.ClientSession) -> None:
    """A stranger's id is not found, as one that does not exist; a stranger's list is empty; no session sees nothing."""
    owner, stranger = [await log_in(session, platform, number) for number in (22, 23)]
    number = (await owner.order("redemptions", {"amount": 1})).body["id"]
    assert (await owner.read(f"redemptions/{number}")).status == 200
    foreign, none = [await stranger.read(f"redemptions/{it}") for it in (number, 2**62)]
    assert (foreign.status, foreign.body) == (none.status, none.body)
    assert (foreign.status, foreign.body["type"]) == (404, "not-found")
    assert (await stranger.read("redemptions")).body == {"redemptions": [], "more": False}
    for path in ("redemptions", f"redemptions/{number}"):
        reply = await replace(owner, token="forged").read(path)
        assert (reply.status, reply.body["type"]) == (401, "unauthenticated")


@pytest.mark.parametrize(
    ("path", "status", "field"),
    [
        ("redemptions/0", 404, "id"),
        ("redemptions/-1", 404, "id"),
        ("redemptions/abc", 404, "id"),
        ("redemptions/9223372036854775808", 404, "id"),
        ("redemptions/" + "9" * 300, 404, "id"),
        ("redemptions/%00", 404, "id"),
        ("redemptions?limit=0", 400, "limit"),
        ("redemptions?limit=101", 400, "limit"),
        ("redemptions?limit=two", 400, "limit"),
        ("redemptions?limit=1&limit=2", 400, "limit"),
        ("redemptions?before=-5", 400, "before"),
        ("redemptions?before=9999999999999999999", 400, "before"),
    ],
)
async def test_a_number_that_cannot_be_is_refused_by_its_name(
    platform: Platform, customer: Customer, path: str, status: int, field: str
) -> None:
    """Each, sent to a node: a problem document that names the part at fault, and never a 500."""
    direct = replace(customer, url=f"http://127.0.0.1:{platform.portals[0].port}")
    reply = await direct.read(path)
    assert (reply.status, reply.body["field"]) == (status, field)


async def test_tickets_of_many_at_once_are_in_the_order_of_their_answers(
    platform: Platform, session: aiohttp.ClientSession
) -> None:
    """Eight customers at once, each one after the other: whose ticket came before another asked has the lower one."""
    people = [await log_in(session, platform, number) for number in range(24, 32)]
    loop = asyncio.get_running_loop()

    async def one_after_the_other(saver: Customer) -> list[tuple[float, float, int]]:
        spans = []
        for _ in range(15):
            asked_s = loop.time()
            ticket = await saver.order("redemptions", {"amount": 1})
            spans.append((asked_s, loop.time(), ticket.body["id"]))
        return spans

    spans = [span for of_one in await asyncio.gather(*map(one_after_the_other, people)) for span in of_one]
    inverted = [(one, other) for one in spans for other in spans if one[1] < other[0] and one[2] > other[2]]
    assert inverted == []
    assert len({number for _, _, number in spans}) == 8 * 15


async def test_a_batch_whose_connection_is_lost_may_have_happened(
    platform: Platform, session: aiohttp.ClientSession
) -> None:
    """Ends the database process that takes three at once: 503 without Retry-After for each; each key counts once."""
    people = [await log_in(session, platform, number) for number in (32, 33, 34)]
    direct = [replace(saver, url=f"http://127.0.0.1:{platform.portals[0].port}") for saver in people]
    key = str(uuid.uuid4())
    async with owning(platform) as owner:
        taken = [await owner.fetchval(_TAKEN, saver.account) for saver in direct]
        async with owner.transaction():
            await owner.execute("select from intake for update")
            orders = [asyncio.create_task(saver.order("redemptions", {"amount": 7}, key=key)) for saver in direct]
            async with asyncio.timeout(5):
                pid = await until(lambda: owner.fetchval(_BLOCKED), bool)
            os.kill(pid, 15)
            first = await asyncio.wait_for(orders[0], 5)
        replies = [first, *await asyncio.gather(*orders[1:])]
        assert first.status == 503
        assert {reply.body["type"] for reply in replies if reply.status == 503} == {"outcome-unknown"}
        assert not any("Retry-After" in reply.headers for reply in replies)
        again = [await saver.order("redemptions", {"amount": 7}, key=key) for saver in direct]
        assert [reply.status for reply in again] == [202] * 3
        for saver, before in zip(direct, taken, strict=True):
            assert await owner.fetchval(_TAKEN, saver.account) == before + 1


async def test_a_batch_that_the_database_gives_up_is_certainly_not_done(
    platform: Platform, stage: Stage, session: aiohttp.ClientSession
) -> None:
    """The queue is locked for longer than a statement may take: 503 with Retry-After, and nothing was taken."""
    node = stage.add_portal("portal-1", platform.postgres, STATEMENT_SECONDS="0.4")
    await asyncio.to_thread(await_ready, node)
    saver = await log_in(session, platform, 35, url=f"http://127.0.0.1:{node.port}")
    async with owning(platform) as owner:
        before = await owner.fetchval(_TAKEN, saver.account)
        async with owner.transaction():
            await owner.execute("select from intake for update")
            reply = await saver.order("redemptions", {"amount": 7})
        after = await owner.fetchval(_TAKEN, saver.account)
    assert (reply.status, reply.body["type"]) == (503, "database-unavailable")
    assert (reply.headers["Retry-After"], reply.headers["x-envoy-ratelimited"]) == ("1", "true")
    assert after == before


async def test_the_description_tells_the_parameters(platform: Platform, session: aiohttp.ClientSession) -> None:
    """Path and query parameters stand in /openapi.json beside the key of the POST."""
    paths = (await send(session, "GET", f"{platform.url}/openapi.json")).body["paths"]
    said = {
        (path, method): [parameter["name"] for parameter in operation.get("parameters", [])]
        for path, methods in paths.items()
        for method, operation in methods.items()
        if "redemptions" in path
    }
    assert said == {
        ("/v1/redemptions", "post"): ["Idempotency-Key"],
        ("/v1/redemptions", "get"): ["before", "limit"],
        ("/v1/redemptions/{id}", "get"): ["id"],
    }
