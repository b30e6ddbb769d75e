"""Hitting backends of a database once, or again and again for a time; what pg_terminate and pg_cancel share.

volley: list -> choose -> hit each -> remember whom    at once, then `every` so often until healed
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import Field

from chaos.faults.connected import Applications, connect, may_be_ended, named, serves, shown
from chaos.faults.fault import Proof, Scene
from chaos.targets.backends import Backend, list_backends
from chaos.targets.database import Session
from chaos.undo import Step
from metrics.units import PositiveSeconds

_VOLLEYS: Final = "volleys"

Still = Callable[[Backend, Backend | None], bool]
"""Whether a backend that was hit is still as it was; what is listed with its pid now, None where nobody is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated(Applications):
    """Hits backends once; with `every` and `for` again and again for that time, also those that came meanwhile."""

    every_s: Annotated[PositiveSeconds | None, Field(alias="every")] = None
    for_s: Annotated[PositiveSeconds | None, Field(alias="for")] = None

    def __post_init__(self) -> None:
        Applications.__post_init__(self)
        if (self.every_s is None) != (self.for_s is None):
            raise ValueError("every and for belong together; without both it is done once")

    @property
    def heal_after_s(self) -> float:
        """Seconds until the last volley; nothing of a single one stays in force."""
        return self.for_s or 0.0

    def undo_steps(self, scene: Scene) -> list[Step]:  # noqa: ARG002
        """Nothing: whoever goes on hitting has died by then, and clients connect anew by themselves."""
        return []

    async def heal(self, scene: Scene) -> None:
        """Ends the volleys."""
        if (volleys := _of(scene)) is not None:
            await volleys.end()

    async def heal_proof(self, scene: Scene) -> Proof:
        """No more volleys come, and the server takes a new connection."""
        volleys = _of(scene)
        if volleys is not None and volleys.under_way:
            return Proof(proven=False, evidence={"under_way": True})
        return await serves(scene, self.dsn)

    async def _begin(self, scene: Scene, sql: str, *, only_active: bool) -> None:
        session = await connect(scene, self.dsn)
        volleys = _Volleys(whom=self, sql=sql, session=session, only_active=only_active)
        scene.notes[_VOLLEYS] = volleys
        await volleys.fire()
        if self.every_s is not None:
            volleys.task = asyncio.create_task(volleys.go_on(self.every_s))

    async def _seen(self, scene: Scene, still: Still) -> Proof:
        volleys = _of(scene)
        if volleys is None:
            return Proof(proven=False, evidence={})
        # Over a connection of its own: the other one may be amid a volley.
        session = await connect(scene, self.dsn)
        try:
            listed = await list_backends(session)
        finally:
            session.drop()
        now = {it.pid: it for it in listed}
        left = [it.pid for it in volleys.hit if still(it, now.get(it.pid))]
        evidence: dict[str, Any] = {"volleys": volleys.fired, "hit": len(volleys.hit)}
        evidence |= {"pids": shown([it.pid for it in volleys.hit]), "still_there": shown(left)}
        if not volleys.hit:
            evidence["connected"] = named(listed)
        if volleys.failure is not None:
            evidence["error"] = volleys.failure
        return Proof(proven=bool(volleys.hit) and not left, evidence=evidence)


def _of(scene: Scene) -> "_Volleys | None":
    found: _Volleys | None = scene.notes.get(_VOLLEYS)
    return found


@dataclass(slots=True, kw_only=True)
class _Volleys:
    """The volleys of one fault, and whom they hit."""

    whom: Applications
    sql: str
    """Hits the backend `$1`; false where there is none."""
    session: Session
    only_active: bool
    fired: int = 0
    hit: list[Backend] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> bool:
        return self.task is not None and not self.task.done()

    @property
    def failure(self) -> str | None:
        """Why the volleys have ended by themselves; None while they go on, and after they were ended."""
        if self.task is None or not self.task.done() or self.task.cancelled():
            return None
        return str(self.task.exception())

    async def fire(self) -> None:
        """One volley."""
        listed = await list_backends(self.session)
        chosen = self.whom.pick([it for it in listed if it.statement is not None] if self.only_active else listed)
        await may_be_ended(self.session, self.whom.pick(listed))
        self.hit += [it for it in chosen if await self._hit(it)]
        self.fired += 1

    async def _hit(self, backend: Backend) -> bool:
        (row,) = await self.session.rows(self.sql, backend.pid)
        return bool(row["hit"])

    async def go_on(self, every_s: float) -> None:
        """Further volleys until it is cancelled, counted from now."""
        clock_s = asyncio.get_running_loop().time
        due_s = clock_s()
        while True:
            due_s = max(due_s + every_s, clock_s())  # after a freeze of the machine none is made up for
            await asyncio.sleep(due_s - clock_s())
            await self.fire()

    async def end(self) -> None:
        """Returns when nobody is hit any more."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})
            if not self.task.cancelled():
                self.task.exception()  # looked at, so that asyncio does not complain; the effect tells it
        self.session.drop()
