"""A ledger of one's own to damage: real rows in a real database, and everything back in its place afterwards."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import structlog
from prometheus_client import CollectorRegistry

from system_under_test.services.service import Service
from system_under_test.storage.database import Database, DatabaseLimits
from system_under_test.storage.reconciliation import Reconciliation, reconcile
from tests.integration.platform.history import CUSTOMERS, ONE_DEPOSIT, write_history
from tests.integration.platform.stage import Process, Stage

KEPT: Final = (
    *("transfer", "intake", "settlement", "redemption", "outcome", "accrual_hour", "accrual_snapshot"),
    *(
        "payout_progress",
        "payout_batch",
        "manifest",
        "signature",
        "sealed_batch",
        "reconciliation_key",
        "reconciliation",
        "verified_balance",
        "verified_moment",
    ),
)
"""Tables that are put back before a test, each after those that it refers to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """A database with some history, verified once; `folder` has the key and the anchor of who verified it."""

    stage: Stage
    postgres: Process
    folder: Path

    @asynccontextmanager
    async def owner(self) -> AsyncIterator[Any]:
        """A connection as the owner of everything."""
        connection = await asyncpg.connect(self.postgres.outputs()["admin_dsn"], timeout=5)
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def verifier(self) -> AsyncIterator[Service]:
        """The maintenance process's service, with its own database role and folder."""
        database = Database(
            self.postgres.outputs()["maintenance_dsn"],
            DatabaseLimits(pool_size=3, acquire_within_s=1.0, statement_within_s=10.0),
            application="verifier",
            on_change=lambda _ready, _problem: None,
        )
        connecting = asyncio.create_task(database.keep_connected())
        try:
            async with asyncio.timeout(10):
                while not database.ready:  # noqa: ASYNC110 - another task's state: no event can be awaited
                    await asyncio.sleep(0.01)
            yield Service(
                instance="verifier",
                log=structlog.stdlib.get_logger(),
                database=database,
                registry=CollectorRegistry(),
                data_dir=self.folder,
            )
        finally:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            await database.close()

    async def plant(self, *statements: str) -> None:
        """Changes rows as only the database's owner could, with the tables' own guards switched off."""
        async with self.owner() as owner, owner.transaction():
            for table in ("account", *KEPT):
                await owner.execute(f"alter table {table} disable trigger user")
            for statement in statements:
                await owner.execute(statement)
            for table in ("account", *KEPT):
                await owner.execute(f"alter table {table} enable trigger user")

    async def deposit(self) -> None:
        """One more deposit to the first customer's account."""
        async with self.owner() as owner:
            await owner.execute(ONE_DEPOSIT)

    async def verify(self, *, full: bool, side_by_side: int = 1) -> Reconciliation:
        """One reconciliation."""
        async with self.verifier() as service:
            return await reconcile(service, full=full, side_by_side=side_by_side)

    async def gate(self) -> tuple[str, str]:
        """Whether the gate is open or shut, and why."""
        async with self.owner() as owner:
            row = await owner.fetchrow("select gate, gate_reason from service_state")
        return row["gate"], row["gate_reason"]


def open_books(stage: Stage) -> Books:
    """Starts a database, gives it a history, and verifies it once."""
    postgres = stage.add_database()
    stage.seed(postgres, customers=CUSTOMERS)
    folder = stage.folder / "verifier"
    folder.mkdir()
    books = Books(stage=stage, postgres=postgres, folder=folder)
    asyncio.run(_write_history(books))
    return books


async def _write_history(books: Books) -> None:
    async with books.owner() as owner:
        await write_history(owner, books.postgres.outputs())
        found = await books.verify(full=True)
        assert found.passed, found.problems
        for table in ("account", *KEPT):
            await owner.execute(f"create table kept_{table} as table {table}")
    shutil.copytree(books.folder, books.folder.with_name("kept"))


async def put_back(books: Books) -> None:
    """Makes every kept row, the gate, and the verifier's folder what they were after the first verification."""
    async with books.owner() as owner, owner.transaction():
        for table in ("account", *KEPT):
            await owner.execute(f"alter table {table} disable trigger user")
        for table in reversed(KEPT):
            await owner.execute(f"delete from {table}")  # noqa: S608 - names of our own
        for table in KEPT:
            rows = f"select * from kept_{table}"  # noqa: S608 - names of our own
            await owner.execute(f"insert into {table} overriding system value {rows}")
        await owner.execute(
            "update account a set balance = k.balance, head = k.head, interest = k.interest"
            " from kept_account k where k.id = a.id"
        )
        for table in ("account", *KEPT):
            await owner.execute(f"alter table {table} enable trigger user")
        await owner.execute("update service_state set gate = 'open', gate_reason = '', stage = 'open'")
    for kept in books.folder.with_name("kept").iterdir():
        shutil.copy2(kept, books.folder / kept.name)
