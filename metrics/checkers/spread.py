"""Whether traffic reached enough nodes: a test of one node says nothing about the others."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from metrics.checkers.checker import CHECKERS
from metrics.findings import Finding, Grade

if TYPE_CHECKING:
    from metrics.evidence import Evidence


@CHECKERS.register("spread")
@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """At least `min` different instances answered successfully; fewer is a goal not reached."""

    min_instances: Annotated[int, Field(ge=1, alias="min")]

    @property
    def title(self) -> str:
        """The name of the finding."""
        return "spread"

    def check(self, evidence: "Evidence") -> Finding:
        """Collects what stands before the `@` in successful answers."""
        from metrics.auditing import distinct_nodes
        from metrics.soundness import history_doubts

        instances: dict[str, int] = {}
        for node, number in distinct_nodes(evidence.requests).items():
            instance = node.partition("@")[0]
            instances[instance] = instances.get(instance, 0) + number
        doubts = history_doubts(evidence)
        if len(instances) < self.min_instances:
            doubts.append("traffic did not reach as many instances as the run is about")
        return Finding(
            name=self.title,
            grade=Grade.PASS,
            value=len(instances),
            limit=self.min_instances,
            unit="instances",
            sense="at least",
            witness=[{"instances": dict(sorted(instances.items()))}],
            detail=f"{len(instances)} instances answered.",
        ).doubted(doubts)
