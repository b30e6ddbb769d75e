"""When a fault plays: what an experiment writes, and what is left of it to be decided while the run goes on.

at, every, times, jitter, random   resolved by the seed: a time
after, when                        decided by what happens: a trigger, with the times between which it can come
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from chaos.parameters import Strict
from metrics.units import PositiveSeconds, Ratio, Seconds

Moment = Literal["healed", "effect"]


class AtRandom(Strict):
    """So many times, each at any moment `within` this long from `at` on."""

    times: Annotated[int, Field(ge=1, le=10_000)]
    within: PositiveSeconds


class After(Strict):
    """Which earlier entry to follow, by its `as` or its fault: when that is `healed`, or its `effect` shows."""

    healed: str | None = None
    effect: str | None = None

    @model_validator(mode="after")
    def _one_moment(self) -> Self:
        if (self.healed is None) == (self.effect is None):
            raise ValueError("give exactly one of healed, effect: the name of an earlier entry")
        return self


class When(Strict):
    """A reading of the target's `observe` and what it has to come to: `above`, `below` a limit, or `is` a value.

    It is waited for from the start of the phase on, `within` this long (by default as long as the rest still fits).
    """

    observe: Annotated[str, Field(min_length=1)]
    above: float | None = None
    below: float | None = None
    equals: Annotated[str | float | None, Field(alias="is")] = None
    within: PositiveSeconds | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if sum(one is not None for one in (self.above, self.below, self.equals)) != 1:
            raise ValueError("give exactly one of above, below, is")
        return self


class Step(Strict):
    """When an item of a group begins: `at` after the group, or in a `sequence` after the one before it is healed."""

    at: Seconds = 0.0


class Schedule(Strict):
    """When an entry plays: first `at`, then `every`, at most `times` (needs `every`), each up to `jitter` later.

    Or at `random`, `after` another entry each time that plays, or once `when` a reading reaches a limit; then `at` is
    how long after that.
    """

    at: Seconds = 0.0
    every: PositiveSeconds | None = None
    times: Annotated[int, Field(ge=1, le=10_000)] | None = None
    jitter: Seconds = 0.0
    random: AtRandom | None = None
    after: str | After | None = None
    when: When | None = None
    label: Annotated[str | None, Field(alias="as", min_length=1, description="a name for `after` to refer to")] = None

    @property
    def follows(self) -> tuple[str, Moment] | None:
        """The entry that it comes after, and which moment of that."""
        if isinstance(self.after, After):
            named = self.after.healed or self.after.effect or ""
            return named, "healed" if self.after.healed is not None else "effect"
        return None if self.after is None else (self.after, "healed")


SCHEDULE_KEYS = tuple(field.alias or name for name, field in Schedule.model_fields.items())


class BlastRadius(Strict):
    """How much of a role may be in the hands of faults at a time: `instances` of it, a `percent` of it, or both."""

    instances: Annotated[int, Field(ge=1)] | None = None
    percent: Annotated[Ratio, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _some_limit(self) -> Self:
        if self.instances is None and self.percent is None:
            raise ValueError("give instances (such as 1), percent (such as 50%), or both")
        return self

    def allows(self, members: int) -> int:
        """How many of a role of so many instances; a percentage is rounded down."""
        limits = [members]
        if self.instances is not None:
            limits.append(self.instances)
        if self.percent is not None:
            limits.append(int(self.percent * members + 1e-9))
        return min(limits)

    def to_json(self) -> dict[str, Any]:
        """As in plan.json."""
        return self.model_dump(exclude_none=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """Plays `delay_s` after all of these occurrences have come to a moment of theirs."""

    fault_ids: tuple[str, ...]
    moment: Moment
    delay_s: float

    def to_json(self) -> dict[str, Any]:
        """As in `timeline` of plan.json."""
        return {"after": {"faults": list(self.fault_ids), "moment": self.moment, "delay_s": self.delay_s}}

    def text(self) -> str:
        """For people."""
        return f"after {' and '.join(self.fault_ids)} {'healed' if self.moment == 'healed' else 'shows'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaching:
    """Plays `delay_s` after a reading has come to a limit, if it does so `within_s` of the phase."""

    entry: str
    """Which entry waits: what plays in parallel waits once for all."""
    when: When
    within_s: float
    delay_s: float

    def reached(self, value: object) -> bool:
        """Whether a value of the reading is what is waited for; pure."""
        if self.when.equals is not None:
            return _same(value, self.when.equals)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return value > self.when.above if self.when.above is not None else value < (self.when.below or 0.0)

    @property
    def limit(self) -> str:
        """For people: `queue_depth above 10000`."""
        of_one: dict[str, Any] = {"above": self.when.above, "below": self.when.below, "is": self.when.equals}
        word, value = next((word, value) for word, value in of_one.items() if value is not None)
        return (
            f"{self.when.observe} {word} {value:g}"
            if isinstance(value, float)
            else f"{self.when.observe} {word} {value}"
        )

    def to_json(self) -> dict[str, Any]:
        """As in `timeline` of plan.json."""
        limit = self.when.model_dump(by_alias=True, exclude_none=True, exclude={"within"})
        return {"when": {**limit, "within_s": self.within_s, "delay_s": self.delay_s}}

    def text(self) -> str:
        """For people."""
        return f"when {self.limit}"


Trigger = Following | Reaching


def _same(value: object, wanted: str | float) -> bool:
    if isinstance(wanted, str) or isinstance(value, str):
        return str(value) == str(wanted)
    return value == wanted
