r"""One fault, from its undo record to the proof that nothing of it is left.

due (a time, or a trigger) -> who leads, where that is asked for ->
undo record synced -> inject -> effect proven -> wait -> heal -> heal proven -> undo record done
                         \\________ whatever happens here ________/
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from chaos.engine.cues import Cues, NeverDueError
from chaos.engine.switch import uninterrupted
from chaos.errors import HoldfastError, TargetError
from chaos.faults.fault import DecidedLate, Proof, Scene
from chaos.planner import Occurrence
from chaos.targets.target import Target
from chaos.undo import UndoLog
from metrics.events import EventLog

INJECT_LIMIT_S: Final = 600.0
"""A rolling deploy of many instances takes long; each of its steps has a limit of the target's own."""
EFFECT_LIMIT_S: Final = 3.0
HEAL_LIMIT_S: Final = 60.0
HEAL_PROOF_LIMIT_S: Final = 30.0
HEAL_TRIES: Final = 2
LEASE_S: Final = 20.0
"""How long a fault may live longer than planned before the watchdog takes its runner for hung and takes it back."""
_PROLONG_EVERY_S: Final = 4.0
CHOICE_LIMIT_S: Final = 5.0
"""How long nobody may lead before a fault on the leader is given up."""
_LOOK_EVERY_S: Final = 0.02
_ONE_LOOK_S: Final = 2.0
_MENDABLE: Final = (HoldfastError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where the faults of a run play, and what they leave behind."""

    target: Target
    events: EventLog
    undo: UndoLog
    log: FilteringBoundLogger
    in_force: dict[str, Occurrence] = field(default_factory=dict)
    """Injected, or about to be, and not yet healed; by fault id."""
    left: dict[str, str] = field(default_factory=dict)
    """Every fault that could not be healed, and how to clear it; by fault id."""
    on_shown: Callable[[str], None] = lambda _fault_id: None
    """Told of each fault whose effect is proven."""
    locks: dict[str, asyncio.Lock] = field(default_factory=dict)
    """One an instance: two faults never have the same one in their hands, however long a heal takes."""

    async def play_all(self, timeline: Sequence[Occurrence]) -> None:
        """Plays each at its time, counted from now; returns when all are healed.

        A fault that cannot be injected or healed is written down and does not stop the others.

        Raises:
            OSError: that could not be written down; all are healed nevertheless.
        """
        cues = Cues(target=self.target, timeline=timeline)
        try:
            async with asyncio.TaskGroup() as group:
                for occurrence in timeline:
                    group.create_task(self._play_when_due(cues, occurrence), name=occurrence.fault_id)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures

    async def play(self, occurrence: Occurrence, *, shown: Callable[[], None] = lambda: None) -> bool:
        """Plays one occurrence now, and gives whether it was healed; when cancelled, it is healed all the same.

        `shown` is called when its effect is proven.
        """
        async with AsyncExitStack() as held:
            for name in sorted(occurrence.instances):  # in one order, so that two never wait for each other
                await held.enter_async_context(self.locks.setdefault(name, asyncio.Lock()))
            chosen = await self._choose(occurrence)
            if chosen is None:
                return False
            playing = _Play(stage=self, occurrence=occurrence, chosen=chosen, shown=shown)
            await playing.run()
            return playing.healed

    async def _play_when_due(self, cues: Cues, occurrence: Occurrence) -> None:
        try:
            by = await cues.wait(occurrence)
            if by is not None:
                self.events.append("fault.triggered", fault_id=occurrence.fault_id, **by)
            if await self.play(occurrence, shown=lambda: cues.shown(occurrence.fault_id)):
                cues.healed(occurrence.fault_id)
        except NeverDueError as error:
            self.events.append("fault.failed", fault_id=occurrence.fault_id, step="wait", error=str(error))
        finally:
            cues.over(occurrence.fault_id)

    async def _choose(self, occurrence: Occurrence) -> "_Chosen | None":
        """Whom it takes; None where that cannot be told, which is written down."""
        if not isinstance(occurrence.fault, DecidedLate):
            return _Chosen(instances=occurrence.instances)
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + CHOICE_LIMIT_S
        while True:
            try:
                instances, by = await occurrence.fault.narrow(self.target, occurrence.instances)
                break
            except TargetError as error:
                if loop.time() >= ends_s:
                    self.events.append("fault.failed", fault_id=occurrence.fault_id, step="choose", error=str(error))
                    return None
            await asyncio.sleep(_LOOK_EVERY_S)
        if by:
            self.events.append("fault.chosen", fault_id=occurrence.fault_id, instances=list(instances), evidence=by)
        return _Chosen(instances=instances, by=by)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """Whom an occurrence takes, and by what that was decided when it played, if it was."""

    instances: tuple[str, ...]
    by: Mapping[str, Any] = field(default_factory=dict)


class _Play:
    """One occurrence while it plays."""

    def __init__(self, *, stage: Stage, occurrence: Occurrence, chosen: _Chosen, shown: Callable[[], None]) -> None:
        self._stage = stage
        self._occurrence = occurrence
        self._chosen = chosen
        self._shown = shown
        self.healed = False
        self._held = False
        self._fault = occurrence.fault
        self._injected_s: float | None = None
        self._kept = False
        self._putting_right = False
        self._unwritten: OSError | None = None
        self._scene = Scene.open(
            fault_id=occurrence.fault_id,
            target=stage.target,
            instances=chosen.instances,
            took_hold=self._took_hold,
            record=lambda steps: stage.undo.record(occurrence.fault_id, steps, expires_ns=_lease_ns()),
        )

    async def run(self) -> None:
        """The life of the fault; only cancellation, a log that cannot be written, and bugs of ours come out of it."""
        try:
            # On disk before anything is touched. It blocks the loop for a sync of the disk, and no cancellation can
            # come between the record and the `try` that heals.
            steps = self._fault.undo_steps(self._scene)
            self._stage.undo.record(self._occurrence.fault_id, steps, expires_ns=_lease_ns())
        except _MENDABLE as error:
            self._failed("undo_record", error)
            return
        self._event("fault.undo_recorded")
        self._stage.in_force[self._occurrence.fault_id] = self._occurrence
        prolonging = asyncio.ensure_future(self._prolong())
        try:  # opens before anything is touched, so that a half-done injection is healed too
            await self._harm()
        finally:
            await uninterrupted(self._put_right())
            prolonging.cancel()
            del self._stage.in_force[self._occurrence.fault_id]
        if self._unwritten is not None:
            raise self._unwritten

    async def _harm(self) -> None:
        if not await self._try("inject", self._fault.inject(self._scene), INJECT_LIMIT_S):
            return
        self._took_hold()
        injected_s = self._injected_s if self._injected_s is not None else asyncio.get_running_loop().time()
        proof = await self._prove(self._fault.effect, EFFECT_LIMIT_S)
        chosen = {"chosen": dict(self._chosen.by)} if self._chosen.by else {}
        self._event("fault.effect", proven=proof.proven, evidence={**proof.evidence, **chosen})
        if proof.proven:
            self._shown()
            self._stage.on_shown(self._occurrence.fault_id)
        if self._fault.heal_after_s is None:
            self._kept = proof.proven
        else:
            await self._hold(injected_s + self._fault.heal_after_s - asyncio.get_running_loop().time())

    async def _hold(self, for_s: float) -> None:
        """Leaves it in force for its planned time, at whose end plus the lease it expires, whatever becomes of us."""
        self._stage.undo.prolong(self._occurrence.fault_id, expires_ns=_lease_ns(max(0.0, for_s)))
        self._held = True
        try:
            await asyncio.sleep(for_s)
        finally:
            self._held = False

    async def _prolong(self) -> None:
        """While it is injected and healed, however long that takes, prolongs its life: only a runner that goes on can.

        What cannot be written lets it expire: then the watchdog takes it back, which is what the record is for.
        """
        with contextlib.suppress(OSError):
            while True:
                await asyncio.sleep(_PROLONG_EVERY_S)
                if not self._held:
                    self._stage.undo.prolong(self._occurrence.fault_id, expires_ns=_lease_ns())

    async def _put_right(self) -> None:
        self._putting_right = True
        healed = self._kept
        for _ in range(HEAL_TRIES):
            healed = healed or await self._try("heal", self._fault.heal(self._scene), HEAL_LIMIT_S)
        if healed:
            self._event("fault.healed")
        look = self._fault.effect if self._kept else self._fault.heal_proof
        # What could not even be healed will not become right by waiting: one look says what is left.
        proof = await self._prove(look, HEAL_PROOF_LIMIT_S if healed else 0.0)
        self._event("fault.heal_proven", proven=proof.proven, evidence=dict(proof.evidence))
        self.healed = proof.proven
        if proof.proven:
            self._written(self._stage.undo.done, self._occurrence.fault_id)
        else:
            self._stage.left[self._occurrence.fault_id] = (
                f"{self._occurrence.fault_id}: {self._occurrence.name} on {self._occurrence.aim} is "
                f"not proven to be healed ({dict(proof.evidence)}); clear it with `holdfast heal`"
            )

    def _took_hold(self) -> None:
        if self._injected_s is None:
            self._injected_s = asyncio.get_running_loop().time()
            self._event(
                "fault.injected",
                fault=self._occurrence.name,
                instances=list(self._chosen.instances),
                params=dict(self._occurrence.params),
            )

    async def _try(self, step: str, work: Awaitable[object], within_s: float) -> bool:
        """Whether the step went well; what a user can mend is written down, a bug of ours is raised."""
        try:
            # Not `wait_for`: before Python 3.12 it loses a cancellation that comes when the work is just done.
            async with asyncio.timeout(within_s):
                await work
        except _MENDABLE as error:
            self._failed(step, error)
            return False
        return True

    async def _prove(self, look: Callable[[Scene], Awaitable[Proof]], within_s: float) -> Proof:
        """The first look that proves it, or the last one within the limit; a look that fails saw nothing."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + within_s
        while True:
            try:
                async with asyncio.timeout(max(_ONE_LOOK_S, ends_s - loop.time())):
                    proof = await look(self._scene)
            except _MENDABLE as error:
                proof = Proof(proven=False, evidence={"error": str(error) or f"no answer within {within_s:g} s"})
            if proof.proven or loop.time() >= ends_s:
                return proof
            await asyncio.sleep(_LOOK_EVERY_S)

    def _failed(self, step: str, error: Exception) -> None:
        text = str(error) or f"took longer than its limit ({type(error).__name__})"
        self._event("fault.failed", step=step, error=text)

    def _event(self, kind: str, **data: Any) -> None:
        fault_id = self._occurrence.fault_id
        self._written(self._stage.events.append, kind, fault_id=fault_id, **data)
        self._written(self._stage.log.info, kind, fault_id=fault_id, **data)

    def _written(self, write: Callable[..., object], *words: Any, **data: Any) -> None:
        """Writes; what cannot be written ends the fault, but not its healing: that is told afterwards."""
        try:
            write(*words, **data)
        except OSError as error:
            if not self._putting_right:
                raise
            self._unwritten = error


def _lease_ns(for_s: float = 0.0) -> int:
    """When a fault that may live `for_s` from now on expires."""
    return time.monotonic_ns() + int((for_s + LEASE_S) * 1e9)
