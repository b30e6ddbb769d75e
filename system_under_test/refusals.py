"""What the database refuses for a reason of its own, such as a function that is missing or a right that was taken away.

    refused -> logged once for each kind, counted -> a pause, longer each time -> tried again -> answered: as before

Whoever mends the database should not have to start anything again. Until then the work is stuck, and its process says
so itself. Errors of our own programs are none of these: they end the process.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import asyncpg
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

_PAUSES_S: Final = (0.25, 0.5, 1.0, 2.0)
"""Before each further try; the last one from then on."""
_OVER_AFTER_S: Final = 20.0
"""More than a pause and a try take together: what was not tried for so long, nobody wants any more."""


@dataclass(slots=True, kw_only=True)
class _Row:
    """The refusals of one work since its last answer."""

    number: int = 0
    kinds: set[str] = field(default_factory=set)
    newest_s: float = 0.0


class Refusals:
    """Keeps which works of a process the database refuses; `work` names one thing that is tried again and again."""

    def __init__(
        self,
        log: structlog.stdlib.BoundLogger,
        registry: CollectorRegistry,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._clock_s = clock
        self._counter = Counter(
            "savings_database_refusals",
            "Tries that the database refused for a reason of its own, by what they were for.",
            ("work", "sqlstate"),
            registry=registry,
        )
        self._gauge = Gauge(
            "savings_work_stuck",
            "1 while the newest try of this work was refused by the database: it makes no progress.",
            ("work",),
            registry=registry,
        )
        self._rows: dict[str, _Row] = {}

    @property
    def stuck(self) -> tuple[str, ...]:
        """The works whose newest try was refused, and that are still tried."""
        return tuple(work for work in sorted(self._rows) if self._is_stuck(work))

    def refused(self, work: str, error: asyncpg.PostgresError) -> float:
        """Takes note of a refusal, and gives the seconds to wait before the next try."""
        row = self._rows[work] if self._is_stuck(work) else _Row()
        self._rows[work] = row
        kind = str(error.sqlstate)
        if kind not in row.kinds:
            row.kinds.add(kind)
            self._log.error("database.refused", work=work, sqlstate=kind, problem=str(error))
        self._counter.labels(work, kind).inc()
        self._gauge.labels(work).set_function(partial(self._is_stuck, work))
        row.newest_s = self._clock_s()
        row.number += 1
        return _PAUSES_S[min(row.number, len(_PAUSES_S)) - 1]

    def answered(self, work: str) -> None:
        """Takes note of an answer: the work goes on."""
        self._gauge.labels(work)
        if self._rows.pop(work, None) is not None:
            self._log.info("database.refuses_no_more", work=work)

    def _is_stuck(self, work: str) -> bool:
        row = self._rows.get(work)
        return row is not None and self._clock_s() - row.newest_s < _OVER_AFTER_S
