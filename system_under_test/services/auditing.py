"""Seals transfers several times a second and verifies the ledger again and again, all within the maintenance process.

The whole ledger at the start, about once a minute, and more often while the gate is shut, so that it opens by itself
once the ledger is right again; in between, every second, what is new. While a maintenance window verifies, the
window does it itself.
"""

import time
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from system_under_test.services.service import Service
from system_under_test.storage.reconciliation import Reconciliation, reconcile, seal_all

SEAL_EVERY_S: Final = 0.2
VERIFY_EVERY_S: Final = 1.0
_WHOLE_EVERY_S: Final = 60.0
_WHOLE_WHILE_SHUT_EVERY_S: Final = 2.0
_SHARE_MAX: Final = 0.02
_SHARE_OF_NEW_MAX: Final = 0.1
_SHARE_WHILE_SHUT_MAX: Final = 0.2
"""Shares of the time that checks may take, however large the ledger grows."""
_SCOPES: Final = {True: "whole", False: "new"}
_UNFINISHED: Final = "unfinished"


async def keep_sealed(service: Service) -> None:
    """Seals what is over, five times a second, until the process is told to stop."""
    sealed = Counter("savings_sealed_transfers", "Transfers sealed by this process.", registry=service.registry)
    newest = Gauge(
        "savings_sealing_last_success_timestamp_seconds",
        "When everything that was over had been sealed.",
        registry=service.registry,
    )
    while not service.stopping.is_set():
        number = await service.ask(lambda: seal_all(service), work="sealing", otherwise=None)
        if number is not None:
            sealed.inc(number)
            newest.set_to_current_time()
        await service.rest(SEAL_EVERY_S)


async def keep_verified(service: Service) -> None:
    """Verifies the ledger until the process is told to stop.

    Raises:
        PlatformError: as `reconcile` does.
    """
    auditor = _Auditor(service)
    while not service.stopping.is_set():
        started_s = time.monotonic()
        await service.ask(auditor.look, work="verifying", otherwise=None)
        await service.rest(max(VERIFY_EVERY_S, (time.monotonic() - started_s) / _SHARE_OF_NEW_MAX))


class _Auditor:
    """Decides what to verify next, does it, and tells of it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._whole_at_s = -float("inf")
        registry = service.registry
        self._runs = Counter(
            "savings_reconciliations", "Verifications of the ledger.", ("scope", "outcome"), registry=registry
        )
        for scope in _SCOPES.values():
            for outcome in ("passed", "failed", _UNFINISHED):
                self._runs.labels(scope, outcome)
        self._seconds = Histogram(
            "savings_reconciliation_duration_seconds",
            "How long a verification of the ledger took.",
            ("scope",),
            registry=registry,
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
        )
        for scope in _SCOPES.values():
            self._seconds.labels(scope)
        self._problems = Gauge(
            "savings_reconciliation_problems", "Wrong rows that the newest verification named.", registry=registry
        )
        self._head = Gauge("savings_reconciliation_head", "The newest transfer that was verified.", registry=registry)
        self._gate = Gauge("savings_gate_open", "1 while the ledger counts as verified.", registry=registry)

    async def look(self) -> None:
        """Verifies what is due, if anything."""
        state = await self._service.database.row("select * from service_stage()")
        self._gate.set(state["gate"] == "open")
        whole = time.monotonic() >= self._whole_at_s
        if state["stage"] == "verifying" or (state["gate"] == "shut" and not whole):
            return
        await self._verify(whole=whole)

    async def _verify(self, *, whole: bool) -> None:
        started_s = time.monotonic()
        found: Reconciliation | None = None
        try:
            found = await reconcile(self._service, full=whole)
        finally:
            outcome = _UNFINISHED if found is None else "passed" if found.passed else "failed"
            self._runs.labels(_SCOPES[whole], outcome).inc()
        took_s = time.monotonic() - started_s
        self._seconds.labels(_SCOPES[whole]).observe(took_s)
        self._problems.set(len(found.problems))
        self._head.set(found.head)
        if whole and found.passed:
            self._gate.set(1)
            self._whole_at_s = time.monotonic() + max(_WHOLE_EVERY_S, took_s / _SHARE_MAX)
        elif not found.passed:
            self._gate.set(0)
            self._whole_at_s = time.monotonic() + max(_WHOLE_WHILE_SHUT_EVERY_S, took_s / _SHARE_WHILE_SHUT_MAX)
            self._service.log.error(
                "ledger.wrong", head=found.head, problems=[str(problem) for problem in found.problems]
            )
