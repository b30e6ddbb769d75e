"""A database with customers, three signers and a settlement that a test moves by hand."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import asyncpg
from prometheus_client import CollectorRegistry

from system_under_test.logs import configure_logs
from system_under_test.services.payouts import Payouts
from system_under_test.services.service import Service
from system_under_test.storage.database import Database, DatabaseLimits, NotDoneError
from system_under_test.storage.lease import Lease
from tests.integration.platform import customers
from tests.integration.platform.stage import Process, Stage, await_true

OWNER, AUDITOR, SETTLEMENT = "admin_dsn", "auditor_dsn", "settlement_dsn"


AnswerT = TypeVar("AnswerT")
WITHIN_S: Final = 20.0


async def until(ask: Callable[[], Awaitable[AnswerT]], accept: Callable[[AnswerT], bool]) -> AnswerT:
    """Asks again and again until the answer is accepted; fails after 20 s."""
    async with asyncio.timeout(WITHIN_S):
        return await customers.until(ask, accept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the tests of custody act on."""

    stage: Stage
    postgres: Process
    signers: list[Process]
    accounts: list[str]

    def address(self, role: str) -> str:
        """The database's address for `role`."""
        return self.postgres.outputs()[role]

    @asynccontextmanager
    async def connected(self, role: str) -> AsyncIterator[Any]:
        """A connection as `role`."""
        connection = await asyncpg.connect(self.address(role), timeout=5)
        try:
            yield connection
        finally:
            await connection.close()

    async def redeem(self, amounts: list[int], *, wallet: str = "a") -> None:
        """Puts redemptions of one customer of the wallet into the queue."""
        token = uuid.uuid4().bytes * 2
        async with self.connected(OWNER) as owner:
            account = await owner.fetchval(
                "select id from account where kind = 'customer' and wallet = $1 order by random() limit 1", wallet
            )
            await owner.execute("insert into session values ($1, $2, now() + interval '1 hour')", token, account)
            keys = [str(uuid.uuid4()) for _ in amounts]
            rows = await owner.fetch(
                "select status from queue_redemptions($1, $2, $3, $4)",
                *([token] * len(amounts), keys, [b"p" * 32] * len(amounts), amounts),
            )
            assert [row["status"] for row in rows] == [202] * len(amounts)


def start_room(stage: Stage, *, customers: int = 20) -> Room:
    """Starts the database and three signers, and opens accounts."""
    postgres = stage.add_database()
    rows = stage.seed(postgres, customers=customers)
    signers = [
        stage.add(f"signer-{number}", "signer", DATABASE_URL=postgres.outputs()[f"signer_{number}_dsn"])
        for number in (1, 2, 3)
    ]
    for signer in signers:
        await_true(lambda signer=signer: bool(signer.lines("signer.key")), f"{signer.name} is enrolled")  # type: ignore[misc]
    return Room(stage=stage, postgres=postgres, signers=signers, accounts=[row["account"] for row in rows])


@dataclass(slots=True, kw_only=True)
class Settlement:
    """The active settlement, which does something only when it is told to."""

    room: Room
    service: Service
    lease: Lease
    payouts: Payouts

    async def settle(self) -> None:
        """Settles all that is queued; a lease that a busy machine lost is waited for."""
        await until(self._settled, bool)

    async def _settled(self) -> bool:
        if self.lease.token is None:
            return False
        settle = self.service.database.row("select * from settle_chunk($1, 5000)", self.lease.token)
        with suppress(NotDoneError):
            return await settle is None
        return False

    async def propose(self) -> list[int]:
        """Settles, and makes batches of all that is settled; gives the numbers of the unpaid ones."""
        await self.settle()
        rows = await until(self._propose, bool)
        return [row["number"] for row in rows]

    async def _propose(self) -> Any:
        with suppress(NotDoneError):
            await self.service.database.row("select propose_payouts($1)", self.lease.token)
        behind = await self.state("select 1 from payout_progress p, settlement s where p.considered < s.decided")
        return [] if behind else await self.state("select number from payout_batch where transfer is null order by 1")

    async def state(self, query: str, *arguments: Any) -> list[Any]:
        """What the auditor reads."""
        async with self.room.connected(AUDITOR) as auditor:
            rows: list[Any] = await auditor.fetch(query, *arguments)
            return rows

    async def signed(self, batch: int, *, by: int) -> None:
        """Waits until the batch's pending manifest has that many signatures."""
        query = (
            "select s.signer from signature s join manifest m on m.nonce = s.manifest"
            " where m.batch = $1 and m.status = 'pending'"
        )
        await until(lambda: self.state(query, batch), lambda rows: len(rows) >= by)

    async def paid(self, batch: int) -> Any:
        """Steps until the batch is paid, and gives its row."""

        async def step() -> Any:
            await self.payouts.step()
            return (await self.state("select * from payout_batch where number = $1", batch))[0]

        return await until(step, lambda row: row["transfer"] is not None)

    async def refused(self, reason: str, *, before: float) -> None:
        """Steps until a manifest was refused for `reason` once more than `before`."""

        async def step() -> float:
            await self.payouts.step()
            return self.count(reason)

        await until(step, lambda count: count > before)

    def count(self, reason: str) -> float:
        """Manifests refused for `reason` so far."""
        value = self.service.registry.get_sample_value("savings_payout_refusals_total", {"reason": reason})
        assert value is not None
        return value


@asynccontextmanager
async def settlement_of(room: Room) -> AsyncIterator[Settlement]:
    """The settlement of `room`, holding its lease until the end."""
    log = configure_logs("settlement-in-test")
    database = Database(
        room.address(SETTLEMENT),
        DatabaseLimits(pool_size=3, acquire_within_s=2, statement_within_s=10),
        application="settlement-in-test",
        on_change=lambda _ready, _problem: None,
    )
    service = Service(instance="settlement-in-test", log=log, database=database, registry=CollectorRegistry())
    lease = Lease(database, "settlement", instance="test", log=log, refusals=service.refusals)
    tasks = [asyncio.create_task(database.keep_connected())]
    try:
        await until(_given(lambda: database.ready), bool)
        tasks.append(asyncio.create_task(lease.keep()))
        await until(_given(lambda: lease.token), lambda token: token is not None)
        yield Settlement(room=room, service=service, lease=lease, payouts=Payouts(service, lease))
    finally:
        for task in reversed(tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await lease.release()
        await database.close()


def _given(ask: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def asked() -> Any:
        return ask()

    return asked


def public_key_of(signer: Process) -> bytes:
    """The public key that the signer's key file names."""
    return bytes.fromhex((signer.folder / "signer.key").read_text(encoding="ascii").splitlines()[2])


def events(process: Process, event: str) -> list[dict[str, Any]]:
    """Lines of the log that are whole; the last may still be being written."""
    lines = process.log.read_text(encoding="utf-8").split("\n")[:-1]
    return [record for record in map(json.loads, lines) if record["event"] == event]
