"""A goal that a run must reach to mean anything: an operation that met a fault."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from metrics.checkers.checker import CHECKERS
from metrics.findings import Finding, Grade

if TYPE_CHECKING:
    from metrics.evidence import Evidence


@CHECKERS.register("sometimes")
@dataclass(frozen=True, slots=True, kw_only=True)
class Sometimes:
    """At least `at_least` successful `operation`s were under way while a fault called `during` was in force.

    A fault counts when its effect was proven. Never reaching the goal is unknown, not fail: the service did nothing
    wrong, but was not tested.
    """

    during: str
    operation: str
    at_least: Annotated[int, Field(ge=1)] = 1

    @property
    def title(self) -> str:
        """The name of the finding."""
        return f"sometimes:{self.operation} during {self.during}"

    def check(self, evidence: "Evidence") -> Finding:
        """Counts them, and takes the first as witness."""
        import numpy as np

        from metrics.soundness import history_doubts
        from metrics.witnesses import told

        operations = evidence.operations
        met = np.zeros(len(operations), dtype=np.bool_)
        windows = 0
        for fault in evidence.injected:
            if fault.name == self.during and fault.injected_ns is not None and fault.effect is True:
                until_ns = fault.healed_ns or evidence.phases.get("faults", (0, 0))[1]
                met |= (operations.start_ns < until_ns) & (operations.end_ns >= fault.injected_ns)
                windows += 1
        met &= operations.ok & operations.f.equals(self.operation)
        reached = int(np.count_nonzero(met))
        doubts = history_doubts(evidence)
        if reached < self.at_least:
            doubts.append(f"the goal was not reached in {windows} faults called {self.during!r}")
        return Finding(
            name=self.title,
            grade=Grade.PASS,
            value=reached,
            limit=self.at_least,
            unit="operations",
            sense="at least",
            witness=[told(evidence, operations, int(place)) for place in np.flatnonzero(met)[:1]],
            detail=f"{reached:,} {self.operation} succeeded while {self.during} was in force.",
        ).doubted(doubts)
