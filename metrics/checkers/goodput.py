"""How much was answered well while much was asked: a service that cannot serve all must go on serving what it can."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from metrics.checkers.checker import CHECKERS
from metrics.findings import Finding, Grade, count
from metrics.units import PerSecond, PositiveSeconds, Ratio, format_duration

if TYPE_CHECKING:
    from metrics.evidence import Evidence
    from metrics.offering import Loaded
    from metrics.operations import Operations

LATE_S = 2.0
"""Who waits longer has given up, unless an experiment says otherwise."""
STRETCH_S = 5
"""A rate is that of so many seconds: a collapse lasts, a pause does not."""


@CHECKERS.register("goodput")
@dataclass(frozen=True, slots=True, kw_only=True)
class Goodput:
    """In seconds with at least `over` arrivals, `min` of what was offered, or `min_rate`, is answered well.

    Well is a success, or a correct no, within `late` (2 s unless told otherwise) of the intended start; whatever is
    shed is not. `min` is a share of all that was meant to start in those seconds; `min_rate` must be reached in every
    5 s of them, from the third second on. With `operations` only requests of these kinds are looked at, though `over`
    counts all. Unknown where the load never was that high for `at_least` (5 s).
    """

    over_per_s: Annotated[PerSecond, Field(alias="over")]
    min_ratio: Annotated[Ratio | None, Field(alias="min")] = None
    min_per_s: Annotated[PerSecond | None, Field(alias="min_rate")] = None
    operations: Annotated[list[str], Field(min_length=1)] | None = None
    late_s: Annotated[PositiveSeconds, Field(alias="late")] = LATE_S
    at_least_s: Annotated[PositiveSeconds, Field(alias="at_least")] = float(STRETCH_S)

    def __post_init__(self) -> None:
        if (self.min_ratio is None) == (self.min_per_s is None):
            raise ValueError("name either min, a share of what is offered, or min_rate")

    @property
    def title(self) -> str:
        """The name of the finding."""
        kinds = "" if self.operations is None else f" of {','.join(self.operations)}"
        return f"goodput:over {self.over_per_s:g}/s{kinds}"

    def check(self, evidence: "Evidence") -> Finding:
        """Finds the loaded seconds, then counts what was answered well in them."""
        from metrics.offering import loaded_seconds
        from metrics.soundness import history_doubts, load_doubts

        loaded = loaded_seconds(evidence, over_per_s=self.over_per_s)
        requests = evidence.requests
        if self.operations is not None:
            requests = requests.take(requests.f.equals(*self.operations))
        doubts = [*history_doubts(evidence), *load_doubts(evidence)]
        if loaded.seconds < self.at_least_s:
            text = f"{self.over_per_s:g}/s were asked for in {count(loaded.seconds, 'second')} only"
            doubts.append(f"{text}, not {format_duration(self.at_least_s)}")
        if self.min_ratio is not None:
            return self._share(loaded, requests, self.min_ratio).doubted(doubts)
        return self._rate(evidence, loaded, requests).doubted(doubts)

    def _share(self, loaded: "Loaded", requests: "Operations", limit: float) -> Finding:
        asked = requests.take(loaded.holds(requests.intended_ns))
        good = int(self._good(asked).sum())
        share = good / len(asked) if len(asked) else None
        finding = Finding(
            name=self.title,
            grade=Grade.FAIL if share is not None and share < limit else Grade.PASS,
            value=None if share is None else round(share, 6),
            limit=limit,
            unit="ratio",
            sense="at least",
            witness=[_numbers(loaded, asked, good)],
            detail=(
                f"{good:,} of {count(len(asked), 'request')} in {count(loaded.seconds, 'second')} of at least "
                f"{self.over_per_s:g}/s were answered well within {format_duration(self.late_s)}."
            ),
        )
        return finding.doubted([] if len(asked) else ["nothing of that kind was asked"])

    def _rate(self, evidence: "Evidence", loaded: "Loaded", requests: "Operations") -> Finding:
        """The good answers in the worst 5 s in a row, by when they came."""
        import numpy as np

        good = requests.take(self._good(requests))
        ends_ns = np.sort(good.end_ns)
        worst: tuple[float, int] | None = None
        for start_ns, end_ns in loaded.stretches():
            # The first answers of a rise belong to what came before it.
            firsts = range(start_ns + 2 * 10**9, end_ns - STRETCH_S * 10**9 + 1, 10**9)
            for first_ns in firsts:
                low, high = np.searchsorted(ends_ns, [first_ns, first_ns + STRETCH_S * 10**9])
                rate = float(high - low) / STRETCH_S
                worst = min(worst or (rate, first_ns), (rate, first_ns))
        limit = self.min_per_s or 0.0
        finding = Finding(
            name=self.title,
            grade=Grade.FAIL if worst is not None and worst[0] < limit else Grade.PASS,
            value=None if worst is None else worst[0],
            limit=limit,
            unit="answers/s",
            sense="at least",
            witness=[] if worst is None else [{"from_s": evidence.seconds(worst[1]), "good_per_s": worst[0]}],
            detail=(
                f"The worst {STRETCH_S} s in a row of {count(loaded.seconds, 'second')} of at least "
                f"{self.over_per_s:g}/s; at the most {int(loaded.offered.max(initial=0)):,} were offered in a second."
            ),
        )
        return finding.doubted([] if worst is not None else [f"no {STRETCH_S + 2} s in a row were loaded"])

    def _good(self, requests: "Operations") -> Any:
        return ~requests.bad & (requests.latency_s <= self.late_s)


def _numbers(loaded: "Loaded", asked: "Operations", good: int) -> dict[str, Any]:
    """What a share was made of, with the most frequent errors."""
    errors = Counter(asked.error[int(place)] or "no answer" for place in asked.bad.nonzero()[0])
    return {"seconds": loaded.seconds, "offered": len(asked), "good": good, "errors": dict(errors.most_common(5))}
