"""What the balancer says when no node is left: that nothing can have happened only where nothing was ever sent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from tests.integration.platform.customers import Reply, send, until
from tests.integration.platform.stage import Stage, await_true, free_port


@dataclass(slots=True, kw_only=True)
class Vanishing:
    """A node that is well until an order comes, which it never answers; from then on it says that it is not ready."""

    port: int
    well: bool = True
    orders: int = 0
    connections: int = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, with one request after the other."""
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"POST"):
                    self.orders += 1
                    self.well = False
                    continue
                status = b"200 OK" if self.well else b"503 Service Unavailable"
                writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the balancer has closed the connection
        finally:
            self.connections -= 1
            writer.close()


@asynccontextmanager
async def balanced(stage: Stage) -> AsyncIterator[tuple[Vanishing, str]]:
    """The node, and the URL of a balancer that has no other."""
    node, admin = Vanishing(port=free_port()), free_port()
    async with await asyncio.start_server(node.answer, "127.0.0.1", node.port):
        balancer = stage.add(
            "balancer", "balancer", UPSTREAMS=f"127.0.0.1:{node.port}@a", RETRIES="on", HOLDFAST_PORT_ADMIN=str(admin)
        )
        try:
            await asyncio.to_thread(await_true, lambda: balancer.answers("/ready", port=admin), "the balancer is ready")
            yield node, balancer.outputs()["url"]
        finally:
            await asyncio.to_thread(balancer.end)
            async with asyncio.timeout(30):
                while node.connections:  # noqa: ASYNC110  (closed by another process)
                    await asyncio.sleep(0.01)


async def test_only_a_request_that_was_never_sent_is_told_that_it_did_not_happen(
    stage: Stage, session: aiohttp.ClientSession
) -> None:
    """The only node takes an order and is out when its time is up: bare 503. The next order is sent nowhere.

    Retry-After says that nothing has happened, and whoever reads it may order anew under another key.
    """
    async with balanced(stage) as (node, url), asyncio.timeout(60):
        sent = await until(lambda: order(session, url, "1"), lambda _: node.orders > 0)
        unsent = await order(session, url, "2")

    assert (sent.status, sent.body["detail"]) == (503, "no healthy upstream")
    assert "Retry-After" not in sent.headers
    assert (unsent.status, unsent.body["detail"]) == (503, "no healthy upstream")
    assert unsent.headers["Retry-After"] == "1"


async def order(session: aiohttp.ClientSession, url: str, key: str) -> Reply:
    """A deposit, which may be sent again under its key."""
    return await send(session, "POST", f"{url}/v1/deposits", headers={"Idempotency-Key": key}, json={})
