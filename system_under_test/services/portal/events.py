"""A session's own events, as they happen: server-sent events that last until the client leaves or the node drains.

    hello        once: the scale of all amounts, and after how many seconds without a sign of life to give up
    balance      as GET /v1/balance, and state `closed` while reads are closed
    redemptions  the newest ones, as GET /v1/redemptions
    status       as GET /v1/status: when anything but its clocks has changed, and as the sign of life
    feed         {"current": false} while the node cannot see the database: what was told before may be old
    end          the last event: why, after a `retry:` that says when to come back

Each event carries the whole state of its kind: a client that comes back needs nothing of what it missed. The token goes
into the Authorization header, as everywhere, which the browser's EventSource cannot send: pages read the stream by
fetch.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web

from system_under_test.domain.money import SCALE
from system_under_test.services.portal import problems
from system_under_test.services.portal.feed import Feed, NodeIsFullError, SessionIsFullError, Watcher
from system_under_test.services.portal.node import Node
from system_under_test.services.portal.problems import Problem
from system_under_test.services.portal.public import current_status
from system_under_test.services.portal.requests import Handler, attempt_of, bearer_hash, expired
from system_under_test.services.portal.route import UNAVAILABLE, Route
from system_under_test.storage.ledger import UNAUTHENTICATED
from system_under_test.storage.sessions import Sessions, View

PATH: Final = "/v1/events"
HEARTBEAT_S: Final = 5.0
"""Something is sent at least this often; after twice that a client may take the stream for dead."""
_WRITE_WITHIN_S: Final = 5.0
# Clients of a draining node come back at different moments, and when the balancer has seen the drain.
_RETRY_MS: Final = range(300, 1500)

# What a page goes on counting by itself.
_CLOCKS: Final[Mapping[str, Any]] = {
    "business_time": True,
    "age_s": True,
    "window": {"starts_in_s", "ends_in_s"},
}

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path=PATH,
        operation="watch",
        summary="The session's own events as they happen",
        codes=(200, 401, 429, *UNAVAILABLE),
        media_type="text/event-stream",
        authenticated=True,
        business=False,
        stream=True,
    ),
)


class EventHandlers:
    """Sends what the feed sees."""

    def __init__(self, node: Node) -> None:
        self._node = node
        views = Sessions(node.ledger.database).views
        self._feed = Feed(views, self._outlook, log=node.log, registry=node.metrics.registry)

    def by_operation(self) -> Mapping[str, Handler]:
        """A handler for each operation of this part of the table."""
        return {"watch": self.watch}

    def drain(self) -> None:
        """Ends all streams, each with a hint when to come back."""
        self._feed.drain()

    async def watch(self, request: web.Request) -> web.StreamResponse:
        """Streams until the client leaves, its session ends, or the node drains."""
        token_hash = bearer_hash(request)
        if self._node.draining:
            raise problems.refuse_on_purpose(
                problems.DRAINING, "This node is stopping.", attempt=attempt_of(request), safe=True
            )
        async with self._watching(request, token_hash) as watcher:
            if watcher.view.outcome == UNAUTHENTICATED:
                raise expired()
            response = web.StreamResponse(
                headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}
            )
            reason = await self._stream(watcher, request, response)
            self._feed.count_end(reason)
            if reason in {"left", "too slow"} and request.transport is not None:
                # What is still to be written will not be read: nothing more is waited for.
                request.transport.abort()
            return response

    @asynccontextmanager
    async def _watching(self, request: web.Request, token_hash: bytes) -> AsyncIterator[Watcher]:
        try:
            async with self._feed.watching(token_hash) as watcher:
                yield watcher
        except NodeIsFullError as error:
            raise problems.refuse_on_purpose(
                problems.SHED, "This node has as many streams as it can serve.", attempt=attempt_of(request), safe=True
            ) from error
        except SessionIsFullError as error:
            raise Problem(
                problems.TOO_MANY_STREAMS, "This session has too many streams.", headers={"Retry-After": "5"}
            ) from error

    async def _stream(self, watcher: Watcher, request: web.Request, response: web.StreamResponse) -> str:
        """Sends until the end and gives its reason."""
        told: dict[str, str] = {}
        try:
            await response.prepare(request)
            await _write(response, _event("hello", json.dumps({"scale": SCALE, "silence_s": 2 * HEARTBEAT_S})))
            while True:
                watcher.changed.clear()
                reason = self._reason_to_end(watcher)
                if reason:
                    wait_ms = secrets.choice(_RETRY_MS)
                    await _write(response, f"retry: {wait_ms}\n{_event('end', json.dumps({'reason': reason}))}")
                    return reason
                if news := self._news(watcher, told):
                    await _write(response, news)
                try:
                    await asyncio.wait_for(watcher.changed.wait(), HEARTBEAT_S)
                except TimeoutError:
                    told.pop("status")  # told anew: its clocks have gone on
        except ConnectionResetError:
            return "left"
        except TimeoutError:
            return "too slow"

    def _reason_to_end(self, watcher: Watcher) -> str:
        if self._feed.draining:
            return "draining"
        return UNAUTHENTICATED if watcher.view.outcome == UNAUTHENTICATED else ""

    def _news(self, watcher: Watcher, told: dict[str, str]) -> str:
        """What differs from what was `told`, which is brought up to date."""
        state = {
            "feed": _event("feed", json.dumps({"current": self._feed.current})),
            "balance": _event("balance", _balance(watcher.view)),
            "redemptions": _event("redemptions", f'{{"redemptions":{watcher.view.redemptions}}}'),
        }
        news = [text for kind, text in state.items() if told.get(kind) != text]
        outlook = self._outlook()
        if told.get("status") != outlook:
            news.append(_event("status", current_status(self._node).model_dump_json()))
        told.update(state, status=outlook)
        return "".join(news)

    def _outlook(self) -> str:
        """What there is to tell of the service, without what changes by itself."""
        return current_status(self._node).model_dump_json(exclude=_CLOCKS)


def _balance(view: View) -> str:
    state = "current" if view.outcome == "ok" else view.outcome
    numbers = {"account": view.account, "balance": view.balance, "interest": view.interest, "head": view.head}
    return json.dumps({"state": state, **numbers})


def _event(kind: str, data: str) -> str:
    return f"event: {kind}\ndata: {data}\n\n"


async def _write(response: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(_WRITE_WITHIN_S):
        await response.write(text.encode())
