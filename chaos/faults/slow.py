"""An instance that gets only a part of its time: stopped and let go on, several times a second.

    SIGSTOP  ---- by 80 % ----  SIGCONT - SIGSTOP  ---------------  SIGCONT - ...        five times a second

It answers, but late: what a busy neighbour, a throttled container or swapping does to it, and what health checks that
ask only now and then do not notice. Whatever it needs is as fast as ever.
"""

import asyncio
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field

from chaos.faults.fault import FAULTS, Proof, Scene
from chaos.faults.freezing import freeze, going_on, let_go, let_go_steps, states_of
from chaos.faults.victims import Victims
from chaos.processes import Identity, send
from chaos.undo import Step
from metrics.units import PositiveSeconds, Ratio

PERIOD_S: Final = 0.2
_TURNS_MIN: Final = 2
_SLOWING: Final = "slowing"


@FAULTS.register("slow")
@dataclass(frozen=True, slots=True, kw_only=True)
class Slow(Victims):
    """Take `by` of their time from instances `for` a while: stop them for that part of each fifth of a second.

    It takes hold of what runs then; what they start meanwhile goes at full speed.
    """

    example: ClassVar[Mapping[str, Any]] = {"role": "portal", "count": 1, "by": "80%", "for": "3s"}

    by_ratio: Annotated[Ratio, Field(alias="by", ge=0.1, le=0.95)] = 0.8
    for_s: Annotated[PositiveSeconds, Field(alias="for")] = 3.0

    @property
    def heal_after_s(self) -> float:
        """Seconds until the instances have all of their time again."""
        return self.for_s

    def takes_s(self, victims: int) -> float:  # noqa: ARG002
        """As long as they are slow."""
        return self.for_s

    def undo_steps(self, scene: Scene) -> list[Step]:
        """Let each process go on: whoever stops them again and again has died by then."""
        return let_go_steps(scene)

    async def inject(self, scene: Scene) -> None:
        """Stops all processes of the instances, and goes on doing so until healed."""
        slowing = _Slowing(processes=freeze(scene), by_ratio=self.by_ratio)
        scene.notes[_SLOWING] = slowing
        slowing.task = asyncio.create_task(slowing.go_on())

    async def effect(self, scene: Scene) -> Proof:
        """Every process was seen stopped and seen going in some turns, and was stopped for about as long as wanted."""
        slowing: _Slowing | None = scene.notes.get(_SLOWING)
        if slowing is None or slowing.task is None:
            return Proof(proven=False, evidence={})
        return slowing.proof()

    async def heal(self, scene: Scene) -> None:
        """Ends the stopping, then lets all go on; an instance that ended meanwhile is started."""
        slowing: _Slowing | None = scene.notes.get(_SLOWING)
        if slowing is not None:
            await slowing.end()
        await let_go(scene)

    async def heal_proof(self, scene: Scene) -> Proof:
        """Nobody stops them any more, no process is stopped, and every instance is ready."""
        slowing: _Slowing | None = scene.notes.get(_SLOWING)
        if slowing is not None and slowing.under_way:
            return Proof(proven=False, evidence={"under_way": True})
        return await going_on(scene)


@dataclass(slots=True, kw_only=True)
class _Slowing:
    """The stopping and going on of some processes, and what the kernel said of them at the end of each part."""

    processes: Sequence[Identity]
    by_ratio: float
    task: asyncio.Task[None] | None = None
    stopped_s: float = 0.0
    going_s: float = 0.0
    turns: dict[str, int] = field(default_factory=dict)
    """Process -> turns in which it was seen stopped, then seen going."""

    @property
    def under_way(self) -> bool:
        return self.task is not None and not self.task.done()

    async def go_on(self) -> None:
        """Begins with all of them stopped."""
        clock_s = asyncio.get_running_loop().time
        began_s = clock_s()
        while True:
            await asyncio.sleep(self.by_ratio * PERIOD_S)
            stopped = {pid for pid, letter in states_of(self.processes).items() if letter == "T"}
            self._tell(signal.SIGCONT)
            let_go_s = clock_s()
            await asyncio.sleep((1 - self.by_ratio) * PERIOD_S)
            for pid, letter in states_of(self.processes).items():
                self.turns[pid] = self.turns.get(pid, 0) + (pid in stopped and letter not in (None, "T"))
            ended_s = clock_s()
            self.stopped_s += let_go_s - began_s
            self.going_s += ended_s - let_go_s
            began_s = ended_s
            self._tell(signal.SIGSTOP)

    def proof(self) -> Proof:
        total_s = self.stopped_s + self.going_s
        ratio = self.stopped_s / total_s if total_s else 0.0
        evidence: dict[str, Any] = {"turns": dict(self.turns), "stopped_ratio": round(ratio, 3)}
        if self.task is not None and self.task.done() and not self.task.cancelled():
            evidence["error"] = str(self.task.exception())
        seen = len(self.turns) == len(self.processes) and all(turns >= _TURNS_MIN for turns in self.turns.values())
        return Proof(proven=self.under_way and seen and ratio >= self.by_ratio / 2, evidence=evidence)

    async def end(self) -> None:
        """Returns when no more signal will be sent."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})
            if not self.task.cancelled():
                self.task.exception()  # looked at, so that asyncio does not complain; `let_go` raises it anew

    def _tell(self, signum: signal.Signals) -> None:
        for identity in self.processes:
            send(identity, signum)
