"""The toxic that resets."""

from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

from chaos.toxiproxy.toxics.stage import Ending, Item, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetPeer:
    """Reset the connection (RST on both sides) `timeout_ms` after the first data; none of it passes."""

    TYPE: ClassVar[str] = "reset_peer"
    CLOSES_WHEN_REMOVED: ClassVar[bool] = False

    timeout_ms: int = field(default=0, metadata={"attribute": "timeout"})

    def stage(self, random: Random, *, now_s: float, passed_bytes: int) -> Stage:
        """A stage out of which comes only a reset; removed before that, it gives the data back."""
        del random, now_s, passed_bytes
        return _Resetting(self.timeout_ms / 1000)


class _Resetting(Stage):
    PASSES_ONLY_ENDINGS: ClassVar[bool] = True

    __slots__ = ("_reset_due_s", "_timeout_s")

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self._timeout_s = timeout_s
        self._reset_due_s: float | None = None

    def put(self, item: Item, now_s: float) -> None:
        if not self._held:
            self._reset_due_s = now_s + max(self._timeout_s, 0)
        self._hold(item)

    def due_s(self) -> float | None:
        return self._reset_due_s

    def take(self, now_s: float) -> Item:
        del now_s
        self._reset_due_s = None
        self._ended = True
        self._held.clear()
        return Ending.RESET
