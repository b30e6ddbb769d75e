"""When to stop an experiment early: limits on what clients see, watched while it runs.

status lines of load and prober -> Sample, Sample, ... -> Guardrail.value(samples) over max? -> abort and heal
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import Field

from metrics.registry import Registry
from metrics.units import PositiveSeconds, Ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one source (load or prober) has counted up to `t_s`."""

    t_s: float
    ok: int
    failed: int
    """Whatever is neither a success nor a correct answer that declines."""


class Guardrail(Protocol):
    """A limit; pure."""

    @property
    def limit(self) -> float:
        """What `value` may not exceed."""

    @property
    def over_s(self) -> float:
        """How many seconds of samples `value` looks at."""

    def value(self, samples: Sequence[Sample]) -> float | None:
        """The measured value over the newest `over_s` of one source; None while that much has not been seen."""


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
