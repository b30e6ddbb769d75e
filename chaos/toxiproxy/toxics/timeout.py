"""The toxic that swallows everything."""

from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

from chaos.toxiproxy.toxics.stage import Ending, Item, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeout:
    """Drop all data; close the connection when nothing came for `timeout_ms` (0 or below: never)."""

    TYPE: ClassVar[str] = "timeout"
    CLOSES_WHEN_REMOVED: ClassVar[bool] = True

    timeout_ms: int = field(default=0, metadata={"attribute": "timeout"})

    def stage(self, random: Random, *, now_s: float, passed_bytes: int) -> Stage:
        """A stage out of which comes only a close."""
        del random, passed_bytes
        return _Dropping(self.timeout_ms / 1000, now_s)


class _Dropping(Stage):
    PASSES_ONLY_ENDINGS: ClassVar[bool] = True

    __slots__ = ("_close_due_s", "_timeout_s")

    def __init__(self, timeout_s: float, now_s: float) -> None:
        super().__init__()
        self._timeout_s = timeout_s
        self._close_due_s = now_s + timeout_s if timeout_s > 0 else None

    def put(self, item: Item, now_s: float) -> None:
        if isinstance(item, Ending):
            # The sender is done; that is dropped as well, and the time that runs already goes on.
            self._ended = True
        elif self._timeout_s > 0:
            self._close_due_s = now_s + self._timeout_s

    def due_s(self) -> float | None:
        return self._close_due_s

    def take(self, now_s: float) -> Item:
        del now_s
        self._close_due_s = None
        self._ended = True
        return Ending.CLOSE
