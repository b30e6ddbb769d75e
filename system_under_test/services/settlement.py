"""Settles queued redemptions, in order; of several such processes one is active, the holder of the lease `settlement`.

lease ours? -> decide the next chunk -> at once again, or a short rest when the queue is empty

Payouts of what was settled are made beside it, under the same lease.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Final

import asyncpg
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pydantic import Field

from system_under_test.domain.bisection import Bisection
from system_under_test.domain.pacing import FIRST, next_limit
from system_under_test.services.payouts import Payouts
from system_under_test.services.service import Service, ServiceSettings, run_service
from system_under_test.settings import Arguments, read_settings
from system_under_test.storage.database import FencedError, NotDoneError, OutcomeUnknownError
from system_under_test.storage.lease import Lease
from system_under_test.storage.redemptions import Chunk, QueueState, Redemptions

LEASE: Final = "settlement"
CHUNK_MAX: Final = 5000
# An answer of an empty queue costs a tenth of a millisecond of a core.
_IDLE_S: Final = 0.02
_STANDBY_S: Final = 0.5
_TROUBLE_S: Final = 0.5
_OBSERVE_EVERY_S: Final = 0.25
# Data that cannot be decided on: only these errors are the redemption's own. All others are the platform's.
_DATA_ERRORS: Final = ("22", "23")
_CHUNK_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class SettlementSettings(ServiceSettings):
    """What a settler is told."""

    chunk: Annotated[int, Field(ge=1, le=CHUNK_MAX)] = Field(default=CHUNK_MAX, alias="SETTLEMENT_CHUNK")


class SettlementMetrics:
    """What a settler tells; gauges of the queue are read by the standing-by process, too."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.depth = Gauge(
            "savings_redemption_queue_depth",
            "Redemptions that wait for their decision, and those that could not be decided.",
            ("state",),
            registry=registry,
        )
        self.oldest_age_seconds = Gauge(
            "savings_redemption_oldest_age_seconds", "Age of the redemption that is next.", registry=registry
        )
        self.settled = Counter(
            "savings_redemptions_settled",
            "Redemptions that this process decided, by outcome.",
            ("outcome",),
            registry=registry,
        )
        self.chunk_seconds = Histogram(
            "savings_settlement_chunk_duration_seconds",
            "Time to decide one chunk.",
            buckets=_CHUNK_BUCKETS_S,
            registry=registry,
        )
        self.errors = Counter(
            "savings_settlement_errors", "Chunks that failed, by reason.", ("reason",), registry=registry
        )
        self.lease_held = Gauge("savings_lease_held", "1 while this process is active.", ("lease",), registry=registry)
        self.lease_held.labels(LEASE)
        for state in ("queued", "parked"):
            self.depth.labels(state)
        for outcome in ("settled", "refused", "parked"):
            self.settled.labels(outcome)
        for reason in ("fenced", "data", "database", "other"):
            self.errors.labels(reason)

    def observe(self, state: QueueState) -> None:
        """Takes over what the queue is like now."""
        self.depth.labels("queued").set(state.queued)
        self.depth.labels("parked").set(state.parked)
        self.oldest_age_seconds.set(state.oldest_age_s)

    def count(self, chunk: Chunk) -> None:
        """Counts what a chunk decided."""
        self.settled.labels("settled").inc(chunk.settled)
        self.settled.labels("refused").inc(chunk.refused)
        self.settled.labels("parked").inc(chunk.parked)


class Settler:
    """Decides chunk after chunk while the lease is ours: of up to `chunk` redemptions, fewer where that takes long."""

    def __init__(
        self,
        service: Service,
        lease: Lease,
        metrics: SettlementMetrics,
        *,
        chunk: int = CHUNK_MAX,
    ) -> None:
        self._service = service
        self._lease = lease
        self._metrics = metrics
        self._redemptions = Redemptions(service.database)
        self._chunk_max = chunk
        self._bisection = Bisection(limit=min(FIRST, chunk))

    async def run(self) -> None:
        """Settles until the service is told to stop."""
        while not self._service.stopping.is_set():
            self._lease.changed.clear()
            token = self._lease.token
            self._metrics.lease_held.labels(LEASE).set(token is not None)
            if token is None:
                await self._service.rest(_STANDBY_S, unless=self._lease.changed)
                continue
            rest_s = await self._round(token)
            if rest_s:
                await self._service.rest(rest_s)

    async def _round(self, token: int) -> float:
        """Decides one chunk and gives how long to rest; what failed is found out by asking again."""
        try:
            rest_s = await self._settle_or_narrow(token)
        except FencedError as error:
            self._metrics.errors.labels("fenced").inc()
            self._service.log.warning("settlement.fenced", token=token, problem=str(error))
        except (NotDoneError, OutcomeUnknownError) as error:
            self._metrics.errors.labels("database").inc()
            self._service.failed(error)
        except asyncpg.PostgresError as error:
            self._metrics.errors.labels("other").inc()
            return self._service.refusals.refused(LEASE, error)
        else:
            self._service.refusals.answered(LEASE)
            return rest_s
        return _TROUBLE_S

    async def _settle_or_narrow(self, token: int) -> float:
        try:
            return await self._settle(token)
        except asyncpg.PostgresError as error:
            if not str(error.sqlstate).startswith(_DATA_ERRORS):
                raise
            undecidable = error
        # No part of the handling above: what fails in here is told as its own failure, and ends no process.
        return await self._narrow(token, undecidable)

    async def _settle(self, token: int) -> float:
        started_s = time.perf_counter()
        asked = self._bisection.size
        chunk = await self._redemptions.settle(token, asked)
        if chunk is None:
            return _IDLE_S
        took_s = time.perf_counter() - started_s
        items = chunk.last - chunk.first + 1
        self._metrics.chunk_seconds.observe(took_s)
        self._metrics.count(chunk)
        self._bisection = self._bisection.passed(items)
        if asked == self._bisection.limit:
            limit = next_limit(asked, items=items, took_s=took_s, at_most=self._chunk_max)
            self._bisection = replace(self._bisection, limit=limit)
        return 0.0

    async def _narrow(self, token: int, error: asyncpg.PostgresError) -> float:
        """After a chunk could not be decided: a smaller one next, or, where it was one redemption, that one parked."""
        self._metrics.errors.labels("data").inc()
        if not self._bisection.alone:
            self._bisection = self._bisection.failed()
            return 0.0
        state = await self._service.ask(self._redemptions.state, work="parking", otherwise=None)
        if state is None:
            return _TROUBLE_S
        seq = state.decided + 1
        reason = f"undecidable: {error.sqlstate} {error}"
        parked = await self._service.ask(
            lambda: self._redemptions.park(token, seq, reason), work="parking", otherwise=False
        )
        if not parked:
            return _TROUBLE_S
        self._service.log.error("redemption.parked", seq=seq, reason=reason)
        self._metrics.settled.labels("parked").inc()
        self._bisection = self._bisection.passed(1)
        return 0.0


async def observe(service: Service, metrics: SettlementMetrics) -> None:
    """Keeps the gauges of the queue up to date; runs until cancelled."""
    redemptions = Redemptions(service.database)
    while True:
        state = await service.ask(redemptions.state, work="queue figures", otherwise=None)
        if state is not None:
            metrics.observe(state)
        await asyncio.sleep(_OBSERVE_EVERY_S)


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Settles until SIGTERM or SIGINT."""
    Arguments(
        "settlement",
        "Settles queued redemptions; of several such processes one is active. Reads HOLDFAST_PORT, HOLDFAST_INSTANCE,"
        " DATABASE_URL, VERSION, STATEMENT_SECONDS and SETTLEMENT_CHUNK.",
    ).parse_args(arguments)
    settings = read_settings(SettlementSettings, environment)

    async def work(service: Service) -> None:
        lease = Lease(service.database, LEASE, instance=service.instance, log=service.log, refusals=service.refusals)
        metrics = SettlementMetrics(service.registry)
        settler = Settler(service, lease, metrics, chunk=settings.chunk)
        payouts = Payouts(service, lease)
        # Any of them that breaks ends the process, and with it its lease: half a settler would keep the others waiting.
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(lease.keep()),
                group.create_task(observe(service, metrics)),
                group.create_task(payouts.run()),
            ]
            await settler.run()
            for task in beside:
                task.cancel()
        await lease.release()

    run_service(settings, work, pool_size=4)
    return 0
