"""A little of everything that a ledger can hold: deposits, redemptions of each outcome, interest, payouts, batches."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import asyncpg

from system_under_test.domain.signatures import generate, public_key, sign

CUSTOMERS: Final = 12
_DEPOSITS: Final = """
insert into transfer (kind, debit_account, credit_account, amount, key)
select 'deposit', 'custody-' || a.wallet, a.id, 100 + n, 'key-' || n
from account a, generate_series(1, 5) as n where a.kind = 'customer' order by n, a.id
"""
_SESSIONS: Final = """
insert into session (token_hash, account, expires_at)
select sha256(id::bytea), id, now() + interval '1 day' from account where kind = 'customer'
"""
_REQUESTS: Final = """
select * from queue_redemptions(
    (select array_agg(sha256(a.id::bytea) order by n, a.id) from account a, generate_series(1, 3) n
     where a.kind = 'customer'),
    (select array_agg('redeem-' || n order by n, a.id) from account a, generate_series(1, 3) n
     where a.kind = 'customer'),
    (select array_agg(sha256('x') order by n, a.id) from account a, generate_series(1, 3) n where a.kind = 'customer'),
    (select array_agg(400000::bigint order by n, a.id) from account a, generate_series(1, 3) n
     where a.kind = 'customer'))
"""
ONE_DEPOSIT: Final = """
insert into transfer (kind, debit_account, credit_account, amount)
select 'deposit', 'custody-' || wallet, id, 7 from account where id = 'c-000001'
"""
_SIGNERS: Final = (1, 2)


async def write_history(owner: Any, addresses: Mapping[str, str]) -> None:
    """Writes it into a database that has just been seeded, by the platform's own functions."""
    await owner.execute(_DEPOSITS)
    # Two batches at least, so that there is one within the chain.
    await owner.execute("select seal(50)")
    await _settle(owner)
    await _accrue(owner)
    await _pay_out(owner, addresses)


async def _settle(owner: Any) -> None:
    """Each customer asks for 400,000 three times, with a little over 1,000,000: two are settled, the third is refused.

    The last customer's account is frozen: parked. A deposit comes between two chunks.
    """
    await owner.execute(_SESSIONS)
    await owner.execute("update account set frozen = true where id = 'c-000012'")
    await owner.execute(_REQUESTS)
    token = await owner.fetchval("select take_lease('settlement', 'history', 60)")
    await owner.execute("select settle_chunk($1, 20)", token)
    await owner.execute(ONE_DEPOSIT)
    await owner.execute("select settle_chunk($1, 100)", token)


async def _accrue(owner: Any) -> None:
    token = await owner.fetchval("select take_lease('accrual', 'history', 60)")
    await owner.execute("select set_business_clock(business_now() + interval '3 hours', null)")
    while await owner.fetchval("select step from accrue_step($1, 5000)", token) != "waiting":
        pass


async def _pay_out(owner: Any, addresses: Mapping[str, str]) -> None:
    """Two signers enrol and sign what is proposed, and it is paid."""
    async with AsyncExitStack() as signers:
        desks = []
        for number in _SIGNERS:
            key, desk = generate(), await asyncpg.connect(addresses[f"signer_{number}_dsn"], timeout=5)
            signers.push_async_callback(desk.close)
            assert await desk.fetchval("select enrol_key($1)", public_key(key)) == "current"
            desks.append((key, desk))
        token = await owner.fetchval("select take_lease('settlement', 'history', 60)")
        await owner.execute("select propose_payouts($1)", token)
        for manifest in await owner.fetch("select batch, nonce, canonical from manifest order by batch"):
            for key, desk in desks:
                stored = await desk.fetchval(
                    "select sign_manifest($1, $2, $3, $4)",
                    *(manifest["batch"], manifest["nonce"], public_key(key), sign(key, manifest["canonical"])),
                )
                assert stored == "stored"
            names = [f"signer-{number}" for number in _SIGNERS]
            paid = await owner.fetchval(
                "select pay_out($1, $2, $3, $4)", token, manifest["batch"], manifest["nonce"], names
            )
            assert paid == "paid"
