"""One active process of several, for as long as it renews its lease in the database.

The lease only decides who tries. That nothing is done twice, even by a process that was frozen past its lease and then
thawed, is decided where the effect is: each effect names its token, and the database refuses an old one.
"""

import asyncio
import secrets
import time
from typing import Final

import asyncpg
import structlog

from system_under_test.logs import Troubles
from system_under_test.refusals import Refusals
from system_under_test.storage.database import Database, NotDoneError, OutcomeUnknownError

DURATION_S: Final = 1.5
"""How long a killed holder keeps the others waiting at most."""
_RENEWALS: Final = 5
"""Tries to renew within one duration: a slow answer or two must not cost the lease."""


class Lease:
    """A named lease, taken and renewed by `keep`; `token` is None while another process holds it."""

    def __init__(
        self,
        database: Database,
        name: str,
        *,
        instance: str,
        log: structlog.stdlib.BoundLogger,
        refusals: Refusals,
    ) -> None:
        self._database = database
        self._name = name
        # A process that was started again under the same name must not take its past self's token for its own.
        self.holder = f"{instance}/{secrets.token_hex(4)}"
        self._log = log
        self._troubles = Troubles(log)
        self._refusals = refusals
        self._work = f"lease {name}"
        self._token: int | None = None
        self._until_s = -float("inf")
        self.changed = asyncio.Event()
        """Set when the lease was won or lost; whoever waits for it clears it."""

    @property
    def token(self) -> int | None:
        """The token to act under, None when it is not, or no longer certainly, ours."""
        return self._token if time.monotonic() < self._until_s else None

    async def keep(self) -> None:
        """Takes the lease when it is free and renews it while it is ours; runs until cancelled."""
        while True:
            pause_s = DURATION_S / _RENEWALS
            asked_s = time.monotonic()
            try:
                row = await self._database.row(
                    "select take_lease($1, $2, $3) as token", self._name, self.holder, DURATION_S
                )
            except (NotDoneError, OutcomeUnknownError) as error:
                self._troubles.warn("lease.unanswered", lease=self._name, problem=str(error))
            except asyncpg.PostgresError as error:
                pause_s = self._refusals.refused(self._work, error)
            else:
                self._refusals.answered(self._work)
                # Counted from before the question: the database counts from later.
                self._take(row["token"], until_s=asked_s + DURATION_S)
            await asyncio.sleep(pause_s)

    async def release(self) -> None:
        """Gives the lease back, where it is ours; a database that does not answer lets it expire by itself."""
        token, self._token = self._token, None
        if token is not None:
            try:
                await self._database.row("select release_lease($1, $2)", self._name, token)
            except (NotDoneError, OutcomeUnknownError) as error:
                self._log.warning("lease.not_released", lease=self._name, problem=str(error))
            except asyncpg.PostgresError as error:
                self._refusals.refused(self._work, error)

    def _take(self, token: int | None, *, until_s: float) -> None:
        self._until_s = until_s
        if token != self._token:
            self._token = token
            self._log.info("lease.taken" if token is not None else "lease.lost", lease=self._name, token=token)
            self.changed.set()
