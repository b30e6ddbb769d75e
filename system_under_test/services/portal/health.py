"""A node's pulse: measures the event loop and the database forty times a second, for vitals and admission.

beat -> lag, database -> Vitals: degraded?     -> /readyz
                      -> Admission: pressure   -> who is taken on
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from system_under_test.services.portal.admission import Admission, Rank
from system_under_test.services.portal.vitals import Reading, Sign, Vitals
from system_under_test.storage.database import Database

BEAT_S: Final = 0.025
_SHOWN: Final[Mapping[Sign, tuple[str, str]]] = {
    "event_loop_lag": ("savings_event_loop_lag_seconds", "How late the event loop is, smoothed."),
    "database_latency": ("savings_database_latency_seconds", "How long the database takes, smoothed."),
    "errors": ("savings_http_error_ratio", "Recent answers that failed through no decision of the node."),
}


@dataclass(slots=True, kw_only=True)
class Health:
    """What a node knows of its own state; `degraded` is for the balancer, `admission` for its requests."""

    database: Database
    admission: Admission
    log: structlog.stdlib.BoundLogger
    in_flight: int = 0
    vitals: Vitals = field(default_factory=lambda: Vitals(now_s=time.monotonic()))
    _degradations: Counter = field(
        default_factory=lambda: Counter(
            "savings_node_degradations", "Times that the node became degraded.", registry=None
        )
    )
    _answers: int = 0
    _errors: int = 0

    @property
    def degraded(self) -> bool:
        """Whether other nodes should be preferred."""
        return bool(self.vitals.raised)

    @property
    def pressure(self) -> float:
        """How much there is to do, see `Admission`."""
        return self.admission.pressure(in_flight=self.in_flight, line_s=self.database.line_s)

    def admits(self, rank: Rank) -> bool:
        """Whether one more request of this rank is taken on."""
        return self.admission.admits(rank, in_flight=self.in_flight, line_s=self.database.line_s)

    def answered(self) -> None:
        """Counts a request of a customer that was answered, in whatever way."""
        self._answers += 1

    def failed(self) -> None:
        """Counts one of those that failed through no decision of ours."""
        self._errors += 1

    def show(self, registry: CollectorRegistry) -> None:
        """Adds what is measured to the node's metrics, read whenever they are asked for."""
        gauges: tuple[tuple[str, str, Callable[[], float]], ...] = (
            ("savings_node_degraded", "1 while the node asks the balancer to prefer others.", lambda: self.degraded),
            (
                "savings_admission_pressure",
                "How long a request has to wait, as a share of the longest wait.",
                lambda: self.pressure,
            ),
            *((name, text, partial(self._value, sign)) for sign, (name, text) in _SHOWN.items()),
        )
        for name, text, read in gauges:
            Gauge(name, text, registry=registry).set_function(read)
        registry.register(self._degradations)

    def _value(self, sign: Sign) -> float:
        return self.vitals.values[sign]

    async def keep_measuring(self) -> None:
        """Beats until it is cancelled."""
        busy = self.database.busy()
        while True:
            due_s = time.monotonic() + BEAT_S
            await asyncio.sleep(BEAT_S)
            now_s = time.monotonic()
            # The loop's own clock has a resolution of a millisecond.
            lag_s = max(0.0, now_s - due_s)
            before, busy = busy, self.database.busy()
            calls = busy.calls - before.calls
            call_s = (busy.calls_s - before.calls_s) / calls if calls else 0.0
            was = self.vitals.raised
            self.vitals.note(
                Reading(
                    lag_s=lag_s,
                    database_s=max(call_s, self.database.ping_s, busy.pinging_s),
                    answers=self._answers,
                    errors=self._errors,
                ),
                now_s,
            )
            self._answers = self._errors = 0
            self.admission.note(lag_s, now_s)
            if self.vitals.raised != was:
                self._tell(was, self.vitals.raised)

    def _tell(self, was: tuple[Sign, ...], raised: tuple[Sign, ...]) -> None:
        self._degradations.inc(not was)
        values = {sign: round(value, 4) for sign, value in self.vitals.values.items()}
        self.log.warning("node.degraded" if raised else "node.recovered", signs=list(raised), **values)
