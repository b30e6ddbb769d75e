"""A wall clock that is set back stops nothing: what was timed before is told from what came since in another way.

The machine's clock cannot be set here; what was stored before is moved ahead by an hour instead, which is the same.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import pytest
import structlog
from prometheus_client import CollectorRegistry

from system_under_test.domain.custody import LIFETIME_MAX
from system_under_test.domain.signatures import generate, public_key
from system_under_test.services.service import Service
from system_under_test.services.signer import Signer
from system_under_test.storage.database import Database, DatabaseLimits
from tests.integration.platform.customers import until
from tests.integration.platform.queues import QueueDatabase, Wish, ask, drain, settle, take_lease

_HOUR: Final = timedelta(hours=1)
_LEASE_S: Final = 1.5
_TAKE: Final = f"select take_lease('settlement', $1, {_LEASE_S})"
_LATER: Final = "update lease set expires_at = expires_at + $1 where name = 'settlement'"
_STEP: Final = "select step_window($1, $2, $3, $4, $5, $6, $7, 'a test', $8)"


async def test_a_dead_holders_lease_is_free_at_once_when_the_clock_was_set_back(queue: QueueDatabase) -> None:
    """Taken for 1.5 s; an hour later by its row, another gets it with a new token, and the old token does nothing."""
    (account,) = await queue.new_customers(1)
    async with queue.connected("settlement") as settler, queue.connected() as owner:
        await take_lease(owner, "before")
        await owner.execute("update lease set expires_at = '-infinity' where name = 'settlement'")
        old = await settler.fetchval(_TAKE, "dead")
        assert await settler.fetchval(_TAKE, "other") is None
        await owner.execute(_LATER, _HOUR)
        await ask(owner, [Wish(account, "r", 5)])
        new = await settler.fetchval(_TAKE, "other")
        assert new == old + 1
        with pytest.raises(asyncpg.PostgresError, match="fenced"):
            await settle(settler, old)
        await drain(settler, await take_lease(owner))


async def test_a_holder_that_lives_keeps_its_lease_when_the_clock_was_set_back(queue: QueueDatabase) -> None:
    """It renews: the same token, for as long as any lease from now; nobody else gets it then."""
    async with queue.connected("settlement") as settler, queue.connected() as owner:
        token = await take_lease(owner, "alive")
        await owner.execute(_LATER, _HOUR)
        assert await settler.fetchval(_TAKE, "alive") == token
        left = await owner.fetchval("select expires_at - clock_timestamp() from lease where name = 'settlement'")
        assert left <= timedelta(seconds=_LEASE_S)
        assert await settler.fetchval(_TAKE, "other") is None


async def test_only_the_holder_gives_a_lease_back(queue: QueueDatabase) -> None:
    """Given back with an older token, as by a process that was frozen past its lease: the lease stays as it is."""
    async with queue.connected("settlement") as settler, queue.connected() as owner:
        old = await take_lease(owner, "frozen")
        new = await take_lease(owner, "active")
        for token, free in ((old, False), (new + 1, False), (new, True)):
            await settler.execute("select release_lease('settlement', $1)", token)
            assert (await settler.fetchval(_TAKE, "other") is not None) is free


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifying:
    """A window that is verifying in a database where nobody else acts."""

    owner: Any
    row: Any

    async def record(self, *, stage_changes: int, passed: bool = True, full: bool = True) -> None:
        """Adds the record of a verification, dated by a clock that was an hour ahead before verifying, or is behind."""
        seen_before = stage_changes < await self.owner.fetchval("select stage_changes from service_state")
        await self.owner.execute(
            "insert into reconciliation_key (public_key, retired_at) values ($1, now()) on conflict do nothing",
            bytes(32),
        )
        await self.owner.execute(
            'insert into reconciliation (number, "full", passed, head, batch, batch_hash, decided, paid_to,'
            " stage_changes, problems, took_s, recorded_at, previous, public_key, signature)"
            " select coalesce(max(number), 0) + 1, $1, $2, $3, 0, '', 0, 0, $4, $5, 0, $6, '', $7, $8"
            " from reconciliation",
            *(full, passed, self.row["verify_head"], stage_changes, "[]" if passed else "[1]"),
            *(self.row["entered_at"] + (_HOUR if seen_before else -_HOUR), bytes(32), bytes(64)),
        )

    async def opens(self) -> bool:
        """Asks the database to open the window; whether it did."""
        row = self.row
        opened: bool = await self.owner.fetchval(
            _STEP,
            *(row["id"], row["version"], "opened", "open"),
            *(row["planned_start"], row["planned_end"], row["published_end"], row["verify_head"]),
        )
        return opened


@asynccontextmanager
async def _verifying(owner: Any) -> AsyncIterator[Verifying]:
    planned = await owner.fetchrow(
        "select * from schedule_window(business_now() + interval '30 hours', 30, 'a test', interval '0')"
    )
    find = "select * from maintenance_window where id = $1"
    try:
        for change in ("noticed", "draining", "closed", "verifying"):
            row = await owner.fetchrow(find, planned["window_id"])
            plan = (row["planned_start"], row["planned_end"], row["published_end"], None)
            assert await owner.fetchval(_STEP, row["id"], row["version"], change, change, *plan)
        yield Verifying(owner=owner, row=await owner.fetchrow(find, planned["window_id"]))
    finally:
        await owner.execute("update service_state set stage = 'open', gate = 'open'")
        await owner.execute(
            "update maintenance_window set stage = 'cancelled' where id = $1 and stage <> 'open'", planned["window_id"]
        )


async def test_a_window_opens_by_what_was_seen_since_verifying_began_whatever_the_clock_says(
    queue: QueueDatabase,
) -> None:
    """A record of what was seen before, dated later, does not open it; one of what was seen since, dated earlier, does.

    Nor does a record that failed, or one that was not of the whole ledger.
    """
    async with queue.connected() as owner, _verifying(owner) as window:
        now = await owner.fetchval("select stage_changes from service_state")
        await window.record(stage_changes=now - 1)
        assert not await window.opens(), "what was seen before verifying began opened it"
        await window.record(stage_changes=now, passed=False)
        assert not await window.opens(), "a verification that failed opened it"
        await window.record(stage_changes=now, full=False)
        assert not await window.opens(), "a verification of a part opened it"
        await window.record(stage_changes=now)
        assert await window.opens()
        assert await owner.fetchval("select stage_changes from service_state") == now + 1


async def test_a_window_does_not_open_while_the_gate_is_shut(queue: QueueDatabase) -> None:
    """Everything else is as it has to be; the gate was shut since by a check that failed, and is opened again."""
    async with queue.connected() as owner, _verifying(owner) as window:
        await window.record(stage_changes=await owner.fetchval("select stage_changes from service_state"))
        await owner.execute("update service_state set gate = 'shut', gate_reason = 'a test'")
        assert not await window.opens()
        await owner.execute("update service_state set gate = 'open', gate_reason = ''")
        assert await window.opens()


@asynccontextmanager
async def _dated_later(owner: Any) -> AsyncIterator[None]:
    """While it lasts, manifests can be changed."""
    await owner.execute("alter table manifest disable trigger user")
    try:
        yield
    finally:
        await owner.execute("alter table manifest enable trigger user")


async def _pay(owner: Any, number: int) -> None:
    """Books a batch as paid, as only the owner could without signatures: an unpaid one holds up the next."""
    await owner.execute(
        """
        with paid as (
            insert into transfer (kind, debit_account, credit_account, amount, payout)
            select 'payout', 'payable-' || wallet, 'custody-' || wallet, total, number
            from payout_batch where number = $1 returning seq
        ), closed as (
            update manifest set status = 'paid', closed_at = clock_timestamp()
            where batch = $1 and status = 'pending' returning nonce
        )
        update payout_batch set transfer = paid.seq, manifest = closed.nonce, paid_at = clock_timestamp()
        from paid, closed where number = $1
        """,
        number,
    )


@asynccontextmanager
async def _batch(queue: QueueDatabase, owner: Any) -> AsyncIterator[int]:
    """The number of a batch with a new redemption in it, and its manifest; paid at the end."""
    (account,) = await queue.new_customers(1)
    await ask(owner, [Wish(account, "paid", 5)])
    token = await take_lease(owner)
    await drain(owner, token)

    async def propose() -> int | None:
        await owner.execute("select propose_payouts($1)", token)
        unpaid = await owner.fetch(
            "select b.number, r.seq is not null as ours from payout_batch b"
            " left join redemption r on r.account = $1 and r.seq between b.first_seq and b.last_seq"
            " join account a on a.id = $1 and a.wallet = b.wallet where b.transfer is null",
            account,
        )
        for row in unpaid:
            if row["ours"]:
                return int(row["number"])
            await _pay(owner, row["number"])
        return None

    async with asyncio.timeout(10):
        number = await until(propose, bool)
    assert number is not None
    yield number
    await _pay(owner, number)


async def test_a_manifest_made_before_the_clock_was_set_back_is_made_anew(queue: QueueDatabase) -> None:
    """Signers refuse what was made in the future; it is replaced at once, and not when it seems to expire."""
    async with queue.connected() as owner, _batch(queue, owner) as number:
        await owner.execute("alter table manifest disable trigger user")
        await owner.execute(
            "update manifest set created_at = created_at + $2, expires_at = expires_at + $2 where batch = $1",
            *(number, _HOUR),
        )
        await owner.execute("alter table manifest enable trigger user")
        assert await owner.fetchval("select propose_payouts($1)", await take_lease(owner)) == 1
        rows = await owner.fetch("select * from manifest where batch = $1 order by created_at", number)
        assert [(row["status"], row["reason"]) for row in rows] == [("pending", None), ("refused", "expired")]


async def test_the_next_batch_does_not_wait_until_the_clock_is_where_it_was(queue: QueueDatabase) -> None:
    """The last batch is an hour later than now by its row: the next one is made all the same."""
    async with queue.connected() as owner:
        async with _batch(queue, owner) as first:
            pass
        await owner.execute("update payout_progress set proposed_at = clock_timestamp() + $1", _HOUR)
        async with _batch(queue, owner) as second:
            assert second > first


@dataclass(slots=True, kw_only=True)
class Clocks:
    """A signer's clocks, set by the test."""

    behind: timedelta = timedelta(0)
    ahead_s: float = 0.0

    def wall(self) -> datetime:
        """The wall's."""
        return datetime.now(tz=UTC) - self.behind

    def steady_s(self) -> float:
        """The one that nobody sets."""
        return asyncio.get_running_loop().time() + self.ahead_s


@asynccontextmanager
async def _signing(queue: QueueDatabase, clocks: Clocks, key: bytes) -> AsyncIterator[Any]:
    """The third signer at work with a key of its own; gives the way to its metrics. Its seat is vacant afterwards."""
    database = Database(
        queue.postgres.outputs()["signer_3_dsn"],
        DatabaseLimits(pool_size=2, acquire_within_s=5.0, statement_within_s=10.0),
        application="signer",
        on_change=lambda _ready, _problem: None,
    )
    registry = CollectorRegistry()
    service = Service(instance="signer", log=structlog.stdlib.get_logger(), database=database, registry=registry)
    signer = Signer(service, key, wall=clocks.wall, steady_s=clocks.steady_s)
    connecting = asyncio.create_task(database.keep_connected())
    working = asyncio.create_task(signer.work())

    async def metric(name: str) -> float:
        assert not working.done(), working
        return registry.get_sample_value(f"savings_signer_{name}") or 0.0

    try:
        async with asyncio.timeout(10):
            await until(lambda: metric("key_current"), bool)
        yield metric
    finally:
        service.stopping.set()
        await asyncio.wait_for(working, 10)
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        await database.close()
        async with queue.connected() as owner:
            await owner.execute("select rotate_signer('signer-3')")


async def test_a_signer_learns_that_its_key_has_ended_although_its_clock_was_set_back(queue: QueueDatabase) -> None:
    """An hour back once the key stands; then the key is revoked, and ten seconds pass: it knows, an hour earlier."""
    clocks = Clocks()
    async with queue.connected() as owner, _signing(queue, clocks, generate()) as metric:
        clocks.behind = _HOUR
        await owner.execute("select revoke_signer('signer-3')")
        clocks.ahead_s = 10.0
        async with asyncio.timeout(10):
            await until(lambda: metric("key_current"), lambda current: not current)


async def test_a_signer_looks_again_at_what_its_clock_made_it_refuse(queue: QueueDatabase) -> None:
    """A clock an hour behind: the manifest is from the future. The clock is right again: signed when it is looked at.

    That is after as long as a manifest can last, by the clock that nobody sets.
    """
    clocks = Clocks(behind=_HOUR)
    key = generate()
    async with (
        queue.connected() as owner,
        _signing(queue, clocks, key) as metric,
        _batch(queue, owner) as number,
    ):
        async with asyncio.timeout(10):
            await until(lambda: metric("objections_total"), bool)
        clocks.behind = timedelta(0)
        clocks.ahead_s = LIFETIME_MAX.total_seconds()
        signed = "select s.public_key from signature s join manifest m on m.nonce = s.manifest where m.batch = $1"
        async with asyncio.timeout(10):
            assert await until(lambda: owner.fetchval(signed, number), bool) == public_key(key)
