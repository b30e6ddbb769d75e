r"""Ending a run early, once and for one reason: a signal, a guardrail, a client or watchdog that died.

body ------------------------------> its end
  \\- request(reason) -> body is cancelled, its faults heal on the way out -> the reason
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from chaos.errors import HoldfastError

EarlyOutcome = Literal["interrupted", "baseline_not_met", "guardrail", "error"]
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a run ended early; `signal` is the name of the one that interrupted it."""

    outcome: EarlyOutcome
    text: str
    signal: str | None = None


class EndEarly(Exception):  # noqa: N818  (not an error: the way out of the body for a reason found inside it)
    """Raised inside the body to end it for `reason`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.text)
        self.reason = reason


class Switch:
    """The first request wins; later ones change nothing, so that a second Ctrl-C does not break the healing."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """`tell` gets sentences for the user."""
        self._requested: asyncio.Future[Reason] = asyncio.get_running_loop().create_future()
        self._tell = tell

    @property
    def reason(self) -> Reason | None:
        """Why the run has to end early; None while it has not."""
        return self._requested.result() if self._requested.done() else None

    def request(self, reason: Reason) -> None:
        """Asks for the end."""
        if not self._requested.done():
            self._requested.set_result(reason)

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Within, SIGINT, SIGTERM and SIGHUP request the end, also while everything is being put back."""
        loop = asyncio.get_running_loop()
        for signum in SIGNALS:
            loop.add_signal_handler(signum, self._signalled, signum)
        try:
            yield
        finally:
            for signum in SIGNALS:
                loop.remove_signal_handler(signum)

    async def run(self, body: Coroutine[Any, Any, None]) -> Reason | None:
        """Runs the body to its end, or cancels it when the end is requested; why it ended early, if it did.

        Whatever else the body raises comes out of here; of what a user can mend, only what it ended for.
        """
        task = asyncio.create_task(body, name="body of the run")
        try:
            await asyncio.wait((task, self._requested), return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            if self.reason is None:
                raise
        except EndEarly as end:
            self.request(end.reason)
        except (HoldfastError, OSError) as error:
            if self.reason is None:
                raise
            # What fails on the way out changes nothing of why it is taken.
            self._tell(f"while ending: {error}")
        return self.reason

    def _signalled(self, signum: signal.Signals) -> None:
        name = signal.Signals(signum).name
        if self._requested.done():
            self._tell(f"{name}: already ending; faults are being healed and the target is being stopped")
        self.request(Reason(outcome="interrupted", text=f"interrupted by {name}", signal=name))


async def uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """Finishes `work` however often the caller is cancelled meanwhile; only then the caller is cancelled."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
            cancelled = True
    if cancelled:
        task.result()
        raise asyncio.CancelledError
