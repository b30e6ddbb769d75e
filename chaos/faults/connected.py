"""What faults on a PostgreSQL server share: where it is, whom of its clients they take, and that it serves again."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from random import Random
from typing import Annotated, Any, Final

from pydantic import Field

from chaos.errors import TargetError
from chaos.faults.fault import NotThereError, Proof, RoleShape, Scene
from chaos.faults.victims import find_role
from chaos.processes import Identity, alive
from chaos.requirement import Requirement
from chaos.targets.backends import Backend, list_backends, own_name, rights
from chaos.targets.database import Session, fetch_value
from metrics.units import Ratio

Output = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*\.[A-Za-z0-9_]+$", description="role.output")]
"""What a role's launcher reports: only addresses that the target itself names are touched."""

SERVES_LIMIT_S: Final = 2.0
_SHOWN_MAX: Final = 20
"""Evidence stays readable, however many connections there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDatabase:
    """A fault on the server whose address the target reports as `dsn`. It takes no instance, so others may play."""

    dsn: Output

    def takes_s(self, victims: int) -> float:  # noqa: ARG002
        """No instance is taken."""
        return 0.0

    def requires(self, roles: Mapping[str, RoleShape]) -> Requirement:  # noqa: ARG002
        """The address."""
        return Requirement(outputs=(self.dsn,))

    def choose(self, roles: Mapping[str, RoleShape], busy: frozenset[str], rng: Random) -> tuple[str, ...]:  # noqa: ARG002
        """Nobody: it acts on connections, which are known only when it plays."""
        reporter(roles, self.dsn)
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Applications(OnDatabase):
    """Backends of `application`, a name or a pattern such as `portal-*`: all, or `count` or `percent` of them.

    Those that have been connected longest are taken first.
    """

    application: Annotated[str, Field(min_length=1, max_length=63)]
    count: Annotated[int, Field(ge=1)] | None = None
    percent: Annotated[Ratio, Field(gt=0)] | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.percent is not None:
            raise ValueError("count and percent exclude each other: keep one")

    def pick(self, backends: Sequence[Backend]) -> list[Backend]:
        """Those of the application that are taken, in order; fewer than `count` where there are not so many."""
        matching = [it for it in backends if fnmatchcase(it.application, self.application)]
        if self.percent is not None:
            return matching[: max(1, math.floor(self.percent * len(matching) + 1e-9))]
        return matching[: self.count]


def reporter(roles: Mapping[str, RoleShape], output: str) -> str:
    """The role that reports an output.

    Raises:
        NotThereError: the target has no such role.
    """
    role = output.partition(".")[0]
    if role not in roles:
        raise NotThereError([f"{output}: the target has no role {role!r}. Known: {', '.join(sorted(roles))}"])
    return role


def sole_server(roles: Mapping[str, RoleShape], busy: frozenset[str], dsn: str) -> tuple[str, ...]:
    """The one instance that serves `dsn`; for faults on its processes, which must be ours.

    Raises:
        NotThereError: no such role, or one whose processes are not ours.
        ValueError: another fault has it in its hands.
    """
    (instance,) = find_role(roles, reporter(roles, dsn)).zones
    if instance in busy:
        raise ValueError(f"{instance} is in the hands of another fault then")
    return (instance,)


def named(backends: Sequence[Backend]) -> dict[str, int]:
    """Application -> how many backends it has: what somebody who named a wrong one wants to see."""
    names = sorted({it.application for it in backends})[:_SHOWN_MAX]
    return {name: sum(it.application == name for it in backends) for name in names}


def shown(pids: Sequence[int]) -> list[int]:
    """The first of them."""
    return list(pids)[:_SHOWN_MAX]


def name_of(scene: Scene) -> str:
    """What the fault's own connections are called."""
    return own_name(scene.fault_id, scene.target.run_id)


async def connect(scene: Scene, dsn: str, *, settings: Mapping[str, str] | None = None) -> Session:
    """A connection of the fault's own."""
    return await Session.open(str(scene.target.output(dsn)), application=name_of(scene), settings=settings)


async def may_be_ended(session: Session, backends: Sequence[Backend]) -> None:
    """Returns when the session's role may see and end these backends.

    Raises:
        TargetError: it may not; with what to do.
    """
    if problem := (await rights(session)).lacking(backends):
        raise TargetError(problem)


async def victims_of(session: Session, whom: Applications) -> list[Backend]:
    """The backends that are taken now.

    Raises:
        TargetError: they may not be seen.
    """
    chosen = whom.pick(await list_backends(session))
    await may_be_ended(session, chosen)
    return chosen


def server_of(scene: Scene) -> Identity:
    """The server's first process.

    Raises:
        TargetError: it does not run.
    """
    (instance,) = scene.instances
    identity = scene.before[instance]
    if identity is None or not alive(identity):
        raise TargetError(f"{scene.fault_id}: {instance} did not run when the fault was due; see the log in logs/")
    return identity


async def serves(scene: Scene, dsn: str) -> Proof:
    """Whether a new connection is taken now."""
    began = await fetch_value(
        str(scene.target.output(dsn)), "select pg_postmaster_start_time()::text", within_s=SERVES_LIMIT_S
    )
    evidence: dict[str, Any] = {"serves": True, "server_started": began}
    return Proof(proven=True, evidence=evidence)
