"""How many requests of clients failed: an observed limit, with the lost requests as witnesses."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from metrics.checkers.checker import CHECKERS
from metrics.findings import Finding, Grade, count
from metrics.units import Ratio

if TYPE_CHECKING:
    from metrics.evidence import Evidence


@CHECKERS.register("failed", observed=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """At most `max` requests of clients fail or end unknown; correct refusals (`declined:`) do not count.

    Unknown with fewer than `min_operations` successes, when refusals are more than `max_declined` of the answers
    (successes and refusals; 50 % unless told otherwise), when the load missed its rate, or when a client sent requests
    again by itself. With `operations` only requests of these kinds count: reads may be closed in a maintenance window.
    """

    max_operations: Annotated[int, Field(ge=0, alias="max")]
    min_operations: Annotated[int, Field(ge=1)] = 1
    max_declined_ratio: Annotated[Ratio, Field(alias="max_declined")] = 0.5
    operations: Annotated[list[str], Field(min_length=1)] | None = None

    @property
    def title(self) -> str:
        """The name of the finding."""
        return "failed" if self.operations is None else f"failed:{','.join(self.operations)}"

    def check(self, evidence: "Evidence") -> Finding:
        """Counts failed and unknown requests in the judged phases."""
        import numpy as np

        from metrics.soundness import answer_doubts, history_doubts, load_doubts
        from metrics.witnesses import explained, first_told

        requests = evidence.requests
        if self.operations is not None:
            requests = requests.take(requests.f.equals(*self.operations))
        bad = requests.bad
        lost = int(np.count_nonzero(bad))
        succeeded = int(np.count_nonzero(requests.ok))
        unexplained = int(np.count_nonzero(~explained(evidence, requests.take(bad))))
        grade = Grade.FAIL if lost > self.max_operations else Grade.PASS
        doubts = [*history_doubts(evidence), *load_doubts(evidence)]
        doubts += answer_doubts(evidence, declined_ratio_max=self.max_declined_ratio)
        if succeeded < self.min_operations:
            doubts.append(f"only {count(succeeded, 'request')} succeeded, {self.min_operations} are needed to judge")
        detail = f"{lost:,} of {count(len(requests), 'request')} failed or ended unknown."
        if unexplained:
            detail = f"{count(unexplained, 'failure')} outside every fault. {detail}"
        return Finding(
            name=self.title,
            grade=grade,
            value=lost,
            limit=self.max_operations,
            unit="requests",
            witness=first_told(evidence, requests, bad),
            detail=detail,
        ).doubted(doubts)
