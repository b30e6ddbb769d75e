"""When to stop an experiment early: limits on what clients see, the target and the machine, watched while it runs.

status lines of load and prober -> Sample, Sample, ... -> Counting.value(samples)   -.
                  target, history, machine, files      -> await Looking.look(around) -> told(value) -> abort and heal
"""

import asyncio
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Protocol, runtime_checkable

from pydantic import Field

from metrics.registry import Registry
from metrics.units import Bytes, PositiveSeconds, Ratio, format_duration

LATENCIES_MIN: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one source (load or prober) has counted up to `t_s`."""

    t_s: float
    ok: int
    failed: int
    """Whatever is neither a success nor a correct answer that declines."""


class Around(Protocol):
    """What a guardrail may look at while a run goes on."""

    @property
    def run_dir(self) -> Path:
        """The run's folder."""

    async def observe(self, reading: str) -> float | str:
        """One of the target's named readings, now; raises a TargetError when that does not work."""

    async def latencies_s(self, over_s: float) -> Sequence[float]:
        """Of each operation intended within the last `over_s`: how long its answer took, or has taken so far."""


class Guardrail(Protocol):
    """A limit; `told` is pure. How it gets its value is that of `Counting` or of `Looking`."""

    @property
    def limit(self) -> float | str:
        """What is allowed, as it is written down."""

    def told(self, value: float | str) -> str | None:
        """What is wrong, in words, where a value lies beyond the limit."""


@runtime_checkable
class Counting(Guardrail, Protocol):
    """A limit on counts of one client; pure."""

    @property
    def over_s(self) -> float:
        """How many seconds of samples `value` looks at."""

    def value(self, samples: Sequence[Sample]) -> float | None:
        """The measured value over the newest `over_s` of one source; None while that much has not been seen."""


@runtime_checkable
class Looking(Guardrail, Protocol):
    """A limit on something that is looked at several times a second."""

    async def look(self, around: Around) -> float | str | None:
        """The value now; None while there is none. One that cannot be read is none: raises a TargetError."""


GUARDRAILS: Registry[type[Guardrail]] = Registry("chaos.guardrails", "guardrail")
"""By the name that experiments use."""


@GUARDRAILS.register("error_rate")
@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRate:
    """At most `max` of what was answered may have failed, `over` a sliding time."""

    max_ratio: Annotated[Ratio, Field(alias="max")]
    over_s: Annotated[PositiveSeconds, Field(alias="over")] = 5.0

    @property
    def limit(self) -> float:
        """The highest share of failures allowed."""
        return self.max_ratio

    def told(self, value: float | str) -> str | None:
        """More than the limit."""
        too_many = not isinstance(value, str) and value > self.max_ratio
        return f"{value:.1%}, limit {self.max_ratio:.1%}" if too_many else None

    def value(self, samples: Sequence[Sample]) -> float | None:
        """Failures as a share of successes and failures within the window."""
        if not samples:
            return None
        newest = samples[-1]
        before = [sample for sample in samples if sample.t_s <= newest.t_s - self.over_s]
        if not before:
            return None
        oldest = before[-1]
        failed = newest.failed - oldest.failed
        answered = failed + newest.ok - oldest.ok
        return failed / answered if answered > 0 else None


@GUARDRAILS.register("latency")
@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """99 % of the operations of a sliding time (`over`) are answered within `p99`, counted from when they were due."""

    p99_s: Annotated[PositiveSeconds, Field(alias="p99")]
    over_s: Annotated[PositiveSeconds, Field(alias="over")] = 5.0

    @property
    def limit(self) -> float:
        """Seconds."""
        return self.p99_s

    def told(self, value: float | str) -> str | None:
        """Longer than the limit."""
        slow = not isinstance(value, str) and value > self.p99_s
        return f"p99 {format_duration(float(value))}, limit {format_duration(self.p99_s)}" if slow else None

    async def look(self, around: Around) -> float | None:
        """The 99th percentile; None of too few operations to have one."""
        return percentile_99(await around.latencies_s(self.over_s))


def percentile_99(latencies_s: Sequence[float]) -> float | None:
    """The smallest value that 99 % do not exceed; None of fewer than 100 values, where a single one would decide."""
    if len(latencies_s) < LATENCIES_MIN:
        return None
    return sorted(latencies_s)[math.ceil(0.99 * len(latencies_s)) - 1]


@GUARDRAILS.register("reading")
@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingLimit:
    """A reading of the target's `observe` stays at most `max`, or at least `min`."""

    observe: Annotated[str, Field(min_length=1)]
    maximum: Annotated[float | None, Field(alias="max")] = None
    minimum: Annotated[float | None, Field(alias="min")] = None

    def __post_init__(self) -> None:
        if (self.maximum is None) == (self.minimum is None):
            raise ValueError("give exactly one of max, min")

    @property
    def limit(self) -> float:
        """The bound that is given."""
        return self.maximum if self.maximum is not None else self.minimum or 0.0

    def told(self, value: float | str) -> str | None:
        """A number beyond it; a text is beyond no number."""
        if isinstance(value, str):
            return None
        beyond = value > self.limit if self.maximum is not None else value < self.limit
        word = "at most" if self.maximum is not None else "at least"
        return f"{self.observe} is {value:g}, allowed is {word} {self.limit:g}" if beyond else None

    async def look(self, around: Around) -> float | str:
        """The reading."""
        return await around.observe(self.observe)


@GUARDRAILS.register("stop_file")
@dataclass(frozen=True, slots=True, kw_only=True)
class StopFile:
    """An emergency stop: the run ends as soon as a file exists at `path` (absolute, or from where `holdfast` runs)."""

    path: Annotated[str, Field(min_length=1)]

    @property
    def limit(self) -> str:
        """That it is not there."""
        return "absent"

    def told(self, value: float | str) -> str | None:
        """It is there."""
        return f"{self.path} exists" if value == "exists" else None

    async def look(self, around: Around) -> str:  # noqa: ARG002
        """Whether it is there."""
        return "exists" if await asyncio.to_thread(os.path.lexists, self.path) else self.limit


@GUARDRAILS.register("disk")
@dataclass(frozen=True, slots=True, kw_only=True)
class FreeDisk:
    """The file system that holds the run keeps at least `min` free."""

    min_bytes: Annotated[Bytes, Field(alias="min", gt=0)]

    @property
    def limit(self) -> float:
        """Bytes."""
        return float(self.min_bytes)

    def told(self, value: float | str) -> str | None:
        """Less than the limit."""
        return _too_little("the disk", value, self.min_bytes)

    async def look(self, around: Around) -> float:
        """Bytes that an ordinary user may still write."""
        there = await asyncio.to_thread(os.statvfs, around.run_dir)
        return float(there.f_bavail * there.f_frsize)


@GUARDRAILS.register("memory")
@dataclass(frozen=True, slots=True, kw_only=True)
class FreeMemory:
    """The machine keeps at least `min` of memory available, as the kernel estimates it."""

    min_bytes: Annotated[Bytes, Field(alias="min", gt=0)]

    @property
    def limit(self) -> float:
        """Bytes."""
        return float(self.min_bytes)

    def told(self, value: float | str) -> str | None:
        """Less than the limit."""
        return _too_little("the machine's memory", value, self.min_bytes)

    async def look(self, around: Around) -> float:  # noqa: ARG002
        """`MemAvailable` of /proc/meminfo, in bytes."""
        return available_memory(await asyncio.to_thread(Path("/proc/meminfo").read_text))


def available_memory(meminfo: str) -> float:
    """Bytes of memory that can be had without swapping, from the text of /proc/meminfo."""
    line = next(line for line in meminfo.splitlines() if line.startswith("MemAvailable:"))
    return float(line.split()[1]) * 1024


def _too_little(of_what: str, value: float | str, min_bytes: float) -> str | None:
    if isinstance(value, str) or value >= min_bytes:
        return None
    return f"{of_what} has {value / 1e6:.0f} MB left, at least {min_bytes / 1e6:.0f} MB must be"
