"""The accrual process: credits hourly interest, hour by hour, while it holds the lease; two run, one is active.

    lease -> step -> step -> ... -> no hour is over -> rest until one is -> step -> ...

What is done is found from the database at every step: nothing is remembered here, so that a process that is killed,
frozen or replaced leaves nothing behind that the next one would need.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pydantic import Field

from system_under_test.services.service import Service, ServiceSettings, run_service
from system_under_test.settings import Arguments, read_settings
from system_under_test.storage.accrual import FINISHED, WAITING, Accrual, Progress, Step
from system_under_test.storage.lease import Lease

LEASE: Final = "accrual"
CHUNK_MAX: Final = 5_000
"""Accounts in one transaction: nobody waits longer than some 50 ms for one of them."""
_LOOK_EVERY_S: Final = 0.2
"""The business clock may be set forward at any time: an hour may be over sooner than it was to be."""
_REST_LEAST_S: Final = 0.001
_REPORT_EVERY_S: Final = 0.5
_HOUR_S: Final = 3600
_DURATION_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class AccrualSettings(ServiceSettings):
    """What the accrual process is told."""

    accounts_at_once: Annotated[int, Field(ge=1, le=CHUNK_MAX)] = Field(default=CHUNK_MAX, alias="ACCRUAL_CHUNK")


class AccrualMetrics:
    """What the accrual process counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.last_success = Gauge(
            "savings_accrual_last_success_timestamp_seconds",
            "Wall time at which the newest complete hour was completed, by whichever process; 0 before the first.",
            registry=registry,
        )
        self.credited_until = Gauge(
            "savings_accrual_credited_until_timestamp_seconds",
            "Business time up to which all interest is credited: the end of the newest complete hour.",
            registry=registry,
        )
        self.lag_seconds = Gauge(
            "savings_accrual_lag_seconds",
            "Business time of the hours that are over and not complete: 3,600 for each.",
            registry=registry,
        )
        self.hour_seconds = Histogram(
            "savings_accrual_hour_duration_seconds",
            "Wall time from the begin of an hour's accrual to its completion, by the process that completed it.",
            buckets=_DURATION_BUCKETS_S,
            registry=registry,
        )
        self.accounts = Counter(
            "savings_accrual_accounts", "Snapshots taken: one for each account and hour.", registry=registry
        )
        self.lease_held = Gauge(
            "savings_lease_held", "1 while this process is the active one.", ("lease",), registry=registry
        ).labels(LEASE)

    def count(self, step: Step) -> None:
        """Counts what was done."""
        self.accounts.inc(step.accounts)
        if step.what == FINISHED:
            self.hour_seconds.observe(step.took_s)

    def show(self, progress: Progress) -> None:
        """Takes over how far interest is."""
        self.credited_until.set(progress.credited_until.timestamp())
        self.lag_seconds.set(progress.lag_hours * _HOUR_S)
        if progress.finished_at is not None:
            self.last_success.set(progress.finished_at.timestamp())


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs until told to stop."""
    Arguments(
        "accrual", "Credit hourly interest. Reads HOLDFAST_PORT, DATABASE_URL, ACCRUAL_CHUNK and STATEMENT_SECONDS."
    ).parse_args(arguments)
    settings = read_settings(AccrualSettings, environment)
    run_service(settings, lambda service: work(service, settings.accounts_at_once))
    return 0


async def work(service: Service, accounts_at_once: int) -> None:
    """Accrues while the lease is ours, until the process is to stop."""
    metrics = AccrualMetrics(service.registry)
    accrual = Accrual(service.database)
    lease = Lease(service.database, LEASE, instance=service.instance, log=service.log, refusals=service.refusals)
    metrics.lease_held.set_function(lambda: lease.token is not None)
    # A group, so that one that fails takes the process with it, instead of leaving it idle with a good face.
    async with asyncio.TaskGroup() as group:
        beside = [group.create_task(lease.keep()), group.create_task(_report(service, accrual, metrics))]
        try:
            while not service.stopping.is_set():
                await _act(service, accrual, lease, metrics, accounts_at_once)
        finally:
            for task in beside:
                task.cancel()
            await lease.release()


async def _act(
    service: Service, accrual: Accrual, lease: Lease, metrics: AccrualMetrics, accounts_at_once: int
) -> None:
    """One step, and the rest that is due after it."""
    token = lease.token
    if token is None:
        lease.changed.clear()
        await service.rest(_LOOK_EVERY_S, unless=lease.changed)
        return
    # What is refused is tried again; nobody is credited past it.
    step = await service.ask(lambda: accrual.step(token, accounts_at_once), work=LEASE, otherwise=None)
    if step is None:
        await service.rest(_LOOK_EVERY_S)
        return
    metrics.count(step)
    if step.what == FINISHED:
        service.log.info("accrual.hour_finished", hour=step.hour.isoformat(), took_s=step.took_s)
    elif step.what == WAITING:
        await service.rest(min(max(step.took_s, _REST_LEAST_S), _LOOK_EVERY_S))


async def _report(service: Service, accrual: Accrual, metrics: AccrualMetrics) -> None:
    """Keeps the gauges true, in the process that waits too: it shows the lag when the active one is gone."""
    while True:
        progress: Progress | None = await service.ask(accrual.progress, work="accrual figures", otherwise=None)
        if progress is not None:
            metrics.show(progress)
        await asyncio.sleep(_REPORT_EVERY_S)
