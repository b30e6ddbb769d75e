"""Drawing an experiment: which faults, how many, when, and with which numbers; the same seed draws the same.

a kind --rng--> its parameters --rng--> its time --fits?--> taken      (some tries each; what does not fit is left out)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from chaos.swarm.ranges import Range

_TRIES: Final = 12
"""How often another one is drawn in the place of one that does not fit."""
_BESIDE: Final = 0.5
"""How many of the later ones begin while an earlier one is in force: what two do together is rarely looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One fault that may be drawn: `label` tells it from the others, `params` are values and ranges as written."""

    label: str
    name: str
    params: Mapping[str, Any]
    ranges: Mapping[str, Range]

    def written(self, choose: Callable[[Range], Any]) -> dict[str, Any]:
        """Its parameters with a value for each range."""
        return {key: choose(self.ranges[key]) if key in self.ranges else value for key, value in self.params.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """At most `in_all` faults, of which at most `at_once` are in force at a time, within `room_s`."""

    at_once: int
    in_all: int
    room_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One fault of a drawn experiment."""

    kind: Kind
    params: Mapping[str, Any]
    at_ms: int

    @property
    def entry(self) -> dict[str, Any]:
        """As an experiment writes it."""
        return {self.kind.name: dict(self.params), "at": f"{self.at_ms}ms"}


Span = tuple[float, float]
"""From when until when a fault is in force, in seconds of the phase."""
Fits = Callable[[Sequence[Drawn]], "Sequence[Span] | None"]
"""When each of these is in force; None where they cannot all be played."""


def draw(kinds: Sequence[Kind], limits: Limits, seed: int, fits: Fits) -> tuple[Drawn, ...]:
    """The faults of the experiment of a seed, in order of time: at least one, if any fits by itself at the start."""
    rng = Random(f"{seed}:swarm")  # noqa: S311  (repeatable, not secret)
    taken: tuple[Drawn, ...] = ()
    spans: Sequence[Span] = ()
    for _ in range(rng.randint(1, limits.in_all)):
        for _ in range(_TRIES):
            with_it = _in_order([*taken, _one(kinds, limits, rng, spans)])
            found = fits(with_it)
            if found is not None and most_at_once(found) <= limits.at_once:
                taken, spans = with_it, found
                break
    return taken or _first_that_fits(kinds, fits)


def most_at_once(spans: Sequence[Span]) -> int:
    """How many are in force at a time, at most; one that begins just when another ends counts beside it."""
    return max((sum(begins <= at <= ends for begins, ends in spans) for at, _ in spans), default=0)


def _one(kinds: Sequence[Kind], limits: Limits, rng: Random, spans: Sequence[Span]) -> Drawn:
    kind = rng.choice(kinds)
    params = kind.written(lambda one: one.draw(rng))
    begins_s, ends_s = (0.0, limits.room_s)
    if spans and rng.random() < _BESIDE:
        begins_s, ends_s = rng.choice(spans)
    return Drawn(kind=kind, params=params, at_ms=rng.randint(int(begins_s * 1000), max(1, int(ends_s * 1000))))


def _first_that_fits(kinds: Sequence[Kind], fits: Fits) -> tuple[Drawn, ...]:
    for kind in kinds:
        alone = (Drawn(kind=kind, params=kind.written(lambda one: one.sample(0)), at_ms=0),)
        if fits(alone) is not None:
            return alone
    return ()


def _in_order(drawn: Sequence[Drawn]) -> tuple[Drawn, ...]:
    return tuple(sorted(drawn, key=lambda one: one.at_ms))
