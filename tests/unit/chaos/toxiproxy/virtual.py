"""A link between a source and a sink in virtual time: the real link and stages, without sockets and without waiting."""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count

from chaos.toxiproxy.installed import InstalledToxic, Stream
from chaos.toxiproxy.link import Link
from chaos.toxiproxy.toxics.stage import Ending, Toxic

_TURNS = 1_000_000
"""More than any test takes; a link that never comes to rest would take more."""


class Bell:
    """An alarm that can be cancelled."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """It does not ring."""
        self.callback = None


class Clockwork:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._bells: list[tuple[float, int, Bell]] = []
        self._numbers = count()

    def call_soon(self, callback: Callable[[], object]) -> Bell:
        """Calls back without time passing, but not now."""
        return self.call_later(0.0, callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Bell:
        """Calls back when so much time has passed."""
        bell = Bell(callback)
        heapq.heappush(self._bells, (self.now_s + delay, next(self._numbers), bell))
        return bell

    def run(self, until_s: float) -> None:
        """Lets time pass; every bell rings at its time."""
        for _ in range(_TURNS):
            if not self._bells or self._bells[0][0] > until_s:
                self.now_s = max(self.now_s, until_s)
                return
            due_s, _, bell = heapq.heappop(self._bells)
            self.now_s = max(self.now_s, due_s)
            if bell.callback is not None:
                bell.callback()
        raise AssertionError(f"the link does not come to rest at {self.now_s} s")


class Passage:
    """One direction: what is sent waits until the link reads; what comes out is kept with its time."""

    def __init__(self, toxics: Sequence[InstalledToxic] = (), *, seed: str = "seed") -> None:
        self.clockwork = Clockwork()
        self.pieces: list[tuple[float, bytes]] = []
        self.ending: Ending | None = None
        self.ended_s: float | None = None
        self.reading = False
        self.fed_bytes = 0
        self._takes = True
        self._waiting: deque[bytes | None] = deque()
        self.link = Link(
            Stream.DOWNSTREAM,
            toxics,
            source=self,
            sink=self,
            seed_text=seed,
            alarms=self.clockwork,
            clock=lambda: self.clockwork.now_s,
        )
        self.link.pump()

    @property
    def received(self) -> bytes:
        """Everything that came out."""
        return b"".join(piece for _, piece in self.pieces)

    def send(self, data: bytes | None) -> None:
        """Sends data, or the end (None)."""
        self._waiting.append(data)
        self._feed()

    def take(self, *, ready: bool) -> None:
        """Whether the receiver reads."""
        self._takes = ready
        self.link.pump()

    def run(self, for_s: float) -> None:
        """Lets time pass."""
        self.clockwork.run(self.clockwork.now_s + for_s)

    def set_reading(self, *, wanted: bool) -> None:
        """As a socket: what waits comes later, not within this call."""
        self.reading = wanted
        if wanted:
            self.clockwork.call_soon(self._feed)

    def ready(self) -> bool:
        """Whether the receiver reads."""
        return self._takes

    def write(self, data: bytes) -> None:
        """Keeps what came out."""
        assert self.ending is None, "data after the end"
        self.pieces.append((self.clockwork.now_s, data))

    def end(self, ending: Ending) -> None:
        """Keeps how it ended."""
        assert self.ending is None, "a second end"
        self.ending, self.ended_s = ending, self.clockwork.now_s

    def _feed(self) -> None:
        while self._waiting and self.reading and self.ending is None:
            data = self._waiting.popleft()
            if data is None:
                self.link.feed_end()
            else:
                self.fed_bytes += len(data)
                self.link.feed(data)


def installed(toxic: Toxic, *, toxicity: float = 1.0, name: str = "toxic") -> InstalledToxic:
    """A toxic as it stands on a proxy, downstream."""
    return InstalledToxic(name=name, stream=Stream.DOWNSTREAM, stream_text="downstream", toxicity=toxicity, toxic=toxic)
