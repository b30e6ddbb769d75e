"""Whether nobody was shown a number while reads had to be closed: behind a shut gate, or in a maintenance window."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from metrics.checkers.checker import CHECKERS
from metrics.dumps import WINDOWS, rows_of_kind, unusable
from metrics.findings import Finding, Grade, count

if TYPE_CHECKING:
    from metrics.evidence import Evidence

Span = tuple[int, int]
_EDGE_NS: Final = 100_000_000
"""How far the wall clock of a dump may have drifted from the run's anchor."""
_NEVER: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Closed:
    """When reads had to be closed, [start, end) in monotonic ns, and why some of it is not known."""

    spans: list[Span]
    doubts: list[str]


@CHECKERS.register("withheld")
@dataclass(frozen=True, slots=True, kw_only=True)
class Withheld:
    """No `operation` that was begun while reads had to be closed was answered with a number.

    Closed is either `during` faults of that name, from the proof of their effect until their heal began, or in `dump`
    from each window's `closed` to its `opened`, less 100 ms at both ends. An answer that says `synchronising`, or has a
    balance of null, is no number. Where nobody asked nothing was shown. A change that is kept is no such fault: what it
    started may end by itself.
    """

    operation: str
    during: str | None = None
    dump: str | None = None

    def __post_init__(self) -> None:
        if (self.during is None) == (self.dump is None):
            raise ValueError("name either during or dump")

    @property
    def title(self) -> str:
        """The name of the finding."""
        return f"withheld:{self.operation} during {self.during or self.dump}"

    def check(self, evidence: "Evidence") -> Finding:
        """Looks at every such request by the time it was sent."""
        import numpy as np

        from metrics.soundness import history_doubts
        from metrics.witnesses import WITNESSES_MAX, told

        closed = _of_faults(evidence, self.during) if self.during is not None else _of_dump(evidence, str(self.dump))
        operations = evidence.operations
        asked = np.zeros(len(operations), dtype=np.bool_)
        for start_ns, end_ns in closed.spans:
            asked |= (operations.start_ns >= start_ns) & (operations.start_ns < end_ns)
        asked &= operations.f.equals(self.operation)
        shown = asked & operations.ok & ~operations.answered.where(_says_nothing)
        tried, numbers = int(np.count_nonzero(asked)), int(np.count_nonzero(shown))
        doubts = [*history_doubts(evidence), *closed.doubts]
        if not tried:
            doubts.append("nobody asked in that time")
        return Finding(
            name=self.title,
            grade=Grade.FAIL if numbers else Grade.PASS,
            value=numbers,
            limit=0,
            unit="operations",
            witness=[told(evidence, operations, int(place)) for place in np.flatnonzero(shown)[:WITNESSES_MAX]],
            detail=f"{tried:,} {self.operation} begun in {count(len(closed.spans), 'time')} of closed reads"
            + (f", {numbers:,} of them answered with a number." if numbers else ", none answered with a number."),
        ).doubted(doubts)


def _of_faults(evidence: "Evidence", name: str) -> _Closed:
    spans = [
        (fault.effect_ns, fault.heal_begun_ns)
        for fault in evidence.injected
        if fault.name == name and fault.effect_ns is not None and fault.heal_begun_ns is not None
    ]
    doubts = [] if spans else [f"no fault called {name!r} was proven in force and taken back"]
    return _Closed(spans=spans, doubts=doubts)


def _of_dump(evidence: "Evidence", name: str) -> _Closed:
    if problem := unusable(evidence.dumps, {name: WINDOWS}):
        return _Closed(spans=[], doubts=[problem.removesuffix(".")])
    ahead_ns = evidence.wall_ahead_ns
    if ahead_ns is None:
        return _Closed(spans=[], doubts=["run.json has no clock anchor, so wall time cannot be told"])
    moments = [
        (row["window"], row["change"], round(row["recorded_at"] * 1e9) - ahead_ns)
        for row in rows_of_kind(evidence.dumps[name], "event")
        if row["change"] in ("closed", "opened")
    ]
    spans = list(_between(sorted(moments, key=lambda moment: moment[2])))
    return _Closed(spans=spans, doubts=[] if spans else ["no window was closed"])


def _between(moments: list[tuple[object, str, int]]) -> Iterator[Span]:
    """From each `closed` to the next `opened` of its window; one that was never opened stays closed."""
    closed: dict[object, int] = {}
    for window, change, t_ns in moments:
        if change == "closed":
            closed.setdefault(window, t_ns)
        elif window in closed:
            yield closed.pop(window) + _EDGE_NS, t_ns - _EDGE_NS
    yield from ((start_ns + _EDGE_NS, _NEVER) for start_ns in closed.values())


def _says_nothing(answer: str) -> bool:
    """Whether an answer, JSON text, holds no number although it was a success."""
    from metrics.witnesses import parsed

    said = parsed(answer)
    return isinstance(said, dict) and (said.get("state") == "synchronising" or said.get("balance", 0) is None)
