"""A lock in the database that somebody holds and does not let go: a forgotten transaction, a migration, a backup.

    begin -> lock -> somebody waits for it (the effect) -> ... -> rollback

Three ways end it: healing, its undo record (which ends the connection by its name), and the server itself, which is
told at the start after which time such a transaction is to be ended.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from chaos.errors import TargetError
from chaos.faults.connected import OnDatabase, connect, name_of, shown
from chaos.faults.fault import FAULTS, Proof, Scene
from chaos.targets.backends import own_left, release, release_step, waiting_for
from chaos.targets.database import Session
from chaos.undo import Step
from metrics.units import PositiveSeconds

Mode = Literal[
    "access share",
    "row share",
    "row exclusive",
    "share update exclusive",
    "share",
    "share row exclusive",
    "exclusive",
    "access exclusive",
]

_LOCKING: Final = re.compile(r"\bfor\s+(?:update|no\s+key\s+update|share|key\s+share)\b", re.IGNORECASE)
_TABLE: Final = r'^(?:[a-z_][a-z0-9_$]*|"[^"\x00]+")(?:\.(?:[a-z_][a-z0-9_$]*|"[^"\x00]+"))?$'
_GET_LIMIT_S: Final = 5.0
"""How long somebody else may keep the lock from us."""
_LET_GO_MARGIN_S: Final = 5.0
_RELEASE_LIMIT_S: Final = 5.0
_POLL_S: Final = 0.02
_HELD: Final = "held"
_WAITERS: Final = "waiters"
_WATCH: Final = "watch"


@FAULTS.register("pg_lock")
@dataclass(frozen=True, slots=True, kw_only=True)
class PgLock(OnDatabase):
    """Hold a lock `for` a time: on a `table` in a `mode`, on the `row`s of a `select ... for update`, or `advisory`.

    It is in force when somebody is seen waiting for it; until then the injection goes on, at most for that time.
    """

    example: ClassVar[Mapping[str, Any]] = {"dsn": "postgres.admin_dsn", "table": "account", "for": "3s"}

    table: Annotated[str | None, Field(pattern=_TABLE)] = None
    mode: Mode | None = None
    row: str | None = None
    advisory: int | None = None
    for_s: Annotated[PositiveSeconds, Field(alias="for")] = 3.0

    def __post_init__(self) -> None:
        given = [name for name in ("table", "row", "advisory") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of table, row, advisory; got {' and '.join(given) or 'none'}")
        if self.mode is not None and self.table is None:
            raise ValueError("mode belongs to table")
        if self.row is not None and not _LOCKING.search(self.row):
            raise ValueError("row must be a `select ... for update` (or for share): this one locks nothing")
        if self.advisory is not None and not -(2**63) <= self.advisory < 2**63:
            raise ValueError("advisory is a number of 64 bits")

    @property
    def heal_after_s(self) -> float:
        """Seconds until the lock is let go."""
        return self.for_s

    def undo_steps(self, scene: Scene) -> list[Step]:
        """End the connection that holds it, known by its name."""
        return [release_step(str(scene.target.output(self.dsn)), name_of(scene))]

    async def inject(self, scene: Scene) -> None:
        """Takes the lock, and waits until somebody waits for it.

        Raises:
            TargetError: others keep it from us, it does not exist, or no row is locked.
        """
        limit_ms = int((self.for_s + _GET_LIMIT_S + _LET_GO_MARGIN_S) * 1000)
        settings = {
            "lock_timeout": str(int(_GET_LIMIT_S * 1000)),
            "idle_in_transaction_session_timeout": str(limit_ms),
        }
        session = await connect(scene, self.dsn, settings=settings)
        scene.notes[_HELD] = session
        await session.execute("begin")
        await self._take(session)
        scene.took_hold()
        await self._await_waiters(scene, session)

    async def effect(self, scene: Scene) -> Proof:
        """Somebody was seen waiting for the lock, and it is held still."""
        session: Session | None = scene.notes.get(_HELD)
        waiters: dict[int, str] = scene.notes.get(_WAITERS, {})
        held = session is not None and session.kept
        evidence: dict[str, Any] = {"lock": self._what(), "held": held, "waiters": len(waiters)}
        evidence |= {"pids": shown(list(waiters)), "applications": sorted(set(waiters.values()))}
        return Proof(proven=held and bool(waiters), evidence=evidence)

    async def heal(self, scene: Scene) -> None:
        """Closes our connection, and sees to it that the server has ended it too."""
        for key in (_WATCH, _HELD):
            session: Session | None = scene.notes.get(key)
            if session is not None:
                session.drop()
        await release(str(scene.target.output(self.dsn)), name_of(scene), within_s=_RELEASE_LIMIT_S)

    async def heal_proof(self, scene: Scene) -> Proof:
        """The server lists no connection of this fault, so it holds nothing."""
        session = await Session.open(str(scene.target.output(self.dsn)), application="holdfast proof")
        try:
            left = await own_left(session, name_of(scene))
        finally:
            session.drop()
        return Proof(proven=left == 0, evidence={"connections_left": left})

    async def _take(self, session: Session) -> None:
        within_s = _GET_LIMIT_S + 1.0
        if self.table is not None:
            mode = self.mode or "access exclusive"
            await session.execute(f"lock table {self.table} in {mode} mode", within_s=within_s)
        elif self.advisory is not None:
            await session.rows("select pg_advisory_xact_lock($1)", self.advisory, within_s=within_s)
        elif self.row is not None and not await session.rows(self.row, within_s=within_s):
            raise TargetError(f"no row is locked: there is none that fits: {self.row}")

    async def _await_waiters(self, scene: Scene, session: Session) -> None:
        """Returns when somebody waits, or the lock has been held for its whole time."""
        watch = await connect(scene, self.dsn)
        scene.notes[_WATCH] = watch
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + self.for_s
        while True:
            seen = await waiting_for(watch, session.pid)
            scene.notes[_WAITERS] = {it["pid"]: it["application"] for it in seen}
            if seen or loop.time() >= ends_s:
                return
            await asyncio.sleep(_POLL_S)

    def _what(self) -> str:
        if self.table is not None:
            return f"table {self.table} in {self.mode or 'access exclusive'} mode"
        return f"advisory {self.advisory}" if self.row is None else self.row
