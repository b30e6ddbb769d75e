"""The accrual process's way to the database; failures are those of `Database`."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from system_under_test.storage.database import Database

BEGUN: Final = "begun"
ACCRUED: Final = "accrued"
FINISHED: Final = "finished"
WAITING: Final = "waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What was done: BEGUN, ACCRUED or FINISHED of an `hour`, or WAITING while the next one, `hour`, is not over.

    `took_s` counts from the hour's begin in wall time; while WAITING it is how long until the next hour is over.
    """

    what: str
    hour: datetime
    accounts: int
    credited: int
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Business time up to which all interest is credited, and how many hours that are over are not complete.

    `finished_at` is the wall time at which the newest complete hour was completed, None before the first.
    """

    credited_until: datetime
    lag_hours: int
    finished_at: datetime | None


class Accrual:
    """The accrual role's functions of the database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def step(self, token: int, accounts_at_once: int) -> Step:
        """Does the next thing there is to do, under the lease's `token`.

        Raises:
            FencedError: the token is no longer in force.
        """
        row = await self.database.row("select * from accrue_step($1, $2)", token, accounts_at_once)
        return Step(
            what=row["step"],
            hour=row["hour"],
            accounts=row["accounts"] or 0,
            credited=row["credited"] or 0,
            took_s=row["took_s"] or 0.0,
        )

    async def progress(self) -> Progress:
        """How far interest is."""
        row = await self.database.row("select credited_until, lag_hours, finished_at from accrual_progress()")
        return Progress(
            credited_until=row["credited_until"], lag_hours=row["lag_hours"], finished_at=row["finished_at"]
        )
