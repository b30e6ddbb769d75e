"""A node's own copy of the public state: it answers when the database is away, and says how old it is."""

import asyncio
import math
import time
from datetime import datetime, timedelta
from typing import Final

import structlog

from system_under_test.storage.database import Database, NotDoneError, OutcomeUnknownError
from system_under_test.storage.public import PublicState, read_public_state

_EVERY_S: Final = 0.2
_UNREADABLE_EVERY_S: Final = 2.0
RETRY_AFTER_MAX_S: Final = 300
"""Windows can end early; nobody is told to stay away for longer than this."""
_GATE_RETRY_AFTER_S: Final = 5


class PublicCopy:
    """The newest public state that this node has read; `state` is None before the first."""

    def __init__(self, database: Database, log: structlog.stdlib.BoundLogger) -> None:
        self._database = database
        self.log = log
        self._read_s = 0.0
        self._tried_s = 0.0
        self._reading = asyncio.Lock()
        self.state: PublicState | None = None

    async def keep_fresh(self) -> None:
        """Reads it five times a second; runs until cancelled."""
        while True:
            pause_s = _EVERY_S
            try:
                await self.refresh()
            except Exception:
                # The node goes on serving: the copy's age tells how old it is.
                self.log.exception("public_state.unreadable")
                pause_s = _UNREADABLE_EVERY_S
            await asyncio.sleep(pause_s)

    async def refresh(self) -> None:
        """Reads it now; a database that does not answer leaves it as it was, and its age tells."""
        asked_s = time.monotonic()
        async with self._reading:
            if self._tried_s >= asked_s:  # somebody else who waited has tried since
                return
            self._tried_s = started_s = time.monotonic()
            try:
                self.state = await read_public_state(self._database)
            except (NotDoneError, OutcomeUnknownError):
                return
            self._read_s = started_s

    @property
    def age_s(self) -> float | None:
        """How long ago it was read, None when it never was."""
        return None if self.state is None else time.monotonic() - self._read_s

    @property
    def business_now(self) -> datetime | None:
        """The business time, from the copy's and what has passed since."""
        if self.state is None:
            return None
        return self.state.business + timedelta(seconds=(time.monotonic() - self._read_s) * self.state.rate)

    def retry_after_s(self) -> int:
        """Whole seconds of wall time until balances will be shown, as far as is known; at least 1 and bounded."""
        now = self.business_now
        if self.state is None or now is None:
            return _GATE_RETRY_AFTER_S
        window = self.state.window
        if window is None or self.state.stage == "open":
            return _GATE_RETRY_AFTER_S
        left_s = (window.published_end - now).total_seconds() / self.state.rate
        return min(max(math.ceil(left_s), 1), RETRY_AFTER_MAX_S)
