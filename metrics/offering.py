"""The seconds in which much was asked: where a surge was, told from what was meant to start, not from a plan.

requests --intended start--> seconds --at least `over` in it--> loaded seconds
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from metrics.evidence import Evidence

SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The seconds from `start_ns` on: how many requests were meant to start in each, and whether those are many."""

    start_ns: int
    offered: npt.NDArray[np.int64]
    loaded: npt.NDArray[np.bool_]

    @property
    def seconds(self) -> int:
        """How many seconds were loaded."""
        return int(np.count_nonzero(self.loaded))

    @property
    def end_ns(self) -> int | None:
        """The end of the last loaded second; None without any."""
        places = np.flatnonzero(self.loaded)
        return self.start_ns + (int(places[-1]) + 1) * SECOND_NS if len(places) else None

    def holds(self, times_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether each time lies in a loaded second."""
        places = (times_ns - self.start_ns) // SECOND_NS
        known = (places >= 0) & (places < len(self.loaded))
        result = np.zeros(len(times_ns), dtype=np.bool_)
        result[known] = self.loaded[places[known]]
        return result

    def stretches(self) -> list[tuple[int, int]]:
        """Each run of loaded seconds as half-open [start_ns, end_ns)."""
        edges = np.flatnonzero(np.diff(np.concatenate(([0], self.loaded.astype(np.int8), [0]))))
        return [
            (self.start_ns + int(first) * SECOND_NS, self.start_ns + int(last) * SECOND_NS)
            for first, last in edges.reshape(-1, 2)
        ]


def loaded_seconds(evidence: "Evidence", *, over_per_s: float) -> Loaded:
    """The whole seconds of the judged phases with at least `over_per_s` intended starts of clients."""
    start_ns, end_ns = evidence.window_ns or (0, 0)
    offered = np.bincount(
        np.clip(evidence.requests.intended_ns - start_ns, 0, None) // SECOND_NS,
        minlength=max(0, (end_ns - start_ns) // SECOND_NS),
    ).astype(np.int64)
    return Loaded(start_ns=start_ns, offered=offered, loaded=offered >= over_per_s)
