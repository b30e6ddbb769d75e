"""Drives maintenance windows from stage to stage, ten times a second; whatever it knows is in the database.

A process that is killed at any moment and started again goes on where the database says that the window is.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

import asyncpg
from prometheus_client import Counter, Gauge

from system_under_test.domain.windows import Change, Facts, Stage, Step, Verdict, advance
from system_under_test.services.service import Service
from system_under_test.storage.database import NotDoneError, OutcomeUnknownError
from system_under_test.storage.reconciliation import Reconciliation, check_within_s
from system_under_test.storage.windows import Surveyed, Windows

_TICK_S: Final = 0.1
# Counting the notices of many customers takes a while, and nothing hangs on a second of it.
_NOTICES_EVERY_TICKS: Final = 10
_PACE_EVERY_TICKS: Final = 50
_STEPS_AT_ONCE_MAX: Final = 10
_VERIFY_WITHIN_CHECKS: Final = 2.5
"""How long a whole verification may take, as a multiple of what one of its checks may: five minutes and more."""
_VERIFY_AGAIN_S: Final = (0.5, 1.0, 2.0, 5.0)


Verify = Callable[[], Awaitable[Reconciliation]]
"""Verifies the whole ledger and records the result."""


class Verification:
    """Verifies the ledger while a window is verifying, again and again until it passes, beside the ticks."""

    def __init__(self, service: Service, verify: Verify, runs: Counter) -> None:
        self._service = service
        self._verify = verify
        self._runs = runs
        self._task: asyncio.Task[None] | None = None
        self._tries = 0
        self.newest: Reconciliation | None = None

    def begin(self, verify_head: int) -> None:
        """Starts it unless it was started: it goes on until it has passed for a ledger that contains `verify_head`."""
        if self._task is None:
            self._task = asyncio.create_task(self._until_passed(verify_head))

    async def again(self) -> None:
        """Forgets what it found and lets the next `begin` start anew, after a pause that grows."""
        task, self._task, self.newest = self._task, None, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def end(self) -> None:
        """Ends it: the next window needs its own."""
        await self.again()
        self._tries = 0

    def verdict(self, verify_head: int | None) -> Verdict | None:
        """What the newest run found, None before the first."""
        if self.newest is None:
            return None
        covers = verify_head is not None and self.newest.head >= verify_head
        return Verdict(passed=self.newest.passed, covers=covers, problems=len(self.newest.problems))

    async def _until_passed(self, verify_head: int) -> None:
        while True:
            if self._tries:
                await self._service.rest(_VERIFY_AGAIN_S[min(self._tries, len(_VERIFY_AGAIN_S)) - 1])
            self._tries += 1
            try_it = partial(self._try, verify_head)
            found = await self._service.ask(try_it, work="window verification", otherwise=None)
            self._runs.labels("unfinished" if found is None else "passed" if found.passed else "failed").inc()
            if found is not None:
                self.newest = found
                self._service.log.info(
                    "window.verified", passed=found.passed, head=found.head, problems=len(found.problems)
                )
                if found.passed and found.head >= verify_head:
                    return

    async def _try(self, verify_head: int) -> Reconciliation | None:
        within_s = _VERIFY_WITHIN_CHECKS * check_within_s(verify_head)
        try:
            async with asyncio.timeout(within_s):
                return await self._verify()
        except (NotDoneError, OutcomeUnknownError, asyncpg.PostgresError):
            raise
        except TimeoutError:
            self._service.log.warning("window.verification_too_slow", seconds=within_s)
        except Exception:
            # The window must not hang on it: it is tried again, and the public status says that it is not finished.
            self._service.log.exception("window.verification_broke")
        return None


class WindowDriver:
    """Looks at all windows and takes every step that is due."""

    def __init__(self, service: Service, verify: Verify) -> None:
        self._service = service
        self._windows = Windows(service.database)
        self._stage = Gauge(
            "savings_window_stage", "1 for the stage of the window under way.", ("stage",), registry=service.registry
        )
        self._steps = Counter(
            "savings_window_steps", "Steps of windows, by what changed.", ("change",), registry=service.registry
        )
        self._overrun_seconds = Gauge(
            "savings_window_overrun_seconds",
            "Business time by which the window under way is published to end later than planned.",
            registry=service.registry,
        )
        self._errors = Counter(
            "savings_window_tick_errors", "Looks at the windows that broke unexpectedly.", registry=service.registry
        )
        self._upcoming = Gauge("savings_windows_upcoming", "Windows that are to come.", registry=service.registry)
        runs = Counter(
            "savings_window_verifications",
            "Verifications of the ledger for a window.",
            ("outcome",),
            registry=service.registry,
        )
        for outcome in ("passed", "failed", "unfinished"):
            runs.labels(outcome)
        for change in Change:
            self._steps.labels(change.value)
        self._verification = Verification(service, verify, runs)

    async def run(self) -> None:
        """Ticks until the process is told to stop."""
        ticks = 0
        try:
            while not self._service.stopping.is_set():
                await self._try("windows", partial(self.tick, notices=ticks % _NOTICES_EVERY_TICKS == 0))
                if ticks % _PACE_EVERY_TICKS == 0:
                    await self._try("settlement pace", self._windows.measure_pace)
                ticks += 1
                await self._service.rest(_TICK_S)
        finally:
            await self._verification.end()

    async def _try(self, work: str, question: Callable[[], Awaitable[object]]) -> None:
        try:
            await self._service.ask(question, work=work, otherwise=None)
        except Exception:
            # A window that is under way has to go on as soon as it can; who watches sees the number grow.
            self._errors.inc()
            self._service.log.exception("window.tick_broke")

    async def tick(self, *, notices: bool) -> None:
        """Takes every step that is due now, one after the other; each is looked at anew after the one before it."""
        for _ in range(_STEPS_AT_ONCE_MAX):
            seen = await self._windows.survey(notices=notices)
            self._measure(seen)
            verifying = next((one for one in seen if one.verify_head is not None), None)
            if verifying is None or verifying.verify_head is None:
                await self._verification.end()
            else:
                self._verification.begin(verifying.verify_head)
            due = self._first_due(seen)
            if due is None or not await self._take(*due):
                return

    def _first_due(self, seen: tuple[Surveyed, ...]) -> tuple[Surveyed, Step] | None:
        # The one under way first: where it has got to decides whether the next may begin.
        for one in sorted(seen, key=lambda one: not one.window.under_way):
            facts = Facts(
                others=tuple(other.window for other in seen if other is not one),
                notices=one.notices,
                drained=one.drained,
                work_finished=one.work_finished,
                verdict=self._verification.verdict(one.verify_head),
            )
            step = advance(one.window, now=one.now, wall=one.wall, facts=facts)
            if step is not None:
                return one, step
        return None

    async def _take(self, seen: Surveyed, step: Step) -> bool:
        opening = step.change is Change.OPENED
        newest = self._verification.newest
        head = newest.head if opening and newest is not None else None
        done = await self._windows.carry_out(seen, step, verified_head=head)
        if done:
            self._steps.labels(step.change.value).inc()
        elif opening:
            # A check has failed since, or nothing that the database accepts covers the head: verified once more.
            await self._verification.again()
        self._service.log.info(
            "window.step" if done else "window.step_refused",
            window=step.after.number,
            change=step.change.value,
            revision=step.after.revision,
            reason=step.reason,
            published_end=step.after.published_end.isoformat(),
        )
        return done

    def _measure(self, seen: tuple[Surveyed, ...]) -> None:
        current = next((one.window for one in seen if one.window.under_way), None)
        for stage in (Stage.DRAINING, Stage.CLOSED, Stage.VERIFYING):
            self._stage.labels(stage.value).set(current is not None and current.stage is stage)
        self._overrun_seconds.set(0 if current is None else (current.published_end - current.end).total_seconds())
        self._upcoming.set(sum(one.window.upcoming for one in seen))
