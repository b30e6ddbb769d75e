"""What it costs to seal and to verify the ledger after 50,000 settlements."""

import asyncio
import hashlib
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from system_under_test.storage.reconciliation import reconcile
from tests.benchmarks.measure import Figure
from tests.integration.platform.books import Books
from tests.integration.platform.stage import Stage

_CUSTOMERS: Final = 25_000
_REDEMPTIONS: Final = 50_000
_AT_ONCE: Final = 5_000
_BATCH: Final = 10_000


def measure_verification() -> Iterator[Figure]:
    """Seals and verifies 25,000 accounts with 50,000 decisions, a fifth of them refused."""
    with tempfile.TemporaryDirectory() as name:
        stage = Stage(folder=Path(name))
        try:
            postgres = stage.add_database()
            stage.seed(postgres, customers=_CUSTOMERS)
            folder = stage.folder / "verifier"
            folder.mkdir()
            yield from asyncio.run(_measure(Books(stage=stage, postgres=postgres, folder=folder)))
        finally:
            stage.close()


async def _measure(books: Books) -> list[Figure]:
    async with books.owner() as owner, books.verifier() as service:
        await _settle(owner, _REDEMPTIONS)
        sealed_s: list[float] = []
        transfers = 0
        while sealed := await _timed_seal(owner, sealed_s):
            transfers += sealed
        started = time.perf_counter()
        whole = await reconcile(service, full=True)
        whole_s = time.perf_counter() - started
        await _settle(owner, 1_000)
        started = time.perf_counter()
        new = await reconcile(service, full=False)
        new_s = time.perf_counter() - started
        if not (whole.passed and new.passed):
            raise RuntimeError(f"the ledger is wrong: {(whole.problems + new.problems)[0]}")
    return [
        Figure(name=f"seal {transfers} transfers, hash chain", value=sum(sealed_s), unit="s"),
        Figure(name=f"  the longest of its transactions ({_BATCH} at once)", value=max(sealed_s) * 1e3, unit="ms"),
        Figure(name="verify the ledger after 50,000 settlements", value=whole_s, unit="s", at_most=1),
        Figure(
            name="verify what 1,000 settlements touched",
            value=new_s,
            unit="s",
            compared_to="the whole ledger",
            ratio=new_s / whole_s,
        ),
    ]


async def _timed_seal(owner: Any, times_s: list[float]) -> int:
    started = time.perf_counter()
    sealed: int = await owner.fetchval("select seal($1)", _BATCH)
    times_s.append(time.perf_counter() - started)
    return sealed


async def _settle(owner: Any, redemptions: int) -> None:
    """Queues that many requests of random accounts for up to half of what they opened with, and settles them."""
    await owner.execute(
        "insert into session (token_hash, account, expires_at) select sha256(id::bytea), id, now() + interval '1 day'"
        " from account where kind = 'customer' on conflict do nothing"
    )
    accounts = [row["id"] for row in await owner.fetch("select id from account where kind = 'customer' order by id")]
    accepted = await owner.fetchval("select accepted from intake")
    draw = random.Random(accepted)  # noqa: S311 - the same requests each time
    for first in range(accepted, accepted + redemptions, _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, accepted + redemptions))
        chosen = draw.choices(accounts, k=len(numbers))
        await owner.execute(
            "select count(*) from queue_redemptions($1, $2, $3, $4)",
            [hashlib.sha256(account.encode()).digest() for account in chosen],
            [f"key-{number}" for number in numbers],
            [bytes(32)] * len(numbers),
            [draw.randrange(100_000, 500_000) for _ in numbers],
        )
    token = await owner.fetchval("select take_lease('settlement', 'bench', 600)")
    while await owner.fetchval("select last from settle_chunk($1, $2)", token, _AT_ONCE):
        pass
