"""A PostgreSQL server that ends without a word: the log has to be replayed before it serves again.

postmaster   SIGKILL of the first process: all is gone at once, as when the machine loses power
immediate    SIGQUIT to it, as `pg_ctl stop -m immediate`: it ends all others first
backend      SIGKILL of one backend: the server ends all others, replays and goes on by itself
"""

import asyncio
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from chaos.errors import TargetError
from chaos.faults.connected import Applications, OnDatabase, connect, named, server_of, serves, sole_server, victims_of
from chaos.faults.fault import FAULTS, Proof, RoleShape, Scene
from chaos.faults.restart import gone, kill_children, restart_missing, restart_steps, restarted, signal_all
from chaos.processes import Identity, alive, send
from chaos.targets.backends import children_of, list_backends, served_by
from chaos.undo import Step
from metrics.units import PositiveSeconds

How = Literal["postmaster", "immediate", "backend"]

_USUAL_RESTART_S: Final = 3.0
_EXIT_WITHIN_S: Final = 10.0
"""At SIGQUIT the server gives its processes 5 s."""
_STARTED: Final = "started"
_KILLED: Final = "killed"
_CHILDREN: Final = "children"
_CONNECTED: Final = "connected"


@FAULTS.register("pg_crash")
@dataclass(frozen=True, slots=True, kw_only=True)
class PgCrash(OnDatabase):
    """Crash the server behind `dsn` and start it again `restart_after`; with `how: backend`, one of an `application`.

    Only a server that this run started, and its children, are signalled.
    """

    example: ClassVar[Mapping[str, Any]] = {"dsn": "postgres.admin_dsn", "how": "postmaster", "restart_after": "3s"}

    how: How = "postmaster"
    application: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    restart_after_s: Annotated[PositiveSeconds | None, Field(alias="restart_after")] = None

    def __post_init__(self) -> None:
        if self.how != "backend" and self.application is not None:
            raise ValueError("application belongs to how: backend")
        if self.how == "backend" and self.application is None:
            raise ValueError("how: backend needs the application whose backend is killed")
        if self.how == "backend" and self.restart_after_s is not None:
            raise ValueError("restart_after and how: backend exclude each other: the server goes on by itself")

    @property
    def heal_after_s(self) -> float:
        """Seconds until the server is started again."""
        if self.restart_after_s is not None:
            return self.restart_after_s
        return 0.0 if self.application is not None else _USUAL_RESTART_S

    def takes_s(self, victims: int) -> float:  # noqa: ARG002
        """Until it is started again; how long replaying takes is not known beforehand."""
        return self.heal_after_s

    def choose(self, roles: Mapping[str, RoleShape], busy: frozenset[str], rng: Random) -> tuple[str, ...]:  # noqa: ARG002
        """The server."""
        return sole_server(roles, busy, self.dsn)

    def undo_steps(self, scene: Scene) -> list[Step]:
        """Start it; harmless where it runs."""
        return restart_steps(scene)

    async def inject(self, scene: Scene) -> None:
        """Kills, and waits until the first process is gone; a crash of one backend it survives.

        Raises:
            TargetError: the server or the backend is not ours, or backends may not be seen.
        """
        postmaster = server_of(scene)
        scene.notes[_STARTED] = (await serves(scene, self.dsn)).evidence["server_started"]
        scene.notes[_CHILDREN] = children_of(postmaster)
        if self.application is not None:
            await self._kill_backend(scene, postmaster, self.application)
            return
        signal_all(scene, signal.SIGKILL if self.how == "postmaster" else signal.SIGQUIT)
        scene.took_hold()
        if self.how == "postmaster":
            kill_children(scene)
        await asyncio.gather(*(scene.target.expect_exit(name, within_s=_EXIT_WITHIN_S) for name in scene.instances))

    async def _kill_backend(self, scene: Scene, postmaster: Identity, application: str) -> None:
        session = await connect(scene, self.dsn)
        try:
            scene.notes[_CONNECTED] = named(await list_backends(session))
            chosen = await victims_of(session, Applications(dsn=self.dsn, application=application, count=1))
            victims = served_by(postmaster, chosen)
        finally:
            session.drop()
        scene.notes[_KILLED] = [it for it in victims if send(it, signal.SIGKILL)]

    async def effect(self, scene: Scene) -> Proof:
        """None of the server's processes of before is there any more; with `how: backend`, the first one is."""
        if _CHILDREN not in scene.notes:
            return Proof(proven=False, evidence={})
        left = [it.pid for it in scene.notes[_CHILDREN] if alive(it)]
        evidence: dict[str, Any] = {"server_started": scene.notes[_STARTED], "children_left": left}
        if self.application is None:
            proof = gone(scene)
            return Proof(proven=proof.proven and not left, evidence=evidence | dict(proof.evidence))
        killed: list[Identity] = scene.notes.get(_KILLED, [])
        evidence["killed"] = [it.pid for it in killed]
        if not killed:
            evidence["connected"] = scene.notes.get(_CONNECTED, {})
        return Proof(proven=bool(killed) and not left, evidence=evidence)

    async def heal(self, scene: Scene) -> None:
        """Starts the server unless it runs."""
        await restart_missing(scene)

    async def heal_proof(self, scene: Scene) -> Proof:
        """The server runs and takes a new connection; it is a later one than before where that one was ended."""
        proof = await restarted(scene)
        if not proof.proven:
            return proof
        try:
            now = await serves(scene, self.dsn)
        except TargetError as error:
            return Proof(proven=False, evidence={**proof.evidence, "error": str(error)})
        return Proof(proven=True, evidence={**proof.evidence, **now.evidence, "before": scene.notes.get(_STARTED)})
