"""How many items to take at a time, so that each time takes about as long whatever the machine is busy with."""

from typing import Final

TARGET_S: Final = 0.06
"""A chunk holds its accounts for this long; the ledger's rule is at most a tenth of a second."""
FIRST: Final = 1000
LEAST: Final = 100
"""Below this a chunk costs mostly its own commit, and smaller ones would only take longer together."""


def next_limit(limit: int, *, items: int, took_s: float, at_most: int) -> int:
    """The limit after a chunk of `items` took so long: at most twice as many, never fewer than LEAST.

    A chunk that was not full tells nothing of full ones, unless it took too long itself.
    """
    if items < limit and took_s <= TARGET_S:
        return limit
    fitting = int(items * min(2.0, TARGET_S / max(took_s, 1e-6)))
    return min(at_most, max(LEAST, fitting))
