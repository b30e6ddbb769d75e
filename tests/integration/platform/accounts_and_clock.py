"""Accounts, money and business time, set directly in a database: what accrual is tested with."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from tests.integration.platform.interest_oracle import HOUR, faults_in_interest
from tests.integration.platform.stage import Process

CHUNK: Final = 5000


@dataclass(slots=True, kw_only=True)
class Books:
    """A database as its owner sees it (`owner`) and as the accrual role does (`accrual`)."""

    postgres: Process
    owner: Any
    accrual: Any

    async def open_account(self, balance: int = 0) -> str:
        """Opens a customer's account; gives its id."""
        async with self.owner.transaction():
            name = await self.owner.fetchval(
                "insert into account (id, kind, wallet, balance)"
                " select 'c-' || to_char(nextval('customer_number'), 'FM000000'), 'customer', 'a', 0 returning id"
            )
            if balance:
                await self.deposit(name, balance)
        return str(name)

    async def deposit(self, account: str, amount: int, at: datetime | None = None) -> None:
        """Deposits, dated `at`, now unless given."""
        await move(self.owner, "deposit", "custody-a", account, amount, at)

    async def redeem(self, account: str, amount: int, at: datetime | None = None) -> None:
        """Settles a redemption, dated `at`, now unless given."""
        await move(self.owner, "redemption", account, "payable-a", amount, at)

    async def now(self) -> datetime:
        """What a transfer would be dated with."""
        moment: datetime = await self.owner.fetchval("select business_now()")
        return moment

    async def next_hour(self) -> datetime:
        """The hour that is to be accrued next."""
        hour: datetime = await self.owner.fetchval("select next_accrual_hour()")
        return hour

    async def go_to(self, business: datetime) -> None:
        """Sets business time forward."""
        await self.owner.fetchval("select set_business_clock($1, null)", business)

    async def pass_hours(self, hours: int) -> None:
        """Lets that many hours of accrual be over, and a moment more."""
        await self.go_to(await self.next_hour() + hours * HOUR + timedelta(seconds=1))

    async def set_rate(self, from_hour: datetime, rate_ppb: int) -> None:
        """Sets the rate of interest from that hour on."""
        await self.owner.execute("insert into interest_rate values ($1, $2)", from_hour, rate_ppb)

    async def take_lease(self, holder: str) -> int:
        """Takes the lease from whoever has it; gives its token."""
        await self.owner.execute("update lease set expires_at = '-infinity' where name = 'accrual'")
        token: int = await self.accrual.fetchval("select take_lease('accrual', $1, 600)", holder)
        return token

    async def step(self, token: int, chunk: int = CHUNK) -> Any:
        """One step of accrual."""
        return await self.accrual.fetchrow("select * from accrue_step($1, $2)", token, chunk)

    async def catch_up(self, token: int, chunk: int = CHUNK) -> None:
        """Steps until no hour is over."""
        while (await self.step(token, chunk))["step"] != "waiting":
            pass

    async def snapshot(self, account: str, hour: datetime) -> Any:
        """(balance, interest, remainder) of an account's hour; None where there is none."""
        row = await self.owner.fetchrow(
            "select balance, interest, remainder from accrual_snapshot where account = $1 and hour = $2", account, hour
        )
        return None if row is None else tuple(row)

    async def assert_exact(self) -> None:
        """Compares everything with the oracle; the clock has to stand beyond an hour that is complete."""
        faults = await faults_in_interest(self.owner)
        assert not faults, faults[:5]


@asynccontextmanager
async def opened(postgres: Process) -> AsyncIterator[Books]:
    """The books in `postgres`."""
    addresses = postgres.outputs()
    owner = await asyncpg.connect(addresses["admin_dsn"], timeout=5)
    try:
        accrual = await asyncpg.connect(addresses["accrual_dsn"], timeout=5)
        try:
            yield Books(postgres=postgres, owner=owner, accrual=accrual)
        finally:
            await accrual.close()
    finally:
        await owner.close()


@asynccontextmanager
async def patient(books: Books) -> AsyncIterator[None]:
    """While it lasts, a step waits for a lock as long as a test needs."""
    await books.owner.execute("alter function accrue_step set lock_timeout = '20s'")
    try:
        yield
    finally:
        await books.owner.execute("alter function accrue_step set lock_timeout = '250ms'")


async def move(connection: Any, kind: str, debit: str, credit: str, amount: int, at: datetime | None = None) -> None:
    """A transfer as those who write them do it: the customer's account is locked before the time is taken."""
    async with connection.transaction():
        await connection.execute("select from account where id = any ($1) for no key update", [debit, credit])
        await connection.execute(
            "insert into transfer (kind, debit_account, credit_account, amount, redemption, business_at) values"
            " ($1, $2, $3, $4, case $1 when 'redemption' then 1 end, coalesce($5, business_now()))",
            *(kind, debit, credit, amount, at),
        )
