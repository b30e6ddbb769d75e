"""Latency from the intended start, by exact percentiles: a stalled service cannot slow the clock that judges it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from metrics.checkers.checker import CHECKERS
from metrics.findings import Finding, Grade, count
from metrics.units import PositiveSeconds, format_duration

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from metrics.evidence import Evidence

_SHARES: Final[Mapping[str, float]] = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999, "max": 1.0}


@CHECKERS.register("latency", observed=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Percentiles of completion minus intended start stay within their limits; `f` looks at one kind of request.

    Failures count with the time until they failed, an answer that never came as endless. Unknown with
    fewer operations than the percentile needs to exist (100 for p99).
    """

    p50_s: Annotated[PositiveSeconds | None, Field(alias="p50")] = None
    p90_s: Annotated[PositiveSeconds | None, Field(alias="p90")] = None
    p99_s: Annotated[PositiveSeconds | None, Field(alias="p99")] = None
    p99_9_s: Annotated[PositiveSeconds | None, Field(alias="p99_9")] = None
    max_s: Annotated[PositiveSeconds | None, Field(alias="max")] = None
    f: str | None = None

    def __post_init__(self) -> None:
        if not self.limits:
            raise ValueError(f"name at least one limit: {', '.join(_SHARES)}")

    @property
    def limits(self) -> dict[str, float]:
        """Percentile -> limit in seconds, for those that were given."""
        given = {name: getattr(self, f"{name}_s") for name in _SHARES}
        return {name: limit for name, limit in given.items() if limit is not None}

    @property
    def title(self) -> str:
        """The name of the finding."""
        return f"latency:{','.join(self.limits)}" + (f" of {self.f}" if self.f else "")

    def check(self, evidence: "Evidence") -> Finding:
        """Compares each percentile; the finding carries the one that is worst against its limit."""
        import numpy as np

        from metrics.soundness import history_doubts, load_doubts
        from metrics.witnesses import told

        requests = evidence.requests
        if self.f is not None:
            requests = requests.take(requests.f.equals(self.f))
        latency_s = requests.latency_s
        values = percentiles(latency_s, [_SHARES[name] for name in self.limits])
        found = dict(zip(self.limits, values, strict=True))
        doubts = [*history_doubts(evidence), *load_doubts(evidence)]
        if not requests.ok.any():
            doubts.append("no request succeeded")
        doubts += [
            f"{name} needs {needed(_SHARES[name])} requests, {len(requests)} were sent"
            for name in self.limits
            if len(requests) < needed(_SHARES[name])
        ]
        worst = max(self.limits, key=lambda name: (found[name] or 0.0) / self.limits[name])
        value = found[worst]
        over = any(value is not None and value > self.limits[name] for name, value in found.items())
        slowest = np.argsort(-latency_s, kind="stable")[:1]
        failures = int(requests.bad.sum())
        parts = [f"{name} {_read(value)}" for name, value in found.items()]
        return Finding(
            name=self.title,
            grade=Grade.FAIL if over else Grade.PASS,
            value=round(value, 6) if value is not None and math.isfinite(value) else None,
            limit=self.limits[worst],
            unit="s",
            witness=[told(evidence, requests, int(place)) for place in slowest],
            detail=f"{', '.join(parts)} over {count(len(requests), 'request')} from their intended start, "
            f"{count(failures, 'failure')} among them counted with the time until they failed.",
        ).doubted(doubts)


def percentiles(values: "npt.NDArray[np.float64]", shares: list[float]) -> list[float | None]:
    """The smallest value that at least this share of all do not exceed, each; None when there is none."""
    import numpy as np

    if not len(values):
        return [None for _ in shares]
    # A product such as 0.99 * 100 may come out a hair above the whole number it stands for.
    ranks = [max(0, math.ceil(round(share * len(values), 6)) - 1) for share in shares]
    ordered = np.partition(values, sorted(set(ranks)))
    return [float(ordered[rank]) for rank in ranks]


def needed(share: float) -> int:
    """How many values it takes for a percentile to differ from the maximum."""
    return 1 if share >= 1 else round(1 / (1 - share))


def _read(seconds: float | None) -> str:
    if seconds is None:
        return "not measured"
    return format_duration(seconds) if math.isfinite(seconds) else "never answered"
