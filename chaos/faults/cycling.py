"""What the faults that restart instances again and again share: the turns of each, what was seen, and the end of it.

    ended -> started again after `down_s` -> ready -> up for `up_s` -> ended -> ...     each victim by itself

A start that fails is part of the harm: it is written down, and tried again in the next turn until healing.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from chaos.errors import TargetError
from chaos.faults.fault import Proof, Scene
from chaos.faults.restart import restart_missing, restarted, runs, who_runs
from chaos.processes import Identity, alive, kill_all, send

_CYCLING: Final = "cycling"
_EXIT_WITHIN_S: Final = 5.0
_KILL_LIMIT_S: Final = 2.0
_BITE_LIMIT_S: Final = 120.0
_RETRY_S: Final = 0.2
"""How long after a failed start the next one is tried: a supervisor waits a moment, too."""

End = Callable[[Scene, str], Awaitable[None]]
"""Ends an instance that runs, for good; returns when it is gone."""


@dataclass(slots=True, kw_only=True)
class _Turns:
    """What became of one instance so far."""

    ended: list[Identity] = field(default_factory=list)
    """Each process that was ended, in order; every one had been ready."""
    first_begun_s: float | None = None
    starts: int = 0
    failed_starts: int = 0
    failure: str | None = None
    """What was said of the last start that failed."""


@dataclass(slots=True, kw_only=True)
class Cycle:
    """The restarting of some instances until it is told to stop; `times` ends of each at most."""

    scene: Scene
    end: End
    enough: int
    """Ends of each instance, each followed by a start that came to its end, after which it has bitten."""
    offset_s: float = 0.0
    """How much later than the one before it each instance begins."""
    down_s: float = 0.0
    up_s: float = 0.0
    times: int | None = None
    turns: dict[str, _Turns] = field(default_factory=dict)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _has_bitten: asyncio.Event = field(default_factory=asyncio.Event)
    _task: "asyncio.Future[list[BaseException | None]] | None" = None

    async def begin(self) -> None:
        """Returns when each instance has had `enough` turns, or after a limit; the cycle goes on until `stop`."""
        who_runs(self.scene)
        self.scene.notes[_CYCLING] = self  # before the first end: healing may come at any time
        self.turns = {name: _Turns() for name in self.scene.instances}
        rounds = (self._go_round(number, name) for number, name in enumerate(self.scene.instances))
        self._task = asyncio.gather(*rounds, return_exceptions=True)  # one that fails does not leave others unwatched
        waiting = asyncio.ensure_future(self._has_bitten.wait())
        both: set[asyncio.Future[Any]] = {self._task, waiting}
        try:
            await asyncio.wait(both, timeout=_BITE_LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if (error := self._error()) is not None:
            raise error

    @property
    def under_way(self) -> bool:
        """Whether it may still end somebody."""
        return self._task is not None and not self._task.done()

    async def stop(self) -> None:
        """Returns when nobody will be ended any more. What is under way is finished, not cut off: it has its limits.

        A driver that was cut off in the middle of a start would not know whether the instance runs.
        """
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait({self._task})

    def proof(self) -> Proof:
        """Whether each instance was ended so often and every one of those processes is gone."""
        counts = {name: len(turns.ended) for name, turns in self.turns.items()}
        alive_yet = [it.pid for turns in self.turns.values() for it in turns.ended if alive(it)]
        firsts_s = [turns.first_begun_s for turns in self.turns.values() if turns.first_begun_s is not None]
        evidence: dict[str, Any] = {
            "ended": counts,
            "pids": {name: [it.pid for it in turns.ended] for name, turns in self.turns.items()},
            "starts": {name: turns.starts for name, turns in self.turns.items()},
            "spread_s": round(max(firsts_s) - min(firsts_s), 3) if firsts_s else None,
        }
        if failed := {name: turns for name, turns in self.turns.items() if turns.failed_starts}:
            evidence["failed_starts"] = {name: turns.failed_starts for name, turns in failed.items()}
            evidence["failure"] = {name: turns.failure for name, turns in failed.items()}
        if (error := self._error()) is not None:
            evidence["error"] = str(error) or type(error).__name__
        return Proof(proven=self._bitten() and not alive_yet, evidence=evidence)

    def _error(self) -> BaseException | None:
        """What ended the round of an instance before its time."""
        results = self._task.result() if self._task is not None and self._task.done() else []
        return next((result for result in results if result is not None), None)

    def _bitten(self) -> bool:
        """A start that fails is enough as well: it is what a crash loop may do to a system."""
        return all(
            turns.ended and (turns.failed_starts or (len(turns.ended) >= self.enough and turns.starts))
            for turns in self.turns.values()
        )

    async def _go_round(self, number: int, name: str) -> None:
        turns = self.turns[name]
        await self._pause(number * self.offset_s)
        while not self._stopping.is_set() and (self.times is None or len(turns.ended) < self.times):
            identity = self.scene.target.identity(name)
            if identity is not None and alive(identity):
                if turns.first_begun_s is None:
                    turns.first_begun_s = asyncio.get_running_loop().time()
                await self.end(self.scene, name)
                self.scene.took_hold()
                turns.ended.append(identity)
                self._note()
            await self._pause(self.down_s)
            if self._stopping.is_set():
                return  # healing starts whoever is missing
            await self._start(name, turns)
            await self._pause(self.up_s)

    async def _start(self, name: str, turns: _Turns) -> None:
        try:
            if not runs(self.scene, name):
                await self.scene.target.start_instance(name)
                turns.starts += 1
        except TargetError as error:
            turns.failed_starts += 1
            turns.failure = str(error).partition("\n")[0]
            await self._pause(_RETRY_S)
        self._note()

    def _note(self) -> None:
        if self._bitten():
            self._has_bitten.set()

    async def _pause(self, seconds: float) -> None:
        """Waits, but no longer than until healing."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({stopping}, timeout=seconds)
        finally:
            stopping.cancel()


async def kill_whole(scene: Scene, name: str) -> None:
    """Kills an instance and the children that it leaves; returns when it is gone."""
    identity = scene.target.identity(name)
    if identity is None:
        return
    members = scene.target.members(name)  # children are known for sure only while their parent lives
    send(identity, signal.SIGKILL)
    # Straight after the signal, so that the driver knows this exit as intended before it notices it.
    await scene.target.expect_exit(name, within_s=_EXIT_WITHIN_S)
    kill_all(lambda: scene.target.members(name), within_s=_KILL_LIMIT_S, known=members)


async def stop_whole(scene: Scene, name: str) -> None:
    """Asks an instance to end as its role says, and kills it after its grace; returns when it is gone."""
    await scene.target.stop_instance(name)


def seen(scene: Scene) -> Proof:
    """What the cycle of this scene has done so far; nothing where it has not begun."""
    cycle: Cycle | None = scene.notes.get(_CYCLING)
    return Proof(proven=False, evidence={}) if cycle is None else cycle.proof()


async def calm_down(scene: Scene) -> None:
    """Ends the cycle, and starts whoever does not run."""
    cycle: Cycle | None = scene.notes.get(_CYCLING)
    if cycle is not None:
        await cycle.stop()
    await restart_missing(scene)


async def calm(scene: Scene) -> Proof:
    """Whether nobody is restarted any more, and every instance is ready."""
    cycle: Cycle | None = scene.notes.get(_CYCLING)
    if cycle is not None and cycle.under_way:
        return Proof(proven=False, evidence={"under_way": True})
    return await restarted(scene)
