"""A deposit's receipt tells a balance only when /v1/balance would, the first time and each time after."""

import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.integration.platform.customers import log_in
from tests.integration.platform.queues import OPENING, QueueDatabase, token_hash
from tests.integration.platform.stage import Platform

_STATES = [(stage, gate) for stage in ("open", "draining", "closed", "verifying") for gate in ("open", "shut")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Till:
    """An account's deposits within one transaction of the owner's, which is taken back."""

    connection: Any
    account: str

    async def be(self, stage: str, gate: str = "open", *, reopenings: int = 0) -> None:
        """Puts the service into this state."""
        await self.connection.execute(
            "update service_state set stage = $1, gate = $2, epoch = epoch + $3", stage, gate, reopenings
        )

    async def deposit(self, key: str, amount: int = 7, reference: str | None = None) -> tuple[bool, dict[str, Any]]:
        """Whether it was a repeat, and the receipt."""
        row = await self.connection.fetchrow(
            "select * from take_deposit($1, $2, '\\x00', $3, $4)", token_hash(self.account), key, amount, reference
        )
        assert (row["outcome"], row["status"]) == ("answered", 201)
        return row["replayed"], json.loads(row["response"])

    async def told(self) -> str:
        """What read_balance says of itself."""
        outcome: str = await self.connection.fetchval("select outcome from read_balance($1)", token_hash(self.account))
        return outcome


@pytest.fixture
async def till(queue: QueueDatabase) -> AsyncIterator[Till]:
    """A new customer's."""
    [account] = await queue.new_customers(1)
    async with queue.connected() as connection:
        await connection.execute("begin")
        await connection.execute("update session set epoch = (select epoch from service_state)")
        yield Till(connection=connection, account=account)
        await connection.execute("rollback")


@pytest.mark.parametrize(("stage", "gate"), _STATES)
@pytest.mark.parametrize("reference", [None, "rent"])
async def test_a_receipt_tells_a_balance_exactly_where_the_balance_is_told(
    till: Till, stage: str, gate: str, reference: str | None
) -> None:
    """A deposit in each stage, with the gate open and shut: its receipt, and why it tells none."""
    await till.be(stage, gate)
    repeated, receipt = await till.deposit("k", reference=reference)
    assert not repeated
    named = {} if reference is None else {"reference": reference}
    if await till.told() == "ok":
        assert (stage in {"open", "draining"}, gate) == (True, "open")
        rest: dict[str, Any] = {"balance": OPENING + 7}
    else:
        assert stage in {"closed", "verifying"} or gate == "shut"
        rest = {"balance_withheld": "closed"}
    assert receipt == {"id": receipt["id"], "kind": "deposit", "amount": 7, **rest, **named}
    assert await till.deposit("k", reference=reference) == (True, receipt)


async def test_a_session_that_is_not_synchronised_gets_a_receipt_without_a_balance(till: Till) -> None:
    """After a reopening, before the synchroniser has been there; the balance itself is moved all the same."""
    await till.be("open", reopenings=1)
    assert await till.told() == "synchronising"
    _, receipt = await till.deposit("k")
    assert ("balance" in receipt, receipt["balance_withheld"]) == (False, "synchronising")
    moved = await till.connection.fetchval("select balance from account where id = $1", till.account)
    assert moved == OPENING + 7


@pytest.mark.parametrize("reference", [None, "rent"])
async def test_a_repeat_never_tells_what_is_closed_and_never_another_number(till: Till, reference: str | None) -> None:
    """Told while open, asked again while closed, while not synchronised and at last: left out, left out, as at first.

    The other way round, a receipt that was given while closed has no balance for ever.
    """
    _, told = await till.deposit("early", reference=reference)
    await till.be("closed")
    _, withheld = await till.deposit("late", 9, reference)
    without = {name: value for name, value in told.items() if name != "balance"}
    assert await till.deposit("early", reference=reference) == (True, {**without, "balance_withheld": "closed"})
    await till.be("open", reopenings=1)
    assert await till.deposit("early", reference=reference) == (True, {**without, "balance_withheld": "synchronising"})
    assert await till.deposit("late", 9, reference) == (True, withheld)
    await till.connection.execute("update session set epoch = (select epoch from service_state)")
    assert await till.told() == "ok"
    assert await till.deposit("early", reference=reference) == (True, told)
    assert await till.deposit("late", 9, reference) == (True, withheld)
    assert (told["balance"], withheld["balance_withheld"]) == (OPENING + 7, "closed")


async def test_what_nodes_of_the_release_before_call_withholds_as_well(till: Till) -> None:
    """The function without a reference, while closed: no balance, first and again."""
    await till.be("closed")
    for repeated in (False, True):
        row = await till.connection.fetchrow(
            "select * from take_deposit($1, 'old', '\\x00', 5)", token_hash(till.account)
        )
        assert row["replayed"] is repeated
        assert json.loads(row["response"]).keys() == {"id", "kind", "amount", "balance_withheld"}


async def test_a_node_hands_the_receipt_on_as_it_is(platform: Platform, session: aiohttp.ClientSession) -> None:
    """Over HTTP, and by the same key again from a second session of the same customer: the same document."""
    first, second = [await log_in(session, platform, 55) for _ in range(2)]
    key = str(uuid.uuid4())
    paid = await first.order("deposits", {"amount": 3}, key=key)
    again = await second.order("deposits", {"amount": 3}, key=key)
    assert (paid.status, again.status, again.replayed) == (201, 201, True)
    assert again.body == paid.body
    assert paid.body["balance"] == (await first.balance())["balance"]
