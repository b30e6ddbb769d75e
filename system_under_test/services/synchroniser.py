"""Synchronises customers' sessions after the service has reopened, a chunk at a time.

reopened -> all balances compared with those last verified and the transfers since -> 5,000 sessions marked at a time

Until a session is marked, its owner is told "synchronising" and no number. An account that differs from its transfers
stays so, is named in the log, and is looked at again. Runs within the maintenance process.
"""

import time
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry, Gauge

from system_under_test.services.service import Service

CHUNK: Final = 5_000
_LOOK_EVERY_S: Final = 0.1
_FORGET_EVERY_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What one step did and found; of the `waiting` sessions those of `differing` accounts cannot be synchronised."""

    epoch: int
    synchronised: int
    waiting: int
    differing: int
    named: tuple[str, ...]
    lag_s: float


class SynchroniserMetrics:
    """What the synchroniser shows; all exist from the start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lag_s = Gauge(
            "savings_session_synchronisation_lag_seconds",
            "From the newest reopening until the last session was synchronised; until now while one waits that can be.",
            registry=registry,
        )
        self._waiting = Gauge(
            "savings_sessions_unsynchronised",
            "Sessions that are told 'synchronising' instead of a balance.",
            registry=registry,
        )
        self._differing = Gauge(
            "savings_accounts_differing",
            "Accounts whose cached balance is not the sum of their transfers; the log names the first ones.",
            registry=registry,
        )

    def show(self, progress: Progress) -> None:
        """Shows the newest step."""
        self._lag_s.set(progress.lag_s)
        self._waiting.set(progress.waiting)
        self._differing.set(progress.differing)


async def keep_synchronised(service: Service) -> None:
    """Synchronises after each reopening, and removes what has expired; until the process is to stop."""
    metrics = SynchroniserMetrics(service.registry)
    last: Progress | None = None
    forgotten_s = -float("inf")
    while not service.stopping.is_set():
        progress = await service.ask(lambda: _step(service), work="synchronising", otherwise=None)
        if progress is None:
            # What nothing is done about is told all the same: a lag that stood still would look like none.
            state = await service.ask(lambda: _state(service), work="telling the lag", otherwise=None)
            if state is not None:
                metrics.show(state)
        else:
            metrics.show(progress)
            _report(service, progress, last)
            last = progress
        if time.monotonic() - forgotten_s >= _FORGET_EVERY_S:
            forgotten_s = time.monotonic()
            await service.ask(lambda: _forget(service), work="forgetting", otherwise=None)
        if progress is None or progress.synchronised < CHUNK:
            await service.rest(_LOOK_EVERY_S)


async def _step(service: Service) -> Progress | None:
    return _progress(await service.database.row("select * from synchronise_sessions($1)", CHUNK))


async def _state(service: Service) -> Progress | None:
    return _progress(await service.database.row("select * from synchronisation_state()"))


def _progress(row: Any) -> Progress:
    return Progress(**{**dict(row), "named": tuple(row["named"])})


async def _forget(service: Service) -> None:
    await service.database.row("select forget_expired($1)", CHUNK)


def _report(service: Service, progress: Progress, last: Progress | None) -> None:
    for account in set(progress.named) - set(() if last is None else last.named):
        service.log.error("session.account_differs", account=account, epoch=progress.epoch)
    if progress.synchronised and progress.synchronised < CHUNK:
        service.log.info(
            "session.synchronised", epoch=progress.epoch, waiting=progress.waiting, lag_s=round(progress.lag_s, 3)
        )
