"""A client of the event stream, as a page reads it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event and when it came, on the monotonic clock."""

    kind: str
    data: Any
    came_s: float


@dataclass(slots=True, kw_only=True, eq=False)
class Watching:
    """A stream under way: what came so far, and whether it ended."""

    node: str
    events: list[Event] = field(default_factory=list)
    retry_ms: int | None = None
    ended: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def newest(self, kind: str) -> Any:
        """The data of the newest event of this kind, None before the first."""
        return next((event.data for event in reversed(self.events) if event.kind == kind), None)

    async def until(self, accept: Callable[["Watching"], object], *, within_s: float = 60.0) -> None:
        """Waits for events until they are accepted."""
        async with asyncio.timeout(within_s):
            while not accept(self):
                self.news.clear()
                await self.news.wait()

    async def read(self, content: aiohttp.StreamReader) -> None:
        """Takes events until the stream ends, however it does."""
        try:
            while block := await content.readuntil(b"\n\n"):
                self._take(block.decode())
                self.news.set()
        except (aiohttp.ClientError, OSError):
            pass
        finally:
            self.ended = True
            self.news.set()

    def _take(self, block: str) -> None:
        fields = dict(line.split(":", 1) for line in block.splitlines() if line)
        if "retry" in fields:
            self.retry_ms = int(fields["retry"])
        if "event" in fields:
            event = Event(kind=fields["event"].strip(), data=json.loads(fields["data"]), came_s=time.monotonic())
            self.events.append(event)


@asynccontextmanager
async def watching(url: str, token: str) -> AsyncIterator[Watching]:
    """Watches a session's events at `url`, with a connection of its own; closed at the end."""
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=5)) as session,
        session.get(f"{url}/v1/events", headers=headers) as response,
    ):
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        stream = Watching(node=response.headers["X-Served-By"])
        reading = asyncio.create_task(stream.read(response.content))
        try:
            yield stream
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
