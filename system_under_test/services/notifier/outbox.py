"""The notifier's side of the outbox: what is due, what it claims, what became of it."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from system_under_test.domain.notices import ADDRESS_TRIES, Plan, retry_after_s
from system_under_test.services.notifier.channel import Claim, Outcome, Result
from system_under_test.storage.database import Database

_WORDS: Final = {
    Result.NOT_TRIED: "released",
    Result.REFUSED: "refused",
    Result.UNKNOWN: "unknown",
    Result.GONE: "gone",
}
# What an address is that was refused for good. A device's is forgotten: its customer was told by mail, and one who
# chose an address that nobody takes messages for must not hold up a window.
_GIVEN_UP: Final = {"email": "undeliverable", "push": "gone"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Notices that were claimed together; none is to be begun after `until_s` on the monotonic clock."""

    claims: tuple[Claim, ...]
    until_s: float


class Outbox:
    """The outbox of one channel; every method is one statement and raises as `Database.rows` does."""

    def __init__(self, database: Database, channel: str, *, claim_s: float) -> None:
        self._database = database
        self._channel = channel
        self._claim_s = claim_s
        self._random = random.Random()  # noqa: S311 - spreads tries, protects nothing

    async def due(self, limit: int) -> int:
        """How many notices are due now, counted up to `limit`."""
        row = await self._database.row("select due_notices($1, $2) as due", self._channel, limit)
        return int(row["due"])

    async def claim(self, limit: int) -> Batch:
        """Claims up to `limit` notices that are due."""
        # Counted from before the question: the database counts from later.
        until_s = time.monotonic() + self._claim_s / 2
        rows = await self._database.rows("select * from claim_notices($1, $2, $3)", self._channel, limit, self._claim_s)
        claims = tuple(
            Claim(
                id=row["id"],
                number=row["claim"],
                failures=row["failures"],
                refusals=row["refusals"],
                account=row["account"],
                address=row["address"],
                plan=Plan(
                    window=row["window_id"],
                    revision=row["revision"],
                    kind=row["kind"],
                    planned_start=row["planned_start"],
                    planned_end=row["planned_end"],
                    reason=row["reason"],
                ),
            )
            for row in rows
        )
        return Batch(claims=claims, until_s=until_s)

    async def record_sent(self, claims: Sequence[Claim]) -> int:
        """Records that these were sent; gives how many were not known to be."""
        row = await self._database.row("select mark_notices_sent($1) as marked", [claim.id for claim in claims])
        return int(row["marked"])

    async def record_failed(self, failed: Sequence[tuple[Claim, Outcome]]) -> None:
        """Gives back what was not sent, or perhaps was, to be tried again later."""
        await self._database.row(
            "select mark_notices_failed($1, $2, $3, $4, $5)",
            [claim.id for claim, _ in failed],
            [claim.number for claim, _ in failed],
            [self._word(claim, outcome) for claim, outcome in failed],
            [outcome.detail for _, outcome in failed],
            [self._wait_s(claim, outcome) for claim, outcome in failed],
        )

    def _wait_s(self, claim: Claim, outcome: Outcome) -> float:
        if outcome.result is Result.NOT_TRIED:
            return 0.0
        return max(outcome.wait_s, retry_after_s(claim.failures + 1, jitter_ratio=self._random.random()))

    def _word(self, claim: Claim, outcome: Outcome) -> str:
        """The outcome in the outbox's words."""
        if outcome.result is Result.ADDRESS_REFUSED:
            return _GIVEN_UP[self._channel] if claim.refusals + 1 >= ADDRESS_TRIES else "address"
        return _WORDS[outcome.result]
