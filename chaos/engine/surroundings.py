"""What guardrails look at while a run goes on: the target, and how long clients wait."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from chaos.targets.target import Target
from metrics.history import INVOKE, Follower, Row


@dataclass(slots=True, kw_only=True)
class Surroundings:
    """See `chaos.guardrails.Around`."""

    run_dir: Path
    target: Target
    _follower: Follower = field(init=False)
    _waits: "Waits" = field(init=False)

    def __post_init__(self) -> None:
        self._follower = Follower(self.run_dir)
        self._waits = Waits()

    async def observe(self, reading: str) -> float | str:
        """One of the target's named readings, now."""
        return await self.target.observe(reading)

    async def latencies_s(self, over_s: float) -> list[float]:
        """Read from what the clients have recorded by now."""
        self._waits.take(await asyncio.to_thread(self._follower.more))
        return self._waits.over(over_s, now_ns=time.monotonic_ns())


@dataclass(slots=True, kw_only=True)
class Waits:
    """How long operations took, by when they were due; pure."""

    _of_index: dict[int, tuple[int, int | None]] = field(default_factory=dict)
    """Operation -> when it was due, and when it was answered."""

    def take(self, rows: list[Row]) -> None:
        """What has been recorded since the last time."""
        for row in rows:
            due_ns, answered_ns = self._of_index.get(row.index, (row.intended_ns, None))
            self._of_index[row.index] = (due_ns, answered_ns if row.type == INVOKE else row.t_ns)

    def over(self, over_s: float, *, now_ns: int) -> list[float]:
        """Seconds of each operation due within the last `over_s`, of one not answered yet those until now.

        One that was due earlier and has no answer yet counts too: it hangs. Whatever else is older is forgotten.
        """
        since_ns = now_ns - int(over_s * 1e9)
        self._of_index = {
            index: it for index, it in self._of_index.items() if it[0] >= since_ns or it[1] is None or it[1] >= since_ns
        }
        return [
            ((now_ns if answered_ns is None else answered_ns) - due_ns) / 1e9
            for due_ns, answered_ns in self._of_index.values()
        ]
