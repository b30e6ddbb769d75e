"""What a node knows of the sessions that are watching, read for all of them together four times a second.

    database <- one statement for 500 sessions <- Feed -> Watcher.changed -> the stream sends what is new

A watcher only ever sees the newest state: one that is slow skips what came between, and costs no memory.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import prometheus_client
import structlog
from prometheus_client import CollectorRegistry, Gauge

from system_under_test.storage.database import NotDoneError, OutcomeUnknownError
from system_under_test.storage.sessions import View

POLL_S: Final = 0.25
AT_ONCE_MAX: Final = 500
"""Sessions read in one statement: a few hundredths of a second of the database."""
STREAMS_MAX: Final = 2_000
"""Of one node."""
STREAMS_OF_A_SESSION_MAX: Final = 8
ENDED: Final = ("left", "draining", "unauthenticated", "too slow")

Read = Callable[[Sequence[bytes]], Awaitable[Sequence[View]]]


class NodeIsFullError(Exception):
    """The node has as many streams as it can serve."""


class SessionIsFullError(Exception):
    """The session has as many streams as one may have."""


@dataclass(slots=True, kw_only=True, eq=False)
class Watcher:
    """One stream: the newest view of its session, and `changed`, which it waits for and clears."""

    view: View
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Feed:
    """The watched sessions of one node; polls while there are any."""

    def __init__(
        self,
        read: Read,
        outlook: Callable[[], object],
        *,
        log: structlog.stdlib.BoundLogger,
        registry: CollectorRegistry,
    ) -> None:
        self._read = read
        # What all streams tell alike; when it has changed, all are woken.
        self._outlook = outlook
        self._seen = outlook()
        self.log = log
        self._watchers: dict[bytes, set[Watcher]] = {}
        # Streams of each session, those that are being opened as well.
        self._open: Counter[bytes] = Counter()
        self._arriving: list[tuple[bytes, asyncio.Future[View]]] = []
        self._arrival = asyncio.Event()
        self._polling: asyncio.Task[None] | None = None
        self.current = True
        """False while the database does not answer: what watchers were told is as old as that."""
        self.draining = False
        self._streams = Gauge("savings_event_streams", "Event streams that are open.", registry=registry)
        self._ended = prometheus_client.Counter(
            "savings_event_streams_ended", "Streams that ended.", ("reason",), registry=registry
        )
        for reason in ENDED:
            self._ended.labels(reason)

    @asynccontextmanager
    async def watching(self, token_hash: bytes) -> AsyncIterator[Watcher]:
        """A watcher of this session, with its view as it is now.

        Raises:
            NodeIsFullError: the node has `STREAMS_MAX` streams.
            SessionIsFullError: the session has `STREAMS_OF_A_SESSION_MAX`.
        """
        # Counted before the first look, or many that come at once would all find room.
        self._take_room(token_hash)
        try:
            watcher = Watcher(view=await self._first_view(token_hash))
            self._watchers.setdefault(token_hash, set()).add(watcher)
            try:
                yield watcher
            finally:
                self._forget(token_hash, watcher)
        finally:
            self._give_room(token_hash)

    async def _first_view(self, token_hash: bytes) -> View:
        # Those who come at the same moment are read together: thousands may, after a node or the service was away.
        view: asyncio.Future[View] = asyncio.get_running_loop().create_future()
        self._arriving.append((token_hash, view))
        self._arrival.set()
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll())
        return await view

    def count_end(self, reason: str) -> None:
        """Counts a stream that ended, by one of `ENDED`."""
        self._ended.labels(reason).inc()

    def drain(self) -> None:
        """Asks every stream to end."""
        self.draining = True
        self._wake_all()

    def _take_room(self, token_hash: bytes) -> None:
        if self._open.total() >= STREAMS_MAX:
            raise NodeIsFullError
        if self._open[token_hash] >= STREAMS_OF_A_SESSION_MAX:
            raise SessionIsFullError
        self._open[token_hash] += 1
        self._streams.set(self._open.total())

    def _give_room(self, token_hash: bytes) -> None:
        self._open[token_hash] -= 1
        if not self._open[token_hash]:
            del self._open[token_hash]
        self._streams.set(self._open.total())

    def _forget(self, token_hash: bytes, watcher: Watcher) -> None:
        self._watchers[token_hash].discard(watcher)
        if not self._watchers[token_hash]:
            del self._watchers[token_hash]

    async def _poll(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        try:
            while self._open:
                self._arrival.clear()
                await self._welcome()
                began_s = loop.time()
                if began_s >= due_s:
                    await self._look()
                    self._look_out()
                    # Many sessions are read less often, so that they never take more than a quarter of the time.
                    due_s = loop.time() + max(POLL_S, 3 * (loop.time() - began_s))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._arrival.wait(), max(0.0, due_s - loop.time()))
        finally:
            self._polling = None

    async def _welcome(self) -> None:
        while self._arriving:
            arriving, self._arriving = self._arriving[:AT_ONCE_MAX], self._arriving[AT_ONCE_MAX:]
            try:
                views = await self._read([token_hash for token_hash, _ in arriving])
            except Exception as error:  # noqa: BLE001 - raised again where each of them waits
                for _, waiting in arriving:
                    if not waiting.done():
                        waiting.set_exception(error)
                continue
            for (_, waiting), view in zip(arriving, views, strict=True):
                if not waiting.done():  # whoever came has left meanwhile
                    waiting.set_result(view)

    async def _look(self) -> None:
        asked = list(self._watchers)
        parts = [asked[first : first + AT_ONCE_MAX] for first in range(0, len(asked), AT_ONCE_MAX)]
        try:
            views = [view for part in parts for view in await self._read(part)]
        except (NotDoneError, OutcomeUnknownError) as error:
            self._tell_whether_current(current=False, problem=str(error))
            return
        except Exception:
            # Nobody waits for this task: streams would go on with what they have as if it were current.
            self.log.exception("feed.broke")
            self._tell_whether_current(current=False, problem="see feed.broke")
            return
        for token_hash, view in zip(asked, views, strict=True):
            for watcher in self._watchers.get(token_hash, ()):
                if watcher.view != view:
                    watcher.view = view
                    watcher.changed.set()
        self._tell_whether_current(current=True)

    def _look_out(self) -> None:
        outlook = self._outlook()
        if outlook != self._seen:
            self._seen = outlook
            self._wake_all()

    def _tell_whether_current(self, *, current: bool, problem: str = "") -> None:
        if current != self.current:
            self.current = current
            self.log.warning("feed.changed", current=current, problem=problem)
            self._wake_all()

    def _wake_all(self) -> None:
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.changed.set()
