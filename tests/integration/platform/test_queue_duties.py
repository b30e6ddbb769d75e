"""Nobody but the portal queues, nobody but settlement settles, and nobody changes what was done."""

import asyncpg
import pytest

from tests.integration.platform.queues import (
    QueueDatabase,
)

ACTS = {
    "the portal settles": ("portal", "select * from settle_chunk(1, 1)"),
    "the portal parks": ("portal", "select park_redemption(1, 1, 'x')"),
    "the portal takes the lease": ("portal", "select take_lease('settlement', 'portal', 60)"),
    "settlement queues": ("settlement", "select * from queue_redemptions('{}', '{}', '{}', '{}')"),
    "settlement takes a deposit": ("settlement", "select * from take_deposit('', '', '', 1)"),
    "settlement moves money": (
        "settlement",
        (
            "insert into transfer (kind, debit_account, credit_account, amount)"
            " values ('seed', 'custody-a', 'payable-a', 1)"
        ),
    ),
    "settlement writes an outcome": ("settlement", "insert into outcome values (1, 'settled', null, 1, 1, now())"),
    "settlement skips": ("settlement", "update settlement set decided = decided + 1, parked = parked + 1"),
    "accrual settles": ("accrual", "select * from settle_chunk(1, 1)"),
    "the auditor queues": ("auditor", "insert into redemption values (1, 'a', 'k', 1, now(), now(), 1)"),
    "maintenance parks": ("maintenance", "select park_redemption(1, 1, 'x')"),
    "a signer settles": ("signer_1", "select * from settle_chunk(1, 1)"),
    "the notifier reads the queue": ("notifier", "select * from redemption"),
}


@pytest.mark.parametrize("act", ACTS)
async def test_nobody_does_what_is_anothers_duty(queue: QueueDatabase, act: str) -> None:
    """Tries each as that role: refused for want of the right."""
    role, statement = ACTS[act]
    async with queue.connected(role) as connection:
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)):
            await connection.execute(statement)


async def test_what_was_taken_and_decided_is_never_changed(queue: QueueDatabase) -> None:
    """Updates, deletes and truncations of both tables by their owner: refused."""
    async with queue.connected() as owner:
        await owner.execute("select 1")
        for table, column in (("redemption", "amount"), ("outcome", "balance_after")):
            for statement in (f"update {table} set {column} = 1", f"delete from {table}", f"truncate {table}"):  # noqa: S608
                with pytest.raises(asyncpg.RestrictViolationError):
                    await owner.execute(statement)
