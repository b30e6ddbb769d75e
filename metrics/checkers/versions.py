"""Whether users met more than one version during the faults: the proof that a deploy was in traffic."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from metrics.checkers.checker import CHECKERS
from metrics.findings import Finding, Grade

if TYPE_CHECKING:
    from metrics.evidence import Evidence


@CHECKERS.register("versions")
@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """At least `min` versions (`instance@version`) answered while faults were played; fewer is a goal not reached."""

    min_versions: Annotated[int, Field(ge=1, alias="min")]

    @property
    def title(self) -> str:
        """The name of the finding."""
        return "versions"

    def check(self, evidence: "Evidence") -> Finding:
        """Collects what follows the `@` in successful answers."""
        from metrics.auditing import distinct_nodes
        from metrics.soundness import history_doubts

        operations = evidence.operations
        answered = distinct_nodes(operations.take(operations.clients & operations.in_phases(["faults"])))
        versions: dict[str, int] = {}
        for node, number in answered.items():
            _, at, version = node.partition("@")
            if at:
                versions[version] = versions.get(version, 0) + number
        doubts = history_doubts(evidence)
        if len(versions) < self.min_versions:
            doubts.append("fewer versions were seen than the run is about")
        seen = ", ".join(f"{version} ({number:,})" for version, number in sorted(versions.items()))
        return Finding(
            name=self.title,
            grade=Grade.PASS,
            value=len(versions),
            limit=self.min_versions,
            unit="versions",
            sense="at least",
            witness=[{"versions": dict(sorted(versions.items())), "nodes": answered}],
            detail=f"Answers by version: {seen or 'none'}.",
        ).doubted(doubts)
