"""The toxic that delays."""

from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar, Final

from chaos.toxiproxy.toxics.stage import Chunk, Ending, Item, Stage

_HELD_LIMIT_BYTES: Final = 32 * 1024 * 1024
_HELD_LIMIT_CHUNKS: Final = 1024
"""As much as may be under way at once: a delay must not lower the rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Delay all data by `latency_ms`, give or take `jitter_ms`, counted from its arrival; the order stays."""

    TYPE: ClassVar[str] = "latency"
    CLOSES_WHEN_REMOVED: ClassVar[bool] = False

    latency_ms: int = field(default=0, metadata={"attribute": "latency"})
    jitter_ms: int = field(default=0, metadata={"attribute": "jitter"})

    def stage(self, random: Random, *, now_s: float, passed_bytes: int) -> Stage:
        """A stage with a delay of its own for every chunk."""
        del now_s, passed_bytes
        return _Delaying(self, random)


class _Delaying(Stage):
    __slots__ = ("_due", "_random", "_toxic")

    def __init__(self, toxic: Latency, random: Random) -> None:
        super().__init__()
        self._toxic = toxic
        self._random = random
        self._due: deque[float] = deque()

    def accepts(self) -> bool:
        return self._held_bytes < _HELD_LIMIT_BYTES and len(self._held) < _HELD_LIMIT_CHUNKS and not self._ended

    def put(self, item: Item, now_s: float) -> None:
        # An ending waits for the data before it and for nothing else.
        self._due.append(now_s if isinstance(item, Ending) else item.arrived_s + self._delay_s())
        self._hold(item)

    def due_s(self) -> float | None:
        return self._due[0] if self._due else None

    def take(self, now_s: float) -> Item:
        del now_s
        due_s = self._due.popleft()
        item = self._release()
        # The next toxic that delays counts from when this one was to let the data go.
        return item if isinstance(item, Ending) else Chunk(max(due_s, item.arrived_s), item.data)

    def _delay_s(self) -> float:
        delay_ms = self._toxic.latency_ms
        if self._toxic.jitter_ms > 0:
            delay_ms += self._random.randrange(-self._toxic.jitter_ms, self._toxic.jitter_ms)
        return delay_ms / 1000
