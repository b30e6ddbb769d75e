"""While a payout is proposed, signed and paid, lease, gate, rules and manifest stay as they are.

Real connections of each role, and orders forced by locks that a test holds; what a signature says is not looked at by
the database, so any bytes will do for one.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import asyncpg
import pytest

from tests.integration.platform.custody_room import until
from tests.integration.platform.queues import BLOCKED
from tests.integration.platform.stage import Process, Stage

_EVERYONE: Final = ["signer-1", "signer-2"]
_PAY: Final = "select pay_out($1, $2, $3, $4)"
_SIGN: Final = "select sign_manifest($1, $2, $3, $4)"
_STATE: Final = """
select (select count(*) from payout_batch), (select count(*) from manifest), (select max(seq) from transfer),
       (select count(*) from outcome)
"""


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A database with two customers."""
    stage = Stage(folder=tmp_path_factory.mktemp("guards"))
    try:
        postgres = stage.add_database()
        stage.seed(postgres, customers=2)
        yield postgres
    finally:
        stage.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """The owner, settlement with its lease, and two signers with their keys, each on a connection of its own role."""

    postgres: Process
    owner: Any
    settlement: Any
    token: int
    signers: tuple[tuple[Any, bytes], ...]

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Any]:
        """One more connection as the owner."""
        connection = await asyncpg.connect(self.postgres.outputs()["admin_dsn"], timeout=5)
        try:
            yield connection
        finally:
            await connection.close()

    async def settle(self) -> None:
        """Has a redemption of one unit settled."""
        token_hash = uuid.uuid4().bytes * 2
        await self.owner.execute(
            "insert into session select $1, id, now() + interval '1 hour' from account where wallet = 'a'"
            " and kind = 'customer' limit 1",
            token_hash,
        )
        await self.owner.execute(
            "select queue_redemptions($1, $2, $3, array[1::bigint])", [token_hash], [uuid.uuid4().hex], [bytes(32)]
        )
        assert await self.settlement.fetchval("select settled from settle_chunk($1, 10)", self.token) == 1

    async def propose(self) -> tuple[int, bytes]:
        """Proposes until what is settled is in a batch with a pending manifest; gives both."""

        async def proposed() -> Any:
            await self.settlement.fetchval("select propose_payouts($1)", self.token)
            return await self.owner.fetchrow("select batch, nonce from manifest where status = 'pending'")

        row = await until(proposed, lambda row: row is not None)
        return row["batch"], row["nonce"]

    async def sign(self, batch: int, nonce: bytes) -> list[str]:
        """Both sign; gives what each was told."""
        return [await desk.fetchval(_SIGN, batch, nonce, key, bytes(64)) for desk, key in self.signers]

    async def signed(self) -> tuple[int, bytes]:
        """A settled redemption in a batch that both have signed."""
        await self.settle()
        batch, nonce = await self.propose()
        assert await self.sign(batch, nonce) == ["stored", "stored"]
        return batch, nonce

    async def pay(self, batch: int, nonce: bytes) -> str:
        """Pays the batch, or tells why not."""
        said: str = await self.settlement.fetchval(_PAY, self.token, batch, nonce, _EVERYONE)
        return said

    async def waits_for_payment(self, statement: str, *arguments: Any) -> None:
        """Pays a batch, holds the payment back before its commit, and sees that the statement waits for it."""
        batch, nonce = await self.signed()
        async with self.connected() as other:
            async with self.settlement.transaction():
                assert await self.pay(batch, nonce) == "paid"
                waiting = asyncio.create_task(other.execute(statement, *arguments))
                await until(lambda: self.owner.fetchval(BLOCKED), bool)
            await waiting


@pytest.fixture
async def desk(postgres: Process) -> AsyncIterator[Desk]:
    """The desk; the service is left open."""
    addresses = postgres.outputs()
    async with AsyncExitStack() as stack:

        async def connect(role: str) -> Any:
            connection = await asyncpg.connect(addresses[role], timeout=5)
            stack.push_async_callback(connection.close)
            return connection

        owner, settlement = await connect("admin_dsn"), await connect("settlement_dsn")
        signers = []
        for number in (1, 2):
            signer, key = await connect(f"signer_{number}_dsn"), uuid.uuid4().bytes * 2
            await owner.execute("select rotate_signer($1)", f"signer-{number}")
            assert await signer.fetchval("select enrol_key($1)", key) == "current"
            signers.append((signer, key))
        token = await settlement.fetchval("select take_lease('settlement', $1, 600)", uuid.uuid4().hex)
        yield Desk(postgres=postgres, owner=owner, settlement=settlement, token=token, signers=tuple(signers))
        await owner.execute("update service_state set stage = 'open'")
        await settlement.execute("select release_lease('settlement', $1)", token)


async def test_a_lease_cannot_change_hands_before_what_it_was_needed_for_is_committed(desk: Desk) -> None:
    """Settles without committing: giving the lease back waits, and so would its next holder; committed, it goes on."""
    async with desk.connected() as other:
        async with desk.settlement.transaction():
            await desk.settle()
            released = asyncio.create_task(other.execute("select release_lease('settlement', $1)", desk.token))
            await until(lambda: desk.owner.fetchval(BLOCKED), bool)
        await released
    assert await desk.owner.fetchval("select expires_at = '-infinity' from lease where name = 'settlement'")
    token = await desk.settlement.fetchval("select take_lease('settlement', 'guards', 600)")
    assert token == desk.token + 1
    # What was settled is paid, or the next test would find it waiting.
    later = replace(desk, token=token)
    batch, nonce = await later.propose()
    await later.sign(batch, nonce)
    assert await later.pay(batch, nonce) == "paid"
    await desk.settlement.execute("select release_lease('settlement', $1)", token)


async def test_nothing_is_proposed_under_a_lease_that_was_lost(desk: Desk) -> None:
    """With a settled redemption to be gathered: tokens of before and of nobody are refused, and nothing was made."""
    await desk.settle()
    before = await desk.owner.fetchrow(_STATE)
    for token in (desk.token - 1, desk.token + 1):
        with pytest.raises(asyncpg.PostgresError, match="fenced"):
            await desk.settlement.fetchval("select propose_payouts($1)", token)
    assert await desk.owner.fetchrow(_STATE) == before
    batch, nonce = await desk.propose()
    await desk.sign(batch, nonce)
    assert await desk.pay(batch, nonce) == "paid"


async def test_whoever_closes_the_service_waits_for_the_payment_under_way(desk: Desk) -> None:
    """Closes it between the payment and its commit: waits; the next payment is refused."""
    await desk.waits_for_payment("update service_state set stage = 'closed'")
    assert await desk.pay(0, bytes(16)) == "closed"


@pytest.mark.parametrize("change", ["select revoke_signer('signer-2')", "select set_custody_policy(2, '5 minutes')"])
async def test_no_key_ends_and_no_rule_changes_during_a_payment(desk: Desk, change: str) -> None:
    """Ends a key, or changes a rule, between the payment and its commit: waits for it."""
    await desk.waits_for_payment(change)


async def test_a_manifest_is_not_closed_beneath_the_payment_that_it_allows(desk: Desk) -> None:
    """Holds a payment up in its middle, by a transfer of the same payout that is not committed and then taken back.

    Meanwhile the manifest expires for settlement's other connection, which would close it and make another: it waits,
    and finds the batch paid; without the wait the payment would end in an error.
    """
    batch, nonce = await desk.signed()
    async with desk.connected() as holder, desk.connected() as proposer:
        held = holder.transaction()
        await held.start()
        await holder.execute(
            "insert into transfer (kind, debit_account, credit_account, amount, payout)"
            " values ('payout', 'payable-a', 'custody-a', 1, $1)",
            batch,
        )
        paying = asyncio.create_task(desk.pay(batch, nonce))
        await until(lambda: desk.owner.fetchval(BLOCKED), bool)
        closing = asyncio.create_task(
            proposer.execute(
                "update manifest set status = 'refused', reason = 'expired', closed_at = now()"
                " where nonce = $1 and status = 'pending'",
                nonce,
            )
        )
        blocked = "select count(*) from pg_locks where not granted"
        closed = asyncio.create_task(until(lambda: desk.owner.fetchval(blocked), lambda number: number == 2))
        await asyncio.wait((closed, closing), return_when=asyncio.FIRST_COMPLETED)
        await held.rollback()
        assert await paying == "paid"
        assert await closing == "UPDATE 0"
        await closed
    assert await desk.owner.fetchval("select status from manifest where nonce = $1", nonce) == "paid"


async def test_nothing_is_signed_that_is_no_longer_pending(desk: Desk) -> None:
    """Signs a manifest that a change of the rules has replaced, and one that is paid: told that each is gone."""
    await desk.settle()
    batch, replaced = await desk.propose()
    await desk.owner.execute("select set_custody_policy(2, '5 minutes')")
    again, nonce = await desk.propose()
    while nonce == replaced:
        again, nonce = await desk.propose()
    assert (again, await desk.sign(batch, replaced)) == (batch, ["gone", "gone"])
    assert await desk.sign(batch, nonce) == ["stored", "stored"]
    assert await desk.pay(batch, nonce) == "paid"
    await desk.owner.execute("select rotate_signer('signer-2')")
    signer, key = desk.signers[1][0], uuid.uuid4().bytes * 2
    assert await signer.fetchval("select enrol_key($1)", key) == "current"
    for paid in (nonce, replaced):
        assert await signer.fetchval(_SIGN, batch, paid, key, bytes(64)) == "gone"
    assert await desk.owner.fetchval("select count(*) from signature where batch = $1", batch) == 2
