"""The maintenance process's way to its windows and to the business clock; failures are those of `Database`."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from system_under_test.domain.windows import NOTICE, SENDING, Notices, Stage, Step, Window
from system_under_test.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Surveyed:
    """A window that is to come or under way, and what the database knows about it; `now` in business time."""

    window: Window
    version: int
    notices: Notices | None
    drained: bool
    work_finished: bool
    verify_head: int | None
    now: datetime
    wall: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What became of a plan: `planned`, `too_soon`, `taken`, `unknown` or `begun` (0009_windows.sql says when)."""

    outcome: str
    window: int | None
    starts_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedWindow:
    """A window as everybody may see it; each of `events` is one change, oldest first."""

    window: int
    revision: int
    stage: str
    planned_start: datetime
    planned_end: datetime
    published_end: datetime
    reason: str
    events: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BusinessClock:
    """The business time at the wall time, and how many business seconds a wall second has."""

    business: datetime
    wall: datetime
    rate: float


class Windows:
    """The database's functions about windows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def survey(self, *, notices: bool) -> tuple[Surveyed, ...]:
        """Every window that is to come or under way, by its start; how far notices are only when asked for."""
        rows = await self._database.rows("select * from survey_windows($1)", notices)
        return tuple(_surveyed(row) for row in rows)

    async def carry_out(self, seen: Surveyed, step: Step, *, verified_head: int | None) -> bool:
        """Whether the step was done; not done when the window is no longer as seen, or may not open yet."""
        after = step.after
        row = await self._database.row(
            "select step_window($1, $2, $3, $4, $5, $6, $7, $8, $9) as done",
            *(after.number, seen.version, step.change.value, after.stage.value),
            *(after.start, after.end, after.published_end, step.reason, verified_head),
        )
        return bool(row["done"])

    async def schedule(self, *, start: datetime, minutes: int, reason: str) -> Planned:
        """Plans a new window."""
        row = await self._database.row(
            "select * from schedule_window($1, $2, $3, $4)", start, minutes, reason, NOTICE + SENDING
        )
        return _planned(row)

    async def move(self, window: int, *, start: datetime, minutes: int | None, reason: str) -> Planned:
        """Gives a window that has not begun another time, and the same length unless `minutes` says otherwise."""
        row = await self._database.row(
            "select * from move_window($1, $2, $3, $4, $5)", window, start, minutes, reason, NOTICE + SENDING
        )
        return _planned(row)

    async def cancel(self, window: int, *, reason: str) -> str:
        """`done`, `unknown` or `begun`."""
        row = await self._database.row("select cancel_window($1, $2) as outcome", window, reason)
        return str(row["outcome"])

    async def finish(self, window: int, *, reason: str) -> str:
        """`done`, `unknown` or `not_closed`."""
        row = await self._database.row("select finish_window_work($1, $2) as outcome", window, reason)
        return str(row["outcome"])

    async def clock(self) -> BusinessClock:
        """The business clock as it is now."""
        row = await self._database.row("select * from read_business_clock()")
        return BusinessClock(business=row["business_at"], wall=row["wall_at"], rate=row["rate"])

    async def forward(self, *, business: datetime | None, rate: float | None) -> tuple[str, datetime]:
        """`done`, `backwards` or `window_under_way`, and the business time that it is then."""
        row = await self._database.row("select * from forward_business_clock($1, $2)", business, rate)
        return str(row["outcome"]), row["business_at"]

    async def measure_pace(self) -> float:
        """How many redemptions a second are settled when there are many; what customers are told relies on it."""
        row = await self._database.row("select measure_settlement_pace() as per_second")
        return float(row["per_second"])


async def list_windows(database: Database, *, limit: int) -> tuple[ListedWindow, ...]:
    """The newest `limit` windows, the latest first; for the portal's schedule too."""
    rows = await database.rows("select * from list_windows($1)", limit)
    return tuple(
        ListedWindow(
            window=row["id"],
            revision=row["revision"],
            stage=row["stage"],
            planned_start=row["planned_start"],
            planned_end=row["planned_end"],
            published_end=row["published_end"],
            reason=row["reason"],
            events=tuple(json.loads(row["events"])),
        )
        for row in rows
    )


def _surveyed(row: Any) -> Surveyed:
    counted = row["notices_total"] is not None
    return Surveyed(
        window=Window(
            number=row["id"],
            revision=row["revision"],
            stage=Stage(row["stage"]),
            start=row["planned_start"],
            end=row["planned_end"],
            published_end=row["published_end"],
            entered=row["entered_at"],
        ),
        version=row["version"],
        notices=Notices(total=row["notices_total"], sent=row["notices_sent"], last_sent=row["last_sent_at"])
        if counted
        else None,
        drained=row["drained"],
        work_finished=row["work_finished"],
        verify_head=row["verify_head"],
        now=row["business_at"],
        wall=row["wall_at"],
    )


def _planned(row: Any) -> Planned:
    starts_at = row["starts_at"]
    if row["outcome"] == "too_soon":  # to the full minute, which is how it will be asked for again
        starts_at = (starts_at + timedelta(minutes=1)).replace(second=0, microsecond=0)
    return Planned(outcome=row["outcome"], window=row["window_id"], starts_at=starts_at)
