"""What the public may know of the service, read from the database in one row."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from system_under_test.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicWindow:
    """A window that is to come or under way; business times."""

    number: int
    stage: str
    revision: int
    start: datetime
    end: datetime
    published_end: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicState:
    """The service at one moment; `window` is the one under way or else the next, None when none is planned."""

    stage: str
    gate: str
    queue_length: int
    business: datetime
    rate: float
    window: PublicWindow | None

    @property
    def reads_open(self) -> bool:
        """Whether balances are shown."""
        return self.stage in {"open", "draining"} and self.gate == "open"


async def read_public_state(database: Database) -> PublicState:
    """The state as it is now; raises as `Database.row` does."""
    row = await database.row("select * from public_status()")
    return PublicState(
        stage=row["stage"],
        gate=row["gate"],
        queue_length=row["queue_length"],
        business=row["business_at"],
        rate=row["rate"],
        window=None if row["window_id"] is None else _window(row),
    )


def _window(row: Any) -> PublicWindow:
    return PublicWindow(
        number=row["window_id"],
        stage=row["window_stage"],
        revision=row["revision"],
        start=row["planned_start"],
        end=row["planned_end"],
        published_end=row["published_end"],
        reason=row["reason"],
    )
