"""The portal's way to the ledger: deposits and balances; failures are those of `Database`."""

from dataclasses import dataclass
from typing import Final

import asyncpg

from system_under_test.storage.database import Database

UNAUTHENTICATED: Final = "unauthenticated"
MISMATCH: Final = "mismatch"
FULL: Final = "full"
CLOSED: Final = "closed"
SYNCHRONISING: Final = "synchronising"
_ACCOUNT_IS_FULL: Final = "SV002"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The stored answer to an order; `replayed` when an earlier try was given it first."""

    status: int
    body: str
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What an account holds, in minor units, `interest` so far contained in it; true of the transfer `head`."""

    account: str
    balance: int
    interest: int
    head: int


class Ledger:
    """The portal's functions of the database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def take_deposit(
        self, *, token_hash: bytes, key: str, payload: bytes, amount: int, reference: str | None
    ) -> Answer | str:
        """The answer to a deposit, done now or before; FULL, MISMATCH or UNAUTHENTICATED where there is none."""
        try:
            row = await self.database.row(
                "select outcome, status, response, replayed from take_deposit($1, $2, $3, $4, $5)",
                *(token_hash, key, payload, amount, reference),
            )
        except asyncpg.PostgresError as error:
            # The statement was rolled back as a whole: the key is free again too.
            if error.sqlstate != _ACCOUNT_IS_FULL:
                raise
            return FULL
        if row["outcome"] != "answered":
            return str(row["outcome"])
        return Answer(status=row["status"], body=row["response"], replayed=row["replayed"])

    async def read_balance(self, token_hash: bytes) -> Balance | str:
        """The balance of the session's account; UNAUTHENTICATED, CLOSED or SYNCHRONISING where it is not told."""
        row = await self.database.row("select * from read_balance($1)", token_hash)
        if row["outcome"] != "ok":
            return str(row["outcome"])
        return Balance(account=row["account"], balance=row["balance"], interest=row["interest"], head=row["head"])
