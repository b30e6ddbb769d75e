"""The portal's way to sessions: log-in within limits, log-out, live views; failures are those of `Database`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from system_under_test.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a log-in comes from, for its limits: the network address, and the device if it has a secret of its own."""

    source: str
    device_hash: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What a log-in was granted: a try while `wait_s` is 0, with the account's hash where the address is known."""

    wait_s: float
    account: str | None
    password_hash: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a session's owner sees: the balance, true of the transfer `head`, where `outcome` is "ok".

    `redemptions` are the newest ones, newest first, as the JSON text that customers get.
    """

    outcome: str
    account: str | None
    balance: int | None
    interest: int | None
    head: int | None
    redemptions: str


class Sessions:
    """The functions of the database that sessions are made of."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin_log_in(self, email: str, origin: Origin) -> Admission:
        """Takes one of the tries that this address of a customer has."""
        row = await self._database.row(
            "select wait_s, account, password_hash from begin_log_in($1, $2, $3)",
            *(email, origin.source, origin.device_hash),
        )
        return Admission(wait_s=row["wait_s"], account=row["account"], password_hash=row["password_hash"])

    async def open(self, email: str, origin: Origin, *, account: str, token_hash: bytes, seconds: int) -> datetime:
        """Opens a session, gives the try back and the time at which the session ends."""
        row = await self._database.row(
            "select open_session($1, $2, $3, $4, $5, $6) as expires_at",
            *(email, origin.source, origin.device_hash, account, token_hash, seconds),
        )
        expires_at: datetime = row["expires_at"]
        return expires_at

    async def close(self, token_hash: bytes) -> bool:
        """Ends a session; False where there is none."""
        row = await self._database.row("select close_session($1) as closed", token_hash)
        return bool(row["closed"])

    async def views(self, token_hashes: Sequence[bytes]) -> Sequence[View]:
        """What the owners of the sessions see now, in the order asked for, in one round trip."""
        rows = await self._database.rows("select * from read_views($1)", list(token_hashes))
        return [View(**dict(row)) for row in rows]
