"""The toxic that closes after so much data."""

from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

from chaos.toxiproxy.toxics.stage import Chunk, Ending, Item, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitData:
    """Let `limit_bytes` pass in this direction of each connection, then close it; at 0, at the first data."""

    TYPE: ClassVar[str] = "limit_data"
    CLOSES_WHEN_REMOVED: ClassVar[bool] = False

    limit_bytes: int = field(default=0, metadata={"attribute": "bytes"})

    def stage(self, random: Random, *, now_s: float, passed_bytes: int) -> Stage:
        """A stage that goes on counting where an earlier one of this toxic stopped."""
        del random, now_s
        return _Limiting(self.limit_bytes, passed_bytes)


class _Limiting(Stage):
    __slots__ = ("_limit_bytes",)

    def __init__(self, limit_bytes: int, passed_bytes: int) -> None:
        super().__init__()
        self._limit_bytes = limit_bytes
        self.passed_bytes = passed_bytes

    def put(self, item: Item, now_s: float) -> None:
        del now_s
        if isinstance(item, Ending):
            self._hold(item)
            return
        allowed_bytes = max(self._limit_bytes - self.passed_bytes - self._held_bytes, 0)
        data = item.data[:allowed_bytes]
        if data:
            self._hold(Chunk(item.arrived_s, data))
        if len(data) == allowed_bytes:
            self._hold(Ending.CLOSE)

    def take(self, now_s: float) -> Item:
        del now_s
        item = self._release()
        if not isinstance(item, Ending):
            self.passed_bytes += len(item.data)
        return item
