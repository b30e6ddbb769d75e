"""The toxic that keeps a finished connection open."""

from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

from chaos.toxiproxy.toxics.stage import AT_ONCE, Ending, Item, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowClose:
    """Pass data at once, but the end of the stream only after `delay_ms`."""

    TYPE: ClassVar[str] = "slow_close"
    CLOSES_WHEN_REMOVED: ClassVar[bool] = False

    delay_ms: int = field(default=0, metadata={"attribute": "delay"})

    def stage(self, random: Random, *, now_s: float, passed_bytes: int) -> Stage:
        """A stage that delays the ending alone."""
        del random, now_s, passed_bytes
        return _Lingering(self.delay_ms / 1000)


class _Lingering(Stage):
    __slots__ = ("_delay_s", "_end_due_s")

    def __init__(self, delay_s: float) -> None:
        super().__init__()
        self._delay_s = delay_s
        self._end_due_s = 0.0

    def put(self, item: Item, now_s: float) -> None:
        if isinstance(item, Ending):
            self._end_due_s = now_s + self._delay_s
        self._hold(item)

    def due_s(self) -> float | None:
        if not self._held:
            return None
        return self._end_due_s if isinstance(self._held[0], Ending) else AT_ONCE
