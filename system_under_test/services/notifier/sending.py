"""Sends what is due on one channel.

    something due? -> connect -> claim a batch -> send -> record -> claim ... -> nothing left: close
         ^               '-- no provider: wait, longer each time, nothing claimed
         '-- look again a few times a second

A connection comes before a claim, so that a provider that is down costs no notice a try.
"""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

import asyncpg

from system_under_test.domain.notices import connections_for, retry_after_s
from system_under_test.services.notifier.channel import Channel, Claim, Outcome, ProviderError, Reason, Result
from system_under_test.services.notifier.line import Line
from system_under_test.services.notifier.metrics import NotifierMetrics
from system_under_test.services.notifier.outbox import Outbox
from system_under_test.services.service import Service
from system_under_test.storage.database import NotDoneError, OutcomeUnknownError

LOOK_EVERY_S: Final = 0.25
BATCH: Final = 50
"""Few, because what is claimed is sent even if the plan changes meanwhile."""
_HANG_UP_AFTER_S: Final = 1.0
AnswerT = TypeVar("AnswerT")


class Sender:
    """The work of one channel, on up to `connections` connections, each with a thread of its own."""

    def __init__(
        self, service: Service, channel: Channel, outbox: Outbox, metrics: NotifierMetrics, *, connections: int
    ) -> None:
        self._service = service
        self._work = f"notices by {channel.name}"
        self._channel = channel
        self._outbox = outbox
        self._metrics = metrics
        self._stop = threading.Event()
        self._lines = tuple(Line(channel, self._stop) for _ in range(connections))
        self._threads = ThreadPoolExecutor(max_workers=connections, thread_name_prefix=channel.name)
        self._random = random.Random()  # noqa: S311 - spreads tries, protects nothing

    async def run(self) -> None:
        """Sends until the process is to stop; what it has claimed and not sent by then is given back."""
        hanging_up = asyncio.create_task(self._hang_up())
        failures = 0
        try:
            while not self._service.stopping.is_set():
                lines = await self._lines_wanted()
                if not lines:
                    await self._service.rest(LOOK_EVERY_S)
                    continue
                async with asyncio.TaskGroup() as tasks:
                    uses = [tasks.create_task(self._use(line)) for line in lines]
                failures = 0 if any(use.result() is None for use in uses) else failures + 1
                if failures:
                    await self._service.rest(retry_after_s(failures, jitter_ratio=self._random.random()))
        finally:
            self._stop.set()
            hanging_up.cancel()
            with suppress(asyncio.CancelledError):
                await hanging_up
            self._threads.shutdown()

    async def _lines_wanted(self) -> Sequence[Line]:
        most = len(self._lines)
        due = await self._service.ask(lambda: self._outbox.due(most * BATCH), work=self._work, otherwise=0)
        return self._lines[: connections_for(due, batch=BATCH, most=most)]

    async def _use(self, line: Line) -> ProviderError | None:
        """Sends on one line until nothing is due; gives what the provider had against it."""
        self._metrics.connections.inc()
        try:
            await self._in_thread(line.connect)
            problem = await self._send_batches(line)
        except ProviderError as error:
            self._metrics.failures.labels(error.reason.value).inc()
            problem = error
        finally:
            await self._in_thread(line.close)
            self._metrics.connections.dec()
        if problem is not None:
            self._service.log.warning(
                "provider.failed", channel=self._channel.name, reason=problem.reason.value, problem=str(problem)
            )
        return problem

    async def _send_batches(self, line: Line) -> ProviderError | None:
        while not self._service.stopping.is_set():
            batch = await self._service.ask(
                lambda: self._outbox.claim(BATCH), work=f"{self._work} claims", otherwise=None
            )
            if batch is None or not batch.claims:
                return None
            sent = await self._in_thread(partial(line.send, batch.claims, until_s=batch.until_s))
            await self._record(sent.outcomes)
            if sent.problem is not None:
                return sent.problem
        return None

    async def _record(self, outcomes: Sequence[tuple[Claim, Outcome]]) -> None:
        sent = [claim for claim, outcome in outcomes if outcome.result is Result.SENT]
        failed = [(claim, outcome) for claim, outcome in outcomes if outcome.result is not Result.SENT]
        if sent:
            await self._insist(lambda: self._outbox.record_sent(sent))
            self._metrics.sent.inc(len(sent))
        if failed:
            await self._insist(lambda: self._outbox.record_failed(failed))
            self._count(failed)

    async def _insist(self, record: Callable[[], Awaitable[Any]]) -> None:
        """Records, however long the database is away: what is forgotten is sent again when its claim has run out."""
        work = f"{self._work} recorded"
        while True:
            pause_s = LOOK_EVERY_S
            try:
                await record()
            except (NotDoneError, OutcomeUnknownError) as error:
                self._service.log.warning("notices.not_recorded", problem=str(error))
            except asyncpg.PostgresError as error:
                pause_s = self._service.refusals.refused(work, error)
            else:
                self._service.refusals.answered(work)
                return
            if self._service.stopping.is_set():
                return
            await self._service.rest(pause_s)

    def _count(self, failed: Sequence[tuple[Claim, Outcome]]) -> None:
        """Counts the failures, and logs how many there were of each reason, with one as an example."""
        by_reason: dict[Reason, list[Outcome]] = {}
        for _, outcome in failed:
            if outcome.reason is not None:
                by_reason.setdefault(outcome.reason, []).append(outcome)
        for reason, outcomes in by_reason.items():
            self._metrics.failures.labels(reason.value).inc(len(outcomes))
            example = outcomes[0]
            self._service.log.warning(
                "notices.failed",
                channel=self._channel.name,
                reason=reason.value,
                notices=len(outcomes),
                problem=example.detail,
                exc_info=example.error,
            )

    async def _hang_up(self) -> None:
        """Asks the threads to stop with the process, and ends what they wait for after that, until they have ended."""
        await self._service.stopping.wait()
        self._stop.set()
        while True:
            await asyncio.sleep(_HANG_UP_AFTER_S)
            for line in self._lines:
                line.hang_up()

    async def _in_thread(self, work: Callable[[], AnswerT]) -> AnswerT:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
