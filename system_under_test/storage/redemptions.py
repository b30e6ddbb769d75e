"""The portal's and the settler's functions of the redemption queue; failures are those of `Database`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from system_under_test.storage.database import Database
from system_under_test.storage.ledger import UNAUTHENTICATED, Answer

BUSY: Final = "busy"
SEQ_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A redemption that is asked for, in minor units."""

    token_hash: bytes
    key: str
    payload: bytes
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Redemption:
    """A redemption that was taken, as it stands now; `place` counts from 1 while it is queued.

    `expected_at` is when it will be settled, in wall time; None once it is decided or when that cannot be told.
    """

    seq: int
    amount: int
    accepted_at: datetime
    status: str
    reason: str | None
    place: int | None
    expected_at: datetime | None
    transfer: int | None
    decided_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What one settlement decided: the redemptions `first` to `last`."""

    first: int
    last: int
    settled: int
    refused: int
    parked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """The queue as a whole; `oldest_age_s` is of the one that is next, 0 when none waits."""

    accepted: int
    decided: int
    queued: int
    parked: int
    oldest_age_s: float


class Redemptions:
    """The queue's functions of the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def queue(self, requests: Sequence[Request]) -> list[Answer | str]:
        """Takes all of them in their order; the answer to each, or MISMATCH, UNAUTHENTICATED or BUSY."""
        rows = await self._database.rows(
            "select outcome, status, response, replayed from queue_redemptions($1, $2, $3, $4)",
            [request.token_hash for request in requests],
            [request.key for request in requests],
            [request.payload for request in requests],
            [request.amount for request in requests],
        )
        return [
            Answer(status=row["status"], body=row["response"], replayed=row["replayed"])
            if row["outcome"] == "answered"
            else str(row["outcome"])
            for row in rows
        ]

    async def read(
        self, token_hash: bytes, *, seq: int | None = None, before: int = SEQ_MAX, limit: int = 1
    ) -> list[Redemption] | str:
        """The session's own, newest first: the one numbered `seq`, or `limit` of those before; UNAUTHENTICATED."""
        rows = await self._database.rows(
            "select r.*, expected_settlement(r.place) as expected_at from read_redemptions($1, $2, $3, $4) r",
            *(token_hash, seq, before, limit),
        )
        if not rows:
            return UNAUTHENTICATED
        return [Redemption(**row) for row in rows if row["seq"] is not None]

    async def settle(self, token: int, limit: int) -> Chunk | None:
        """Decides the next `limit`; None when there is none or settling is off."""
        row = await self._database.row("select * from settle_chunk($1, $2)", token, limit)
        return None if row is None else Chunk(**row)

    async def park(self, token: int, seq: int, reason: str) -> bool:
        """Parks the next one, which cannot be decided; False when `seq` is not the next any more."""
        row = await self._database.row("select park_redemption($1, $2, $3) as parked", token, seq, reason)
        return bool(row["parked"])

    async def state(self) -> QueueState:
        """The queue as a whole."""
        row = await self._database.row(
            "select accepted, decided, queued, parked, oldest_age_seconds as oldest_age_s from queue_state()"
        )
        return QueueState(**row)
