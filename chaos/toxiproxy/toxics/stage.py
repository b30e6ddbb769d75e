"""What a toxic does to one direction of one connection, as a machine that is told the time: no socket, no clock.

    put(item) -> [ stage holds items ] -> due_s() says when, take() gives the next one

A link puts items in only while `accepts()`, so that each stage holds a bounded amount and a fast sender is slowed
down instead. When a toxic is changed or removed, `leave()` gives back what the stage still holds, in order.
"""

from collections import deque
from dataclasses import Field
from enum import Enum
from random import Random
from typing import Any, ClassVar, Final, NamedTuple, Protocol

AT_ONCE: Final = float("-inf")
"""A due time that has always come."""
HELD_LIMIT_BYTES: Final = 64 * 1024
"""From this much on, a stage accepts nothing more; what one read of a socket gave may exceed it."""


class Chunk(NamedTuple):
    """Data with the time (monotonic seconds) since when the toxics that delay count its age."""

    arrived_s: float
    data: bytes


class Ending(Enum):
    """How a direction ends: as its sender ended it, or cut off by a toxic."""

    END = "end"
    CLOSE = "close"
    RESET = "reset"


Item = Chunk | Ending


class Toxic(Protocol):
    """The frozen description of a toxic: its attributes, and the stage that does them to a direction."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    TYPE: ClassVar[str]
    CLOSES_WHEN_REMOVED: ClassVar[bool]
    """Whether connections that it was in force on are closed when it is removed."""

    def stage(self, random: Random, *, now_s: float, passed_bytes: int) -> "Stage":
        """A new stage; `passed_bytes` is what earlier stages of this toxic let pass in this direction."""


class Stage:
    """Passes everything on at once; the toxics' stages differ from it in when and what."""

    PASSES_ONLY_ENDINGS: ClassVar[bool] = False
    """Nothing but an ending comes out, so that a receiver that does not read holds nothing up."""
    PASSES_ONE_BY_ONE: ClassVar[bool] = False
    """Items are to stay apart on the wire, too."""

    __slots__ = ("_ended", "_held", "_held_bytes", "_sent_bytes", "passed_bytes")

    def __init__(self) -> None:
        self._held: deque[Item] = deque()
        self._held_bytes = 0
        self._sent_bytes = 0  # of the first chunk, where it is passed on in parts
        self._ended = False
        self.passed_bytes = 0

    def accepts(self) -> bool:
        """Whether more may be put in now."""
        return self._held_bytes < HELD_LIMIT_BYTES and not self._ended

    def put(self, item: Item, now_s: float) -> None:
        """Takes an item in; nothing follows an ending."""
        del now_s
        self._hold(item)

    def due_s(self) -> float | None:
        """When `take` may be called; None: not before something is put in."""
        return AT_ONCE if self._held else None

    def take(self, now_s: float) -> Item:
        """The next item; only when it is due."""
        del now_s
        return self._release()

    def leave(self) -> list[Item]:
        """What is still held, in order; the stage is not used any more."""
        items = list(self._held)
        if self._sent_bytes and not isinstance(items[0], Ending):
            items[0] = Chunk(items[0].arrived_s, items[0].data[self._sent_bytes :])
        return items

    def _hold(self, item: Item) -> None:
        self._held.append(item)
        if isinstance(item, Ending):
            self._ended = True
        else:
            self._held_bytes += len(item.data)

    def _release_part(self, end: int) -> Item:
        """The part of the first chunk up to `end`, behind what was released of it before."""
        item = self._held[0]
        if isinstance(item, Ending):
            return self._release()
        part = Chunk(item.arrived_s, item.data[self._sent_bytes : end])
        self._sent_bytes = end
        if end == len(item.data):
            self._release()
            self._sent_bytes = 0
        return part

    def _release(self) -> Item:
        item = self._held.popleft()
        if not isinstance(item, Ending):
            self._held_bytes -= len(item.data)
        return item
