"""An operator and a provider of notices: how the tests lead windows through their lives."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from tests.integration.platform.customers import Reply, send, until
from tests.integration.platform.stage import OPERATOR_TOKEN, Process, Stage, await_ready

OFTEN = 60
"""Business seconds in a second: the fastest at which a window runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """A small platform with its maintenance process: two portals, a settler, a balancer, twelve customers."""

    stage: Stage
    postgres: Process
    portals: list[Process]
    maintenance: Process
    balancer: Process
    customers: list[dict[str, str]]

    @property
    def url(self) -> str:
        """Where clients go."""
        return self.balancer.outputs()["url"]


@contextmanager
def open_company(folder: Path) -> Iterator[Company]:
    """Starts everything, gives it, and ends it."""
    stage = Stage(folder=folder)
    try:
        postgres = stage.add_database()
        portals = [stage.add_portal(f"portal-{number}", postgres) for number in (1, 2)]
        settlement = stage.add_settlement("settlement", postgres)
        maintenance = stage.add_maintenance(postgres)
        for process in (*portals, settlement):
            await_ready(process)
        yield Company(
            stage=stage,
            postgres=postgres,
            portals=portals,
            maintenance=maintenance,
            balancer=stage.add_balancer("balancer", portals),
            customers=stage.seed(postgres, customers=12),
        )
    finally:
        stage.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Plans windows and sets the clock, over the operator's interface; looks at the database as its owner."""

    company: Company
    session: aiohttp.ClientSession
    owner: Any

    async def ask(self, method: str, path: str, body: Any = None, *, token: str | None = OPERATOR_TOKEN) -> Reply:
        """One request to /v1/`path` of the maintenance process."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        url = f"http://127.0.0.1:{self.company.maintenance.port}/v1/{path}"
        return await send(self.session, method, url, json=body, headers=headers)

    async def clock(self) -> datetime:
        """The business time."""
        reply = await self.ask("GET", "clock")
        assert reply.status == 200, reply
        return datetime.fromisoformat(reply.body["business_time"])

    async def forward(self, to: datetime | None = None, *, rate: float | None = None) -> None:
        """Lets business time go on from `to`."""
        body = {"to": None if to is None else to.isoformat(), "rate": rate}
        reply = await self.ask("POST", "clock", {name: value for name, value in body.items() if value is not None})
        assert reply.status == 200, reply

    async def plan(self, *, hours_ahead: float = 26, minutes: int = 30) -> int:
        """Schedules a window and gives its number."""
        starts_at = await self.clock() + timedelta(hours=hours_ahead)
        reply = await self.ask("POST", "windows", {"starts_at": starts_at.isoformat(), "minutes": minutes})
        assert reply.status == 201, reply
        return int(reply.body["id"])

    async def window(self, number: int) -> dict[str, Any]:
        """The window as listed."""
        reply = await self.ask("GET", "windows")
        assert reply.status == 200, reply
        found: dict[str, Any] = next(window for window in reply.body["windows"] if window["id"] == number)
        return found

    async def row(self, number: int) -> Any:
        """The window's row, whether or not the maintenance process lives."""
        return await self.owner.fetchrow("select * from maintenance_window where id = $1", number)

    async def reaches(self, number: int, stage: str, *, within_s: float = 60) -> Any:
        """The window's row as soon as it is at this stage."""
        async with asyncio.timeout(within_s):
            return await until(lambda: self.row(number), lambda row: row["stage"] == stage)

    async def tell_everybody(self) -> int:
        """Sends every notice that is due, as a notifier does; gives their number."""
        told = 0
        while ids := [row["id"] for row in await self.owner.fetch("select id from claim_notices('email', 1000, 30)")]:
            told += await self.owner.fetchval("select mark_notices_sent($1)", ids)
        return told

    async def noticed(self, **plan: Any) -> int:
        """A new window that every customer has been told of."""
        number = await self.plan(**plan)
        await self.tell_everybody()
        await self.reaches(number, "noticed")
        return number

    async def closed(self, **plan: Any) -> int:
        """A new window that has just closed; business time runs as fast as in any window."""
        number = await self.noticed(**plan)
        await self.forward((await self.row(number))["planned_start"], rate=OFTEN)
        await self.reaches(number, "closed")
        return number

    async def opened(self, number: int) -> Any:
        """Ends the work of a closed window and gives its row when the service is open again."""
        reply = await self.ask("POST", f"windows/{number}/finish", {"reason": "all done"})
        assert reply.status == 200, reply
        return await self.reaches(number, "open")

    async def changes(self, number: int) -> list[str]:
        """What became of a window, in order."""
        rows = await self.owner.fetch("select change from window_event where window_id = $1 order by id", number)
        return [row["change"] for row in rows]


@asynccontextmanager
async def operate(company: Company, session: aiohttp.ClientSession) -> AsyncIterator[Operator]:
    """An operator of the company; leaves no window behind, and the clock at the pace of the wall's."""
    owner = await asyncpg.connect(company.postgres.outputs()["admin_dsn"])
    operator = Operator(company=company, session=session, owner=owner)
    try:
        yield operator
        for row in await owner.fetch(
            "select id, stage from maintenance_window where stage not in ('open', 'cancelled')"
        ):
            if row["stage"] in {"scheduled", "noticed"}:
                await operator.ask("POST", f"windows/{row['id']}/cancel", {"reason": "the test is over"})
            else:
                await operator.ask("POST", f"windows/{row['id']}/finish", {"reason": "the test is over"})
                await operator.reaches(row["id"], "open")
        await operator.tell_everybody()
        await operator.forward(rate=1.0)
    finally:
        await owner.close(timeout=5)
