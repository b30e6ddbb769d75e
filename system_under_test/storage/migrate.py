"""Brings the schema up to date: each numbered file of `schema/` once, in order, in a transaction of its own.

It may run while nodes serve customers. A step that changes a table waits until everybody else's transactions on it are
over, and whoever comes after it waits behind it: so it waits briefly, steps back, and tries again. Two migrations at
once take turns, step by step, by a lock on the table of steps, which nobody but the owner can lock.
"""

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import asyncpg
from pydantic import AwareDatetime, Field

from system_under_test.logs import configure_logs
from system_under_test.settings import Arguments, DatabaseUrl, PlatformError, Settings, read_settings
from system_under_test.storage.connection import connect

SCHEMA: Final = Path(__file__).parent / "schema"
_NAME = re.compile(r"(?P<version>\d{4})_[a-z0-9_]+\.sql")
# Well below what a customer's request may take; and those who came meanwhile are served before the next try.
_LOCK_WITHIN_MS: Final = 100
_STEP_BACK_S: Final = 0.4
_TRIES: Final = 120
_TABLE: Final = """
create table if not exists schema_step (
    version integer primary key, name text not null, digest text not null,
    applied_at timestamptz not null default now())
"""
_FIRST_CLOCK: Final = """
insert into business_clock (wall, business, rate)
select now(), coalesce($1::timestamptz, now()), $2 where not exists (select from business_clock)
"""
_FIRST_RATE: Final = """
insert into interest_rate (from_hour, rate_ppb)
select date_trunc('hour', c.business, 'UTC'), $1 from business_clock c where not exists (select from interest_rate)
order by c.wall limit 1
"""


class MigrateSettings(Settings):
    """What the migration is told."""

    admin_url: DatabaseUrl = Field(alias="DATABASE_ADMIN_URL")
    # Where business time begins, and how fast it runs; later only an operator changes it.
    business_start: AwareDatetime | None = Field(default=None, alias="BUSINESS_START")
    business_rate: Annotated[float, Field(gt=0, le=1_000_000)] = Field(default=1.0, alias="BUSINESS_RATE")
    # Of the first business hour, parts per billion a year: 4.321 %.
    interest_rate_ppb: Annotated[int, Field(ge=0, le=1_000_000_000)] = Field(
        default=43_210_000, alias="INTEREST_RATE_PPB"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One file of the schema."""

    version: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        """What tells whether the file was changed after it had been applied."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def read_steps(folder: Path = SCHEMA) -> tuple[Step, ...]:
    """The steps in `folder`, numbered 1, 2, 3 without a gap.

    Raises:
        PlatformError: a file is named otherwise, or a number is missing or there twice.
    """
    steps = []
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise PlatformError(f"{path}: expected a name such as 0001_ledger.sql")
        steps.append(Step(version=int(match["version"]), name=path.name, sql=path.read_text(encoding="utf-8")))
    if [step.version for step in steps] != list(range(1, len(steps) + 1)):
        raise PlatformError(f"{folder}: expected the numbers 1, 2, 3, ..., got {[step.name for step in steps]}")
    return tuple(steps)


async def migrate(connection: Any, steps: Sequence[Step], *, tries: int = _TRIES) -> tuple[Step, ...]:
    """Applies what is missing of `steps`, and gives back what it applied; of two at once each step is done by one.

    A step that does not get its locks is tried again, twice a second, at most `tries` times.

    Raises:
        PlatformError: a step that was applied has been changed since, the database is ahead of `steps`, or a table that
            a step changes was in use at every try; the steps before that one stay applied.
    """
    # Another one that makes the table at the same moment makes this statement fail, and has made it.
    with suppress(asyncpg.UniqueViolationError, asyncpg.DuplicateTableError):
        await connection.execute(_TABLE)
    applied = {row["version"]: row for row in await connection.fetch("select version, name, digest from schema_step")}
    ahead = [row["name"] for version, row in applied.items() if version > len(steps)]
    if ahead:
        raise PlatformError(f"the database has steps that this version does not know: {', '.join(ahead)}")
    for step in steps:
        if step.version in applied:
            _refuse_change(step, applied[step.version]["digest"])
    missing = [step for step in steps if step.version not in applied]
    return tuple([step for step in missing if await _apply(connection, step, tries)])


def _refuse_change(step: Step, applied: str) -> None:
    if applied != step.digest:
        raise PlatformError(f"{step.name} was changed after it had been applied; add a new step instead")


async def _apply(connection: Any, step: Step, tries: int) -> bool:
    """Applies `step`; gives whether it did, False where another migration was faster."""
    for _ in range(tries):
        try:
            async with connection.transaction():
                # Names mean the public schema's.
                await connection.execute(
                    f"set local lock_timeout = {_LOCK_WITHIN_MS}; set local search_path = public;"
                    " lock table schema_step in share row exclusive mode"
                )
                applied = await connection.fetchval("select digest from schema_step where version = $1", step.version)
                if applied is not None:
                    _refuse_change(step, applied)
                    return False
                await connection.execute(step.sql)
                await connection.execute(
                    "insert into schema_step (version, name, digest) values ($1, $2, $3)",
                    step.version,
                    step.name,
                    step.digest,
                )
        except asyncpg.LockNotAvailableError:
            # Who holds the lock cannot be waited for without making others wait.
            await asyncio.sleep(_STEP_BACK_S)
        else:
            return True
    raise PlatformError(
        f"{step.name}: a table that it changes was in use at each of {tries} tries; look for long transactions"
    )


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Migrates and says what was applied."""
    Arguments(
        "migrate",
        "Bring the schema up to date. Reads DATABASE_ADMIN_URL, BUSINESS_START, BUSINESS_RATE and INTEREST_RATE_PPB.",
    ).parse_args(arguments)
    settings = read_settings(MigrateSettings, environment)
    applied = asyncio.run(_migrate(settings))
    configure_logs("migrate").info("schema.migrated", applied=[step.name for step in applied])
    return 0


async def _migrate(settings: MigrateSettings) -> tuple[Step, ...]:
    async with connect(settings.admin_url) as connection:
        applied = await migrate(connection, read_steps())
        async with connection.transaction():
            await connection.execute(_FIRST_CLOCK, settings.business_start, settings.business_rate)
            await connection.execute(_FIRST_RATE, settings.interest_rate_ppb)
        return applied
