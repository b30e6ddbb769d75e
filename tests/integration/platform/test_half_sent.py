"""Requests of which only half is sent wait for themselves: customers who send whole ones do not notice."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from urllib.parse import urlsplit

import aiohttp
import asyncpg

from tests.integration.platform.customers import Customer, Reply, log_in, send, until
from tests.integration.platform.stage import PATIENT, Platform, Process, Stage, await_ready, get

_HALVES = 200
_BODY = b'{"amount": 5}'


def _half(number: int, token: str) -> bytes:
    """A head and a part of its body: with and without a session, with a length and in chunks, of each keyed route."""
    head = f"POST /v1/{('deposits', 'redemptions')[number % 2]} HTTP/1.1\r\nHost: savings\r\n"
    head += f"Content-Type: application/json\r\nIdempotency-Key: half-{number}\r\n"
    if number % 3:
        head += f"Authorization: Bearer {token}\r\n"
    if number % 5:
        return f"{head}Content-Length: {len(_BODY)}\r\n\r\n".encode() + _BODY[:4]
    return f'{head}Transfer-Encoding: chunked\r\n\r\n4\r\n{{"am\r\n'.encode()


@asynccontextmanager
async def half_sent(port: int, count: int, token: str) -> AsyncIterator[list[asyncio.StreamReader]]:
    """That many requests, half of each sent, one after the other; gives where their answers will be."""
    async with AsyncExitStack() as stack:
        readers = []
        for number in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.push_async_callback(_hang_up, writer)
            writer.write(_half(number, token))
            readers.append(reader)
        yield readers


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):  # the other side may have hung up on what it refused
        await writer.wait_closed()


def told(node: Process, name: str) -> float:
    """A metric of a node, by the name that follows `savings_http_requests_`."""
    lines = get(node.port, "/metrics")[1].decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"savings_http_requests_{name} "))


async def be_customers(platform: Platform, savers: Sequence[Customer], number: int) -> list[Reply]:
    """Everything that a customer does, one after the other, by each of the savers at once."""

    async def be(saver: Customer) -> list[Reply]:
        credentials = {key: platform.customers[number][key] for key in ("email", "password")}
        return [
            await saver.read("balance"),
            await saver.order("deposits", {"amount": 5}),
            await saver.order("redemptions", {"amount": 5}),
            await saver.read("redemptions"),
            await send(saver.session, "POST", f"{saver.url}/v1/sessions", json=credentials),
        ]

    return [reply for replies in await asyncio.gather(*map(be, savers)) for reply in replies]


async def test_two_hundred_half_sent_orders_cost_no_customer_anything(
    platform: Platform, stage: Stage, session: aiohttp.ClientSession
) -> None:
    """Two nodes with room for 16 each behind a balancer, 200 halves: all of them wait, none is in flight.

    Meanwhile three customers do everything they can, again and again until the first halves are given up: not one
    refusal. The halves are answered 408 in time, and nothing of them is carried out.
    """
    nodes = [stage.add_portal(f"half-{n}", platform.postgres, **PATIENT, MAX_IN_FLIGHT="16") for n in (1, 2)]
    for node in nodes:
        await asyncio.to_thread(await_ready, node)
    balancer = await asyncio.to_thread(stage.add_balancer, "balancer", nodes)
    url = balancer.outputs()["url"]
    savers = [await log_in(session, platform, 26 + number, url=url) for number in range(3)]
    port = urlsplit(url).port
    assert port is not None
    async with half_sent(port, _HALVES, savers[0].token) as readers:

        async def waiting() -> float:
            return sum([await asyncio.to_thread(told, node, "being_read") for node in nodes])

        # All of them, unless opening the last took so long that the first have been given up.
        async with asyncio.timeout(5):
            await until(waiting, lambda number: number >= 3 / 4 * _HALVES)
        assert [told(node, "in_flight") for node in nodes] == [0, 0]
        replies: list[Reply] = []
        first = asyncio.create_task(readers[0].readline())
        while not first.done():
            replies += await be_customers(platform, savers, 29)
        answers = [await first, *await asyncio.gather(*(reader.readline() for reader in readers[1:]))]
    assert len(replies) >= 15
    assert [reply for reply in replies if reply.status not in {200, 201, 202}] == []
    assert {answer.split()[1] for answer in answers} == {b"408"}
    assert await waiting() == 0
    owner = await asyncpg.connect(platform.postgres.outputs()["admin_dsn"], timeout=5)
    try:
        assert await owner.fetchval("select count(*) from idempotency where key like 'half-%'") == 0
    finally:
        await owner.close(timeout=5)


async def test_beyond_the_limit_the_one_that_is_waited_for_longest_makes_room(
    platform: Platform, stage: Stage, session: aiohttp.ClientSession
) -> None:
    """A node that waits for 8 bodies gets 20 halves: the first 12 are refused at once, as one does on purpose.

    A customer whose body comes with its head is served, and so is one whose body comes a moment later.
    """
    node = stage.add_portal("portal-1", platform.postgres, **PATIENT, MAX_BEING_READ="8")
    await asyncio.to_thread(await_ready, node)
    saver = await log_in(session, platform, 30, url=f"http://127.0.0.1:{node.port}")
    async with half_sent(node.port, 20, saver.token) as readers, asyncio.TaskGroup() as group:
        answers = [group.create_task(reader.readuntil(b"\r\n\r\n")) for reader in readers]

        async def refused() -> list[bytes]:
            return [answer.result() for answer in answers if answer.done()]

        heads = await asyncio.wait_for(until(refused, lambda heads: len(heads) >= 12), 20)
        assert [head.split()[1] for head in heads] == [b"503"] * 12
        assert all(b"\r\nRetry-After: 1\r\n" in head for head in heads)
        assert all(b"\r\nx-envoy-ratelimited: true\r\n" in head for head in heads)
        assert told(node, "being_read") == 8
        assert (await saver.order("deposits", {"amount": 5})).status == 201
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(
            f"POST /v1/deposits HTTP/1.1\r\nHost: savings\r\nAuthorization: Bearer {saver.token}\r\nIdempotency-Key: k"
            f"\r\nContent-Type: application/json\r\nContent-Length: {len(_BODY)}\r\nConnection: close\r\n\r\n".encode()
        )
        # One of the eight has gone to make room for it, before its body is sent; not the one that came last.
        heads = await asyncio.wait_for(until(refused, lambda heads: len(heads) >= 13), 20)
        assert [head.split()[1] for head in heads] == [b"503"] * 13
        assert not answers[-1].done()
        writer.write(_BODY)
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        for waiting in answers:
            waiting.cancel()
    assert answer.split()[1] == b"201"
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["amount"] == 5
