"""A redemption queue of one's own: a database without settlers, customers with sessions, and a replay to judge by."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from system_under_test.storage.seed import open_accounts
from tests.integration.platform.stage import Process, Stage

OPENING: Final = 1000
_SESSIONS: Final = """
insert into session (token_hash, account, expires_at)
select sha256(id::bytea), id, now() + interval '1 day' from account where kind = 'customer' on conflict do nothing
"""
_OTHER_TRANSFERS: Final = "select * from transfer where kind <> 'redemption'"
_DECISIONS: Final = """
select r.seq as number, r.account, r.amount, o.status, o.transfer, o.balance_after, o.decided_at,
       t.debit_account, t.amount as moved, t.seq as transfer_seq
from redemption r left join outcome o on o.seq = r.seq left join transfer t on t.redemption = r.seq
order by r.seq
"""
_OUT_OF_ORDER: Final = """
select seq from (
    select r.seq, r.recorded_at, o.transfer, o.decided_at,
           r.seq - lag(r.seq, 1, 0::bigint) over numbers as step,
           lag(r.recorded_at) over numbers as recorded_before,
           max(o.transfer) over (numbers rows between unbounded preceding and 1 preceding) as moved_before,
           lag(o.decided_at) over numbers as decided_before
    from redemption r left join outcome o on o.seq = r.seq window numbers as (order by r.seq)
) as compared
where step <> 1 or transfer < moved_before or decided_at < decided_before or recorded_at < recorded_before
   or decided_at < recorded_at
"""
_TICKETS: Final = "select outcome, status, response, replayed from queue_redemptions($1, $2, $3, $4)"


@dataclass(frozen=True, slots=True)
class Wish:
    """A redemption that somebody asks for; `payload` differs where the same key is used for something else."""

    account: str
    key: str
    amount: int
    payload: str = ""

    @property
    def payload_hash(self) -> bytes:
        """Of amount and payload, as a portal would send it."""
        return hashlib.sha256(f"{self.amount} {self.payload}".encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDatabase:
    """The database and its roles' addresses."""

    postgres: Process

    @asynccontextmanager
    async def connected(self, role: str = "admin") -> AsyncIterator[Any]:
        """A connection as the role of this duty (`portal`, `settlement`, ...; the owner's by default)."""
        name = "dsn" if role == "portal" else f"{role}_dsn"
        connection = await asyncpg.connect(self.postgres.outputs()[name], timeout=5)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

    async def new_customers(self, count: int) -> list[str]:
        """Opens accounts with OPENING each, and a session whose token is the account's name; gives the accounts."""
        async with self.connected() as owner:
            opened = await open_accounts(owner, accounts=count, opening_balance=OPENING, password_hash="-")
            await owner.execute(_SESSIONS)
        return [account for _, account in opened]


def start_queue_database(stage: Stage) -> Iterator[QueueDatabase]:
    """Starts it, gives it, and ends it."""
    try:
        yield QueueDatabase(postgres=stage.add_database())
    finally:
        stage.close()


BLOCKED: Final = "select pid from pg_locks where not granted"
"""Whoever waits for a lock now."""


def token_hash(account: str) -> bytes:
    """Of the session that `new_customers` opened."""
    return hashlib.sha256(account.encode()).digest()


async def ask(connection: Any, wishes: Sequence[Wish]) -> list[Any]:
    """Queues all of them by one call; one row for each."""
    rows: list[Any] = await connection.fetch(
        _TICKETS,
        [token_hash(wish.account) for wish in wishes],
        [wish.key for wish in wishes],
        [wish.payload_hash for wish in wishes],
        [wish.amount for wish in wishes],
    )
    return rows


def number_of(row: Any) -> int:
    """The redemption's number that a ticket tells."""
    number: int = json.loads(row["response"])["id"]
    return number


async def deposit(connection: Any, account: str, key: str, amount: int) -> None:
    """Pays money in."""
    await connection.fetch(
        "select from take_deposit($1, $2, $3, $4)", token_hash(account), key, hashlib.sha256(b"d").digest(), amount
    )


async def take_lease(connection: Any, holder: str = "test") -> int:
    """The token of the lease, which is taken from whoever has it."""
    async with connection.transaction():
        await connection.execute("update lease set expires_at = '-infinity' where name = 'settlement'")
        token: int = await connection.fetchval("select take_lease('settlement', $1, 3600)", holder)
    return token


async def settle(connection: Any, token: int, limit: int = 5000) -> Any:
    """One chunk; None when there was nothing to decide."""
    return await connection.fetchrow("select * from settle_chunk($1, $2)", token, limit)


async def drain(connection: Any, token: int, limit: int = 5000) -> None:
    """Chunk after chunk until there is nothing to decide."""
    while await settle(connection, token, limit) is not None:
        pass


async def undecided(connection: Any) -> int:
    """How many wait."""
    number: int = await connection.fetchval("select i.accepted - s.decided from intake i, settlement s")
    return number


async def replayed(connection: Any) -> list[str]:
    """What is wrong with the decisions and balances, by deciding every redemption again in Python.

    An account's transfers and decisions are put in the order in which they happened: each was timed while the account
    was locked. A redemption is settled if and only if what the account had then is enough.
    """
    accounts = dict(await connection.fetch("select id, balance from account"))
    moved = [(row["recorded_at"], row["seq"], row) for row in await connection.fetch(_OTHER_TRANSFERS)]
    requests = await connection.fetch(_DECISIONS)
    decided = [(row["decided_at"], row["number"], row) for row in requests if row["status"] is not None]
    replay = Replay(funds=dict.fromkeys(accounts, 0))
    replay.wrong += [f"{row['number']} has no outcome" for row in requests if row["status"] is None]
    for _, _, row in sorted(moved + decided, key=lambda entry: entry[:2]):
        if "status" in row:
            replay.decide(row)
        else:
            replay.move(row)
    return replay.wrong + [
        f"{account} has {balance}, a replay says {replay.funds[account]}"
        for account, balance in accounts.items()
        if balance is not None and balance != replay.funds[account]
    ]


@dataclass(slots=True, kw_only=True)
class Replay:
    """What every account has, as one thing after the other happens, and what was found wrong."""

    funds: dict[str, int]
    newest: int = 0
    wrong: list[str] = field(default_factory=list)

    def move(self, row: Mapping[str, Any]) -> None:
        """Some transfer that is no redemption."""
        self.funds[row["credit_account"]] += row["amount"]
        self.funds[row["debit_account"]] -= row["amount"]

    def decide(self, row: Mapping[str, Any]) -> None:
        """A redemption: decided here, and compared with what was decided there."""
        account, amount = row["account"], row["amount"]
        if row["status"] == "parked":
            expected: tuple[Any, ...] = ("parked", None, None, None)
        elif self.funds[account] >= amount:
            self.funds[account] -= amount
            expected = ("settled", self.funds[account], account, amount)
        else:
            expected = ("refused", self.funds[account], None, None)
        found = (row["status"], row["balance_after"], row["debit_account"], row["moved"])
        if found != expected:
            self.wrong.append(f"{row['number']} is {found}, a replay says {expected}")
        if row["transfer"] != row["transfer_seq"]:
            self.wrong.append(f"{row['number']} names transfer {row['transfer']}, and {row['transfer_seq']} moved it")
        if row["number"] <= self.newest:
            self.wrong.append(f"{row['number']} was decided after {self.newest}")
        self.newest = row["number"]


async def out_of_order(connection: Any) -> list[Any]:
    """Redemptions whose transfer, or whose time of decision, is before that of an earlier one; gaps of the numbers."""
    rows: list[Any] = await connection.fetch(_OUT_OF_ORDER)
    return rows


async def gather_bounded(*tasks: Any) -> list[Any]:
    """All results, within a time that only a deadlock exceeds."""
    async with asyncio.timeout(30):
        return list(await asyncio.gather(*tasks))
