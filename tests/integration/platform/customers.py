"""Clients of the platform that hide nothing: no second try behind the caller's back."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
from multidict import CIMultiDictProxy

from tests.integration.platform.stage import Platform

AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back: status 0 and the error's name as body when nothing did."""

    status: int
    body: Any
    headers: CIMultiDictProxy[str] | dict[str, str]
    took_s: float

    @property
    def replayed(self) -> bool:
        """Whether it is the stored answer of an earlier try."""
        return self.headers.get("Idempotency-Replayed") == "true"


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """A customer who is logged in."""

    session: aiohttp.ClientSession
    url: str
    token: str
    account: str

    async def order(self, route: str, body: Any, *, key: str | None = None, **headers: str) -> Reply:
        """POSTs to /v1/`route` with a key (a new one unless given)."""
        sent = {"Authorization": f"Bearer {self.token}", "Idempotency-Key": key or str(uuid.uuid4()), **headers}
        return await send(self.session, "POST", f"{self.url}/v1/{route}", json=body, headers=sent)

    async def read(self, path: str) -> Reply:
        """GETs /v1/`path`."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return await send(self.session, "GET", f"{self.url}/v1/{path}", headers=headers)

    async def balance(self) -> Any:
        """The answer of GET /v1/balance."""
        reply = await self.read("balance")
        assert reply.status == 200, reply
        return reply.body

    async def decided(self, number: int) -> Any:
        """What became of the redemption with this number, as soon as it is decided."""
        async with asyncio.timeout(10):
            reply = await until(
                lambda: self.read(f"redemptions/{number}"), lambda reply: reply.body.get("status") != "queued"
            )
        assert reply.status == 200, reply
        return reply.body


async def send(session: aiohttp.ClientSession, method: str, url: str, **options: Any) -> Reply:
    """One request, once."""
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    try:
        async with session.request(method, url, **options) as response:
            body = await (response.json(content_type=None) if "json" in response.content_type else response.text())
            return Reply(status=response.status, body=body, headers=response.headers, took_s=loop.time() - started_s)
    except (aiohttp.ClientError, TimeoutError) as error:
        return Reply(status=0, body=f"{type(error).__name__}: {error}", headers={}, took_s=loop.time() - started_s)


@asynccontextmanager
async def honest_session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client session that never sends again on its own."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=10)) as session:
        assert session._retry_connection is True, "the switch that this relies on is gone"
        session._retry_connection = False
        yield session


async def log_in(session: aiohttp.ClientSession, platform: Platform, number: int, *, url: str = "") -> Customer:
    """Logs the customer of this number in, through `url` (the platform's balancer unless given)."""
    base = url or platform.url
    row = platform.customers[number]
    credentials = {"email": row["email"], "password": row["password"]}
    reply = await send(session, "POST", f"{base}/v1/sessions", json=credentials)
    assert reply.status == 201, reply
    return Customer(session=session, url=base, token=reply.body["token"], account=reply.body["account"])


async def at_rate(per_second: float, seconds: float, attempt: Callable[[int], Awaitable[Reply]]) -> list[Reply]:
    """Makes attempts on schedule, whatever earlier ones do; their replies in order."""
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    tasks = []
    for number in range(round(per_second * seconds)):
        await asyncio.sleep(max(0.0, start_s + number / per_second - loop.time()))
        tasks.append(asyncio.ensure_future(attempt(number)))
    return list(await asyncio.gather(*tasks))


async def until(ask: Callable[[], Awaitable[AnswerT]], accept: Callable[[AnswerT], bool]) -> AnswerT:
    """Asks again and again, fifty times a second, until the answer is accepted; bound it by `asyncio.timeout`."""
    while not accept(answer := await ask()):  # noqa: ASYNC110 - another process's state: no event can be awaited
        await asyncio.sleep(0.02)
    return answer
