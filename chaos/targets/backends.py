"""The backends of a PostgreSQL server as it lists them itself: who is connected, what they do, whom they wait for.

    applications' connections -> pg_stat_activity -> Backend -> (pid) -> the kernel's process, if it is our server's

What a fault holds itself it holds under a name that begins with `holdfast `; `release_step` ends whatever has such a
name, from another process too.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from chaos.errors import TargetError
from chaos.processes import Identity, alive, every_process, read_stat
from chaos.targets.database import Session
from chaos.undo import STEP_LIMIT_S, Starter, Step, register

_OURS: Final = "holdfast "
_NAME_BYTES: Final = 63
"""What PostgreSQL keeps of the name of an application."""
_RUN_BYTES: Final = 32
_POLL_S: Final = 0.02

_LIST: Final = """
    select pid, usename as user, application_name as application, backend_start::text as began,
           case when state = 'active' then query_start::text end as statement
    from pg_stat_activity
    where usesysid is not null and datid is not null and leader_pid is null and pid <> pg_backend_pid()
      and not starts_with(application_name, 'holdfast ')
    order by backend_start, pid
"""
_RIGHTS: Final = """
    select current_user::text as name, current_setting('is_superuser') = 'on' as superuser,
           pg_has_role('pg_read_all_stats', 'usage') as sees, pg_has_role('pg_signal_backend', 'usage') as ends
"""
_END_OURS: Final = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1"
_OURS_LEFT: Final = "select count(*)::int as left from pg_stat_activity where application_name = $1"
_WAITERS: Final = """
    select w.pid, coalesce(a.application_name, '') as application
    from (select distinct pid from pg_locks where not granted) w left join pg_stat_activity a using (pid)
    where $1 = any (pg_blocking_pids(w.pid)) order by w.pid
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One client's backend; `statement` is when the one began that it carries out now, None while it has none.

    `began` tells it from a later one with its pid.
    """

    pid: int
    user: str
    application: str
    began: str
    statement: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What the role of a session may do with the backends of others."""

    name: str
    superuser: bool
    sees: bool
    ends: bool

    def lacking(self, others: Iterable[Backend]) -> str | None:
        """What the role lacks to see and end these backends, and what to do; None where it may."""
        strangers = sorted({it.user for it in others if it.user != self.name})
        lacks = [role for role, has in (("pg_read_all_stats", self.sees), ("pg_signal_backend", self.ends)) if not has]
        if self.superuser or not strangers or not lacks:
            return None
        return (
            f"role {self.name} may not see and end backends of {', '.join(strangers)}: "
            f"as a superuser, `grant {', '.join(lacks)} to {self.name}`"
        )


async def list_backends(session: Session) -> list[Backend]:
    """Every client's backend but those of faults, the longest connected first."""
    # Of a stranger's, a role without the right to see them is told neither when it began nor what it does.
    return [
        Backend(
            pid=row["pid"],
            user=row["user"],
            application=row["application"],
            began=row["began"] or "",
            statement=row["statement"],
        )
        for row in await session.rows(_LIST)
    ]


async def rights(session: Session) -> Rights:
    """What the session's role may do."""
    (row,) = await session.rows(_RIGHTS)
    return Rights(**row)


async def waiting_for(session: Session, pid: int) -> list[Mapping[str, Any]]:
    """`pid` and `application` of whoever waits for a lock that the backend `pid` holds."""
    return [dict(row) for row in await session.rows(_WAITERS, pid)]


def own_name(fault_id: str, run_id: str) -> str:
    """The name under which a fault's own connections are listed; no other fault of any run has it."""
    # The end of a run's name is what makes it its own.
    return f"{_OURS}{fault_id} {run_id[-_RUN_BYTES:]}"[:_NAME_BYTES]


def served_by(postmaster: Identity, backends: Iterable[Backend]) -> list[Identity]:
    """The processes of these backends, each a child of the server we started; those that have ended are left out.

    Raises:
        TargetError: a backend is no child of it, so it is not ours to signal.
    """
    found = []
    for backend in backends:
        stat = read_stat(backend.pid)
        if stat is None:
            continue
        if stat.parent != postmaster.pid or not alive(postmaster):
            raise TargetError(
                f"backend {backend.pid} of {backend.application!r} is no child of process {postmaster.pid}: "
                "only the server that this run started is signalled; does the dsn lead to another one?"
            )
        found.append(stat.identity)
    return found


def children_of(postmaster: Identity) -> list[Identity]:
    """All processes that the server has now besides its first one."""
    return [stat.identity for stat in every_process().values() if stat.parent == postmaster.pid]


def release_step(dsn: str, name: str) -> Step:
    """An undo step that ends every connection of this name and waits until none is left."""
    return {"do": "pg_release", "module": "chaos.targets.backends", "dsn": dsn, "application": name}


async def release(dsn: str, name: str, *, within_s: float) -> None:
    """Ends every connection of this name; returns when none is left, or no server is there to have any.

    Refused while the server is full, it asks again.

    Raises:
        TargetError: not within this time.
    """
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + within_s
    while True:
        try:
            session = await Session.open(dsn, application=f"{_OURS}release", within_s=max(0.1, ends_s - loop.time()))
            try:
                await session.rows(_END_OURS, name)
                if await own_left(session, name) == 0:
                    return
            finally:
                session.drop()
        except TargetError as error:
            if isinstance(error.__cause__, ConnectionRefusedError):
                return
            if loop.time() >= ends_s:
                raise
        if loop.time() >= ends_s:
            raise TargetError(f"connections of {name!r} are left after {within_s:g} s")
        await asyncio.sleep(_POLL_S)


async def own_left(session: Session, name: str) -> int:
    """How many connections have this name."""
    (row,) = await session.rows(_OURS_LEFT, name)
    return int(row["left"])


def _by_hand(step: Step) -> str:
    return _END_OURS.replace("$1", f"'{step.get('application')}'")


@register("pg_release", by_hand=_by_hand)
def _pg_release(step: Step, _starter: Starter | None) -> str:
    within_s = float(step.get("within_s", STEP_LIMIT_S))
    asyncio.run(release(str(step["dsn"]), str(step["application"]), within_s=within_s))
    return f"connections of {step['application']} ended"
