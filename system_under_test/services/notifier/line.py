"""A thread's line to the provider: connected when needed, connected again where a connection broke that had worked."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from system_under_test.services.notifier.channel import (
    NOT_TRIED,
    Channel,
    Claim,
    Connection,
    Outcome,
    ProviderError,
    Reason,
    Result,
)

FAILURES_IN_A_ROW: Final = 20
"""So many, and it is the provider that fails, not the notices that are at fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of a batch, in its order; `problem` says why the provider is better left alone for a while."""

    outcomes: Sequence[tuple[Claim, Outcome]]
    problem: ProviderError | None


class Line:
    """Used by one thread at a time; `hang_up` may be called by another."""

    def __init__(self, channel: Channel, stop: threading.Event) -> None:
        self._channel = channel
        self._stop = stop
        self._connection: Connection | None = None
        self._worked = False
        """Whether the provider took something on this connection."""

    def connect(self) -> Connection:
        """A connection on which a notice can be tried; a new one where there is none.

        Raises:
            ProviderError: there is none to be had now.
        """
        if self._connection is None or not self._connection.usable:
            self.close()
            # Known before it is open, so that it can be hung up.
            self._connection, self._worked = self._channel.connection(), False
            try:
                self._connection.open()
            except ProviderError:
                raise
            except Exception as error:  # whatever it is, it must not end the other channels
                raise ProviderError(Reason.UNEXPECTED, _told(error)) from error
        return self._connection

    def send(self, claims: Sequence[Claim], *, until_s: float) -> Sent:
        """Tries one after the other, none after `until_s` on the monotonic clock, none when told to stop."""
        outcomes: list[tuple[Claim, Outcome]] = []
        problem: ProviderError | None = None
        last, failures = NOT_TRIED, 0
        for claim in claims:
            # Asked right before each: this process may have been frozen for any length of time.
            if problem is not None or self._stop.is_set() or time.monotonic() >= until_s:
                outcomes.append((claim, NOT_TRIED))
                continue
            try:
                last = self._try(self._connect_again(last), claim)
            except ProviderError as error:
                problem = error
                outcomes.append((claim, NOT_TRIED))
                continue
            outcomes.append((claim, last))
            self._worked = self._worked or last.result is Result.SENT
            failures = 0 if last.result is Result.SENT else failures + 1
            if self._channel.one_provider and failures >= FAILURES_IN_A_ROW:
                problem = ProviderError(last.reason or Reason.REFUSED, f"{failures} in a row: {last.detail}")
        return Sent(outcomes=outcomes, problem=problem)

    def hang_up(self) -> None:
        """Ends what the thread is waiting for."""
        if self._connection is not None:
            self._connection.abort()

    def close(self) -> None:
        """Closes the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _try(self, connection: Connection, claim: Claim) -> Outcome:
        """What became of one notice; an error that nobody foresaw is its outcome, and costs the others nothing."""
        try:
            return connection.send(claim)
        except Exception as error:  # noqa: BLE001 - customers must not find one that ends the process
            # Nobody knows in which state that left it.
            self.hang_up()
            self.close()
            return Outcome(result=Result.UNKNOWN, reason=Reason.UNEXPECTED, detail=_told(error), error=error)

    def _connect_again(self, last: Outcome) -> Connection:
        """The connection; a new one where the old one had worked: a provider that never does needs rest.

        Raises:
            ProviderError: it never worked, or there is none to be had now.
        """
        if self._connection is not None and not self._connection.usable and not self._worked:
            raise ProviderError(last.reason or Reason.LOST, last.detail or "the connection was lost")
        return self.connect()


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]
