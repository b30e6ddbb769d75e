"""The toxic that cuts data into small pieces."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar, Final

from chaos.toxiproxy.toxics.stage import Ending, Item, Stage

_CARRIED_LATENESS_S: Final = 0.1
"""How much lateness of our own is made up for; what a receiver's slowness cost is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slicer:
    """Cut data into pieces of `average_size_bytes`, give or take `size_variation_bytes`, with `delay_us` after each.

    An average of 0 or below, which is what a slicer has when none is given, cuts nothing.
    """

    TYPE: ClassVar[str] = "slicer"
    CLOSES_WHEN_REMOVED: ClassVar[bool] = False

    average_size_bytes: int = field(default=0, metadata={"attribute": "average_size"})
    size_variation_bytes: int = field(default=0, metadata={"attribute": "size_variation"})
    delay_us: int = field(default=0, metadata={"attribute": "delay"})

    def stage(self, random: Random, *, now_s: float, passed_bytes: int) -> Stage:
        """A stage that lets piece after piece go."""
        del now_s, passed_bytes
        return _Slicing(self, random)

    def cuts(self, size_bytes: int, random: Random) -> Iterator[int]:
        """The ends of the pieces of `size_bytes`, ascending; lazily, since there may be as many as bytes.

        Halves again and again, each cut moved by up to the variation, until a piece is at most average + variation.
        """
        largest = self.average_size_bytes + max(self.size_variation_bytes, 0)
        pending = [(0, size_bytes)]
        while pending:
            start, end = pending.pop()
            if self.average_size_bytes <= 0 or end - start <= largest:
                yield end
                continue
            middle = start + (end - start) // 2
            if self.size_variation_bytes > 0:
                middle += random.randrange(-self.size_variation_bytes, self.size_variation_bytes)
            # A variation above the average would cut outside of the piece.
            middle = min(max(middle, start + 1), end - 1)
            pending += ((middle, end), (start, middle))


class _Slicing(Stage):
    PASSES_ONE_BY_ONE: ClassVar[bool] = True

    __slots__ = ("_cuts", "_free_at_s", "_random", "_toxic")

    def __init__(self, toxic: Slicer, random: Random) -> None:
        super().__init__()
        self._toxic = toxic
        self._random = random
        self._cuts: Iterator[int] | None = None  # of the first chunk
        self._free_at_s = 0.0

    def put(self, item: Item, now_s: float) -> None:
        if not self._held:
            self._free_at_s = max(self._free_at_s, now_s)
        self._hold(item)

    def due_s(self) -> float | None:
        return self._free_at_s if self._held else None

    def take(self, now_s: float) -> Item:
        item = self._held[0]
        if isinstance(item, Ending):
            return self._release()
        if self._cuts is None:
            self._cuts = self._toxic.cuts(len(item.data), self._random)
        piece = self._release_part(next(self._cuts))
        if not self._sent_bytes:
            self._cuts = None
        self._free_at_s = max(self._free_at_s, now_s - _CARRIED_LATENESS_S) + max(self._toxic.delay_us, 0) / 1e6
        return piece
