"""The toxic that limits the rate."""

from dataclasses import dataclass, field
from random import Random
from typing import ClassVar, Final

from chaos.toxiproxy.toxics.stage import AT_ONCE, HELD_LIMIT_BYTES, Ending, Item, Stage

_SLICE_MS: Final = 100
"""No piece takes longer than this, so that a slow stream flows instead of arriving in bursts."""
_CARRIED_LATENESS_S: Final = 0.1
"""How much lateness of our own is made up for; what a receiver's slowness cost is not."""
_HELD_MOST_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """Let at most `rate_kb_per_s` pass (1 KB is 1,000 bytes); nothing passes at 0 or below."""

    TYPE: ClassVar[str] = "bandwidth"
    CLOSES_WHEN_REMOVED: ClassVar[bool] = False

    rate_kb_per_s: int = field(default=0, metadata={"attribute": "rate"})

    def stage(self, random: Random, *, now_s: float, passed_bytes: int) -> Stage:
        """A stage that lets a piece go when sending it would have been over."""
        del random, now_s, passed_bytes
        return _Pacing(self.rate_kb_per_s)


class _Pacing(Stage):
    __slots__ = ("_free_at_s", "_limit_bytes", "_piece_bytes", "_piece_due_s", "_rate")

    def __init__(self, rate_bytes_per_ms: int) -> None:
        super().__init__()
        self._rate = max(rate_bytes_per_ms, 0)
        self._limit_bytes = min(max(HELD_LIMIT_BYTES, 2 * _SLICE_MS * self._rate), _HELD_MOST_BYTES)
        self._free_at_s = 0.0
        self._piece_bytes = 0
        self._piece_due_s: float | None = None

    def accepts(self) -> bool:
        return self._held_bytes < self._limit_bytes and not self._ended

    def put(self, item: Item, now_s: float) -> None:
        self._hold(item)
        if len(self._held) == 1:
            self._free_at_s = max(self._free_at_s, now_s)
            self._plan()

    def due_s(self) -> float | None:
        return self._piece_due_s

    def take(self, now_s: float) -> Item:
        item = self._held[0]
        if isinstance(item, Ending):
            self._piece_due_s = None
            return self._release()
        self._free_at_s = max(self._piece_due_s or AT_ONCE, now_s - _CARRIED_LATENESS_S)
        piece = self._release_part(self._sent_bytes + self._piece_bytes)
        self._plan()
        return piece

    def _plan(self) -> None:
        """When the next piece may go."""
        self._piece_due_s = None
        if not self._held:
            return
        item = self._held[0]
        if isinstance(item, Ending):
            # At rate 0 an ending that stands behind nothing passes: no data is in its way.
            self._piece_due_s = AT_ONCE
        elif self._rate:
            self._piece_bytes = min(len(item.data) - self._sent_bytes, self._rate * _SLICE_MS)
            self._piece_due_s = self._free_at_s + self._piece_bytes / self._rate / 1000
