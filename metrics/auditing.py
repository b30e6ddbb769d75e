"""What happened on the wire beside what clients asked: tries repeated by the balancer, answers given again."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from metrics.operations import Flags, Operations
from metrics.witnesses import parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptAudit:
    """Tries on the wire against requests; `uncounted` requests were answered without a count of tries."""

    requests: int
    retried: int
    retries: int
    replays: int
    uncounted: int

    def told(self) -> dict[str, Any]:
        """The same as data."""
        return {
            "requests": self.requests,
            "retried_requests": self.retried,
            "retries": self.retries,
            "replays": self.replays,
            "without_attempt_count": self.uncounted,
        }


def audit(operations: Operations) -> AttemptAudit:
    """Adds up what the balancer reported with each answer."""
    counted = operations.attempt > 0
    return AttemptAudit(
        requests=len(operations),
        retried=int((operations.attempt > 1).sum()),
        retries=int((operations.attempt[counted] - 1).sum()),
        replays=int(replayed(operations).sum()),
        uncounted=int((~counted).sum()),
    )


def replayed(operations: Operations) -> Flags:
    """Successes whose answer says that it is a stored one."""
    flags: Flags = operations.ok & operations.answered.where(_says_replayed)
    return flags


def _says_replayed(text: str) -> bool:
    if "replayed" not in text:
        return False
    value = parsed(text)
    return isinstance(value, dict) and value.get("replayed") is True


def distinct_nodes(operations: Operations) -> dict[str, int]:
    """Who answered -> how many successes."""
    codes = operations.node.codes[operations.ok & (operations.node.codes >= 0)]
    used, counts = np.unique(codes, return_counts=True)
    found = {operations.node.names[int(code)]: int(number) for code, number in zip(used, counts, strict=True)}
    return dict(sorted(found.items()))
