"""Delta debugging: the smallest part of what fails that still fails.

Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input" (2002), the algorithm ddmin: parts of the
whole are tried alone, then the whole without each of them, then finer parts, until no single one can be left out.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

Item = TypeVar("Item")
Whole = TypeVar("Whole")


def ddmin(items: Sequence[Item], fails: Callable[[tuple[Item, ...]], bool]) -> tuple[Item, ...]:
    """A part of `items`, in their order, that fails, and that does not without any single one of it.

    `items` themselves must fail, which is not asked again. The same part is never asked for twice. Where `fails` is
    not monotone there may be smaller ones; one that is empty is not asked for.
    """
    known: dict[tuple[int, ...], bool] = {tuple(range(len(items))): True}

    def asked(positions: tuple[int, ...]) -> bool:
        if positions not in known:
            known[positions] = bool(positions) and fails(tuple(items[position] for position in positions))
        return known[positions]

    now = tuple(range(len(items)))
    parts = 2
    while len(now) >= 2:
        pieces = _split(now, parts)
        rests = [tuple(one for one in now if one not in piece) for piece in pieces] if parts > 2 else []
        alone = next(filter(asked, pieces), None)
        if alone is not None:
            now, parts = alone, 2
            continue
        rest = next(filter(asked, rests), None)
        if rest is not None:
            now, parts = rest, max(parts - 1, 2)
        elif parts >= len(now):
            break
        else:
            parts = min(2 * parts, len(now))
    return tuple(items[position] for position in now)


def simplify(
    whole: Whole, simpler: Callable[[Whole], Iterable[Whole]], fails: Callable[[Whole], bool], *, rounds: int
) -> Whole:
    """The whole after every simplification of it, and of what came of it, that still fails; at most so many rounds.

    `simpler` gives the next simplifications of one, each by itself; after each that fails it is asked again.
    """
    refused: list[Whole] = []
    for _ in range(rounds):
        for candidate in simpler(whole):
            if candidate in refused:
                continue
            if fails(candidate):
                whole = candidate
                break
            refused.append(candidate)
        else:
            return whole
    return whole


def _split(items: tuple[int, ...], parts: int) -> list[tuple[int, ...]]:
    """So many pieces, as equal as they can be."""
    bounds = [len(items) * number // parts for number in range(parts + 1)]
    return [items[begin:end] for begin, end in pairwise(bounds)]
