"""How large the next chunk is, so that one item that cannot be decided is found and the rest goes on.

A chunk that fails is halved until the item that makes it fail stands alone; then whole chunks follow again:

    8 fail -> 4 pass -> 2 fail -> 1 passes -> 1 fails: that one
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Bisection:
    """The chunks to come: at most `limit` items each, fewer while there is a bad one among the next `suspects`."""

    limit: int
    suspects: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a chunk without items."""
        if self.limit < 1 or self.suspects < 0:
            raise ValueError(f"expected limit >= 1 and suspects >= 0, got {self}")

    @property
    def size(self) -> int:
        """How many items to try next."""
        return min(self.limit, max(1, self.suspects // 2)) if self.suspects else self.limit

    @property
    def alone(self) -> bool:
        """Whether a failure of the next chunk tells which item it is."""
        return self.size == 1

    def failed(self) -> "Bisection":
        """After a chunk of `size` items failed and nothing of it was done."""
        return replace(self, suspects=self.size)

    def passed(self, items: int) -> "Bisection":
        """After `items` items were dealt with."""
        return replace(self, suspects=max(0, self.suspects - items))
