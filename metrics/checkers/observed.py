"""What a reading of the target said: how much a counter grew, or which value it had last."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field

from metrics.checkers.checker import CHECKERS
from metrics.findings import Finding, Grade

if TYPE_CHECKING:
    from metrics.evidence import Evidence, Reading

Phase = Literal["warmup", "baseline", "faults", "recovery", "quiet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a number may be; `is` wants just this value, which may be text."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    min: float | None = None
    max: float | None = None
    equals: Annotated[float | str | None, Field(alias="is")] = None

    def __post_init__(self) -> None:
        if self.min is None and self.max is None and self.equals is None:
            raise ValueError("name at least one of min, max, is")

    def met(self, value: Any) -> bool:
        """Whether the value is as wanted; text is never within numbers."""
        if self.equals is not None and value != self.equals:
            return False
        if self.min is None and self.max is None:
            return True
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)

    def __str__(self) -> str:
        given = (("is", self.equals), ("min", self.min), ("max", self.max))
        return " ".join(f"{name} {_read(value)}" for name, value in given if value is not None)


@CHECKERS.register("observed")
@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A reading's `increase` (steps down, as when a counter restarts, do not count) or its `last` value fits.

    Looked at from the start of the baseline to the end, or in one `phase` only. Unknown without readings.
    """

    reading: str
    increase: Limits | None = None
    last: Limits | None = None
    phase: Phase | None = None

    def __post_init__(self) -> None:
        if (self.increase is None) == (self.last is None):
            raise ValueError("name either increase or last, with min, max or is")

    @property
    def _limits(self) -> Limits:
        if self.increase is not None:
            return self.increase
        if self.last is not None:
            return self.last
        raise AssertionError("construction makes sure that one of the two is given")

    @property
    def title(self) -> str:
        """The name of the finding."""
        return f"observed:{self.reading}"

    def check(self, evidence: "Evidence") -> Finding:
        """Reads the values that were noted at the edges of the phases."""
        if self.reading not in evidence.readings:
            known = ", ".join(sorted(evidence.readings)) or "none"
            told = f"{self.reading!r} was never read; readings of this run: {known}."
            return Finding(name=self.title, grade=Grade.UNKNOWN, detail=told)
        readings = self._within(evidence)
        limits = self._limits
        value = grown(readings) if self.increase else (readings[-1].value if readings else None)
        witness = [{"at_s": evidence.seconds(one.t_ns), "at": one.at, "value": one.value} for one in readings]
        finding = Finding(
            name=self.title,
            grade=Grade.PASS,
            value=value if isinstance(value, int | float | str) else None,
            limit=str(limits),
            sense="",
            witness=witness,
            detail=f"{self.reading} {'grew by' if self.increase else 'was last'} {_read(value)}.",
        )
        if value is None:
            return finding.doubted(["it was not read often enough, or not as a number"])
        if limits.met(value):
            return finding
        return replace(finding, grade=Grade.FAIL)

    def _within(self, evidence: "Evidence") -> Sequence["Reading"]:
        """Readings of the time asked for, with the nearest before it where counting has to begin."""
        readings = sorted(evidence.readings[self.reading], key=lambda one: one.t_ns)
        phase = self.phase or "baseline"
        if phase not in evidence.phases:
            return []
        start_ns, end_ns = evidence.phases[phase]
        if self.phase is None:
            end_ns = max(readings[-1].t_ns, end_ns)
        inside = [one for one in readings if start_ns <= one.t_ns <= end_ns]
        if self.increase is None:
            return inside
        before = [one for one in readings if one.t_ns < start_ns][-1:]
        after = [one for one in readings if one.t_ns > end_ns][:1]
        return [*before, *inside, *after]


def grown(readings: Sequence["Reading"]) -> float | None:
    """The sum of all steps up; None with fewer than two numbers or anything that is none."""
    values = [one.value for one in readings]
    if len(values) < 2 or any(isinstance(one, bool) or not isinstance(one, int | float) for one in values):
        return None
    return math.fsum(max(0.0, after - before) for before, after in pairwise(values))


def _read(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
