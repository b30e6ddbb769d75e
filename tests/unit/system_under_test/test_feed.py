"""The feed of a node: one reading for all who watch, nothing missed, and bounded."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import pytest
import structlog
from prometheus_client import CollectorRegistry

from system_under_test.services.portal import feed as feeds
from system_under_test.services.portal.feed import Feed, NodeIsFullError, SessionIsFullError, Watcher
from system_under_test.storage.database import NotDoneError
from system_under_test.storage.sessions import View

VIEW = View(outcome="ok", account="c-1", balance=1, interest=0, head=1, redemptions="[]")


@dataclass(slots=True, kw_only=True)
class Shelf:
    """Views by token, as a database that counts what it is asked; `broken` is raised instead."""

    views: dict[bytes, View] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)
    broken: Exception | None = None

    async def read(self, token_hashes: Sequence[bytes]) -> Sequence[View]:
        """The views, after a turn of the loop."""
        await asyncio.sleep(0)
        if self.broken is not None:
            raise self.broken
        self.asked.append(len(token_hashes))
        return [self.views.get(token_hash, VIEW) for token_hash in token_hashes]


@pytest.fixture
def shelf() -> Shelf:
    """An empty one: every token has the same view."""
    return Shelf()


@pytest.fixture
def feed(shelf: Shelf) -> Feed:
    """A feed of the shelf."""
    return Feed(shelf.read, lambda: "open", log=structlog.get_logger(), registry=CollectorRegistry())


async def changed(watcher: Watcher) -> View:
    """The view after the next change; the feed looks the less often, the longer each look takes a busy machine."""
    await asyncio.wait_for(watcher.changed.wait(), 60)
    watcher.changed.clear()
    return watcher.view


async def test_those_who_come_together_are_read_together(feed: Feed, shelf: Shelf) -> None:
    """A hundred begin to watch in the same turn: one reading for all of them, not a hundred."""
    async with AsyncExitStack() as stack:
        tokens = [bytes([number]) * 32 for number in range(100)]
        await asyncio.gather(*(stack.enter_async_context(feed.watching(token)) for token in tokens))
        assert shelf.asked[0] == 100


async def test_a_change_wakes_those_it_concerns(feed: Feed, shelf: Shelf) -> None:
    """Two streams of one session and one of another: both of the first are told, the other is left alone."""
    mine, theirs = b"m" * 32, b"t" * 32
    async with feed.watching(mine) as one, feed.watching(mine) as two, feed.watching(theirs) as other:
        shelf.views[mine] = replace(VIEW, balance=2)
        assert [(await changed(watcher)).balance for watcher in (one, two)] == [2, 2]
        assert not other.changed.is_set()


async def test_a_database_that_fails_makes_all_old_and_then_current_again(feed: Feed, shelf: Shelf) -> None:
    """Each kind of failure, foreseen or not: watchers are woken and the feed is not current, until it answers."""
    async with feed.watching(b"m" * 32) as watcher:
        for broken in (NotDoneError("busy"), ZeroDivisionError()):
            shelf.broken = broken
            await changed(watcher)
            assert feed.current is False
            shelf.broken = None
            await changed(watcher)
            assert feed.current is True


async def test_whoever_comes_while_the_database_fails_is_told_so(feed: Feed, shelf: Shelf) -> None:
    """The first reading fails: the failure reaches the caller, and the room is given back."""
    shelf.broken = NotDoneError("busy")
    for _ in range(feeds.STREAMS_OF_A_SESSION_MAX + 1):
        with pytest.raises(NotDoneError):
            async with feed.watching(b"m" * 32):
                raise AssertionError("there is nothing to watch")
    shelf.broken = None
    async with feed.watching(b"m" * 32) as watcher:
        assert watcher.view == VIEW


async def test_streams_are_bounded_for_a_session_and_for_the_node(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than either allows is refused; who leaves makes room."""
    monkeypatch.setattr(feeds, "STREAMS_MAX", 10)
    async with AsyncExitStack() as stack:
        for _ in range(feeds.STREAMS_OF_A_SESSION_MAX):
            await stack.enter_async_context(feed.watching(b"m" * 32))
        with pytest.raises(SessionIsFullError):
            await stack.enter_async_context(feed.watching(b"m" * 32))
        for _ in range(10 - feeds.STREAMS_OF_A_SESSION_MAX):
            await stack.enter_async_context(feed.watching(b"t" * 32))
        with pytest.raises(NodeIsFullError):
            await stack.enter_async_context(feed.watching(b"o" * 32))
    async with feed.watching(b"o" * 32):
        pass


async def test_a_change_of_the_service_wakes_everybody(shelf: Shelf) -> None:
    """The outlook changes and no view does: both watchers are woken."""
    outlook = ["open"]
    feed = Feed(shelf.read, lambda: outlook[0], log=structlog.get_logger(), registry=CollectorRegistry())
    async with feed.watching(b"m" * 32) as one, feed.watching(b"t" * 32) as other:
        outlook[0] = "closed"
        for watcher in (one, other):
            assert await changed(watcher) == VIEW


async def test_nothing_is_read_when_nobody_watches(feed: Feed, shelf: Shelf) -> None:
    """After the last has left, the reading ends by itself."""
    async with feed.watching(b"m" * 32):
        pass
    assert feed._polling is not None
    await asyncio.wait_for(feed._polling, 60)
    count = len(shelf.asked)
    await asyncio.sleep(2 * feeds.POLL_S)
    assert len(shelf.asked) == count
