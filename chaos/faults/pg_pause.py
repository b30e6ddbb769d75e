"""SIGSTOP of single backends: one client's transaction stands still, with every lock it holds; the others go on."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field

from chaos.faults.connected import Applications, connect, named, server_of, serves, sole_server, victims_of
from chaos.faults.fault import FAULTS, Proof, RoleShape, Scene
from chaos.faults.freezing import states_of
from chaos.processes import Identity, send
from chaos.targets.backends import list_backends, served_by
from chaos.undo import Step, signal_step
from metrics.units import PositiveSeconds

_STOPPED: Final = "stopped"
_CONNECTED: Final = "connected"


@FAULTS.register("pg_pause")
@dataclass(frozen=True, slots=True, kw_only=True)
class PgPause(Applications):
    """Stop backends of an `application` with SIGSTOP `for` a while; one, unless `count` or `percent` says otherwise.

    Only children of a server that this run started are signalled.
    """

    example: ClassVar[Mapping[str, Any]] = {
        "dsn": "postgres.admin_dsn",
        "application": "portal-*",
        "count": 1,
        "for": "3s",
    }

    for_s: Annotated[PositiveSeconds, Field(alias="for")] = 3.0

    @property
    def heal_after_s(self) -> float:
        """Seconds until they go on."""
        return self.for_s

    def takes_s(self, victims: int) -> float:  # noqa: ARG002
        """As long as they are stopped: a server that is killed meanwhile would leave them behind."""
        return self.for_s

    def choose(self, roles: Mapping[str, RoleShape], busy: frozenset[str], rng: Random) -> tuple[str, ...]:  # noqa: ARG002
        """The server; which of its backends is known only when it plays."""
        return sole_server(roles, busy, self.dsn)

    def undo_steps(self, scene: Scene) -> list[Step]:
        """Let each go on; nobody is known before the injection, which adds them before it stops them."""
        return [signal_step(identity, signal.SIGCONT) for identity in _stopped(scene)]

    async def inject(self, scene: Scene) -> None:
        """Stops the processes of those that are connected now.

        Raises:
            TargetError: they may not be seen, or are not children of our server.
        """
        postmaster = server_of(scene)
        session = await connect(scene, self.dsn)
        try:
            scene.notes[_CONNECTED] = named(await list_backends(session))
            chosen = await victims_of(session, self)
            victims = served_by(postmaster, chosen if self.percent is not None else chosen[: self.count or 1])
        finally:
            session.drop()
        scene.notes[_STOPPED] = victims
        scene.record(self.undo_steps(scene))
        for identity in victims:
            send(identity, signal.SIGSTOP)

    async def effect(self, scene: Scene) -> Proof:
        """Each is in the state `T` of the kernel."""
        states = states_of(_stopped(scene))
        evidence: dict[str, Any] = {"states": states}
        if not states:
            evidence["connected"] = scene.notes.get(_CONNECTED, {})
        return Proof(proven=bool(states) and set(states.values()) == {"T"}, evidence=evidence)

    async def heal(self, scene: Scene) -> None:
        """Lets them go on."""
        for identity in _stopped(scene):
            send(identity, signal.SIGCONT)

    async def heal_proof(self, scene: Scene) -> Proof:
        """None is stopped, and the server takes a new connection."""
        states = states_of(_stopped(scene))
        if "T" in states.values():
            return Proof(proven=False, evidence={"states": states})
        return await serves(scene, self.dsn)


def _stopped(scene: Scene) -> list[Identity]:
    found: list[Identity] = scene.notes.get(_STOPPED, [])
    return found
