"""What a parameter of a drawn fault may be: a value, one `between` two, or `any_of` several.

{between: [1s, 3s]} --rng--> 1734ms            {any_of: [portal, signer]} --rng--> signer
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from metrics.units import parse_duration, parse_rate, parse_ratio, parse_size

BETWEEN: Final = "between"
ANY_OF: Final = "any_of"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyOf:
    """One of several values as they are written."""

    values: tuple[Any, ...]

    def draw(self, rng: Random) -> Any:
        """One of them."""
        return rng.choice(self.values)

    def sample(self, number: int) -> Any:
        """One after the other, for trying all."""
        return self.values[number % len(self.values)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """A quantity from `low` to `high`, both included, in whole `steps`."""

    low: Any
    high: Any
    """Both as written."""
    steps: tuple[int, int]
    write: Callable[[int], Any]

    def draw(self, rng: Random) -> Any:
        """One between them, written as people do."""
        return self.write(rng.randint(*self.steps))

    def sample(self, number: int) -> Any:
        """Both ends in turn."""
        return (self.low, self.high)[number % 2]


Range = AnyOf | Between


def range_of(value: object) -> Range | None:
    """What is written as a range; None for a plain value.

    Raises:
        ValueError: a range that cannot be understood, and how one is written.
    """
    if not isinstance(value, Mapping) or not ({BETWEEN, ANY_OF} & set(value)):
        return None
    if len(value) > 1:
        raise ValueError(f"a range is either {BETWEEN} or {ANY_OF}, and nothing beside it")
    given = next(iter(value.values()))
    if ANY_OF in value:
        if not isinstance(given, list) or not given:
            raise ValueError(f"{ANY_OF} takes a list of values such as [portal, signer]")
        return AnyOf(values=tuple(given))
    if not isinstance(given, list) or len(given) != 2:
        raise ValueError(f"{BETWEEN} takes two values such as [1s, 3s]")
    return _between(*given)


def _between(low: object, high: object) -> Between:
    for measure in (_whole, _duration, _ratio, _size, _rate, _decimal):
        scale = measure(low, high)
        if scale is None:
            continue
        steps, write = scale
        if steps[0] > steps[1]:
            raise ValueError(f"{BETWEEN} goes from the smaller to the greater; got {low!r}, {high!r}")
        return Between(low=low, high=high, steps=steps, write=write)
    raise ValueError(f"{BETWEEN} takes two quantities of one kind (1s, 20%, 64MiB, 10/s, 3), got {low!r} and {high!r}")


_Scale = tuple[tuple[int, int], Callable[[int], Any]] | None


def _whole(low: object, high: object) -> _Scale:
    if _number(low) is None or _number(high) is None or not (isinstance(low, int) and isinstance(high, int)):
        return None
    return (low, high), int


def _decimal(low: object, high: object) -> _Scale:
    """A hundred steps: whoever needs finer ones gives a narrower range."""
    first, last = _number(low), _number(high)
    if first is None or last is None:
        return None
    width = last - first

    def write(step: int) -> float:
        return last if step == 100 else min(last, round(first + width * step / 100, 9))

    return ((0, 100) if width >= 0 else (1, 0)), write


def _duration(low: object, high: object) -> _Scale:
    """In milliseconds where both ends are whole ones, else in microseconds."""
    ends = _read(parse_duration, low, high)
    if ends is None:
        return None
    for unit, per_s in (("ms", 1_000), ("us", 1_000_000)):
        steps = tuple(round(end * per_s) for end in ends)
        if all(abs(end * per_s - step) < 1e-6 for end, step in zip(ends, steps, strict=True)):
            return (steps[0], steps[1]), lambda step, unit=unit: f"{step}{unit}"
    return None


def _ratio(low: object, high: object) -> _Scale:
    """In tenths of a percent; numbers without a percent sign are numbers."""
    ends = _read(parse_ratio, low, high) if isinstance(low, str) and isinstance(high, str) else None
    return None if ends is None else ((round(ends[0] * 1000), round(ends[1] * 1000)), lambda step: f"{step / 10:g}%")


def _size(low: object, high: object) -> _Scale:
    ends = _read(parse_size, low, high)
    return None if ends is None else ((int(ends[0]), int(ends[1])), lambda step: f"{step}B")


def _rate(low: object, high: object) -> _Scale:
    """In thousandths a second."""
    ends = _read(parse_rate, low, high)
    return None if ends is None else ((round(ends[0] * 1000), round(ends[1] * 1000)), lambda step: f"{step / 1000:g}/s")


def _read(parse: Callable[[object], float], low: object, high: object) -> tuple[float, float] | None:
    try:
        return parse(low), parse(high)
    except ValueError:
        return None


def _number(value: object) -> float | None:
    return None if isinstance(value, bool) or not isinstance(value, int | float) else value
