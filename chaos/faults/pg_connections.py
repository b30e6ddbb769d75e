"""A server without free connections: a pool that leaks, a storm of reconnecting clients, a job that nobody limited.

    max_connections - reserved for superusers - clients connected - ours = left

Three ways end it: healing, its undo record (which ends the connections by their name), and the server itself, which is
told for each after which time of idleness it is to be ended.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field

from chaos.errors import TargetError
from chaos.faults.connected import OnDatabase, connect, name_of, serves
from chaos.faults.fault import FAULTS, Proof, Scene
from chaos.targets.backends import release, release_step, rights
from chaos.targets.database import Session, is_full, means_full
from chaos.undo import Step
from metrics.units import PositiveSeconds

_COUNT: Final = """
    select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
           - current_setting('reserved_connections')::int as limit,
           (select count(*)::int from pg_stat_activity
            where usesysid is not null and datid is not null and leader_pid is null) as taken
"""
_AT_ONCE: Final = 8
_TOP_UP_EVERY_S: Final = 0.1
_LET_GO_MARGIN_S: Final = 5.0
_RELEASE_LIMIT_S: Final = 5.0
_ASK_LIMIT_S: Final = 2.0
_TAKING: Final = "taking"


@FAULTS.register("pg_connections")
@dataclass(frozen=True, slots=True, kw_only=True)
class PgConnections(OnDatabase):
    """Take connections until `leave` are left for ordinary roles, `for` a time.

    Those that others give up meanwhile are taken too. The role of `dsn` must be an ordinary one
    itself: superusers have connections of their own.
    """

    example: ClassVar[Mapping[str, Any]] = {"dsn": "postgres.admin_dsn", "leave": 0, "for": "3s"}

    leave: Annotated[int, Field(ge=0)] = 0
    for_s: Annotated[PositiveSeconds, Field(alias="for")] = 3.0

    @property
    def heal_after_s(self) -> float:
        """Seconds until the connections are given up."""
        return self.for_s

    def let_go(self) -> dict[str, str]:
        """What tells the server when to end a connection that nobody cares for any more."""
        return {"idle_session_timeout": str(int((self.for_s + _LET_GO_MARGIN_S) * 1000))}

    def undo_steps(self, scene: Scene) -> list[Step]:
        """End our connections, known by their name."""
        return [release_step(str(scene.target.output(self.dsn)), name_of(scene))]

    async def inject(self, scene: Scene) -> None:
        """Takes connections until so many are left, and goes on looking after them until healed.

        Raises:
            TargetError: the role is not an ordinary one, or the server refuses earlier than its limit says.
        """
        control = await connect(scene, self.dsn, settings=self.let_go())
        taking = _Taking(scene=scene, fault=self, control=control)
        scene.notes[_TAKING] = taking
        role = await rights(control)
        if role.superuser:
            raise TargetError(
                f"{self.dsn}: role {role.name} is a superuser, for whom connections are reserved; name another dsn"
            )
        await taking.top_up()
        taking.task = asyncio.create_task(taking.go_on())

    async def effect(self, scene: Scene) -> Proof:
        """The server counts no more than `leave` connections left; where that is none, it refuses a new one."""
        taking: _Taking | None = scene.notes.get(_TAKING)
        if taking is None or not taking.under_way:
            return Proof(proven=False, evidence={})
        left = taking.left
        evidence: dict[str, Any] = {"limit": taking.limit, "ours": sum(it.kept for it in taking.held) + 1, "left": left}
        refused = True
        if self.leave == 0:
            refused = await is_full(str(scene.target.output(self.dsn)), within_s=_ASK_LIMIT_S)
            evidence["refused"] = refused
        return Proof(proven=left is not None and left <= self.leave and refused, evidence=evidence)

    async def heal(self, scene: Scene) -> None:
        """Gives up our connections, and sees to it that the server has ended them too."""
        taking: _Taking | None = scene.notes.get(_TAKING)
        if taking is not None:
            await taking.end()
        await release(str(scene.target.output(self.dsn)), name_of(scene), within_s=_RELEASE_LIMIT_S)

    async def heal_proof(self, scene: Scene) -> Proof:
        """Nobody takes connections any more, and the server takes a new one."""
        taking: _Taking | None = scene.notes.get(_TAKING)
        if taking is not None and taking.under_way:
            return Proof(proven=False, evidence={"under_way": True})
        return await serves(scene, self.dsn)


@dataclass(slots=True, kw_only=True)
class _Taking:
    """The connections of one fault; `left` is how many others could still have at the last look."""

    scene: Scene
    fault: PgConnections
    control: Session
    held: list[Session] = field(default_factory=list)
    limit: int | None = None
    left: int | None = None
    task: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> bool:
        return self.task is not None and not self.task.done()

    async def top_up(self) -> None:
        """Takes as many as are too many; looks again, since others come and go meanwhile."""
        while (missing := await self._look()) > 0:
            results = await asyncio.gather(*(self._take() for _ in range(min(missing, _AT_ONCE))))
            if not any(results):
                self.left = 0  # refused for want of connections: others were faster
                return

    async def _look(self) -> int:
        """How many connections are still to be taken."""
        (row,) = await self.control.rows(_COUNT)
        self.limit, self.left = row["limit"], row["limit"] - row["taken"]
        return self.left - self.fault.leave

    async def _take(self) -> bool:
        """Whether one more is ours; not where the server has none left.

        Raises:
            TargetError: it was refused for another reason.
        """
        try:
            session = await connect(self.scene, self.fault.dsn, settings=self.fault.let_go())
        except TargetError as error:
            if means_full(error):
                return False
            raise
        self.held.append(session)
        return True

    async def go_on(self) -> None:
        """Takes what others give up, until it is cancelled."""
        while True:
            await asyncio.sleep(_TOP_UP_EVERY_S)
            await self.top_up()

    async def end(self) -> None:
        """Returns when all of them are closed on this side."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})
            if not self.task.cancelled():
                self.task.exception()  # looked at, so that asyncio does not complain
        for session in (*self.held, self.control):
            session.drop()
